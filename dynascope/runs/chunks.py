"""Growing arrays in the zarr 3 format, written and read chunk by chunk without the zarr package.

Any zarr 3 reader opens these arrays. They are written here by hand because that is twenty times faster than
resizing an array through the package, because every file appears whole or not at all, and because a zarr
reader fills a missing chunk with a default value where an archive has to say that it is damaged.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html and the codecs ``transpose``,
    ``bytes``,
``blosc`` and ``crc32c`` of the same specification.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from dynascope.base.errors import DamagedRun
from dynascope.runs.layout import parse_object, read_bytes, to_json, write_aside

METADATA = "zarr.json"
_FILL = {"float32": "NaN", "float64": "NaN", "int64": -1}


@dataclass(frozen=True)
class ArrayLayout:
    """What the metadata of one array says.

    Args:
        dtype: ``float32``, ``float64`` or ``int64``.
        chunk: records in one chunk.
        inner: shape of one record.
        records: records that are completely written.
    """

    dtype: str
    chunk: int
    inner: tuple[int, ...]
    records: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The content of ``zarr.json``."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.records, *self.inner],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.chunk, *self.inner]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": _FILL[self.dtype],
            "codecs": _codecs(self.dtype, len(self.inner)),
            "dimension_names": ["record", "column", "index"][: 1 + len(self.inner)],
            "attributes": {},
        }

    def chunk_file(self, folder: Path, index: int) -> Path:
        """The file of one chunk."""
        return folder / ("c." + ".".join([str(index), *("0" for _ in self.inner)]))


def _codecs(dtype: str, inner: int) -> list[dict[str, Any]]:
    """The way from an array to bytes: each entry's history side by side, shuffled, compressed, summed."""
    size = np.dtype(dtype).itemsize
    blosc = {"typesize": size, "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
    return [
        {"name": "transpose", "configuration": {"order": [*range(1, inner + 1), 0]}},
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": blosc},
        {"name": "crc32c"},
    ]


@cache
def _blosc() -> Any:
    """The compressor; imported late because opening a run folder should not wait for it."""
    from numcodecs import Blosc

    return Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)


def _crc32c(data: bytes) -> bytes:
    """Checksum of ``data`` as the codec stores it: four bytes, little-endian."""
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(4, "little")


def encode(rows: Shaped[np.ndarray, " chunk *inner"]) -> bytes:
    """One whole chunk as it lies on disk."""
    little = rows.dtype.newbyteorder("<")
    packed = bytes(_blosc().encode(np.ascontiguousarray(np.moveaxis(rows, 0, -1), dtype=little)))
    return packed + _crc32c(packed)


def decode(data: bytes, layout: ArrayLayout, path: Path) -> Shaped[np.ndarray, " chunk *inner"]:
    """The inverse of ``encode``.

    Args:
        data: content of the file of one chunk.
        layout: the array it belongs to.
        path: that file, for the message.

    Returns:
        All records of the chunk, padded with the fill value where none was written yet.

    Raises:
        DamagedRun: the checksum does not fit, or the chunk has another size than the metadata says.
    """
    packed = data[:-4]
    if len(data) <= 4 or _crc32c(packed) != data[-4:]:
        raise DamagedRun(path, "the checksum of this chunk does not fit its content")
    values = np.frombuffer(_blosc().decode(packed), dtype=np.dtype(layout.dtype).newbyteorder("<"))
    shape = (*layout.inner, layout.chunk)
    if values.size != np.prod(shape):
        raise DamagedRun(path, f"this chunk holds {values.size} values, its array needs {np.prod(shape)}")
    return np.moveaxis(values.reshape(shape), -1, 0)


def write_chunk(folder: Path, layout: ArrayLayout, index: int, rows: Shaped[np.ndarray, " chunk *inner"]) -> None:
    """Write one chunk; its records count only once the metadata says so."""
    write_aside(layout.chunk_file(folder, index), encode(rows))


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Make a folder and mark it as a zarr group."""
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / METADATA, to_json({"zarr_format": 3, "node_type": "group", "attributes": attributes}))


def write_layout(folder: Path, layout: ArrayLayout) -> None:
    """Write the metadata of an array; records count from this moment on."""
    write_aside(folder / METADATA, to_json(layout.to_dict()))


def read_layout(folder: Path) -> ArrayLayout:
    """The metadata of an array.

    Args:
        folder: the folder of the array.

    Returns:
        Its layout.

    Raises:
        DamagedRun: the metadata is missing, broken, or not of the kind written here.
    """
    path = folder / METADATA
    document = parse_object(read_bytes(path), path)
    try:
        chunk, *inner = document["chunk_grid"]["configuration"]["chunk_shape"]
        layout = ArrayLayout(
            dtype=str(document["data_type"]),
            chunk=int(chunk),
            inner=tuple(int(size) for size in inner),
            records=int(document["shape"][0]),
        )
        as_written = json.loads(to_json(layout.to_dict()))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedRun(path, f"this is not the metadata of an array ({error!r})") from error
    if layout.chunk < 1 or layout.records < 0 or document != as_written:
        raise DamagedRun(path, "this array was not written by dynascope; open it with the zarr package")
    return layout


def read_records(
    folder: Path, layout: ArrayLayout, stop: int, places: Sequence[int] = ()
) -> Shaped[np.ndarray, " stop *inner"]:
    """The first ``stop`` records; files of later chunks are not opened.

    Args:
        folder: the folder of the array.
        layout: its metadata, read before.
        stop: number of records to read, at most ``layout.records``.
        places: places along the second axis to read, in this order; an array without that axis takes none.

    Returns:
        The records, as int64 or float64.
    """
    inner = (len(places), *layout.inner[1:]) if layout.inner else ()
    records = np.empty((stop, *inner), np.int64 if layout.dtype == "int64" else np.float64)
    for start in range(0, stop, layout.chunk):
        path = layout.chunk_file(folder, start // layout.chunk)
        rows = decode(read_bytes(path), layout, path)[: min(layout.chunk, stop - start)]
        target = records[start : start + len(rows)]
        if not layout.inner:
            target[:] = rows
        for to, place in enumerate(places):  # plain slices: an index list would copy the chunk twice
            target[:, to] = rows[:, place]
    return records
