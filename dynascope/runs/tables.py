"""Tables for people who work with pandas and Parquet; both packages are optional (extra ``table``)."""

import os
from array import array
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from dynascope.base.errors import Unsupported
from dynascope.runs.layout import STEP, TIME
from dynascope.runs.scalars import read_lines

if TYPE_CHECKING:
    import pandas as pd

INDEX = "index"


def _need(package: str, what: str) -> Any:
    """An optional package, or words that say how to get it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise Unsupported(
            what, f"the package {package} cannot be imported ({error})", "pip install 'dynascope[table]'"
        ) from error


def tidy(
    steps: Int64[np.ndarray, " records"], columns: Mapping[str, Float64[np.ndarray, "records size"]]
) -> dict[str, Shaped[np.ndarray, " rows"]]:
    """One row per record and entry: ``step``, ``index`` (place in the family), then the columns."""
    size = next(iter(columns.values())).shape[1] if columns else 0
    keys = {STEP: np.repeat(steps, size), INDEX: np.tile(np.arange(size), len(steps))}
    return {**keys, **{name: values.reshape(-1) for name, values in columns.items()}}


def to_frame(rows: Mapping[str, Shaped[np.ndarray, " rows"]]) -> "pd.DataFrame":
    """Tidy rows as a pandas frame."""
    return _need("pandas", "a table of a family").DataFrame(dict(rows))


def to_parquet(rows: Mapping[str, Any], path: Path) -> None:
    """Tidy rows as a Parquet file, written aside and then renamed."""
    what = f"writing {path.name}"
    arrow, parquet = _need("pyarrow", what), _need("pyarrow.parquet", what)
    aside = path.with_name(path.name + ".part")
    parquet.write_table(arrow.table(dict(rows)), aside)
    os.replace(aside, path)


def scalars_to_parquet(source: Path, path: Path) -> bool:
    """Turn the lines of scalars into a Parquet file with one row a line; a scalar that a line lacks is null.

    Args:
        source: the file of lines.
        path: the file to write.

    Returns:
        True if it was written, False where pyarrow is not installed.
    """
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        return False
    lines = 0
    found: dict[str, tuple[array, array]] = {STEP: (array("q"), array("q")), TIME: (array("q"), array("d"))}
    for lines, line in enumerate(read_lines(source, until=None, promised=None), start=1):
        for name, value in line.items():
            places, values = found.setdefault(name, (array("q"), array("d")))
            places.append(lines - 1)
            values.append(value)
    to_parquet({name: _spread(*column, lines) for name, column in found.items()}, path)
    return True


def _spread(places: array, values: array, rows: int) -> Any:
    """An arrow column with these values at these rows and null elsewhere."""
    column, missing = np.zeros(rows, values.typecode), np.ones(rows, bool)
    column[np.frombuffer(places, np.int64)] = np.frombuffer(values, values.typecode)
    missing[np.frombuffer(places, np.int64)] = False
    return import_module("pyarrow").array(column, mask=missing, from_pandas=False)
