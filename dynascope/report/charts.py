"""One chart: what the script draws (a JSON-able dict) and the figure around it with its readout table."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dynascope.base.series import Series
from dynascope.report.content import Content, Family
from dynascope.report.lines import Line, Lines, compact, thin
from dynascope.report.markup import Safe, number, tag

ROWS = {
    "single": "the charge",
    "median": "median",
    "largest": "largest",
    "middle": "middle",
    "smallest": "smallest",
}
COLOURS = {"single": 0, "median": 0, "low": 0, "high": 0, "largest": 1, "smallest": 2, "middle": 3}
BAND_ROWS = frozenset({"low", "high"})
COLUMNS = {"value": "measured", "law": "law", "naive": "naive"}


class Charts:
    """Collects the charts of one page under the keys by which its script finds them."""

    def __init__(self, points: int) -> None:
        self.points = points
        self.specs: dict[str, dict[str, Any]] = {}

    def figure(
        self,
        drawn: Lines,
        *,
        label: str,
        ylabel: str,
        source: str,
        caption: str,
        names: Mapping[str, str] = ROWS,
        log: bool = False,
        zero: bool = False,
    ) -> Safe:
        """Register a chart and return its figure.

        Args:
            drawn: lines over all recorded steps; thinned here.
            label: what the chart shows, for screen readers.
            ylabel: axis label with the unit.
            source: family or scalars the numbers come from.
            caption: shown below.
            names: the rows in words.
            log: whether the vertical axis is logarithmic.
            zero: whether the vertical axis starts at 0 if nothing lies below.

        Returns:
            A ``figure``: the plot, its readout table with toggles, the caption.
        """
        key = f"chart{len(self.specs)}"
        rows = list(dict.fromkeys(line.row for line in drawn.lines if line.row not in BAND_ROWS))
        colours = COLOURS if rows[0] in ROWS else {row: index for index, row in enumerate(rows)}
        thinned = thin(drawn, self.points)
        self.specs[key] = {
            "source": source,
            "label": label,
            "xlabel": "optimiser step",
            "ylabel": ylabel,
            "log": log,
            "zero": zero,
            "x": thinned.steps.tolist(),
            "lines": [
                {
                    "row": line.row,
                    "col": line.column,
                    "neuron": line.neuron,
                    "source": line.source,
                    "colour": colours[line.row],
                    "label": names.get(line.row, ""),
                    "y": compact(line.values),
                }
                for line in thinned.lines
            ],
        }
        plot = tag(
            "div",
            class_="plot",
            data_chart=key,
            tabindex="0",
            role="group",
            aria_roledescription="chart",
            aria_label=f"Chart: {label}. Arrow keys read it step by step; the table below has its numbers.",
        )
        named = {row: (names[row], colours[row]) for row in rows}
        heading = "measured" if rows[0] in ROWS else "value" if len(rows) == 1 else ylabel
        table = _readout(drawn, named, heading)
        return tag("figure", plot, table, tag("figcaption", caption))


def family_chart(charts: Charts, family: Family) -> Safe:
    """Measured against predicted for one family of charges."""
    numbered = {"largest", "smallest", "middle"}
    numbers = {line.row: line.neuron for line in family.lines.lines if line.row in numbered}
    names = {**ROWS, **{row: f"{ROWS[row]} #{neuron}" for row, neuron in numbers.items()}}
    drawn = {line.column for line in family.lines.lines}
    parts = ["Solid: measured."]
    parts += ["Dashed: the continuous law."] if "law" in drawn else []
    parts += ["Dotted: the law without its finite-step term."] if "naive" in drawn else []
    if any(line.row == "low" for line in family.lines.lines):
        parts.append(f"Band: the middle 80 % of {family.size} charges.")
    if family.without_law:
        parts.append(f"No law applies: {family.without_law}.")
    elif not drawn & {"law", "naive"}:
        parts.append("No law is stored for this family.")
    shown = ", ".join(COLUMNS[column] for column in COLUMNS if column in drawn)
    return charts.figure(
        family.lines,
        label=f"{family.words or family.name} over time, {shown}",
        ylabel=family.unit,
        source=family.key,
        caption=" ".join(parts),
        names=names,
    )


def leak_chart(charts: Charts, content: Content) -> Safe | None:
    """The account's leak over time, the worst family of each kind, on a logarithmic axis."""
    drawn = leak_lines(content.families)
    if drawn is None:
        return None
    zero = all(bool((line.values == 0).all()) for line in drawn.lines)
    note = " All leaks are exactly 0, which a logarithmic axis cannot show." if zero else ""
    return charts.figure(
        drawn,
        label="leak of the accounts over time, the worst family of each kind",
        ylabel="|account − value| / scale",
        source="|account - value| / scale of charges:*",
        names={line.row: line.row for line in drawn.lines},
        caption=f"At each recorded step, the worst charge of the worst family of each kind.{note}",
        log=True,
    )


def leak_lines(families: Iterable[Family]) -> Lines | None:
    """One line per kind: at each step the largest leak of the families recorded then; None without accounts."""
    leaks = [(family, family.leak) for family in families if family.leak is not None]
    if not leaks:
        return None
    steps = np.unique(np.concatenate([leak.steps for _, leak in leaks]))
    worst: dict[str, Line] = {}
    for family, leak in leaks:
        empty = Line(family.kind, "value", None, np.full(len(steps), np.nan), family.leak_source)
        line = worst.setdefault(family.kind, empty)
        at = np.searchsorted(steps, leak.steps)
        line.values[at] = np.fmax(line.values[at], leak.values)
    return Lines(steps, tuple(worst.values()))


def scalar_lines(scalars: Mapping[str, Series], names: list[str]) -> Lines | None:
    """Scalars of one kind over common steps; None if none of them was recorded."""
    present = [name for name in names if name in scalars and len(scalars[name].steps)]
    if not present:
        return None
    steps = np.unique(np.concatenate([scalars[name].steps for name in present]))
    lines = []
    for name in present:
        values = np.full(len(steps), np.nan)
        values[np.searchsorted(steps, scalars[name].steps)] = scalars[name].values
        lines.append(Line(name, "value", None, values, f"scalars/{name}"))
    return Lines(steps, tuple(lines))


def _readout(drawn: Lines, rows: Mapping[str, tuple[str, int]], heading: str) -> Safe:
    """Numbers at the cursor (the last step until somebody points), and the switches of rows and columns."""
    columns = [column for column in COLUMNS if any(line.column == column for line in drawn.lines)]
    where = {(line.row, line.column): index for index, line in enumerate(drawn.lines)}
    last = int(drawn.steps[-1])
    heads = [_switch(f"col {column}", COLUMNS[column], column) for column in columns]
    body = []
    for row, (words, colour) in rows.items():
        name = words if len(rows) == 1 else _switch(f"row {row}", words, f"c{colour % 6}")
        cells = [_cell(drawn, where.get((row, column))) for column in columns]
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    at = tag("th", tag("span", f"at step {last} (last)", data_at=True), scope="col")
    shown = heads if len(columns) > 1 else [heading]
    top = tag("tr", at, *[tag("th", words, scope="col") for words in shown])
    caption = tag("caption", "Values at the cursor", class_="unseen")
    return tag("table", caption, tag("thead", top), tag("tbody", *body), class_="readout")


def _cell(drawn: Lines, index: int | None) -> Safe:
    """The last value of a line; the script puts that at the cursor in its place."""
    if index is None:
        return tag("td", "–")
    line = drawn.lines[index]
    which = "" if line.row not in ROWS else f"[{line.row if line.neuron is None else line.neuron}]"
    origin = f"{line.source}{which}@{drawn.steps[-1]}"
    return tag("td", number(compact(line.values[-1:])[0], origin, 5, data_line=index))


def _switch(name: str, words: str, style: str) -> Safe:
    sample = tag("path", d="M0 4H24", class_=style)
    picture = tag("svg", sample, viewBox="0 0 24 8", aria_hidden="true")
    return tag("button", picture, words, type="button", class_="toggle", data_toggle=name, aria_pressed="true")
