"""The figures of a report one by one, as PNG for papers and slides."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynascope.base.errors import UnknownName, Unsupported
from dynascope.report.charts import COLOURS, COLUMNS, ROWS, leak_lines, scalar_lines
from dynascope.report.content import CHARGES, columns_of, opened, read_family
from dynascope.report.lines import Lines
from dynascope.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0b62a8", "#cc5500", "#00795f", "#9a4a80", "#8f6400", "#2a86bd")
"""Okabe and Ito's colours, darkened for white paper; the page uses the same ones."""
INK, MUTED, RULE = "#1c2126", "#5a636d", "#e3e0d8"
DASHES = {"value": "-", "law": (0, (5, 3)), "naive": (0, (1, 2.2))}
INCHES, DOTS = (7.0, 4.2), 200


def figure_names(run_or_path: Run | str | Path) -> list[str]:
    """Names of the figures that this run has data for.

    Args:
        run_or_path: an opened run or its folder.

    Returns:
        "loss", "learning_rate", "leak" and the recorded families, as far as present.
    """
    run = opened(run_or_path)
    homes = {name: columns_of(run, name) for name in run.families if name.startswith(CHARGES)}
    charges = [name for name, columns in homes.items() if "value" in columns]
    names = [name for name in ("loss", "learning_rate", "gradient_norm") if name in run.scalars]
    accounts = any({"account", "scale"} <= homes[name].keys() for name in charges)
    return [*names, *(["leak"] if accounts else []), *charges]


def png(run_or_path: Run | str | Path, figure: str, to: str | Path) -> Path:
    """Draw one figure of a run.

    Args:
        run_or_path: an opened run or its folder.
        figure: one of `figure_names`.
        to: the file to write.

    Returns:
        Where the figure is.

    Raises:
        UnknownName: the run has no such figure.
    """
    run = opened(run_or_path)
    names = figure_names(run)
    if figure not in names:
        raise UnknownName("figure", figure, names)
    drawn = _matplotlib_figure()
    axes = drawn.add_subplot()
    _DRAW.get(figure, _family)(run, figure, axes)
    _finish(axes, run)
    target = Path(to)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        drawn.savefig(aside, format="png", dpi=DOTS, facecolor="white")
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def _matplotlib_figure() -> "Figure":
    """An empty figure outside pyplot, so that no window, backend or global state is touched."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unsupported(
            "drawing a figure as PNG",
            "the package matplotlib is not installed",
            "pip install 'dynascope[plots]', or write the HTML report, which needs nothing",
        ) from error
    return Figure(figsize=INCHES, layout="constrained")


def _scalar(run: Run, figure: str, axes: "Axes") -> None:
    names = sorted(name for name in run.scalars if name.split("/")[0] == figure)
    drawn = scalar_lines(run.scalars, names)
    if drawn is not None:
        _plot(axes, drawn, {name: name.replace("_", " ") for name in names})
    axes.set_ylabel(figure.replace("_", " "))
    axes.set_title(figure.replace("_", " ").capitalize())


def _leak(run: Run, _: str, axes: "Axes") -> None:
    names = (name for name in run.families if name.startswith(CHARGES))
    drawn = leak_lines(family for name in names if (family := read_family(run, name)))
    if drawn is not None:
        _plot(axes, drawn, {line.row: line.row for line in drawn.lines})
        if any((line.values > 0).any() for line in drawn.lines):
            axes.set_yscale("log", nonpositive="mask")
    axes.set_ylabel("|account − value| / scale")
    axes.set_title("Leak of the accounts, worst family of each kind")


def _family(run: Run, figure: str, axes: "Axes") -> None:
    family = read_family(run, figure)
    if family is not None:
        names = {
            line.row: f"{ROWS[line.row]} ({line.neuron})"
            if line.neuron is not None and family.size > 1
            else ROWS[line.row]
            for line in family.lines.lines
            if line.row in ROWS
        }
        _plot(axes, family.lines, names)
        axes.set_ylabel(family.unit)
        axes.set_title(family.words or family.name, wrap=True, parse_math=False)


def _plot(axes: "Axes", drawn: Lines, names: dict[str, str]) -> None:
    band = {line.row: line.values for line in drawn.lines if line.row in {"low", "high"}}
    if len(band) == 2:
        axes.fill_between(
            drawn.steps,
            band["low"],
            band["high"],
            color=PALETTE[0],
            alpha=0.14,
            linewidth=0,
            label="middle 80 %",
        )
    rows = list(dict.fromkeys(line.row for line in drawn.lines if line.row not in band))
    for line in (line for line in drawn.lines if line.row not in band):
        main = line.row in {"median", "single"}
        colour = PALETTE[COLOURS.get(line.row, rows.index(line.row)) % len(PALETTE)]
        measured = line.column == "value"
        # one legend entry for each row (measured) and for each kind of prediction (on the main row)
        label = names.get(line.row) if measured else COLUMNS[line.column] if line.row == rows[0] else None
        axes.plot(
            drawn.steps,
            np.where(np.isfinite(line.values), line.values, np.nan),
            color=colour if measured else INK if line.column == "law" else MUTED,
            linestyle=DASHES[line.column],
            linewidth=(2.2 if main else 1.3) if measured else 1.0,
            label=label,
        )


def _finish(axes: "Axes", run: Run) -> None:
    axes.set_xlabel("optimiser step")
    axes.grid(visible=True, color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED, length=0, labelsize=9)
    axes.title.set(color=INK, fontsize=11.5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=MUTED, fontsize=10)
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.figure.legend(loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=INK)
    name = str(run.meta.get("name") or run.path.name)
    axes.figure.text(0.995, 0.004, name, ha="right", va="bottom", fontsize=7, color=MUTED, parse_math=False)


_DRAW: dict[str, Callable[[Run, str, "Axes"], None]] = {
    "loss": _scalar,
    "learning_rate": _scalar,
    "gradient_norm": _scalar,
    "leak": _leak,
}
