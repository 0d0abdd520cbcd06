"""Where the parts of a run lie, and how its small files are written: strict JSON, aside, then renamed.

The format is described for readers without dynascope in ``docs/run-format.md``; a change here is a change
there.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import numpy as np

from dynascope.base.errors import DamagedRun, DynascopeError

SCHEMA = 1

RUN = "run.json"
SCALARS = "scalars.jsonl"
SCALARS_TABLE = "scalars.parquet"
SERIES = "series.zarr"
COMPLETE = "complete.json"
PARTS = (COMPLETE, RUN, SCALARS, SCALARS_TABLE, SERIES)
"""All parts of a run, in the order in which an old run is removed: the completion mark goes first."""

STEP = "step"
"""Name of the column with the steps of a family, and of the key with the step of a line of scalars."""
TIME = "time"

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_LONGEST_FOLDER = 160  # file systems allow 255 bytes; the rest is left to temporary names


class RunExists(DynascopeError, FileExistsError):
    """A folder already holds a run that would be lost."""


def encode_float(value: float) -> float | str:
    """A number as strict JSON can hold it: non-finite ones become ``"nan"``, ``"inf"`` and ``"-inf"``."""
    return value if math.isfinite(value) else str(value)


def decode_float(value: Any) -> float:
    """The inverse of ``encode_float``.

    Args:
        value: a JSON number, or one of the three words.

    Returns:
        The number.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        if value not in _NON_FINITE:
            raise ValueError(f"{value!r} is not a number; permitted words are {', '.join(_NON_FINITE)}")
        return _NON_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def jsonable(value: Any, key: str) -> Any:
    """Copy a nested value into what strict JSON can hold.

    Args:
        value: mappings with string keys, sequences, sets (sorted), dataclasses, numpy scalars and arrays,
            paths, strings, numbers, None.
        key: where the value stands, for the message.

    Returns:
        Dicts, lists, strings, numbers (non-finite ones as words), booleans and None only.

    Raises:
        ValueError: something inside is of another type; the message names its key.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return encode_float(float(value))
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist(), key)
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value), key)
    if isinstance(value, Mapping):
        return {_text_key(name, key): jsonable(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return jsonable(sorted(value), key)
    if isinstance(value, (list, tuple)):
        return [jsonable(item, f"{key}[{place}]") for place, item in enumerate(value)]
    raise ValueError(
        f"{key} is a {type(value).__qualname__}, which JSON cannot hold; "
        "pass numbers, strings, lists, dicts or dataclasses of these"
    )


def _text_key(name: Any, where: str) -> str:
    """A key of a mapping, refused unless it is a string."""
    if not isinstance(name, str):
        raise ValueError(f"the keys of {where} must be strings, got {name!r}")
    return name


def to_json(value: Any, *, indent: int | None = None) -> bytes:
    """A value made by ``jsonable`` as UTF-8 JSON."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=indent)
    return text.encode(errors="backslashreplace")  # a broken character of a path becomes a JSON escape


def write_aside(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file so that whoever looks sees the old content or the new one, never a part.

    Args:
        path: the file; its folder exists.
        data: the whole content.
        durable: also wait until the content has reached the disk, so that it survives a power failure.
    """
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(aside, path)


def read_bytes(path: Path) -> bytes:
    """The content of a file of a run.

    Args:
        path: the file.

    Returns:
        All of it.

    Raises:
        DamagedRun: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedRun(path, "the file is missing") from error
    except OSError as error:
        raise DamagedRun(path, f"the file cannot be read: {error.strerror}") from error


def parse_object(data: bytes, path: Path, where: str = "") -> dict[str, Any]:
    """One JSON object.

    Args:
        data: its text.
        path: the file it came from, for the message.
        where: the place inside that file, for the message.

    Returns:
        The object.

    Raises:
        DamagedRun: it is not strict JSON, or not an object.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise DamagedRun(path, f"{where}not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedRun(path, f"{where}a JSON object is expected, found {type(value).__name__}")
    return value


def _refuse_constant(word: str) -> float:
    """Refuse the words NaN and Infinity, which Python reads but strict JSON does not have."""
    raise ValueError(f"{word} is not strict JSON")


def checksum(data: bytes) -> str:
    """SHA-256 of a content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def folder_name(name: str) -> str:
    """Folder for a family or column whose name may hold any character.

    Percent encoding as in URLs, with a leading or trailing dot and a leading underscore encoded as well,
    because file systems and zarr give these a meaning. The inverse is ``urllib.parse.unquote``. A name that
    would become too long is cut and ends in ``~`` and a checksum instead; the full name always stands in
    the attributes of the zarr group.

    Args:
        name: the name.

    Returns:
        A name that is safe as one folder.

    Raises:
        ValueError: the name is empty or not a string.

    Example:
        >>> folder_name("charges:rescale/0.weight-2.weight")
        'charges%3Arescale%2F0.weight-2.weight'
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"a name must be a non-empty string, got {name!r}")
    folder = quote(name, safe="").replace("~", "%7E")
    if folder[0] in "._":
        folder = f"%{ord(folder[0]):02X}" + folder[1:]
    if folder[-1] == ".":
        folder = folder[:-1] + "%2E"
    return folder if len(folder) <= _LONGEST_FOLDER else hashed_folder_name(name)


def hashed_folder_name(name: str) -> str:
    """The form of ``folder_name`` for a name that is too long or differs from another one only in case."""
    return f"{quote(name, safe='').replace('~', '%7E')[: _LONGEST_FOLDER - 17]}~{checksum(name.encode())[:16]}"
