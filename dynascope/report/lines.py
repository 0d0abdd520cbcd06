"""From thousands of neurons and steps to the few lines a person can read; every point kept was recorded.

A family of charges becomes a median, a band between two quantiles and three neurons (largest, smallest and
middle final value). `thin` then chooses the steps that are drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

BAND = (0.1, 0.9)
"""Quantiles over the neurons between which the band is drawn."""
DRAWN = ("value", "law", "naive")
"""Columns drawn over time; the account is shown by its leak, because its line would hide the measured one."""


@dataclass(frozen=True)
class Line:
    """One drawn line: a row of the readout (which neurons) and a column (measured or predicted).

    Attributes:
        row: "median", "low", "high" (the band), "largest", "smallest", "middle" or "single".
        column: column of the archive, for example "value".
        neuron: index inside the family; None for a reduction over all of them.
        values: one number a step, NaN where the record has none.
        source: series of the archive that it was read from.
    """

    row: str
    column: str
    neuron: int | None
    values: Float[np.ndarray, " steps"]
    source: str = ""


@dataclass(frozen=True)
class Lines:
    """Lines over common steps."""

    steps: Int[np.ndarray, " steps"]
    lines: tuple[Line, ...]


def chosen(final: Float[np.ndarray, " size"]) -> dict[str, int]:
    """Neurons worth a line of their own, by their final value; non-finite ones are left out.

    Args:
        final: last recorded value of each neuron.

    Returns:
        Index by row name; empty for fewer than two finite neurons.

    Example:
        >>> chosen(np.array([3.0, 1.0, 2.0]))
        {'largest': 0, 'middle': 2, 'smallest': 1}
    """
    order = [int(i) for i in np.argsort(final, kind="stable") if np.isfinite(final[i])]
    if len(order) < 2:
        return {}
    picked = {"largest": order[-1], "middle": order[len(order) // 2], "smallest": order[0]}
    return picked if len(order) > 2 else {"largest": picked["largest"], "smallest": picked["smallest"]}


def summarise(
    steps: Int[np.ndarray, " steps"],
    columns: Mapping[str, Float[np.ndarray, "steps size"]],
    sources: Mapping[str, str],
) -> Lines:
    """The lines of one family: median, band and selected neurons of every drawn column.

    Args:
        steps: recorded steps.
        columns: recorded columns; must hold "value", may hold "law" and "naive".
        sources: series of the archive that each column was read from.

    Returns:
        Lines over all recorded steps (not thinned).
    """
    value = columns["value"]
    size = value.shape[1]
    lines: list[Line] = []
    picked = chosen(value[-1]) if len(value) else {}
    for column in (name for name in DRAWN if name in columns):
        matrix, source = columns[column], sources[column]
        if size == 1:
            lines.append(Line("single", column, 0, matrix[:, 0], source))
            continue
        with np.errstate(invalid="ignore"):  # a diverged neuron makes infinity minus infinity: a gap in the line
            low, median, high = np.quantile(matrix, (BAND[0], 0.5, BAND[1]), axis=1)
        lines.append(Line("median", column, None, median, source))
        if column == "value" and size > 3:
            lines += [Line("low", column, None, low, source), Line("high", column, None, high, source)]
        lines += [Line(row, column, neuron, matrix[:, neuron], source) for row, neuron in picked.items()]
    return Lines(steps, tuple(lines))


def thin(drawn: Lines, points: int) -> Lines:
    """Keep at most about ``points`` steps, and with them what the eye would miss.

    Steps are cut into equal buckets. A bucket keeps the two steps where any line stands furthest above and
    below that line's mean in the bucket, measured in the line's whole range (for a single line these are its
    minimum and maximum there). Each line's first, last, smallest and largest point always stay. Nothing is
    averaged.

    Args:
        drawn: lines over all recorded steps.
        points: wanted number of steps, at least 8.

    Returns:
        The same lines at the kept steps.

    Raises:
        ValueError: points is below 8.
    """
    if points < 8:
        raise ValueError(f"points = {points}; need at least 8 points a line: give a larger number")
    count = len(drawn.steps)
    if count <= points or not drawn.lines:
        return drawn
    stack = np.stack([_unit(line.values) for line in drawn.lines])
    edges = np.linspace(0, count, points // 2 + 1).astype(int)
    keep = {0, count - 1}
    for start, stop in pairwise(edges):
        bucket = stack[:, start:stop]
        away = bucket - bucket.mean(axis=1, keepdims=True)
        keep |= {start + int(away.max(axis=0).argmax()), start + int(away.min(axis=0).argmin())}
    for row in stack:
        keep |= {int(row.argmin()), int(row.argmax())}
    kept = np.array(sorted(keep))
    return Lines(drawn.steps[kept], tuple(replace(line, values=line.values[kept]) for line in drawn.lines))


def _unit(values: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """Values scaled to [0, 1] over their finite range; what is not finite stands in the middle."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(len(values))
    low, high = values[finite].min(), values[finite].max()
    span = high - low if high > low else 1.0
    return (np.where(finite, values, 0.5 * low + 0.5 * high) - low) / span


def compact(values: Float[np.ndarray, " steps"], digits: int = 6) -> list[float | int | None]:
    """Numbers for the page: rounded to significant digits, null where not finite.

    Args:
        values: as recorded.
        digits: significant digits kept.

    Returns:
        What JSON holds in the fewest characters.

    Example:
        >>> compact(np.array([1.0, 0.123456789, np.nan]))
        [1, 0.123457, None]
    """
    rounded = (float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist())
    return [int(x) if x is not None and x.is_integer() and abs(x) < 1e6 else x for x in rounded]
