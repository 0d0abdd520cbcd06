"""Records on their way to the archive: kept on the device, handed in blocks to the thread that writes them.

Long blocks cost less a record; what has not been handed over yet is lost if the process is killed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dynascope.runs import RunWriter
from dynascope.training.background import Background

Level = Literal["info", "warning"]

# A block is handed over when it is full (records or bytes) or old (seconds). Two blocks take turns; flushing to disk
# costs milliseconds and happens at most once in that many seconds.
BLOCK_RECORDS, BLOCK_BYTES, BLOCK_SECONDS = 1024, 2**24, 5.0


@runtime_checkable
class Instrument(Protocol):
    """What measures a fixed number of numbers around a step, without a trace and without waiting for the device.

    Attributes:
        row: tensor that ``before`` and ``after`` write to.
        notes: what should be written down, as (level, text); emptied by the recorder.
    """

    row: Tensor
    notes: list[tuple[Level, str]]

    @property
    def name(self) -> str:
        """For messages and files."""
        ...

    def before(self) -> None:
        """Measure what stands before the step, gradients included."""
        ...

    def after(self) -> None:
        """Measure what stands after the step."""
        ...

    def families(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe what ``unpack`` yields, as JSON can hold it."""
        ...

    def unpack(self, rows: np.ndarray) -> Iterable[tuple[str, Mapping[str, np.ndarray]]]:
        """Turn recorded rows (records, *row) into families of columns (records, size)."""
        ...


@dataclass
class _Block:
    """Records on their way to the archive."""

    memories: dict[str, Tensor]
    steps: list[int] = field(default_factory=list)
    scalars: list[dict[str, Any]] = field(default_factory=list)

    def is_full(self, age: float) -> bool:
        """Whether the block should be written now."""
        capacity = min(map(len, self.memories.values()), default=BLOCK_RECORDS)
        return len(self.steps) >= capacity or age > BLOCK_SECONDS


class Blocks:
    """Keeps records and hands them over.

    Args:
        writer: the archive.
        background: the thread that writes to it.
    """

    def __init__(self, writer: RunWriter, background: Background) -> None:
        self._writer, self._background = writer, background
        self._block: _Block | None = None
        self._handed = self._flushed = perf_counter()
        self._finite = True
        # Memory that has been written out is used again: touching fresh memory costs more than the copy into it.
        self._spare: dict[str, Tensor] = {}

    def keep(self, step: int, scalars: dict[str, Any], instruments: Sequence[Instrument]) -> None:
        """Keep one record; nothing here waits for the device.

        Args:
            step: number of the step.
            scalars: numbers, or tensors of one element that will not change; ``time`` among them.
            instruments: their rows are copied.
        """
        if self._block is not None and self._block.is_full(perf_counter() - self._handed):
            self.hand_over(instruments)
        if self._block is None:
            self._block = _Block({each.name: self._room(each) for each in instruments})
        for each in instruments:
            self._block.memories[each.name][len(self._block.steps)].copy_(each.row)
        self._block.steps.append(step)
        self._block.scalars.append(scalars)

    def amend(self, step: int, **scalars: Any) -> None:
        """Add numbers to the latest record, if it is that of this step.

        Args:
            step: number of the step.
            **scalars: as for ``keep``.
        """
        if self._block is not None and self._block.steps[-1] == step:
            self._block.scalars[-1].update(scalars)

    def hand_over(self, instruments: Sequence[Instrument]) -> None:
        """Give what is kept to the writing thread.

        Args:
            instruments: those whose rows were kept.
        """
        block, self._block, self._handed = self._block, None, perf_counter()
        if block is None:
            return
        computed = _after_all_work(block.memories.values())
        losses = _together([scalars.pop("loss", None) for scalars in block.scalars])

        def write() -> None:
            computed()
            for each in instruments:
                memory = block.memories[each.name]
                self._write_rows(each, block.steps, memory)
                self._spare[each.name] = memory
            for step, scalars, loss in zip(block.steps, block.scalars, losses(), strict=True):
                self._write_scalars(step, scalars, loss)
            if perf_counter() - self._flushed >= BLOCK_SECONDS:
                self._flushed = perf_counter()
                self._writer.flush()

        self._background.submit(write)

    def _room(self, instrument: Instrument) -> Tensor:
        row, spare = instrument.row, self._spare.pop(instrument.name, None)
        if spare is not None and spare.shape[1:] == row.shape:
            return spare
        records = max(1, min(BLOCK_RECORDS, BLOCK_BYTES // max(1, row.numel() * row.element_size())))
        return row.new_empty((records, *row.shape))

    def _write_rows(self, instrument: Instrument, steps: list[int], memory: Tensor) -> None:
        rows = memory[: len(steps)].cpu().numpy()
        for family, columns in instrument.unpack(rows):
            self._writer.block(family, np.array(steps, dtype=np.int64), dict(columns))

    def _write_scalars(self, step: int, scalars: dict[str, Any], loss: float | None) -> None:
        numbers = {name: float(value) for name, value in scalars.items()}
        time = numbers.pop("time")
        if loss is not None:
            numbers["loss"] = loss
            if self._finite and not isfinite(loss):
                self._finite = False
                text = f"the loss is {loss} from step {step} on; training was left alone"
                self._writer.note(step, "warning", text)
        self._writer.scalars(step, time, numbers)


def one_number(loss: Any) -> Tensor | float | None:
    """A copy of a loss that later in-place changes by the user cannot reach.

    Args:
        loss: a tensor or a number.

    Returns:
        A tensor without axes, or a float; None for what is no single number.
    """
    if isinstance(loss, Tensor):
        return loss.detach().reshape(()).clone() if loss.numel() == 1 else None
    return None if loss is None else float(loss)


def _after_all_work(memories: Iterable[Tensor]) -> Callable[[], None]:
    """Called in the writing thread: waits until the device has computed what the memories shall hold."""
    events = []
    for device in {memory.device for memory in memories if memory.is_cuda}:
        with torch.cuda.device(device):
            event = torch.cuda.Event()
            event.record()
            events.append(event)

    def wait() -> None:
        for event in events:
            event.synchronize()

    return wait


def _together(losses: Sequence[Tensor | float | None]) -> Callable[[], list[float | None]]:
    """Losses as numbers, fetched from the device all at once when asked for."""
    tensors = [loss for loss in losses if isinstance(loss, Tensor)]
    stacked = torch.stack(tensors) if tensors else None

    def numbers() -> list[float | None]:
        fetched = iter(stacked.tolist() if stacked is not None else [])
        return [next(fetched) if isinstance(loss, Tensor) else loss for loss in losses]

    return numbers
