import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import zarr

from dynascope.base.errors import DynascopeError
from dynascope.runs import RunWriter, chunks, layout, load, process
from dynascope.runs.layout import RunExists

FAMILIES = {"charges:rescale/0.weight-2.weight": 37, "norms": 1}
COLUMNS = ("value", "after")
CHECKED = "Type-check error"
"""What is said instead of our own words when the tests run with the annotations checked."""

# Writes for ever, in parts of irregular length, every value a function of its place: see `expected`.
ENDLESS = """
import sys, itertools
import numpy as np
from dynascope.runs import RunWriter

def expected(steps, column, size):
    return np.sin(steps[:, None] * 1e-3 + column) + np.arange(size) + steps[:, None]

families = {"charges:rescale/0.weight-2.weight": 37, "norms": 1}
writer = RunWriter.create(sys.argv[1], {"settings": {"seed": 0}})
step = 0
for part in itertools.cycle([1, 7, 64, 130, 3]):
    steps = np.arange(step, step + part)
    for name, size in families.items():
        writer.block(name, steps, {c: expected(steps, k, size) for k, c in enumerate(("value", "after"))})
    writer.scalars(step, step * 0.1, {"loss": 1.0 / (1 + step), "bad": float("nan")})
    if part in (1, 7):
        writer.flush()
    if part == 3:
        writer.note(step, "info", f"step {step}")
    step += part
"""


def expected(steps: np.ndarray, column: int, size: int) -> np.ndarray:
    return np.sin(steps[:, None] * 1e-3 + column) + np.arange(size) + steps[:, None]


def fill(writer: RunWriter, parts: list[int]) -> int:
    """Write parts of irregular length, every value a function of its place."""
    step = 0
    for part in parts:
        steps = np.arange(step, step + part)
        for name, size in FAMILIES.items():
            writer.block(name, steps, {c: expected(steps, k, size) for k, c in enumerate(COLUMNS)})
        writer.scalars(step, step * 0.1, {"loss": 1.0 / (1 + step), "bad": math.nan})
        if part == 1:
            writer.flush()
        step += part
    return step


def check(path: Path) -> int:
    """Open a run at whatever moment and compare every value; the number of records that it has."""
    run = load(path)
    counts = [0]
    for name in run.families:
        for k, column in enumerate(COLUMNS):
            series = run.series(name, column)
            np.testing.assert_array_equal(series.steps, np.arange(len(series)))
            np.testing.assert_array_equal(series.values, expected(series.steps, k, FAMILIES[name]))
            counts.append(len(series))
    scalars = run.scalars
    if "loss" in scalars:
        np.testing.assert_array_equal(scalars["loss"].values, 1.0 / (1 + scalars["loss"].steps))
        np.testing.assert_array_equal(scalars["time"].values, scalars["time"].steps * 0.1)
        assert np.isnan(scalars["bad"].values).all()
    return max(counts)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_run_that_is_killed_is_readable(tmp_path: Path) -> None:
    seen = []
    dice = random.Random(0)
    for round_ in range(6):
        path = tmp_path / str(round_)
        with subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)]) as child:
            deadline = time.monotonic() + 60
            while not (path / layout.RUN).exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(dice.uniform(0.0, 0.4))
            child.send_signal(signal.SIGKILL)
        seen.append(check(path))
        assert load(path).status == "interrupted"
        assert not (path / layout.COMPLETE).exists()
    assert max(seen) > 64, "no round lived long enough to test anything"


def test_readable_after_every_single_operation_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between any two operations, tried out one after the other."""
    replace, seen = os.replace, []
    for last in itertools.count():
        path, left, writer = tmp_path / str(last), itertools.count(last, -1), None

        def killed(source: Path, target: Path, left: itertools.count = left) -> None:
            if next(left) == 0:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            try:
                writer = RunWriter.create(path, {})
                fill(writer, [1, 70, 1])
                writer.finish()
                break
            except KeyboardInterrupt:
                if writer is not None:
                    writer._scalars.close()
        if (path / layout.RUN).exists():
            seen.append(check(path))
            assert load(path).status == "running"
    assert load(path).status == "complete"
    assert check(path) == 72
    assert len(seen) > 20
    assert {0, 1, 71} <= set(seen)


def test_readable_while_it_is_written(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run", {})
    total: list[int] = []
    thread = threading.Thread(target=lambda: total.append(fill(writer, [1, 5, 64, 3] * 30)))
    thread.start()
    counts = []
    while thread.is_alive():
        counts.append(check(tmp_path / "run"))
    thread.join()
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    writer.finish()
    assert check(tmp_path / "run") == total[0]


def test_a_reader_without_dynascope_sees_the_same(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "run", {"name": "first"}) as writer:
        fill(writer, [1, 200, 1])
    group = zarr.open_group(tmp_path / "run" / "series.zarr", mode="r")
    assert {child.attrs["name"] for _, child in group.groups()} == set(FAMILIES)
    for _, family in group.groups():
        size, columns = FAMILIES[str(family.attrs["name"])], family.attrs["columns"]
        assert columns == list(COLUMNS)
        steps = np.asarray(family["step"][:])  # type: ignore[index]
        np.testing.assert_array_equal(steps, np.arange(202))
        for k in range(2):
            values = np.asarray(family["values"][:, k])  # type: ignore[index]
            np.testing.assert_array_equal(values, expected(steps, k, size))


def test_run_json_has_every_key_of_the_format(tmp_path: Path) -> None:
    families = {
        "norms": {"kind": "norm", "columns": {"value": "squared norm"}},
        "later": {"words": "never came"},
    }
    writer = RunWriter.create(tmp_path / "run", {"settings": {"seed": np.int64(3)}, "families": families})
    writer.series("norms", 0, {"value": np.ones(2), "after": np.ones(2)})
    writer.series("own", 0, {"x": np.ones(3)})
    writer.update(own={"a": math.inf}, families={"norms": {"kind": "changed", "columns": {"after": "afterwards"}}})
    writer.note(np.int64(7), "warning", "loss is not finite")  # type: ignore[arg-type]
    document = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert document.pop("writer") == process.fingerprint()
    assert document.pop("created").endswith("+00:00")
    assert document == {
        "schema": 1,
        "status": "running",
        "name": "run",
        "finished": None,
        "model": {},
        "anatomy": None,
        "optimizer": {},
        "settings": {"seed": 3},
        "versions": {},
        "seeds": {},
        "families": {
            "norms": {"kind": "changed", "size": 2, "columns": {"value": "", "after": "afterwards"}},
            "later": {"words": "never came"},
            "own": {"size": 3, "columns": {"x": ""}},
        },
        "notes": [{"step": 7, "level": "warning", "text": "loss is not finite"}],
        "own": {"a": "inf"},
    }
    writer.finish()


def test_records_that_are_on_disk_are_announced(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, {})
    fill(writer, [63])
    assert load(tmp_path).families == {}  # nothing of it is on disk yet
    writer.block("norms", np.arange(63, 64), {c: expected(np.array([63]), k, 1) for k, c in enumerate(COLUMNS)})
    assert check(tmp_path) == 64
    writer.finish()


def test_an_instrument_that_always_complains_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RunWriter.create(tmp_path, {})
    saves: list[None] = []
    save = writer._save
    monkeypatch.setattr(writer, "_save", lambda: (saves.append(None), save())[1])
    for step in range(300):
        writer.note(step, "warning", "again")
    assert len(saves) == len(load(tmp_path).meta["notes"]) == 100
    writer.flush()
    assert len(load(tmp_path).meta["notes"]) == 300
    writer.finish()


def test_complete_json_tells_counts_and_checksums(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, {}) as writer:
        fill(writer, [1, 5])
    mark = json.loads((tmp_path / "complete.json").read_bytes())
    assert (mark["schema"], mark["status"], mark["scalars"]) == (1, "complete", 2)
    assert mark["families"] == dict.fromkeys(FAMILIES, 6)
    assert set(mark["sha256"]) == {"run.json", "scalars.jsonl", "scalars.parquet"}
    for name, promised in mark["sha256"].items():
        assert layout.checksum((tmp_path / name).read_bytes()) == promised


def test_an_existing_run_is_never_lost_silently(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with RunWriter.create(tmp_path, {"name": "old"}) as writer:
        fill(writer, [1])
    with pytest.raises(FileExistsError, match="overwrite=True"):
        RunWriter.create(tmp_path, {"name": "new"})
    assert load(tmp_path).meta["name"] == "old"
    with RunWriter.create(tmp_path, {"name": "new"}, overwrite=True):
        pass
    assert load(tmp_path).meta["name"] == "new"
    assert load(tmp_path).families == {}
    assert len(load(tmp_path).scalars["time"]) == 0
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("part", layout.PARTS)
def test_the_rest_of_a_run_is_not_taken_for_an_empty_folder(tmp_path: Path, part: str) -> None:
    (tmp_path / part).write_text("{}")
    with pytest.raises(RunExists, match="already holds a run"):
        RunWriter.create(tmp_path, {})
    RunWriter.create(tmp_path, {}, overwrite=True).finish()
    assert load(tmp_path).status == "complete"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nothing can be known about a process")
def test_a_run_that_another_process_writes_is_not_overwritten(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, {})
    parent = {**process.fingerprint(), "pid": os.getppid(), "started": process._started(os.getppid())}
    writer._document["writer"] = parent
    writer.update()
    with pytest.raises(RunExists, match="another process is still writing"):
        RunWriter.create(tmp_path, {}, overwrite=True)
    writer._document["writer"] = {**parent, "started": "1"}  # that one is gone
    writer.update()
    writer._scalars.close()
    RunWriter.create(tmp_path, {}, overwrite=True).finish()


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "complete"), (SystemExit(0), "complete"), (SystemExit(3), "failed"),
     (KeyboardInterrupt(), "interrupted"), (ZeroDivisionError(), "failed")],
)  # fmt: skip
def test_leaving_the_block_finishes_the_run(tmp_path: Path, error: BaseException | None, status: str) -> None:
    def train() -> None:
        with RunWriter.create(tmp_path, {}) as writer:
            fill(writer, [3])
            if error is not None:
                raise error

    with nullcontext() if error is None else pytest.raises(type(error)):
        train()
    assert load(tmp_path).status == status
    assert check(tmp_path) == 3


def test_finishing_twice_is_once(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, {}) as writer:
        writer.finish("failed")
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        writer.finish("complete")
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert load(tmp_path).status == "failed"
    for change in (
        lambda: writer.scalars(0, 0.0, {}),
        lambda: writer.series("x", 0, {"value": np.ones(1)}),
        lambda: writer.note(0, "info", "too late"),
        lambda: writer.update(name="other"),
    ):
        with pytest.raises(DynascopeError, match="is finished"):
            change()
    writer.flush()


def test_a_finish_that_the_disk_refused_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RunWriter.create(tmp_path, {})
    fill(writer, [5])
    with monkeypatch.context() as patch:

        def full(*_: object, **__: object) -> None:
            raise OSError("no space left on device")

        patch.setattr(chunks, "write_aside", full)
        with pytest.raises(OSError, match="no space"):
            writer.finish()
    assert load(tmp_path).status == "running"
    writer.finish()
    assert load(tmp_path).status == "complete"
    assert check(tmp_path) == 5


def test_a_refused_record_leaves_no_family(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, {})
    for columns in ({}, {"value": np.ones(2), "after": np.ones(3)}, {"index": np.ones(2)}):
        with pytest.raises((ValueError, TypeError), match=f"'x'|x/after|{CHECKED}"):
            writer.series("x", 0, columns)
    with pytest.raises((ValueError, TypeError), match=f"non-empty string|{CHECKED}"):
        writer.series("", 0, {"value": np.ones(2)})
    writer.finish()
    assert load(tmp_path).families == {}


def test_records_must_continue_what_is_there(tmp_path: Path) -> None:
    one = {"value": np.ones(2, np.float32), "after": np.zeros(2, np.float32)}
    writer = RunWriter.create(tmp_path, {"families": {"told": {"size": 5}}})
    writer.series("x", 4, one)
    for steps, columns, words in [
        ([4], one, "step 4 of 'x' must be larger than the last, 4"),
        (
            [5],
            {"value": one["value"]},
            r"needs the columns \('value', 'after'\) in every record, got \['value'\]",
        ),
        ([5], {name: np.ones(3, np.float32) for name in one}, "has 2 entries in a record, got 3"),
        ([5], {name: np.ones(2) for name in one}, "is stored as float32, got float64; convert"),
        ([6, 5], one, r"non-empty list of increasing integers >= 0, got array\(\[6, 5\]\)"),
        ([0.5], one, "increasing integers"),
        ([], one, "non-empty list"),
        ([-1], one, "increasing integers >= 0"),
        ([5, 6], one, "got 2 steps and 1 records"),
    ]:
        with pytest.raises((ValueError, TypeError), match=f"{words}|{CHECKED}"):
            writer.block("x", np.array(steps), {name: column[None] for name, column in columns.items()})
    with pytest.raises((ValueError, TypeError), match=f"the step of x must be an integer|{CHECKED}"):
        writer.series("x", 5.0, one)  # type: ignore[arg-type]
    with pytest.raises(
        (ValueError, TypeError), match=f"'told' was announced with size 5, its first record has 2|{CHECKED}"
    ):
        writer.series("told", 0, one)
    writer.series("x", 9, dict(reversed(one.items())))  # another order of the columns is fine
    writer.finish()
    run = load(tmp_path)
    assert run.series("x", "value").steps.tolist() == [4, 9]
    assert run.series("x", "value").values.tolist() == [[1, 1], [1, 1]]
    assert run.series("x", "after").values.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("int64", "float64"),
        ("bool", "float64"),
    ],
)
def test_precision_is_never_lost(tmp_path: Path, dtype: str, stored: str) -> None:
    values = np.array([[0, 1, 2], [1, 0, 1]]).astype(dtype) / (np.array(3, dtype) if dtype[0] == "f" else 1)
    with RunWriter.create(tmp_path, {}) as writer:
        writer.block("x", np.arange(2), {"value": values.astype(dtype)})
    assert zarr.open_group(tmp_path / "series.zarr", mode="r")["x/values"].dtype == stored  # type: ignore[union-attr]
    np.testing.assert_array_equal(load(tmp_path).series("x", "value").values, values.astype(dtype))


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"status": "complete"}, "status cannot be set"),
        ({"notes": [], "schema": 2}, "notes, schema cannot be set"),
        ({"settings": {"f": print}}, r"settings\.f is a builtin"),
        ({"families": [1]}, "families must be a dict"),
        ({"families": {"x": {"columns": ["value"]}}}, r"families\.x must be a dict, and its columns too"),
    ],
)
def test_bad_meta_is_refused_before_a_folder_is_made(tmp_path: Path, meta: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunWriter.create(tmp_path / "run", meta)
    assert not (tmp_path / "run").exists()


def test_bad_words_are_refused(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, {})
    with pytest.raises((ValueError, TypeError), match=f"level must be .* got 'fatal'|{CHECKED}"):
        writer.note(0, "fatal", "x")  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match=f"status must be .* got 'running'|{CHECKED}"):
        writer.finish("running")  # type: ignore[arg-type]
    writer.finish()


def test_without_pyarrow_the_parquet_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with RunWriter.create(tmp_path, {}) as writer:
        fill(writer, [1])
    assert not (tmp_path / layout.SCALARS_TABLE).exists()
    assert load(tmp_path).status == "complete"


def test_importing_the_archive_loads_nothing_heavy() -> None:
    heavy = ("torch", "zarr", "numcodecs", "pandas", "pyarrow", "scipy")
    code = f"import sys, dynascope.runs; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_writing_and_reading_need_no_torch_zarr_pandas(tmp_path: Path) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, *_):
        if name in ("torch", "zarr", "pandas"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import numpy as np
from dynascope.runs import RunWriter, load
with RunWriter.create({str(tmp_path / "run")!r}, {{}}) as run:
    run.series("x", 0, {{"value": np.ones(3)}})
print(load({str(tmp_path / "run")!r}).series("x", "value").values.sum())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3.0"
