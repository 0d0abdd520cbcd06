"""Refusing bad numbers before a law turns them into plausible ones."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

# what a caller may give for an array; numpy's own alias forgets float under a runtime check
Numbers: TypeAlias = np.ndarray | Sequence[Any] | float | int


def finite(name: str, values: Numbers) -> Float[np.ndarray, "..."]:
    """The values as a float64 array, refused where they are NaN or infinite.

    Args:
        name: what the caller calls the argument; it opens the message.
        values: numbers of any shape.

    Returns:
        A float64 array of the same shape.

    Raises:
        ValueError: an entry is not finite; the message gives its value and its index.

    Example:
        >>> finite("source", [1, 2])
        array([1., 2.])
    """
    array = np.asarray(values, dtype=np.float64)
    _require(name, array, np.isfinite, "finite; cut the series before that entry")
    return array


def at_least_zero(name: str, values: Numbers) -> Float[np.ndarray, "..."]:
    """The values as a float64 array, refused where they are negative or not finite.

    Args:
        name: what the caller calls the argument; it opens the message.
        values: numbers of any shape.

    Returns:
        A float64 array of the same shape.

    Raises:
        ValueError: an entry is negative or not finite.
    """
    array = finite(name, values)
    _require(name, array, lambda x: x >= 0, "0 or more")
    return array


def fraction_below_one(name: str, values: Numbers) -> Float[np.ndarray, "..."]:
    """The values as a float64 array, refused where they leave the interval [0, 1).

    Args:
        name: what the caller calls the argument; it opens the message.
        values: numbers of any shape.

    Returns:
        A float64 array of the same shape.

    Raises:
        ValueError: an entry is negative, 1 or more, or not finite.
    """
    array = finite(name, values)
    _require(name, array, lambda x: (x >= 0) & (x < 1), "in [0, 1)")
    return array


def one_of(name: str, value: int, permitted: tuple[int, ...]) -> int:
    """The value, refused if it is not among the permitted ones.

    Args:
        name: what the caller calls the argument; it opens the message.
        value: the value given.
        permitted: every value that is permitted.

    Returns:
        ``value``.

    Raises:
        ValueError: ``value`` is not permitted; the message lists what is.
    """
    if value not in permitted:
        raise ValueError(f"{name} is {value!r}; it must be {' or '.join(map(str, permitted))}")
    return value


def _require(name: str, array: np.ndarray, holds: Callable[[np.ndarray], np.ndarray], permitted: str) -> None:
    good = holds(array)
    if np.all(good):
        return
    index = tuple(int(i) for i in np.argwhere(~good)[0])
    place = f" at index {index[0] if len(index) == 1 else index}" if index else ""
    raise ValueError(f"{name} is {array[index]}{place}; it must be {permitted}")
