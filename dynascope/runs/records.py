"""Records of a family: what may be stored, as which type, and what may follow what."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from dynascope.runs.families import FamilyWriter
from dynascope.runs.layout import STEP
from dynascope.runs.tables import INDEX


def as_steps(family: str, steps: Any) -> Int64[np.ndarray, " records"]:
    """The steps of a block as they are stored.

    Args:
        family: name of the family, for the message.
        steps: one for each record.

    Returns:
        The same as int64.

    Raises:
        ValueError: they are none, no integers, negative, or do not increase.
    """
    ordered = np.asarray(steps)
    if (
        ordered.ndim != 1
        or not ordered.size
        or ordered.dtype.kind not in "iu"
        or np.any(ordered < 0)
        or np.any(ordered[1:] <= ordered[:-1])
    ):
        raise ValueError(f"steps of {family!r} must be a non-empty list of increasing integers >= 0, got {steps!r}")
    return ordered.astype(np.int64, copy=False)


def check_columns(family: str, columns: Sequence[Any]) -> None:
    """Refuse names that a table of the family could not hold.

    Args:
        family: name of the family, for the message.
        columns: names of its columns.

    Raises:
        ValueError: one is empty, no string, or the name of a key of the table.
    """
    for column in columns:
        if not isinstance(column, str) or column in ("", STEP, INDEX):
            raise ValueError(
                f"{column!r} of {family!r} cannot be the name of a column: it must be a non-empty string "
                f"other than {STEP!r} and {INDEX!r}"
            )


def stacked(family: str, columns: Mapping[str, Any], *, axis: int) -> Float[np.ndarray, "..."]:
    """The columns of one record (axis 0) or of several (axis 1) as one array.

    Args:
        family: name of the family, for the message.
        columns: an array for each column.
        axis: where the columns go; the axes before it are records.

    Returns:
        float32 if all columns are float32 or narrower floats, else float64: no digit is lost.

    Raises:
        ValueError: there is no column, or one is not real, empty, or of another shape.
    """
    arrays = [np.asarray(column) for column in columns.values()]
    if not arrays:
        raise ValueError(f"{family!r} needs at least one column")
    for name, array in zip(columns, arrays, strict=True):
        real = array.dtype.kind in "fiub" and array.dtype.itemsize <= 8
        if not real or array.ndim != axis + 1 or array.size == 0:
            raise ValueError(
                f"{family}/{name} must be an array of real numbers up to float64 with {axis + 1} axes and at "
                f"least one entry, got {array.dtype} of shape {array.shape}"
            )
        if array.shape != arrays[0].shape:
            raise ValueError(f"{family}/{name} has shape {array.shape}, {next(iter(columns))} {arrays[0].shape}")
    values = np.stack(arrays, axis=axis)
    narrow = all(array.dtype.kind == "f" and array.dtype.itemsize <= 4 for array in arrays)
    return values.astype(np.float32 if narrow else np.float64, copy=False)


def fitting(
    writer: FamilyWriter, steps: np.ndarray, columns: list[str], values: np.ndarray
) -> Float[np.ndarray, "records columns size"]:
    """Values in the order of the family's columns, once it is sure that they continue what it has.

    Args:
        writer: writer of the family.
        steps: steps of the new records.
        columns: names of the columns as given.
        values: the new records, columns in that order.

    Returns:
        The records as they can be appended.

    Raises:
        ValueError: columns, size, type or steps do not fit.
    """
    if tuple(columns) != writer.columns:
        if sorted(columns) != sorted(writer.columns):
            raise ValueError(f"{writer.name!r} needs the columns {writer.columns} in every record, got {columns}")
        values = values[:, [columns.index(column) for column in writer.columns]]
    if steps[0] <= writer.last_step:
        raise ValueError(f"step {steps[0]} of {writer.name!r} must be larger than the last, {writer.last_step}")
    if values.shape[2] != writer.size:
        raise ValueError(f"{writer.name!r} has {writer.size} entries in a record, got {values.shape[2]}")
    if values.dtype.itemsize > writer.dtype.itemsize:
        raise ValueError(
            f"{writer.name!r} is stored as {writer.dtype}, got {values.dtype}; "
            f"convert it, or start the family with {values.dtype}"
        )
    return values
