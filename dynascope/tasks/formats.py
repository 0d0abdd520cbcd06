"""Readers of the file formats in which public image sets are handed out.

They return arrays of bytes as the files hold them, check every header and size, and name the file that is
wrong. Nothing is downloaded and nothing is executed: pickles are read by an unpickler that can build only
lists, dictionaries, strings, numbers and arrays of bytes.
"""

import gzip
import pickle
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int, UInt8

from dynascope.base.errors import DynascopeError

Bytes = UInt8[np.ndarray, "..."]


class MissingData(DynascopeError):
    """A data file that is not where it was looked for.

    Args:
        path: the file that was looked for.
        advice: how to get it.
    """

    def __init__(self, path: Path, advice: str) -> None:
        self.path, self.advice = path, advice
        super().__init__(path, advice)

    def __str__(self) -> str:
        return f"no {self.path.name} in {self.path.parent}: {self.advice}"


class DamagedData(DynascopeError):
    """A data file that does not hold what its format demands.

    Args:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"{self.path} {self.reason}; fetch the file again"


def find(folder: Path, *names: str, advice: str) -> Path:
    """Return the first of ``names`` that is a file in ``folder``.

    Args:
        folder: where to look.
        names: acceptable file names, the preferred one first.
        advice: how to get the file, for the error.

    Returns:
        The path of the file.

    Raises:
        MissingData: none of them exists.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MissingData(folder / names[0], advice)


def read_idx(path: Path, *, ndim: int) -> Bytes:
    """Read an IDX file of bytes, the format of MNIST and Fashion-MNIST.

    The header is two zero bytes, the type code 0x08 (unsigned byte), the number of axes, and the size of each
    axis as a big-endian 32-bit integer; then follow the bytes, last axis fastest.

    Args:
        path: the file; compressed by gzip where the name ends in ``.gz``.
        ndim: number of axes expected (3 for images, 1 for labels).

    Returns:
        The array.

    Raises:
        DamagedData: the header or the number of bytes is not what the format demands.
    """
    raw = _unzip(path) if path.suffix == ".gz" else path.read_bytes()
    start = 4 + 4 * ndim
    magic = bytes((0, 0, 0x08, ndim))
    if raw[:4] != magic:
        given = raw[:4].hex(" ") or "nothing"
        raise DamagedData(path, f"starts with {given}, an IDX file of {ndim} axes with {magic.hex(' ')}")
    if len(raw) < start:
        raise DamagedData(path, f"ends after {len(raw)} bytes, inside its header of {start}")
    shape = struct.unpack(f">{ndim}I", raw[4:start])
    expected = start + _product(shape)
    if len(raw) != expected:
        raise DamagedData(path, f"holds {len(raw)} bytes, its header {shape} demands {expected}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_records(path: Path, *, label_bytes: int, image: tuple[int, int, int]) -> tuple[Bytes, Bytes]:
    """Read one file of the binary version of CIFAR: records of label bytes followed by an image.

    Args:
        path: the ``.bin`` file.
        label_bytes: bytes in front of each image; the last one is the finest label.
        image: channels, height and width.

    Returns:
        Images (n, channels, height, width) and labels (n,).

    Raises:
        DamagedData: the file is empty or its size is not a whole number of records.
    """
    record = label_bytes + _product(image)
    raw = np.fromfile(path, np.uint8)
    if raw.size == 0 or raw.size % record:
        raise DamagedData(path, f"holds {raw.size} bytes, which is not a whole number of records of {record}")
    table = raw.reshape(-1, record)
    return table[:, label_bytes:].reshape(-1, *image), table[:, label_bytes - 1]


def read_pickled(path: Path, *, label_key: str, image: tuple[int, int, int]) -> tuple[Bytes, Bytes]:
    """Read one file of the python version of CIFAR without trusting it.

    Args:
        path: the pickle: a dictionary with ``data`` (n, bytes of an image) and labels under ``label_key``.
        label_key: ``"labels"`` (CIFAR-10) or ``"fine_labels"`` (CIFAR-100).
        image: channels, height and width.

    Returns:
        Images (n, channels, height, width) and labels (n,).

    Raises:
        DamagedData: the file asks for anything beyond plain values and byte arrays, or holds other things.
    """
    with path.open("rb") as file:
        try:
            content = _PlainUnpickler(file, encoding="bytes").load()
            # Python 2 wrote the keys as bytes, Python 3 writes them as strings.
            table = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
            images = table["data"].array().reshape(-1, *image)
            labels = np.asarray(table[label_key], dtype=np.uint8)
        except Exception as error:  # a damaged pickle can raise anything at all
            reason = f"is not a plain CIFAR pickle ({type(error).__name__}: {error})"
            raise DamagedData(path, f"{reason}; the binary version of the set (.bin files) is read as well") from error
    if labels.shape != (len(images),):
        raise DamagedData(path, f"holds {len(images)} images and labels of shape {labels.shape}")
    return images, labels


def read_folders(
    root: Path, classes: Sequence[str], *, pattern: str, limit: int | None, decode: Callable[[Path], Bytes]
) -> tuple[Bytes, Int[np.ndarray, " n"]]:
    """Read images that lie in one folder for each class.

    Args:
        root: the folder that holds the class folders.
        classes: folder names; their order gives the labels.
        pattern: glob pattern of the images inside a class folder.
        limit: images of each class to read, the first by name; None reads all.
        decode: reads one image to an array (channels, height, width).

    Returns:
        Images (n, channels, height, width) and labels (n,), class after class.

    Raises:
        MissingData: a class has no image.
    """
    images: list[Bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted((root / name).glob(pattern))[:limit]
        if not files:
            raise MissingData(root / name / pattern, "every class needs a folder with its images")
        images += [decode(file) for file in files]
        labels += [label] * len(files)
    return np.stack(images), np.asarray(labels)


def _unzip(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedData(path, f"is not a whole gzip file ({error})") from error


def _product(shape: Sequence[int]) -> int:
    product = 1  # in Python's integers: a hostile header must not overflow
    for size in shape:
        product *= size
    return product


class _PickledArray:
    """Stands in for ``numpy.ndarray`` while unpickling: keeps shape and bytes, an array only when asked."""

    shape: tuple[int, ...] = ()
    raw: bytes = b""

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_PickledType", bool, bytes]) -> None:
        _, self.shape, kind, column_major, self.raw = state
        if kind.code not in {"u1", "|u1", "uint8"} or column_major:
            raise pickle.UnpicklingError(f"an array of type {kind.code!r} where rows of unsigned bytes are permitted")

    def array(self) -> Bytes:
        """Return the bytes as an array; numpy checks that they fill the shape."""
        return np.frombuffer(self.raw, np.uint8).reshape(self.shape)


class _PickledType:
    """Stands in for ``numpy.dtype``: remembers the type code, ignores the rest."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Ignore byte order and alignment: single bytes have none."""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}


class _PlainUnpickler(pickle.Unpickler):  # noqa: S301 (find_class admits only stand-ins)
    def __init__(self, file: IO[bytes], *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for a known name; refuse every other name without importing anything."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not permitted")
        return _STAND_INS[module, name]
