"""One observed optimiser: its model's anatomy, its archive and its recorder, put together at the right moment.

The anatomy may be given, or be found from example inputs, or from the inputs of the first call of the model
in training mode; in the last case that happens just before the first optimiser step. Where the output head is
not told, charges that rest on softmax are recorded provisionally and kept only if their constraint holds on
three real batches.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from dynascope import __version__
from dynascope.base.errors import Unsupported
from dynascope.functional.model import as_function
from dynascope.functional.params import buffers_of, parameters_of
from dynascope.functional.snapshot import OptimizerView, Snapshot
from dynascope.runs import RunWriter
from dynascope.symmetry.anatomy import Anatomy
from dynascope.symmetry.charges import Charge
from dynascope.symmetry.find import inspect_model
from dynascope.training.apart import apart
from dynascope.training.blocks import Instrument
from dynascope.training.first_call import FirstCall
from dynascope.training.pace import Pace
from dynascope.training.recorder import (
    OnError,
    Probe,
    Recorder,
    is_reserved,
    release,
    reserve,
    status_of,
    warn,
)

__all__ = ["Wishes", "begin", "default_path", "finish", "free_path", "is_reserved", "observed", "unwrapped"]

Output = Literal["identity", "softmax"]
MakeInstrument = Callable[..., Instrument]
"""Called with the charges, the model and the optimiser."""

# Operations in one call of the model. Inspection takes about 10 ms for each, so this is half a minute.
LONGEST_CALL = 3000
# Batches on which the softmax constraint must hold before it is believed.
BATCHES = 3


@dataclass(frozen=True)
class Wishes:
    """How somebody wants to observe.

    Args:
        instruments: makes each instrument from the charges, the model and the optimiser.
        probes: functions of a snapshot, by name.
        every: record each ``every``-th step.
        max_overhead: share of the time that recording may take, None for any.
        on_error: ``"warn"`` or ``"raise"``.
        output: the output head; None to find out.
    """

    instruments: Sequence[MakeInstrument] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)
    every: int = 1
    max_overhead: float | None = None
    on_error: OnError = "warn"
    output: Output | None = None


def begin(
    model: nn.Module,
    optimizer: Optimizer,
    path: str | Path,
    wishes: Wishes,
    *,
    inputs: Callable[[], Any] | None = None,
    example_inputs: Any = None,
    anatomy: Anatomy | None = None,
    loss: Callable[[], Tensor | float | None] | None = None,
    settings: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Recorder:
    """Open the archive and make the recorder; nothing is attached yet.

    Args:
        model: the model, as the user holds it (compiled or wrapped is fine).
        optimizer: its optimiser.
        path: folder of the run.
        wishes: what to record.
        inputs: gives the model's example inputs when the first step comes.
        example_inputs: the example inputs, where they are known already; inspection is then done at once.
        anatomy: the anatomy, where it is known already.
        loss: gives the loss of the coming step where somebody knows it.
        settings: further settings to write down.
        tell: says what went wrong; a warning if None.

    Returns:
        The recorder, to be attached and closed.
    """
    plain = unwrapped(model)
    pace = Pace(wishes.every, wishes.max_overhead)
    writer = RunWriter.create(path, _description(plain, optimizer, wishes, settings or {}))
    known = anatomy is not None or example_inputs is not None
    session = _Session(plain, optimizer, wishes, writer, (lambda: example_inputs) if known else inputs, anatomy)
    recorder = Recorder(
        plain,
        optimizer,
        writer,
        prepare=session.prepare,
        pace=pace,
        on_error=wishes.on_error,
        loss=loss,
        probes=wishes.probes,
        tell=tell,
    )
    session.recorder = recorder
    if known:
        try:
            recorder.prepare()
        except BaseException:
            recorder.close("failed")
            raise
    return recorder


@contextmanager
def observed(
    model: nn.Module,
    optimizer: Optimizer,
    path: Path,
    wishes: Wishes,
    *,
    example_inputs: Any = None,
    anatomy: Anatomy | None = None,
    before_finish: Sequence[Callable[[RunWriter], object]] = (),
    on_finish: Sequence[Callable[[Path], object]] = (),
) -> Iterator[Recorder]:
    """Observe one model and its optimiser inside a ``with`` block; afterwards nothing is left on either.

    Args:
        model: the model.
        optimizer: its optimiser.
        path: folder of the run.
        wishes: what to record.
        example_inputs: what the model is called with; None to take the first call in training mode.
        anatomy: the anatomy, where it is known already.
        before_finish: called with the archive while it can still be written to.
        on_finish: called with the folder when the run is complete.

    Yields:
        The recorder.
    """
    subjects = (model, optimizer)
    reserve(subjects, str(path))
    with ExitStack() as stack:
        stack.callback(release, subjects)
        inputs = None
        if anatomy is None and example_inputs is None:
            call = FirstCall(model)
            stack.callback(call.remove)
            inputs = call.inputs
        recorder = begin(model, optimizer, path, wishes, inputs=inputs, example_inputs=example_inputs, anatomy=anatomy)
        stack.push(lambda _, error, __: finish(recorder, error, before_finish, on_finish))
        recorder.attach()
        yield recorder


def finish(
    recorder: Recorder,
    error: BaseException | None,
    before_finish: Sequence[Callable[[RunWriter], object]],
    on_finish: Sequence[Callable[[Path], object]],
    *,
    tell: Callable[[str], None] = warn,
) -> None:
    """Close a recorder and do what is to be done with the run; errors of the latter become warnings.

    Args:
        recorder: the recorder.
        error: what ended the training, None for nothing.
        before_finish: called with the archive while it can still be written to.
        on_finish: called with the folder when the run is complete.
        tell: says what went wrong.
    """
    recorder.close(status_of(error), before_finish=before_finish)
    for task in on_finish if recorder.owner else ():
        try:
            task(recorder.path)
        except Exception as problem:  # the training is over and stands, whatever becomes of the report
            tell(f"{getattr(task, '__name__', 'finishing')} failed ({type(problem).__name__}: {problem})")


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside ``torch.compile`` and data-parallel wrappers; parameter names are its.

    Args:
        model: any module.

    Returns:
        The innermost module.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def default_path(name: str) -> Path:
    """A folder that does not exist yet, under ``runs/``.

    Args:
        name: what the run is of.

    Returns:
        The path.
    """
    return free_path(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")


def free_path(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist.

    Args:
        path: the wish.

    Returns:
        A path that does not exist.
    """
    tried, number = path, 1
    while tried.exists():
        number += 1
        tried = path.with_name(f"{path.name}-{number}")
    return tried


class _Session:
    """Finds the anatomy when the first step comes, and checks the softmax constraint on the first batches."""

    recorder: Recorder

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        wishes: Wishes,
        writer: RunWriter,
        inputs: Callable[[], Any] | None,
        anatomy: Anatomy | None,
    ) -> None:
        self._model, self._optimizer, self._wishes, self._writer = model, optimizer, wishes, writer
        self._inputs, self._anatomy = inputs, anatomy
        self._held = 0

    def prepare(self) -> list[Instrument]:
        """Find the anatomy and make the instruments.

        Returns:
            The instruments; none if the model has no charges.
        """
        anatomy, extra = self._anatomy, ()
        if anatomy is None:
            with apart():
                anatomy, extra = self._inspect(self._inputs() if self._inputs else None)
        self._writer.update(anatomy=anatomy.to_dict())
        families = (*anatomy.charge_families, *extra)
        if not families:
            self.recorder.note("no conserved charge was found, so none is recorded", level="warning")
            return []
        return [make(families, self._model, self._optimizer) for make in self._wishes.instruments]

    def _inspect(self, inputs: Any) -> tuple[Anatomy, tuple[Charge, ...]]:
        """The anatomy that is certain, and the charges that stand if the loss ignores a common shift."""
        if self.recorder.attached:  # in the middle of somebody's training, who did not ask for it by name
            _refuse_long_calls(self._model, inputs)
        output = self._wishes.output
        # Before the first step a model may still stand in eval mode; what is observed is its training.
        mode = "eval" if self.recorder.attached and not self._model.training else "train"
        anatomy = inspect_model(self._model, inputs, output=output or "identity", mode=mode)
        if output is not None:
            return anatomy, ()
        shifted = inspect_model(self._model, inputs, output="softmax", mode=mode)
        known = {charge.name for charge in anatomy.charge_families}
        extra = tuple(c for c in shifted.charge_families if c.degree == 1 and c.name not in known)
        if extra:
            self._shifted, self._extra = shifted, extra
            self.recorder.probes["output head"] = self._check_head
            self.recorder.note("charges that rest on softmax are provisional until three batches confirm them")
        return anatomy, extra

    def _check_head(self, snapshot: Snapshot) -> dict[str, float]:
        """A probe for the first batches: is the gradient zero along the shifts that softmax ignores?"""
        gradients = snapshot.gradients or {}
        names = [name for charge in self._extra for name in _legs(charge)]
        if not gradients.keys() >= set(names):
            return {}
        sizes = [(c.linear(gradients).abs().max().item(), c.scale(gradients).max().item()) for c in self._extra]
        if all(total == 0 for _, total in sizes):
            return {}  # no gradient, no evidence
        # Half the digits of the precision: rounding stays far below, any other head far above.
        allowed = max(torch.finfo(gradients[name].dtype).eps for name in names) ** 0.5
        if any(not along <= allowed * total for along, total in sizes):
            self._decide(holds=False)
        else:
            self._held += 1
            if self._held == BATCHES:
                self._decide(holds=True)
        return {}

    def _decide(self, *, holds: bool) -> None:
        recorder, writer = self.recorder, self._writer
        recorder.probes.pop("output head", None)
        if holds:
            recorder.note(f"the loss ignores a common shift of the outputs (held on {BATCHES} batches): softmax")
            recorder.later(lambda: writer.update(anatomy=self._shifted.to_dict()))
            return
        reason = "the loss does not ignore a common shift of the outputs"
        recorder.note(f"{reason}: the charges of softmax are recorded as numbers without a law")
        names = [f"charges:{charge.name}" for charge in self._extra]
        refuted = {name: {**recorder.families.get(name, {}), "law": None, "without_law": reason} for name in names}
        recorder.later(lambda: writer.update(families=refuted))


class _Operations(TorchDispatchMode):
    """Counts what torch executes, and stops when it is too much."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count > LONGEST_CALL:
            raise _TooLong
        return func(*args, **(kwargs or {}))


class _TooLong(Exception):
    """A call executes more operations than inspection can bear."""


def _refuse_long_calls(model: nn.Module, inputs: Any) -> None:
    """Refuse to inspect calls that unroll into very many operations, such as long loops over time."""
    try:
        with torch.no_grad(), _Operations():
            as_function(model).on(parameters_of(model), buffers_of(model), inputs)
    except _TooLong as error:
        raise Unsupported(
            f"inspecting {type(model).__name__} during training",
            f"one call executes more than {LONGEST_CALL} operations, and inspection would take minutes",
            "inspect it beforehand on a shorter input and pass anatomy=",
        ) from error


def _legs(charge: Charge) -> list[str]:
    return list(dict.fromkeys(leg.parameter for leg in charge.legs))


def _description(model: nn.Module, optimizer: Optimizer, wishes: Wishes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says at the start."""
    view = OptimizerView(optimizer, model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "model": {
            "name": type(model).__name__,
            "parameters": sum(sizes.values()),
            "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
            "device": ", ".join(sorted({str(p.device) for p in model.parameters()})),
        },
        "optimizer": {
            "name": view.kind,
            "fresh": not any(view.state(name) for name in sizes),
            "groups": [{"parameters": list(group.names), "settings": _plain(group.settings)} for group in view.groups],
        },
        "settings": {
            "every": wishes.every,
            "max_overhead": wishes.max_overhead,
            "output": wishes.output,
            **settings,
        },
        "versions": {
            "dynascope": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "seeds": {"torch": torch.initial_seed()},
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that JSON can hold; tensors of one element (learning rates) as numbers."""
    numbers = {key: x.item() if isinstance(x, Tensor) and x.numel() == 1 else x for key, x in settings.items()}
    return {key: x for key, x in numbers.items() if x is None or isinstance(x, (bool, int, float, str))}
