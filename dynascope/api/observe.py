"""The front door of observation: a context manager around the user's own training loop."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from dynascope.diagnosis.closing import store_predictions
from dynascope.probes import PROBES
from dynascope.probes.charges import ChargeInstrument
from dynascope.report import write
from dynascope.runs import RunWriter
from dynascope.symmetry.anatomy import Anatomy
from dynascope.training.recorder import OnError, Recorder
from dynascope.training.session import Output, Wishes, default_path, observed

INSTRUMENTS = {"charges": ChargeInstrument}


@contextmanager
def observe(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    example_inputs: Any = None,
    anatomy: Anatomy | None = None,
    output: Output | None = None,
    probes: Sequence[str] = ("charges",),
    every: int = 1,
    to: str | Path | None = None,
    max_overhead: float | None = None,
    on_error: OnError = "warn",
    report: bool = True,
    before_finish: Sequence[Callable[[RunWriter], object]] = (),
    on_finish: Sequence[Callable[[Path], object]] = (),
) -> Iterator[Recorder]:
    """Record a model's charges while it trains; the loop inside the ``with`` block stays as it is.

    The optimiser's own step triggers the recording. Weights, buffers, gradients, modes, hooks and random
    state are bit-identical with and without it. An instrument that fails switches itself off with one
    warning.

    Args:
        model: the model; compiled ones are fine.
        optimizer: any ``torch.optim`` optimiser of it. The terms of a law are recorded for plain SGD.
        example_inputs: what the model is called with: a tensor, a tuple of arguments or a dict of keyword
            arguments. If neither they nor an anatomy are given, a copy of the inputs of the first call in
            training mode is taken.
        anatomy: the result of ``inspect``, where it is known already.
        output: ``"identity"``, ``"softmax"`` where the loss ignores a common shift of the outputs (cross-
            entropy), or None to find out from the first three batches. Unused where an anatomy is given.
        probes: names of what to record: ``"charges"``, or any function of a snapshot that ``PROBES`` knows.
        every: record each ``every``-th step.
        to: folder of the run; None for a new one under ``runs/``.
        max_overhead: share of the time that recording may take (0.05 is 5 %); beyond it recording thins
            itself out.
        on_error: ``"raise"`` lets the errors of instruments through, for tests.
        report: write ``report.html`` into the run's folder at the end.
        before_finish: called with the archive at the end, while it can still be written to.
        on_finish: called with the run's folder when the run is complete, for instance to write a report.

    Yields:
        What is seen: ``.step(loss=, batch=)`` tells the loss of a step, ``.note(text)`` writes a remark into
        the run, ``.path`` is its folder.

    Raises:
        AlreadyObserved: the model or the optimiser is observed already.
        ValueError: an argument is outside its range.
        UnknownName: there is no such probe.
    """
    wishes = Wishes(
        instruments=[INSTRUMENTS[name] for name in probes if name in INSTRUMENTS],
        probes={name: PROBES.get(name).value for name in probes if name not in INSTRUMENTS},
        every=every,
        max_overhead=max_overhead,
        on_error=on_error,
        output=output,
    )
    path = Path(to) if to is not None else default_path(type(model).__name__)
    with observed(
        model,
        optimizer,
        path,
        wishes,
        example_inputs=example_inputs,
        anatomy=anatomy,
        before_finish=(store_predictions, *before_finish),
        on_finish=(*((write,) if report else ()), *on_finish),
    ) as recorder:
        yield recorder
