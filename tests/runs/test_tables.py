import sys
from pathlib import Path

import numpy as np
import pytest

from dynascope.base.errors import Unsupported
from dynascope.runs import tables
from dynascope.runs.scalars import ScalarsWriter

STEPS = np.array([0, 10])
COLUMNS = {"value": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]]), "after": np.arange(6.0).reshape(2, 3)}


def test_one_row_for_each_record_and_entry() -> None:
    frame = tables.to_frame(tables.tidy(STEPS, COLUMNS))
    assert list(frame.columns) == ["step", "index", "value", "after"]
    assert frame["step"].tolist() == [0, 0, 0, 10, 10, 10]
    assert frame["index"].tolist() == [0, 1, 2, 0, 1, 2]
    for row in frame.itertuples(index=False):
        record = STEPS.tolist().index(row.step)
        np.testing.assert_equal(row.value, COLUMNS["value"][record, row.index])
        np.testing.assert_equal(row.after, COLUMNS["after"][record, row.index])


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    import pandas

    rows = tables.tidy(STEPS, COLUMNS)
    tables.to_parquet(rows, tmp_path / "t.parquet")
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "t.parquet"), tables.to_frame(rows))
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_missing_scalars_are_null_and_nan_stays_nan(tmp_path: Path) -> None:
    import pyarrow.parquet

    writer = ScalarsWriter(tmp_path / "s.jsonl")
    writer.append(0, 0.0, {"loss": float("nan")})
    writer.append(3, 0.5, {"accuracy": 0.25})
    writer.append(7, 1.0, {"loss": float("-inf"), "accuracy": 0.5})
    writer.close()
    assert tables.scalars_to_parquet(tmp_path / "s.jsonl", tmp_path / "s.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pydict()
    assert table["step"] == [0, 3, 7]
    assert table["time"] == [0.0, 0.5, 1.0]
    assert np.isnan(table["loss"][0])
    assert table["loss"][1:] == [None, float("-inf")]
    assert table["accuracy"] == [None, 0.25, 0.5]


def test_no_scalars_give_an_empty_table(tmp_path: Path) -> None:
    import pyarrow.parquet

    ScalarsWriter(tmp_path / "s.jsonl").close()
    assert tables.scalars_to_parquet(tmp_path / "s.jsonl", tmp_path / "s.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "s.parquet").num_rows == 0


def test_missing_packages_are_named_with_the_way_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    rows = tables.tidy(STEPS, COLUMNS)
    with pytest.raises(Unsupported, match=r"pandas cannot be imported.*dynascope\[table\]"):
        tables.to_frame(rows)
    with pytest.raises(Unsupported, match=r"pyarrow cannot be imported.*dynascope\[table\]"):
        tables.to_parquet(rows, tmp_path / "t.parquet")
    assert tables.scalars_to_parquet(tmp_path / "s.jsonl", tmp_path / "s.parquet") is False
    assert list(tmp_path.iterdir()) == []
