"""Runs of studies: what they record, that a kill costs only the run it hit, and when a finished run is reused."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dynascope import tasks
from dynascope.base.settings import SGDSettings
from dynascope.studies import _execute
from dynascope.training.loop import fit, sgd
from dynascope.training.specs import RunSpec

ALL = {"charges": "all"}


def spec(rate: float = 0.1, *, steps: int = 6, observation: dict = ALL) -> RunSpec:
    return RunSpec(
        "digits-mlp",
        SGDSettings(rate, momentum=0.9, weight_decay=0.01),
        steps=steps,
        batch_size=32,
        seed=3,
        replacement=True,
        task_settings={"hidden": [5], "held_out": 1000, "precision": "float64"},
        observation=observation,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    return _execute.execute({"only": spec()}, tmp_path_factory.mktemp("runs"), progress=False)["only"]


def test_a_run_records_every_family_at_every_step_without_changing_the_training(run) -> None:
    task = tasks.get("digits-mlp", hidden=[5], held_out=1000, precision="float64")
    plain = fit(task, optimizer=sgd(spec().optimizer), progress=False, **spec().loop)
    assert run.scalars["loss"].values.tolist() == plain.losses.tolist()

    rescale = next(name for name, entry in run.families.items() if entry["kind"] == "rescale")
    params = {name: p.detach() for name, p in plain.model.named_parameters()}
    by_hand = params["0.weight"].square().sum(1) + params["0.bias"].square() - params["2.weight"].square().sum(0)
    after = run.series(rescale, "after")
    assert after.steps.tolist() == list(range(6))
    # the same sums in another order: rounding of a few float64 additions
    np.testing.assert_allclose(after.values[-1], by_hand, rtol=1e-12)
    start = {name: p.detach() for name, p in task.model(3).named_parameters()}
    assert not torch.equal(start["0.weight"], params["0.weight"])


def test_a_run_says_what_it_is(run) -> None:
    assert run.status == "complete"
    assert run.meta["model"]["dtype"] == "float64"
    assert run.meta["optimizer"]["momentum"] == 0.9
    assert run.meta["settings"]["observation"]["code"] == _execute.code_version()


def test_only_the_wanted_families_are_recorded(tmp_path: Path) -> None:
    wanted = {"charges": [["2.bias", "2.weight"], ["0.weight", "0.bias"]]}
    found = _execute.execute({"only": spec(observation=wanted)}, tmp_path, progress=False)["only"].families
    charges = {name for name in found if name.startswith("charges:")}
    assert charges
    assert all(leg["parameter"].startswith("2.") for name in charges for leg in found[name]["legs"])


def test_a_failing_run_is_marked_and_leaves_the_others(tmp_path: Path) -> None:
    broken = RunSpec("digits-mlp", SGDSettings(0.1), steps=2, batch_size=10**6, seed=0, observation=ALL)
    with pytest.raises(Exception, match=r"1 of 2 runs failed.*batch_size=1000000"):
        _execute.execute({"broken": broken, "whole": spec(steps=2)}, tmp_path, progress=False)
    assert len([p for p in tmp_path.iterdir() if not p.name.endswith(".part")]) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test__execute import spec
from dynascope.studies import _execute

done = 0
def fit(task, *, on_step, **settings):
    def dying(step, loss, batch):
        on_step(step, loss, batch)
        if done == 1 and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return plain(task, on_step=dying, **settings)

def observe(spec, path, *, progress):
    global done
    whole(spec, path, progress=progress)
    done += 1

plain, whole = _execute.fit, _execute.observe_charges
_execute.fit, _execute.observe_charges, _execute.code_version = fit, observe, lambda: "fixed"
_execute.execute({"a": spec(0.1), "b": spec(0.2), "c": spec(0.3)}, Path(sys.argv[1]), progress=False)
"""


def test_after_a_kill_only_the_rest_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    here = str(Path(__file__).parent)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), here], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    (finished,) = [path for path in tmp_path.iterdir() if not path.name.endswith(".part")]
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}

    # both processes must see the same code, even while somebody edits it
    monkeypatch.setattr(_execute, "code_version", lambda: "fixed")
    executed: list[float] = []
    whole = _execute.observe_charges

    def counting(spec: RunSpec, path: Path, *, progress: bool) -> None:
        executed.append(spec.optimizer.learning_rate)
        whole(spec, path, progress=progress)

    monkeypatch.setattr(_execute, "observe_charges", counting)
    wanted = {"a": spec(0.1), "b": spec(0.2), "c": spec(0.3)}
    runs = _execute.execute(wanted, tmp_path, progress=False)
    assert executed == [0.2, 0.3]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert [run.status for run in runs.values()] == ["complete"] * 3
    assert [run.meta["optimizer"]["learning_rate"] for run in runs.values()] == [0.1, 0.2, 0.3]

    _execute.execute(wanted, tmp_path, progress=False)
    assert executed == [0.2, 0.3]


@pytest.mark.parametrize("change", ["code", "settings"])
def test_other_code_or_settings_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    first = _execute.execute({"a": spec(steps=2)}, tmp_path, progress=False)["a"]
    if change == "code":
        monkeypatch.setattr(_execute, "code_version", lambda: "another")
    second = _execute.execute({"a": spec(steps=2 if change == "code" else 3)}, tmp_path, progress=False)["a"]
    assert first.path != second.path
    assert first.path.exists()


def test_code_version_sees_every_room_that_records(tmp_path: Path) -> None:
    for room in (*_execute.ROOMS, "studies"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "file.py").write_text("x = 1\n")
    versions = [_execute.code_version.__wrapped__(tmp_path)]
    for room in _execute.ROOMS:
        (tmp_path / room / "file.py").write_text("x = 2\n")
        versions.append(_execute.code_version.__wrapped__(tmp_path))
    assert len(set(versions)) == len(versions)
    (tmp_path / "studies" / "file.py").write_text("x = 2\n")
    assert _execute.code_version.__wrapped__(tmp_path) == versions[-1]
