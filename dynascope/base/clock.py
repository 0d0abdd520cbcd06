"""The two clocks of a run: optimiser updates and learning-rate time."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Clock:
    r"""A moment of training.

    ``time`` is the sum of the learning rates of all updates made so far, the clock of gradient flow:
    time_k = sum_{j<k} eta_j.

    Args:
        step: number of optimiser updates made so far.
        time: sum of their learning rates.

    Raises:
        ValueError: step or time is negative or not finite.

    Example:
        >>> Clock().advance(0.5).advance(0.25)
        Clock(step=2, time=0.75)
    """

    step: int = 0
    time: float = 0.0

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step={self.step} must be a whole number >= 0: updates made so far")
        if not (math.isfinite(self.time) and self.time >= 0):
            raise ValueError(f"time={self.time} must be finite and >= 0: the sum of the learning rates so far")

    def advance(self, learning_rate: float) -> "Clock":
        """The clock after one more update.

        Args:
            learning_rate: step size of that update.

        Returns:
            A new clock; this one stays as it is.
        """
        return Clock(self.step + 1, self.time + learning_rate)
