"""When to look: plain questions to a step, answered yes or no."""

import math
from collections.abc import Callable, Iterable

Schedule = Callable[[int], bool]


def every(interval: int, *, start: int = 0) -> Schedule:
    """Look at ``start``, ``start + interval``, and so on.

    Args:
        interval: steps between two looks, 1 or more.
        start: the first step to look at.

    Returns:
        The schedule.

    Raises:
        ValueError: interval is below 1.

    Example:
        >>> [step for step in range(10) if every(4)(step)]
        [0, 4, 8]
    """
    if interval < 1:
        raise ValueError(f"interval={interval}: give 1 or more steps")
    return lambda step: step >= start and (step - start) % interval == 0


def at(steps: Iterable[int]) -> Schedule:
    """Look at the given steps.

    Args:
        steps: any step numbers.

    Returns:
        The schedule.
    """
    return frozenset(steps).__contains__


def log_spaced(last: int, *, looks: int) -> Schedule:
    """Look at step 0 and at steps spread evenly in their logarithm from 1 to ``last``.

    Rounded to whole steps, so early looks that coincide count once.

    Args:
        last: the last step to look at, 1 or more.
        looks: number of points between 1 and ``last``, both included; 2 or more.

    Returns:
        The schedule.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> [step for step in range(101) if log_spaced(100, looks=5)(step)]
        [0, 1, 3, 10, 32, 100]
    """
    if last < 1 or looks < 2:
        raise ValueError(f"last={last}, looks={looks}: give last of 1 or more and 2 or more looks")
    return at({0, *(round(math.exp(math.log(last) * k / (looks - 1))) for k in range(looks))})
