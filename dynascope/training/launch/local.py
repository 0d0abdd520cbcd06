"""Execute a list of runs on this machine, reusing those that are finished."""

import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from dynascope.base.errors import DamagedRun, DynascopeError
from dynascope.runs.layout import COMPLETE
from dynascope.training.specs import RunSpec

Execute = Callable[[RunSpec, Path], object]


class RunsFailed(DynascopeError):
    """Some of the runs of a list failed; the others are finished and kept.

    Args:
        failures: name of the run -> what happened, the last line of its traceback first.
        finished: number of runs that are complete.
    """

    def __init__(self, failures: Mapping[str, str], finished: int) -> None:
        self.failures, self.finished = dict(failures), finished
        super().__init__(self.failures, finished)

    def __str__(self) -> str:
        reasons = "; ".join(f"{name}: {text.splitlines()[0]}" for name, text in self.failures.items())
        return f"{len(self.failures)} of {len(self.failures) + self.finished} runs failed: {reasons}"


def run_all(
    specs: Sequence[RunSpec],
    execute: Execute,
    folder: str | Path,
    *,
    workers: int = 1,
    progress: bool = True,
) -> list[Path]:
    """Make sure that every run is finished, and say where each lies.

    A run is executed into ``<name>.part`` and renamed to ``<name>`` once its completion mark is there; so
    what is called ``<name>`` is whole. A part left behind by a kill is thrown away and done again; an
    unfinished folder that stands in a run's place is set aside as ``<name>.unfinished-1``. Equal specs are
    executed once. One launcher at a time may work in a folder.

    Args:
        specs: the runs.
        execute: does one run and writes it, completion mark included, into the path that it is given and that
            does not exist yet. With several workers it must be a function of a module.
        folder: where the runs' folders lie; made where missing.
        workers: processes; 1 stays in this one.
        progress: show a progress bar once two seconds have passed.

    Returns:
        The folder of each spec, in the order of the specs.

    Raises:
        DamagedRun: the completion mark of a finished run cannot be read.
        RunsFailed: some runs failed; raised after all others are finished.
        ValueError: workers is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: give 1 or more processes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {spec.name: spec for spec in specs}
    due = [spec for name, spec in wanted.items() if not is_finished(folder / name)]
    outcomes = _here(due, execute, folder) if workers == 1 else _processes(due, execute, folder, workers)
    bar = tqdm(outcomes, "runs", len(wanted), initial=len(wanted) - len(due), delay=2.0, disable=not progress)
    failures = {name: failure for name, failure in bar if failure}
    if failures:
        raise RunsFailed(failures, len(wanted) - len(failures))
    return [folder / spec.name for spec in specs]


def is_finished(path: str | Path) -> bool:
    """Whether a run's folder holds the mark of a completed run.

    Args:
        path: the run's folder.

    Returns:
        True where the mark says "complete", False where there is no mark or another status.

    Raises:
        DamagedRun: there is a mark and it cannot be read.
    """
    mark = Path(path) / COMPLETE
    if not mark.exists():
        return False
    try:
        return json.loads(mark.read_text(encoding="utf-8"))["status"] == "complete"
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRun(mark, f"it holds no status ({type(error).__name__}: {error})") from error


def _here(due: Sequence[RunSpec], execute: Execute, folder: Path) -> Iterator[tuple[str, str]]:
    for spec in due:
        yield spec.name, _attempt(spec, execute, folder)


def _processes(due: Sequence[RunSpec], execute: Execute, folder: Path, workers: int) -> Iterator[tuple[str, str]]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    # spawn: forked children would inherit torch's thread pools in an undefined state
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        names = {pool.submit(_attempt, spec, execute, folder): spec.name for spec in due}
        for future in as_completed(names):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                yield names[future], "a worker process died (out of memory?); fewer workers may help"
            elif error is not None:
                yield names[future], _words(error)
            else:
                yield names[future], future.result()


def _attempt(spec: RunSpec, execute: Execute, folder: Path) -> str:
    """Do one run; return what went wrong, or nothing: a text, because not every exception can be pickled."""
    final, part = folder / spec.name, folder / f"{spec.name}.part"
    if part.exists():
        shutil.rmtree(part)
    try:
        execute(spec, part)
        if not is_finished(part):
            return f"it returned without a completion mark in {part}"
        if final.exists():
            final.rename(_free_name(final))
        part.rename(final)
    except Exception as error:  # any failure of one run is reported, and the others go on
        return _words(error)
    return ""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}"


def _free_name(path: Path) -> Path:
    """The first of ``<name>.unfinished-1``, ``-2``, ... that does not exist."""
    number = 1
    while (aside := path.with_name(f"{path.name}.unfinished-{number}")).exists():
        number += 1
    return aside
