"""A run as a value: everything that decides its result, and a name made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynascope.base.settings import SGDSettings, identity


@dataclass(frozen=True)
class RunSpec:
    """What one run is to do.

    Two specs with equal fields have the same name on every machine, so a finished run is found again.

    Args:
        task: name of a task, see ``tasks.names()``.
        optimizer: settings of SGD.
        steps: number of optimiser steps, 0 or more.
        batch_size: examples in each step; None takes the whole training set.
        seed: fixes weights, batches and the network's own draws.
        replacement: draw each batch independently.
        clip: largest permitted global norm of the gradient.
        task_settings: keyword arguments of ``tasks.get``: plain values only.
        observation: what to record, in words that the executing function understands: plain values only.

    Raises:
        TypeError: a value has no stable name.
        ValueError: steps is negative.

    Example:
        >>> spec = RunSpec("digits-mlp", SGDSettings(0.1), steps=100, batch_size=32, seed=0)
        >>> spec.name == RunSpec("digits_mlp", SGDSettings(0.1), steps=100, batch_size=32, seed=0).name
        True
    """

    task: str
    optimizer: SGDSettings
    steps: int
    batch_size: int | None
    seed: int
    replacement: bool = False
    clip: float | None = None
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    observation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps={self.steps}: give 0 or more")
        # Hyphens are what people see, and both spellings name the same task.
        object.__setattr__(self, "task", self.task.replace("_", "-"))
        for name in ("task_settings", "observation"):  # later changes by the caller must not change the name
            object.__setattr__(self, name, dict(getattr(self, name)))
        identity(self)

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that change with any field."""
        return identity(self)

    @property
    def name(self) -> str:
        """The run's folder name: the task for people, the identity for uniqueness."""
        return f"{self.task}-{self.identity}"

    @property
    def loop(self) -> dict[str, Any]:
        """The keyword arguments of ``fit`` that this spec decides, besides the optimizer."""
        names = ("steps", "batch_size", "seed", "replacement", "clip")
        return {name: getattr(self, name) for name in names}
