"""One family on disk: its steps and the values of its columns, two growing arrays.

A record counts once the array of steps has it, and that array is written last: a reader that looks at the
steps first finds the values at least as long, at whatever moment the writer was interrupted.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int64

from dynascope.base.errors import DamagedRun
from dynascope.runs import chunks
from dynascope.runs.chunks import ArrayLayout
from dynascope.runs.layout import STEP, folder_name, hashed_folder_name, parse_object, read_bytes

VALUES = "values"
"""Folder of the array of values, of shape (records, columns, size)."""
BUFFERED_RECORDS = 64
"""Records that are held in memory before they are written, unless a chunk is full earlier."""


def records_per_chunk(record_bytes: int) -> int:
    """Records in one chunk: few files for small records, little memory for large ones.

    Args:
        record_bytes: bytes of one record, all columns together.

    Returns:
        As many as fill half a megabyte, at least what is buffered, but never more than 16 megabytes (or one
        record) and 4096.
    """
    comfortable = max(BUFFERED_RECORDS, 2**19 // record_bytes)
    affordable = max(1, 2**24 // record_bytes)
    return min(comfortable, affordable, 4096)


class _Array:
    """One array with the chunk that is being filled."""

    def __init__(self, folder: Path, layout: ArrayLayout) -> None:
        self.folder = folder
        self.layout = layout
        self._fill = -1 if layout.dtype == "int64" else np.nan
        # Records last: the history of each entry is contiguous, which is how it will be compressed.
        self._buffer = np.full((*layout.inner, layout.chunk), self._fill, layout.dtype)
        self.rows = np.moveaxis(self._buffer, -1, 0)
        folder.mkdir(parents=True, exist_ok=True)
        chunks.write_layout(folder, layout)

    def write(self, index: int, records: int) -> None:
        """Write the current chunk, then say that this many records are there."""
        chunks.write_chunk(self.folder, self.layout, index, self.rows)
        self.layout = replace(self.layout, records=records)
        chunks.write_layout(self.folder, self.layout)

    def clear(self) -> None:
        """Start the next chunk."""
        self._buffer.fill(self._fill)


class FamilyWriter:
    """Appends records to one family.

    Args:
        home: folder of the family, as chosen by ``free_folder``; made here.
        name: the family.
        columns: names of its columns.
        size: entries of each column in one record.
        dtype: stored type, ``float32`` or ``float64``.
    """

    def __init__(self, home: Path, name: str, *, columns: tuple[str, ...], size: int, dtype: str) -> None:
        self.name = name
        self.columns = columns
        self.size = size
        self.dtype = np.dtype(dtype)
        self.records = 0
        self.last_step = -1
        self._written = 0
        self._chunk = records_per_chunk(len(columns) * size * self.dtype.itemsize)
        chunks.write_group(home, {"name": name, "columns": list(columns)})
        self._steps = _Array(home / STEP, ArrayLayout("int64", self._chunk, ()))
        self._values = _Array(home / VALUES, ArrayLayout(dtype, self._chunk, (len(columns), size)))

    def will_write(self, records: int) -> bool:
        """Whether appending this many records may touch the disk."""
        pending = self.records - self._written
        return pending + records >= min(BUFFERED_RECORDS, self._chunk)

    def append(self, steps: Int64[np.ndarray, " records"], values: Float[np.ndarray, "records columns size"]) -> None:
        """Add records that have been checked; writes when the buffer or a chunk is full."""
        start = 0
        while start < len(steps):
            at = self.records % self._chunk
            if at == 0 and self.records:
                self._next_chunk()
            rows = min(len(steps) - start, self._chunk - at)
            self._steps.rows[at : at + rows] = steps[start : start + rows]
            self._values.rows[at : at + rows] = values[start : start + rows]
            self.records += rows
            start += rows
            self.last_step = int(steps[start - 1])
        if self.records - self._written >= BUFFERED_RECORDS:
            self.write()

    def _next_chunk(self) -> None:
        """Write the full chunk, if that has not happened yet, and empty the buffers."""
        self.write()
        self._values.clear()
        self._steps.clear()

    def write(self) -> None:
        """Write every record that is not on disk yet: the values first, the steps last."""
        if self._written == self.records:
            return
        index = (self.records - 1) // self._chunk
        self._values.write(index, self.records)
        self._steps.write(index, self.records)
        self._written = self.records


def free_folder(name: str, taken: set[str]) -> str:
    """A folder for a name, also where the file system takes upper and lower case for the same.

    Args:
        name: a family.
        taken: folders used beside it in lower case; the new one is added.

    Returns:
        The folder.
    """
    folder = folder_name(name)
    if folder.casefold() in taken:
        folder = hashed_folder_name(name)
    taken.add(folder.casefold())
    return folder


def locate(root: Path, name: str) -> Path:
    """The folder of a family.

    Args:
        root: the folder that holds all families.
        name: full name of the family.

    Returns:
        The folder whose metadata carries this name; if there is none, where it would be looked for.
    """
    likely = root / folder_name(name)
    for home in (likely, root / hashed_folder_name(name)):
        path = home / chunks.METADATA
        if path.exists() and parse_object(read_bytes(path), path).get("attributes", {}).get("name") == name:
            return home
    return likely


def read_steps(home: Path, *, promised: int | None) -> Int64[np.ndarray, " records"]:
    """The steps of all complete records of a family.

    Args:
        home: folder of the family.
        promised: records that a finished run says it has, None while it is being written.

    Returns:
        The steps, none if nothing was written yet.

    Raises:
        DamagedRun: they do not increase.
    """
    if not promised and not (home / STEP / chunks.METADATA).exists():
        return np.empty(0, np.int64)
    layout = _checked_layout(home / STEP, promised)
    steps = chunks.read_records(home / STEP, layout, layout.records)
    if np.any(np.diff(steps) <= 0):
        raise DamagedRun(home / STEP, "the steps do not increase")
    return steps


def read_values(
    home: Path, columns: list[str], *, stop: int, promised: int | None
) -> Float64[np.ndarray, "records columns size"]:
    """The first records of some columns.

    Args:
        home: folder of the family.
        columns: which ones, in the order wanted.
        stop: number of records wanted; a run that was cut off by a power failure may have fewer.
        promised: records that a finished run says it has, None while it is being written.

    Returns:
        The values, ``stop`` records or as many as are complete.

    Raises:
        DamagedRun: the metadata of the family does not know a column.
    """
    path = home / chunks.METADATA
    known = parse_object(read_bytes(path), path).get("attributes", {}).get("columns", [])
    layout = _checked_layout(home / VALUES, promised)
    if len(layout.inner) != 2 or len(known) != layout.inner[0] or not set(columns) <= set(known):
        raise DamagedRun(path, f"columns {known} do not fit {columns} and an array of {layout.inner}")
    places = [known.index(column) for column in columns]
    return chunks.read_records(home / VALUES, layout, min(stop, layout.records), places)


def _checked_layout(folder: Path, promised: int | None) -> ArrayLayout:
    """The metadata of an array, checked against the promise."""
    layout = chunks.read_layout(folder)
    if promised is not None and layout.records != promised:
        raise DamagedRun(
            folder / chunks.METADATA,
            f"the array has {layout.records} records, the finished run promises {promised}",
        )
    return layout
