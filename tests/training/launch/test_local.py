"""Lists of runs: reuse, resume, and failures that do not spread."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dynascope.base.errors import DamagedRun, Unsupported
from dynascope.base.settings import SGDSettings
from dynascope.runs.layout import COMPLETE
from dynascope.training.launch.local import RunsFailed, is_finished, run_all
from dynascope.training.specs import RunSpec

SPEC = RunSpec("digits-mlp", SGDSettings(0.1), steps=3, batch_size=8, seed=0)
SPECS = [replace(SPEC, seed=seed) for seed in range(4)]


def execute(spec: RunSpec, path: Path) -> None:
    """Write a run without training; seeds above 9 go wrong, each in its own way."""
    path.mkdir()
    (path / "seed").write_text(str(spec.seed))
    if spec.seed == 10:
        raise Unsupported("this seed", "it is 10", "take another one")  # needs three arguments to be unpickled
    if spec.seed == 11:
        os._exit(1)  # the process dies
    status = "interrupted" if spec.seed == 12 else "complete"
    (path / COMPLETE).write_text(json.dumps({"status": status}))


def counting(counts: list[int]):
    def count(spec: RunSpec, path: Path) -> None:
        counts.append(spec.seed)
        execute(spec, path)

    return count


def test_runs_lie_where_it_says_and_are_reused(tmp_path):
    counts: list[int] = []
    paths = run_all([*SPECS, SPECS[0]], counting(counts), tmp_path / "runs")
    assert paths == [tmp_path / "runs" / spec.name for spec in [*SPECS, SPECS[0]]]
    assert [(path / "seed").read_text() for path in paths] == ["0", "1", "2", "3", "0"]
    assert counts == [0, 1, 2, 3]
    extra = replace(SPEC, seed=4)
    run_all([*SPECS, extra], counting(counts), tmp_path / "runs")
    assert counts == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(spec.name for spec in [*SPECS, extra])


def test_a_half_finished_run_is_done_again(tmp_path):
    part, foreign = tmp_path / f"{SPECS[0].name}.part", tmp_path / SPECS[1].name
    part.mkdir(), foreign.mkdir()
    (part / "rest").touch(), (foreign / "precious").touch()
    (first, second) = run_all(SPECS[:2], execute, tmp_path)
    assert not part.exists()
    assert all(map(is_finished, (first, second)))
    assert not (first / "rest").exists()
    assert not (second / "precious").exists()
    assert (tmp_path / f"{SPECS[1].name}.unfinished-1" / "precious").exists()


def test_a_kill_leaves_no_run_that_looks_finished(tmp_path):
    def killed(spec, path):
        path.mkdir()
        (path / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(SPECS[:1], killed, tmp_path)
    assert not (tmp_path / SPECS[0].name).exists()
    (path,) = run_all(SPECS[:1], execute, tmp_path)
    assert not (path / "half").exists()


def test_failures_are_named_and_the_others_finish(tmp_path):
    bad, unmarked = replace(SPEC, seed=10), replace(SPEC, seed=12)
    with pytest.raises(RunsFailed) as caught:
        run_all([SPECS[0], bad, unmarked, SPECS[1]], execute, tmp_path)
    words = str(caught.value)
    assert words.startswith("2 of 4 runs failed")
    assert f"{bad.name}: Unsupported: this seed is not supported: it is 10" in words
    assert f"{unmarked.name}: it returned without a completion mark" in words
    assert "Traceback" in caught.value.failures[bad.name]
    assert all(is_finished(tmp_path / spec.name) for spec in SPECS[:2])
    assert not is_finished(tmp_path / bad.name)


@pytest.mark.slow
def test_processes_do_the_same(tmp_path):
    bad = replace(SPEC, seed=10)
    with pytest.raises(RunsFailed, match="it is 10") as caught:
        run_all([*SPECS, bad], execute, tmp_path, workers=2)
    assert caught.value.finished == 4
    paths = run_all(SPECS, execute, tmp_path, workers=2)
    assert [(path / "seed").read_text() for path in paths] == ["0", "1", "2", "3"]
    with pytest.raises(RunsFailed, match="a worker process died"):
        run_all([replace(SPEC, seed=11)], execute, tmp_path, workers=2)


def test_a_damaged_mark_is_named_not_guessed(tmp_path):
    folder = tmp_path / SPEC.name
    folder.mkdir()
    for text in ("", "[]", "{}", '{"status"'):
        (folder / COMPLETE).write_text(text)
        with pytest.raises(DamagedRun, match=COMPLETE):
            run_all([SPEC], execute, tmp_path)
    for status, finished in (("complete", True), ("interrupted", False)):
        (folder / COMPLETE).write_text(json.dumps({"status": status}))
        assert is_finished(folder) is finished


def test_workers_are_checked(tmp_path):
    with pytest.raises(ValueError, match="workers=0"):
        run_all([], execute, tmp_path, workers=0)
    assert run_all([], execute, tmp_path) == []
