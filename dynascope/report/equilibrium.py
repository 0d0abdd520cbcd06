"""Predicted against measured norms of one family, and its effective learning rates."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dynascope.report.content import as_float
from dynascope.report.markup import Safe, join, number, readable, tag

SIDE, LEFT, TOP = 240, 58, 10
DOTS = 300
"""Dots drawn at most; of more norms, evenly spaced ones in order of size."""


def equilibrium(index: int, entry: Mapping[str, Any]) -> Safe:
    """One entry of ``equilibrium`` in run.json as a card.

    Args:
        index: its place in the list, for the sources of the numbers.
        entry: family, words, predicted_norm, measured_norm and effective_learning_rate; all may lack.

    Returns:
        A card with a scatter of norms where both are stored, and the numbers in words.
    """
    source = f"run.json#/equilibrium/{index}"
    predicted, measured = (_numbers(entry.get(key)) for key in ("predicted_norm", "measured_norm"))
    facts = [
        (words, _spread(numbers, f"{source}/{key}"))
        for words, key, numbers in (
            ("predicted norm", "predicted_norm", predicted),
            ("measured norm", "measured_norm", measured),
        )
        if len(numbers)
    ]
    rates = entry.get("effective_learning_rate")
    rates = rates if isinstance(rates, Mapping) else {"": rates}
    for key, stored in rates.items():
        numbers = _numbers(stored)
        if len(numbers):
            place = f"{source}/effective_learning_rate" + (f"/{key}" if key else "")
            facts.append((f"effective learning rate {str(key).replace('_', ' ')}".strip(), _spread(numbers, place)))
    drawn = len(predicted) > 1 and len(predicted) == len(measured)
    family = str(entry.get("family", "")).removeprefix("charges:")
    return tag(
        "article",
        tag("h3", entry.get("words") or "Equilibrium"),
        tag("span", family, class_="mono"),
        _scatter(predicted, measured, family) if drawn else None,
        tag("dl", *[tag("div", tag("dt", words), tag("dd", shown)) for words, shown in facts], class_="facts"),
        class_="card family equilibrium",
    )


def _numbers(stored: object) -> np.ndarray:
    values = stored if isinstance(stored, list) else [stored]
    return np.array([number for value in values if (number := as_float(value)) is not None], dtype=np.float64)


def _spread(numbers: np.ndarray, source: str) -> Safe:
    """One number, or the median with the range around it."""
    if len(numbers) == 1:
        return number(float(numbers[0]), source)
    low, middle, high = float(np.min(numbers)), float(np.median(numbers)), float(np.max(numbers))
    around = tag("span", " (", number(low, f"{source}@min"), " to ", number(high, f"{source}@max"), ")", class_="muted")
    return join(number(middle, f"{source}@median"), around)


def _scatter(predicted: np.ndarray, measured: np.ndarray, family: str) -> Safe:
    """Measured over predicted, with the line on which they agree."""
    both = np.isfinite(predicted) & np.isfinite(measured)
    pairs = np.column_stack([predicted[both], measured[both]])
    if not len(pairs):
        return tag("p", "No finite norms.", class_="muted")
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    pairs = pairs[np.unique(np.linspace(0, len(pairs) - 1, DOTS).astype(int))]
    low, high = float(pairs.min()), float(pairs.max())
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - room, high + room

    def across(value: float) -> str:
        return f"{LEFT + (value - low) / (high - low) * SIDE:.1f}"

    def down(value: float) -> str:
        return f"{TOP + (high - value) / (high - low) * SIDE:.1f}"

    dots = [tag("circle", cx=across(x), cy=down(y), r="3.4") for x, y in pairs.tolist()]
    ticks = []
    for value in np.linspace(low + room, high - room, 3).tolist():
        ticks.append(tag("text", readable(value), x=across(value), y=TOP + SIDE + 16, text_anchor="middle"))
        ticks.append(tag("text", readable(value), x=LEFT - 6, y=float(down(value)) + 4, text_anchor="end"))
    label = f"Measured against predicted norms of {family}: {len(dots)} dots; on the dashed line they agree."
    picture = tag(
        "svg",
        tag("rect", class_="frame", x=LEFT, y=TOP, width=SIDE, height=SIDE, rx=4),
        tag("line", class_="same", x1=across(low), y1=down(low), x2=across(high), y2=down(high)),
        *dots,
        *ticks,
        tag("text", "predicted norm", x=LEFT + SIDE / 2, y=TOP + SIDE + 34, text_anchor="middle"),
        tag(
            "text",
            "measured norm",
            x=14,
            y=TOP + SIDE / 2,
            text_anchor="middle",
            transform=f"rotate(-90 14 {TOP + SIDE / 2})",
        ),
        class_="scatter",
        viewBox=f"0 0 {LEFT + SIDE + 12} {TOP + SIDE + 42}",
        role="img",
        aria_label=label,
    )
    return tag(
        "figure",
        picture,
        tag("figcaption", "One dot a charge; on the dashed line prediction and measurement agree."),
    )
