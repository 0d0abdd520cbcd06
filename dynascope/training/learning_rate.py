"""Learning-rate schedules as factors of the step: what ``fit`` takes as its schedule.

The learning rate of step k (counted from 0) is the optimiser's own one times factor(k), in every parameter
group.
"""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

MakeScheduler = Callable[[Optimizer], LRScheduler]


def scaled(factor: Callable[[int], float]) -> MakeScheduler:
    """Any schedule that is written as a function of the step.

    Args:
        factor: multiplies the learning rate at each step.

    Returns:
        A factory of schedulers.

    Example:
        >>> halved = scaled(lambda step: 0.5)
    """
    return lambda optimizer: LambdaLR(optimizer, factor)


def warmup_cosine(steps: int, *, warmup: int = 0, floor: float = 0.0) -> MakeScheduler:
    r"""A linear rise followed by half a cosine.

    factor(k) = (k + 1) / warmup for k < warmup, then floor + (1 - floor) (1 + cos(pi s)) / 2 with
    s = (k - warmup) / (steps - warmup), and floor from step ``steps`` on.

    Args:
        steps: length of the whole run.
        warmup: steps of the rise, below ``steps``.
        floor: factor at the end, in [0, 1].

    Returns:
        A factory of schedulers.

    Raises:
        ValueError: an argument is outside its range.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup}: give 0 or more steps, fewer than steps={steps}")
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor={floor}: give a factor from 0 to 1")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / (steps - warmup))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return scaled(factor)


def drops(at: Sequence[int], *, factor: float = 0.1) -> MakeScheduler:
    """A learning rate that is multiplied by ``factor`` at given steps.

    Args:
        at: steps at which it drops.
        factor: what one drop multiplies by, in (0, 1].

    Returns:
        A factory of schedulers.

    Raises:
        ValueError: factor is outside its range.
    """
    if not 0.0 < factor <= 1.0:
        raise ValueError(f"factor={factor}: give a number above 0, at most 1")
    return scaled(lambda step: factor ** sum(step >= drop for drop in at))
