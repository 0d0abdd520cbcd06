"""Executes a study's runs: trains under the charge instrument and stores what it measures as a run folder."""

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from dynascope import tasks
from dynascope.functional.task import Task
from dynascope.probes.charges import ChargeInstrument
from dynascope.runs import Run, RunWriter, load
from dynascope.symmetry.anatomy import Anatomy
from dynascope.symmetry.charges import Charge
from dynascope.symmetry.find import inspect_model
from dynascope.training.launch.local import run_all
from dynascope.training.loop import fit, sgd
from dynascope.training.pace import Pace
from dynascope.training.recorder import Recorder, Status
from dynascope.training.specs import RunSpec

ROOMS: Final = ("base", "functional", "symmetry", "tasks", "probes", "runs", "training")
"""The rooms whose code decides what a run records; laws and studies are evaluated anew each time."""

PACKAGE: Final = Path(__file__).parents[1]
EXAMPLES: Final = 8
"""Examples shown to the inspection; BatchNorm in train mode needs more than one."""


def execute(runs: Mapping[str, RunSpec], folder: Path, *, progress: bool) -> dict[str, Run]:
    """Make sure that every run of a study is finished, and open them.

    Args:
        runs: the runs by the study's names.
        folder: where their folders lie; finished ones of the same settings and the same code are reused.
        progress: show a progress bar for what takes longer than two seconds.

    Returns:
        The finished runs, by the same names.
    """
    specs = [replace(spec, observation={**spec.observation, "code": code_version()}) for spec in runs.values()]
    paths = run_all(specs, partial(observe_charges, progress=progress), folder, progress=progress)
    return {name: load(path) for name, path in zip(runs, paths, strict=True)}


def observe_charges(spec: RunSpec, path: Path, *, progress: bool = False) -> None:
    """Do one run and record its charges at every step.

    Args:
        spec: the run; ``observation["charges"]`` is "all", or lists of parameters: then only families whose legs are
            all in one of the lists are recorded.
        path: folder to write, completion mark included.
        progress: show a progress bar once two seconds have passed.
    """
    task = tasks.get(spec.task, **spec.task_settings)
    model = task.model(spec.seed).train()
    optimizer = sgd(spec.optimizer)(model.parameters())
    anatomy = inspect_model(model, task.train.x[:EXAMPLES], output=task.output, mode="train")
    families = _wanted(anatomy.charge_families, spec.observation["charges"])
    recorder = Recorder(
        model,
        optimizer,
        RunWriter.create(path, _meta(spec, task, anatomy)),
        prepare=lambda: [ChargeInstrument(families, model, optimizer)],
        pace=Pace(every=1),
        on_error="raise",
    )

    def tell(step: int, loss: Any, batch: Any) -> None:
        recorder.step(loss=loss)

    recorder.attach()
    status: Status = "interrupted"
    try:
        fit(task, model=model, optimizer=optimizer, on_step=tell, progress=progress, **spec.loop)
        status = "complete"
    except Exception:
        status = "failed"
        raise
    finally:
        recorder.close(status)


@cache
def code_version(root: Path = PACKAGE) -> str:
    """A hash of the source code of every room that decides what a run records.

    Args:
        root: folder that holds the rooms.

    Returns:
        Twelve hexadecimal digits.
    """
    content = hashlib.sha256()
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:12]


def _wanted(families: Iterable[Charge], wanted: str | Sequence[Sequence[str]]) -> list[Charge]:
    """All families, or those whose legs are all in one of the lists of parameters."""
    if wanted == "all":
        return list(families)
    groups = [frozenset(group) for group in wanted]
    return [c for c in families if any(g.issuperset(leg.parameter for leg in c.legs) for g in groups)]


def _meta(spec: RunSpec, task: Task, anatomy: Anatomy) -> dict[str, Any]:
    settings = {**spec.loop, "task": spec.task, "task_settings": spec.task_settings, "observation": spec.observation}
    precision = str(task.train.x.dtype).removeprefix("torch.")
    return {
        "name": spec.name,
        "model": {"class": anatomy.model, "parameters": anatomy.parameters, "dtype": precision, "task": task.name},
        "anatomy": anatomy.to_dict(),
        "optimizer": {"kind": "SGD", **spec.optimizer.to_dict()},
        "settings": settings,
        "versions": {"python": platform.python_version(), "torch": version("torch"), "code": code_version()},
        "seeds": {"run": spec.seed},
    }
