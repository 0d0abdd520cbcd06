"""The recorder: looks at an optimiser around each step, keeps what instruments measure, and writes it in blocks.

The user's loop stays as it is: the optimiser's own step hooks trigger everything. Nothing here waits for a
device or a disk: measured rows are copied into a block on the device, and a thread of its own moves full
blocks to the archive. The recorder knows neither what the instruments measure nor what for.
"""

import os
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from dynascope.base.errors import AlreadyObserved
from dynascope.functional.params import buffers_of
from dynascope.functional.snapshot import OptimizerView, Snapshot
from dynascope.runs import RunWriter
from dynascope.training.background import Background
from dynascope.training.blocks import Blocks, Instrument, Level, one_number
from dynascope.training.closures import closure_of, with_look
from dynascope.training.pace import Pace

OnError = Literal["warn", "raise"]
Status = Literal["complete", "interrupted", "failed"]
Probe = Callable[[Snapshot], Mapping[str, Tensor | float]]

_observed: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def reserve(subjects: Sequence[nn.Module | Optimizer], path: str) -> None:
    """Reserve models and optimisers for one observer.

    Args:
        subjects: what is about to be observed.
        path: the run's folder, for the message.

    Raises:
        AlreadyObserved: one of them is observed now; then none is reserved.
    """
    for subject in subjects:
        if subject in _observed:
            raise AlreadyObserved(
                f"this {type(subject).__name__} is already observed, by the run in {_observed[subject]}; leave that "
                "`with` block first"
            )
    _observed.update(dict.fromkeys(subjects, path))


def is_reserved(subject: nn.Module | Optimizer) -> bool:
    """Whether somebody observes it now.

    Args:
        subject: a model or an optimiser.

    Returns:
        True between ``reserve`` and ``release``.
    """
    return subject in _observed


def release(subjects: Sequence[nn.Module | Optimizer]) -> None:
    """Give back what ``reserve`` reserved.

    Args:
        subjects: models and optimisers.
    """
    for subject in subjects:
        _observed.pop(subject, None)


def status_of(error: BaseException | None) -> Status:
    """How a run ended.

    Args:
        error: the exception that ended it, None for none.

    Returns:
        ``"interrupted"`` after Ctrl-C, ``"failed"`` after any other error or a non-zero exit, else
        ``"complete"``.
    """
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "complete"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def warn(text: str) -> None:
    """One warning that cannot hurt the training, even where warnings are errors.

    Args:
        text: what happened.
    """
    try:
        warnings.warn(f"dynascope: {text}", RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        sys.stderr.write(f"dynascope: {text}\n")


class Recorder:
    """Records what instruments measure around the steps of one optimiser, between ``attach`` and ``close``.

    Args:
        model: the model whose parameters the optimiser moves.
        optimizer: the optimiser.
        writer: the archive of this run.
        prepare: makes the instruments; called at the first step, so that it may use what was found out until
            then.
        pace: which steps to record.
        on_error: ``"warn"`` switches a failing instrument off and lets training go on; ``"raise"`` is for
            tests.
        loss: gives the loss of the coming step where somebody knows it; None elsewhere.
        probes: functions of a ``Snapshot`` by name; what they return is recorded as scalars.
        tell: says what went wrong; a warning if None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        writer: RunWriter,
        *,
        prepare: Callable[[], Sequence[Instrument]],
        pace: Pace,
        on_error: OnError = "warn",
        loss: Callable[[], Tensor | float | None] | None = None,
        probes: Mapping[str, Probe] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.path = writer.path
        """The run's folder."""
        self.steps = 0
        """Optimiser steps seen."""
        self.time: Any = 0.0
        """Sum of their learning rates (of the first parameter group)."""
        self.families: dict[str, dict[str, Any]] = {}
        """What the instruments record, as described in the run; known after the first step."""
        self.probes = dict(probes or {})
        """Functions of a ``Snapshot``; one that has seen enough may be taken out."""
        self._model, self._optimizer, self._writer, self._pace = model, optimizer, writer, pace
        self._view = OptimizerView(optimizer, model)
        self._make, self._on_error, self._find_loss = prepare, on_error, loss
        self._tell = tell or warn
        self._instruments: list[Instrument] = []
        self._settings: dict[str, Any] | None = None
        self._background = Background(f"dynascope-{writer.path.name}")
        self._blocks = Blocks(writer, self._background)
        self._process = os.getpid()  # a forked child inherits the hooks, but must not write
        self._handles: list[Any] = []
        self._ready = self._open = self._due = self._awaited = False
        self._depth = 0
        self._pending: dict[str, Any] = {}
        self._loss: Tensor | float | None = None
        self._loss_step = -1
        self._batch: Any = None
        self._mark: tuple[float, int] | None = None
        self._moved = self._broken = False
        self._background_seconds = 0.0

    # ---------------------------------------------------------------------------------- what the user calls

    def step(self, *, loss: Tensor | float | None = None, batch: Any = None) -> None:
        """Tell the loss of an optimiser step, once a step, before it or after it.

        Args:
            loss: the loss; a tensor is not waited for.
            batch: whatever probes that ask for the batch shall see at the next recorded step.
        """
        self._batch = batch
        # After a step that has no loss yet the loss is that step's, else it is the coming one's.
        self._loss_step = self.steps - 1 if self._loss_step < self.steps - 1 else self.steps
        if self._loss_step == self.steps:
            self._loss = one_number(loss)
        else:
            self._blocks.amend(self._loss_step, loss=one_number(loss))

    def note(self, text: str, *, level: Level = "info") -> None:
        """Write a remark into the run, at the present step.

        Args:
            text: the remark.
            level: ``"info"`` or ``"warning"``.
        """
        step = self.steps
        self.later(lambda: self._writer.note(step, level, text))

    def later(self, task: Callable[[], None]) -> None:
        """Do something with the archive in the writing thread, after what was handed to it before.

        Args:
            task: called without arguments.
        """
        self._background.submit(task)

    # ------------------------------------------------------------------------------------- begin and end

    def prepare(self) -> None:
        """Make the instruments now instead of at the first step; errors are the caller's."""
        self._ready = True
        self._begin()

    def attach(self) -> None:
        """Begin: the optimiser's step hooks call the recorder."""
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]

    def join(self, loss: Tensor | float | None) -> None:
        """Record a step that has begun already, inside its closure.

        Args:
            loss: what the closure returned.
        """
        self._open = self._due = True
        self._look(loss)

    @property
    def owner(self) -> bool:
        """Whether this is the process that opened the run, and not a fork of it."""
        return os.getpid() == self._process

    @property
    def attached(self) -> bool:
        """Whether the optimiser's hooks call the recorder now."""
        return bool(self._handles)

    def close(self, status: Status, *, before_finish: Sequence[Callable[[RunWriter], object]] = ()) -> None:
        """End: take the hooks away, write what is left and mark the run. Nothing is left behind.

        Args:
            status: how the training ended.
            before_finish: called with the archive when every record is in it and it is still open.
        """
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if not self.owner:
            return
        self._blocks.hand_over(self._instruments)
        self.later(self._writer.flush)
        self._background.close()
        self._attempt("writing", self._fail_with_background)
        for task in before_finish:
            self._attempt(getattr(task, "__name__", "finishing"), lambda task=task: task(self._writer))
        self._attempt("writing", lambda: self._finish(status))

    def _fail_with_background(self) -> None:
        if self._background.error is not None:
            raise self._background.error

    def _finish(self, status: Status) -> None:
        self._writer.update(sampled=self._pace.thinned, every=self._pace.every, steps=self.steps)
        self._writer.finish(status)

    # ------------------------------------------------------------------------------------------- the hooks

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._broken or os.getpid() != self._process:
            return None
        try:
            return self._enter(optimizer, args, kwargs)
        except Exception as error:  # an observer's fault must never be the training's
            return self._switch_off("recording", error)

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._broken or os.getpid() != self._process:
            return
        try:
            self._leave(optimizer)
        except Exception as error:
            self._switch_off("recording", error)

    def _enter(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Begin a step; where a closure will compute the gradients, give it back with a measurement after it."""
        if self._open and _within_step(optimizer):  # a subclass whose step calls its parent's
            self._depth += 1
            return None
        self._open, self._depth = True, 0
        self._due = self._pace.due(self.steps)
        if not self._due:
            return None
        if closure_of(args, kwargs) is None:
            self._measure(None)
            return None
        self._awaited = True
        return with_look(args, kwargs, self._look)

    def _look(self, loss: Any) -> None:
        """Measure inside a closure, where gradients and loss stand and the weights have not moved yet."""
        self._awaited = False
        try:
            self._measure(loss)
        except Exception as error:
            self._switch_off("recording", error)

    def _leave(self, optimizer: Optimizer) -> None:
        """End a step."""
        if self._depth:
            self._depth -= 1
            return
        begun = perf_counter()
        if self._due and not self._awaited:
            self._keep_record()
        self._open = self._awaited = False
        self._loss = None
        self.time = self.time + _rate(optimizer.param_groups[0])
        self.steps += 1
        if self._due:
            self._review(begun)

    def _measure(self, loss: Any) -> None:
        """Everything that is known before the weights move."""
        if not self._ready:
            self._ready = True
            self._attempt("inspection", self._begin)
        begun = perf_counter()  # what is done once does not count as overhead
        for instrument in tuple(self._instruments):
            self._attempt(instrument.name, instrument.before)
        self._note_scalars(begun, loss)
        if self.probes:
            self._run_probes()
        self._pace.spend(perf_counter() - begun)

    def _begin(self) -> None:
        instruments = list(self._make())
        families = {name: dict(entry) for each in instruments for name, entry in each.families().items()}
        self.later(lambda: self._writer.update(families=families))
        self._instruments, self.families = instruments, families

    def _note_scalars(self, now: float, loss: Any) -> None:
        found = self._find_loss() if self._find_loss is not None else None
        loss = loss if found is None else found
        if loss is not None:
            self._loss = one_number(loss)
        groups = self._optimizer.param_groups
        scalars = {_numbered("learning_rate", i): _rate(group) for i, group in enumerate(groups)}
        scalars |= self._changed_settings()
        if self._mark is not None and self.steps > self._mark[1]:
            scalars["step_seconds"] = (now - self._mark[0]) / (self.steps - self._mark[1])
        self._mark = (now, self.steps)
        self._pending = {"time": self.time, **scalars}

    def _changed_settings(self) -> dict[str, Any]:
        """Momentum and weight decay in the first record, and in every one from their first change on."""
        settings = _settings(self._optimizer)
        first, self._settings = self._settings is None, self._settings or settings
        self._moved = self._moved or settings != self._settings
        return settings if first or self._moved else {}

    def _run_probes(self) -> None:
        params = dict(self._model.named_parameters())
        gradients = {name: p.grad for name, p in params.items() if p.grad is not None}
        snapshot = Snapshot(
            step=self.steps,
            time=self.time,
            params=dict(params),
            buffers=buffers_of(self._model),
            optimizer=self._view,
            gradients=gradients,
            loss=self._loss,
            batch=self._batch,
        )
        for name, probe in tuple(self.probes.items()):
            self._attempt(name, lambda probe=probe: self._pending.update(_detached(probe(snapshot))))

    def _keep_record(self) -> None:
        """The weights have moved: finish the measurement and keep it."""
        self._fail_with_background()
        for instrument in tuple(self._instruments):
            self._attempt(instrument.name, instrument.after)
        scalars = self._pending if self._loss is None else {**self._pending, "loss": self._loss}
        self._blocks.keep(self.steps, scalars, self._instruments)
        self._write_down_notes()

    def _write_down_notes(self) -> None:
        for instrument in self._instruments:
            while instrument.notes:
                level, text = instrument.notes.pop(0)
                self.note(text, level=level)

    def _review(self, begun: float) -> None:
        now = perf_counter()
        self._pace.spend(now - begun + self._background.seconds - self._background_seconds)
        self._background_seconds = self._background.seconds
        overhead = self._pace.review(now)
        if overhead is not None:
            limit, every = self._pace.limit or 0.0, self._pace.every
            self.note(
                f"recording took {overhead:.0%} of the time, more than the permitted {limit:.0%}: from here on "
                f"every {every}th step is recorded, and the record is a sample"
            )

    def _attempt(self, what: str, task: Callable[[], object]) -> None:
        """Do a part of the work; if it fails, that part alone is switched off."""
        try:
            task()
        except Exception as error:
            self._switch_off(what, error)

    def _switch_off(self, what: str, error: Exception) -> None:
        """Stop an instrument, a probe, or everything, with one warning; the training goes on."""
        if self._on_error == "raise":
            raise error
        if self._broken:
            return  # it was said once
        if any(each.name == what for each in self._instruments):
            self._blocks.hand_over(self._instruments)  # what was recorded until now stands
            self._instruments = [each for each in self._instruments if each.name != what]
        self.probes.pop(what, None)
        self._broken = what in ("recording", "writing")
        text = f"{what} was switched off at step {self.steps} ({type(error).__name__}: {error})"
        self._tell(f"{text}; training goes on")
        self.note(text, level="warning")


def _rate(group: Mapping[str, Any]) -> Tensor | float:
    rate = group.get("lr", 0.0)  # an optimiser of somebody's own may have none
    return rate.detach().clone() if isinstance(rate, Tensor) else float(rate)


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    """Settings that schedules besides the learning rate's may move, by group."""
    return {
        _numbered(key, i): group[key]
        for i, group in enumerate(optimizer.param_groups)
        for key in ("momentum", "weight_decay")
        if key in group
    }


def _detached(values: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    return {name: x.detach().clone() if isinstance(x, Tensor) else x for name, x in values.items()}


def _numbered(name: str, group: int) -> str:
    return f"{name}/{group}" if group else name


def _within_step(optimizer: Optimizer) -> bool:
    """Whether the hook was called inside another call of the same optimiser's step."""
    frame, codes = sys._getframe(1), []
    while frame is not None:
        # torch calls the hooks in a wrapper around each class's step
        if frame.f_code.co_name == "wrapper" and frame.f_locals.get("self") is optimizer:
            codes.append(frame.f_code)
        frame = frame.f_back
    return len(codes) > 1 and codes[0] is codes[1]
