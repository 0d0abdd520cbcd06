import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynascope.base.errors import DamagedRun, UnknownName, Unsupported
from dynascope.runs import Run, RunWriter, find, layout, load

FAMILY = "charges:rescale/0.weight-2.weight"
FOLDER = "charges%3Arescale%2F0.weight-2.weight"


def write(
    path: Path,
    *,
    steps: int = 100,
    size: int = 5,
    last: int | None = None,
    noise: int | None = None,
    **meta: object,
) -> Path:
    """A finished run; the random numbers after step ``last`` come from another seed if ``noise`` is given."""
    rng, other = np.random.default_rng(0), np.random.default_rng(noise)
    with RunWriter.create(path, {"name": path.name, **meta}) as writer:
        for step in range(0, steps, 2):
            dice = other if last is not None and step > last else rng
            writer.series(FAMILY, step, {name: dice.normal(size=size) for name in ("value", "after")})
            writer.scalars(step, float(dice.normal()), {"loss": float(dice.normal())})
            if step % 10 == 0:
                writer.note(step, "info", f"{dice.normal()}")
        writer.update(result=float(other.normal()))
    return path


def everything(run: Run) -> str:
    """All that a run can be asked for, as text."""
    parts = {
        "meta": {key: value for key, value in run.meta.items() if key not in ("created", "name")},
        "families": run.families,
        "scalars": {name: [s.steps.tolist(), s.values.tolist()] for name, s in run.scalars.items()},
        "series": {c: run.series(FAMILY, c).values.tolist() for c in ("value", "after")},
        "steps": run.series(FAMILY, "value").steps.tolist(),
        "table": run.table(FAMILY).to_csv(),
        "status": run.status,
    }
    return json.dumps(parts, sort_keys=True)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    run = load(str(write(tmp_path / "a", settings={"seed": 3}) / ".." / "a"))
    rng = np.random.default_rng(0)
    for k in range(50):
        for name in ("value", "after"):
            np.testing.assert_array_equal(run.series(FAMILY, name).values[k], rng.normal(size=5))
        assert run.scalars["time"].values[k] == rng.normal()
        assert run.scalars["loss"].values[k] == rng.normal()
        if k % 5 == 0:
            assert run.meta["notes"][k // 5] == {"step": 2 * k, "level": "info", "text": f"{rng.normal()}"}
    assert run.series(FAMILY, "value").steps.tolist() == list(range(0, 100, 2))
    assert run.series(FAMILY, "value").name == f"{FAMILY}/value"
    assert run.scalars["loss"].name == "loss"
    assert run.families == {FAMILY: {"size": 5, "columns": {"value": "", "after": ""}}}
    assert run.meta["settings"] == {"seed": 3}
    assert (run.status, run.meta["status"], run.error) == ("complete", "complete", None)


@pytest.mark.parametrize("last", [0, 31, 50, 97])
def test_a_view_cannot_reach_later_data(tmp_path: Path, last: int) -> None:
    truth = load(write(tmp_path / "truth"))
    noisy = load(write(tmp_path / "noisy", last=last, noise=1))
    assert everything(truth.until(last)) == everything(noisy.until(last))
    assert everything(truth) != everything(noisy)  # the control: without the cut the noise is seen
    assert everything(truth.until(last + 2)) != everything(noisy.until(last + 2))


def test_a_view_is_the_run_as_it_was(tmp_path: Path) -> None:
    shorter = load(write(tmp_path / "short", steps=51))
    view = load(write(tmp_path / "long")).until(50)
    for name in ("value", "after"):
        np.testing.assert_array_equal(view.series(FAMILY, name).values, shorter.series(FAMILY, name).values)
    assert view.scalars["loss"].steps.tolist() == list(range(0, 51, 2))
    assert [note["step"] for note in view.meta["notes"]] == [0, 10, 20, 30, 40, 50]
    assert view.table(FAMILY).equals(shorter.table(FAMILY))
    assert (view.status, view.meta["finished"]) == ("running", None)
    assert "result" not in view.meta
    assert "until step 50" in repr(view)


def test_a_view_of_a_view_never_widens(tmp_path: Path) -> None:
    run = load(write(tmp_path / "a"))
    assert everything(run.until(10).until(60)) == everything(run.until(10))
    assert everything(run.until(60).until(10)) == everything(run.until(10))
    assert len(run.until(-1).series(FAMILY, "value")) == 0
    assert run.until(-1).series(FAMILY, "value").values.shape == (0, 5)


def test_later_chunks_and_lines_may_be_garbage_for_a_view(tmp_path: Path) -> None:
    """Nothing that lies wholly after the view is even opened."""
    path = write(tmp_path / "a", steps=500, size=1000)  # four chunks
    run = load(path)
    before = everything(run.until(40))
    (path / "series.zarr" / FOLDER / "values" / "c.3.0.0").write_bytes(b"noise")
    lines = (path / "scalars.jsonl").read_bytes().split(b"\n")
    (path / "scalars.jsonl").write_bytes(b"\n".join([*lines[:30], b"noise\n"]))
    assert everything(load(path).until(40)) == before
    with pytest.raises(DamagedRun, match=r"c\.3\.0\.0"):
        load(path).series(FAMILY, "value")
    with pytest.raises(DamagedRun, match=r"scalars\.jsonl.*checksum"):
        load(path).scalars  # noqa: B018


def test_a_table_has_one_row_for_each_entry(tmp_path: Path) -> None:
    run = load(write(tmp_path / "a"))
    table = run.table(FAMILY)
    assert list(table.columns) == ["step", "index", "value", "after"]
    for name in ("value", "after"):
        wide = table.pivot(index="step", columns="index", values=name)
        np.testing.assert_array_equal(wide.to_numpy(), run.series(FAMILY, name).values)
        np.testing.assert_array_equal(wide.index, run.series(FAMILY, name).steps)


def test_parquet_holds_the_table(tmp_path: Path) -> None:
    import pandas

    run = load(write(tmp_path / "a"))
    run.until(20).write_parquet(FAMILY, tmp_path / "t.parquet")
    assert pandas.read_parquet(tmp_path / "t.parquet").equals(run.until(20).table(FAMILY))


def test_a_table_without_pandas_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load(write(tmp_path / "a"))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Unsupported, match=r"dynascope\[table\]"):
        run.table(FAMILY)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    run = load(write(tmp_path / "a"))
    for ask in (run.table, lambda name: run.series(name, "value")):
        with pytest.raises(UnknownName, match=r"no family is called 'charge'.*Known: charges:rescale"):
            ask("charge")
    with pytest.raises(UnknownName, match="did you mean 'value'"):
        run.series(FAMILY, "values")


def test_an_announced_family_without_records_is_empty(tmp_path: Path) -> None:
    families = {"later": {"size": 3, "columns": {"value": ""}}, "vague": {"words": "not even columns"}}
    for run in (load(write(tmp_path / "a", families=families)), unfinished(tmp_path / "b", families)):
        assert run.series("later", "value").values.shape == (0, 3)
        assert list(run.table("later").columns) == ["step", "index", "value"]
        assert len(run.table("later")) == len(run.table("vague")) == 0


def unfinished(path: Path, families: dict) -> Run:
    writer = RunWriter.create(path, {"families": families})
    writer._scalars.close()
    return load(path)


def change_json(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def test_a_run_without_its_writer_is_interrupted(tmp_path: Path) -> None:
    assert unfinished(tmp_path / "a", {}).status == "running"  # the writer is this very process
    run_json = tmp_path / "a" / "run.json"
    if os.path.exists("/proc/self/stat"):
        change_json(run_json, lambda run: run["writer"].update(started="1"))
        assert load(tmp_path / "a").status == load(tmp_path / "a").meta["status"] == "interrupted"
    change_json(run_json, lambda run: run["writer"].update(host="elsewhere"))
    assert load(tmp_path / "a").status == "running"  # nobody can know from here
    change_json(run_json, lambda run: run.pop("writer"))
    assert load(tmp_path / "a").status == "running"


def test_a_run_that_finishes_while_it_is_opened_is_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter.create(tmp_path / "a", {})

    def finishes_meanwhile(_: object) -> bool:
        writer.finish()
        return False

    monkeypatch.setattr("dynascope.runs.process.is_alive", finishes_meanwhile)
    assert load(tmp_path / "a").status == "complete"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no run.json": ("run.json", Path.unlink, "missing"),
    "cut run.json": ("run.json", cut, "checksum"),
    "other run.json": ("run.json", lambda p: change_json(p, lambda run: run.update(name="x")), "checksum"),
    "cut mark": ("complete.json", cut, "not valid JSON"),
    "newer mark": ("complete.json", lambda p: change_json(p, lambda mark: mark.update(schema=2)), "schema 2"),
    "poor mark": (
        "complete.json",
        lambda p: change_json(p, lambda mark: mark.pop("sha256")),
        "'sha256' is missing",
    ),
    "no scalars": ("scalars.jsonl", Path.unlink, "missing"),
    "cut scalars": ("scalars.jsonl", cut, "checksum"),
    "no family": (f"series.zarr/{FOLDER}", shutil.rmtree, "missing"),
    "no steps": (f"series.zarr/{FOLDER}/step", shutil.rmtree, "missing"),
    "no values": (f"series.zarr/{FOLDER}/values/zarr.json", Path.unlink, "missing"),
    "no chunk": (f"series.zarr/{FOLDER}/values/c.0.0.0", Path.unlink, "missing"),
    "cut chunk": (f"series.zarr/{FOLDER}/step/c.0", cut, "checksum"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_never_guessed_at(tmp_path: Path, kind: str) -> None:
    part, harm, words = DAMAGE[kind]
    path = write(tmp_path / "a")
    everything(load(path))
    harm(path / part)
    with pytest.raises(DamagedRun, match=words) as caught:
        everything(load(path))
    assert path / part in (caught.value.path, *caught.value.path.parents)
    if part not in ("run.json", "complete.json", "scalars.jsonl"):
        with pytest.raises(DamagedRun, match=words):
            load(path).until(50).series(FAMILY, "value")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: run.update(schema=2), "schema 2, this dynascope knows 1; install a newer"),
        (lambda run: run.pop("schema"), "does not say which schema"),
        (lambda run: run.pop("families"), "'families' is missing or no dict"),
        (lambda run: run.update(notes={}), "'notes' is missing or no list"),
    ],
)
def test_a_run_json_of_another_kind_is_refused(tmp_path: Path, change: Callable, words: str) -> None:
    unfinished(tmp_path / "a", {})
    change_json(tmp_path / "a" / "run.json", change)
    with pytest.raises(DamagedRun, match=rf"run\.json.*{words}"):
        load(tmp_path / "a")


def test_steps_that_do_not_increase_are_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    from dynascope.runs import chunks

    folder = path / "series.zarr" / FOLDER / "step"
    array = chunks.read_layout(folder)
    chunks.write_chunk(folder, array, 0, np.zeros(array.chunk, np.int64))
    with pytest.raises(DamagedRun, match="do not increase"):
        load(path).series(FAMILY, "value")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedRun, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DamagedRun, match=r"run\.json.*missing"):
        load(tmp_path)


def test_find_lists_newest_first_and_keeps_the_damaged(tmp_path: Path) -> None:
    for name in ("b", "sweep/c", "a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, steps=2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("not a run")
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    write(tmp_path / "deep" / "deeper" / "too", steps=2)
    (tmp_path / "sweep" / "c" / "run.json").write_text("{")
    os.utime(tmp_path / "sweep" / "c", (0, 0))
    runs = find(tmp_path)
    assert [run.path.relative_to(tmp_path).as_posix() for run in runs] == ["a", "b", "sweep/c"]
    assert [run.status for run in runs] == ["complete", "complete", "damaged"]
    broken = runs[-1]
    assert isinstance(broken.error, DamagedRun)
    assert "damaged" in repr(broken)
    for ask in (
        lambda: broken.meta,
        lambda: broken.scalars,
        lambda: broken.families,
        lambda: broken.series("x", "y"),
        lambda: broken.table("x"),
        lambda: broken.until(3),
        lambda: broken.write_parquet("x", tmp_path / "x"),
    ):
        with pytest.raises(DamagedRun, match=r"run\.json"):
            ask()
    assert [run.path for run in find(tmp_path / "a")] == [tmp_path / "a"]
    assert find(tmp_path / "notes") == []
    with pytest.raises(ValueError, match="folder must be an existing folder"):
        find(tmp_path / "nowhere")


@pytest.mark.parametrize("part", [part for part in layout.PARTS if part != layout.RUN])
def test_find_sees_what_is_left_of_a_run(tmp_path: Path, part: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / part).write_text("{}")
    assert [run.status for run in find(tmp_path)] == ["damaged"]
