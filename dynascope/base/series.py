"""A quantity over training steps, measured or predicted, and the reductions that studies quote by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from dynascope.base.errors import UnknownName


@dataclass(frozen=True, eq=False)
class Series:
    """One value, or one array of values, for each of some increasing training steps.

    The arrays are converted to the stated types and handed out read-only. Non-finite values are kept as
    they are.

    Args:
        steps: step of each record, strictly increasing.
        values: one record per step along the first axis.
        name: what the values are, for messages and legends.
        unit: unit of the values, empty when they are pure numbers.

    Example:
        >>> loss = Series(np.arange(3), np.array([4.0, 2.0, 1.0]), name="loss")
        >>> len(loss), float(final(loss))
        (3, 1.0)
    """

    steps: Int64[np.ndarray, " records"]
    values: Float64[np.ndarray, " records *shape"]
    name: str
    unit: str = ""

    def __post_init__(self) -> None:
        steps = _read_only(np.asarray(self.steps), np.dtype(np.int64), f"steps of {self.name!r}")
        values = _read_only(np.asarray(self.values), np.dtype(np.float64), f"values of {self.name!r}")
        if steps.ndim != 1 or values.ndim < 1 or len(steps) != len(values):
            raise ValueError(
                f"{self.name!r}: steps must be one-dimensional and values must have one record per step, "
                f"got steps {steps.shape} and values {values.shape}"
            )
        if np.any(np.diff(steps) <= 0):
            first = int(np.argmax(np.diff(steps) <= 0))
            raise ValueError(
                f"{self.name!r}: steps must increase, got {steps[first]} followed by {steps[first + 1]}; "
                "sort the records and keep one for each step"
            )
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.steps)

    def until(self, step: int) -> "Series":
        """The records of this series up to and including ``step``."""
        stop = int(np.searchsorted(self.steps, step, side="right"))
        return replace(self, steps=self.steps[:stop], values=self.values[:stop])


def _read_only(array: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    """A read-only view of ``array`` as ``dtype``; refuses conversions that would lose digits or meaning."""
    if array.size and not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise ValueError(f"{what} must be convertible to {dtype}, got an array of {array.dtype}")
    view = array.astype(dtype, copy=False).view()
    view.flags.writeable = False
    return view


def _records(series: Series, least: int = 1) -> Float64[np.ndarray, " records *shape"]:
    """The values, once it is sure that there are enough of them to reduce."""
    if len(series) < least:
        raise ValueError(f"{series.name!r} has {len(series)} records, this needs at least {least}; record more steps")
    return series.values


def mean(series: Series) -> Float64[np.ndarray, "*shape"]:
    """Arithmetic mean over the records."""
    return np.asarray(np.mean(_records(series), axis=0))


def median(series: Series) -> Float64[np.ndarray, "*shape"]:
    """Median over the records."""
    return quantile(series, q=0.5)


def quantile(series: Series, *, q: float) -> Float64[np.ndarray, "*shape"]:
    """Quantile ``q`` over the records, linear between neighbours.

    Args:
        series: what to reduce.
        q: fraction of records below the answer, from 0 to 1.

    Returns:
        One value per entry.

    Raises:
        ValueError: ``q`` lies outside [0, 1], or the series is empty.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q must lie in [0, 1], got {q}")
    return np.asarray(np.quantile(_records(series), q, axis=0))


def final(series: Series) -> Float64[np.ndarray, "*shape"]:
    """The last record."""
    return np.asarray(_records(series)[-1])


def max_abs(series: Series) -> Float64[np.ndarray, "*shape"]:
    """Largest absolute value over the records."""
    return np.asarray(np.max(np.abs(_records(series)), axis=0))


def slope(series: Series) -> Float64[np.ndarray, "*shape"]:
    """Least-squares slope of the values against the step.

    Args:
        series: at least two records.

    Returns:
        The slope of each entry, in units per step.

    Example:
        >>> float(slope(Series(np.array([0, 8, 16]), np.array([1.0, 3.0, 5.0]), name="line")))
        0.25
    """
    values = _records(series, least=2)
    centred = series.steps - np.mean(series.steps)
    return np.asarray(np.tensordot(centred, values, axes=1) / np.dot(centred, centred))


def tail(series: Series, *, fraction: float = 0.5) -> Series:
    """The last ``fraction`` of the records (at least one), for averages after a transient.

    Args:
        series: what to cut.
        fraction: share of records to keep, in (0, 1].

    Returns:
        A shorter series.

    Raises:
        ValueError: ``fraction`` lies outside (0, 1], or the series is empty.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    keep = max(1, round(fraction * len(_records(series))))
    return replace(series, steps=series.steps[-keep:], values=series.values[-keep:])


REDUCTIONS: dict[str, Callable[..., Float64[np.ndarray, "..."]]] = {
    "final": final,
    "max_abs": max_abs,
    "mean": mean,
    "median": median,
    "quantile": quantile,
    "slope": slope,
}


def reduce(series: Series, name: str, **options: float) -> Float64[np.ndarray, "*shape"]:
    """Reduce a series over its records by the name of a reduction, so that studies stay free of arithmetic.

    Args:
        series: what to reduce.
        name: a key of ``REDUCTIONS``.
        **options: further arguments of that reduction, such as ``q`` of ``quantile``.

    Returns:
        One value per entry.

    Raises:
        UnknownName: there is no such reduction.
    """
    if name not in REDUCTIONS:
        raise UnknownName("reduction", name, sorted(REDUCTIONS))
    return REDUCTIONS[name](series, **options)


def mean_over(members: Sequence[Series]) -> Series:
    """Mean of several series that share their steps, entry by entry (for example over seeds)."""
    stacked = _stacked(members, least=1)
    return replace(members[0], values=np.mean(stacked, axis=0))


def standard_error_over(members: Sequence[Series]) -> Series:
    """Standard error of ``mean_over``: sample standard deviation over the root of the number of members."""
    stacked = _stacked(members, least=2)
    return replace(members[0], values=np.std(stacked, axis=0, ddof=1) / np.sqrt(len(stacked)))


def _stacked(members: Sequence[Series], least: int) -> Float64[np.ndarray, "members records *shape"]:
    """The values of all members, once it is sure that they can be compared step by step."""
    if len(members) < least:
        raise ValueError(f"members must hold at least {least} series, got {len(members)}")
    first = members[0]
    for other in members[1:]:
        if not np.array_equal(first.steps, other.steps) or first.values.shape != other.values.shape:
            raise ValueError(
                f"{other.name!r}: all members must share steps and shape, got {other.values.shape} beside "
                f"{first.values.shape}; cut them to common steps with Series.until"
            )
    return np.stack([member.values for member in members])
