"""The page of a run: one HTML file that needs nothing else, not even a network."""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from dynascope import __version__
from dynascope.report import sections
from dynascope.report.anatomy import symmetries
from dynascope.report.charges import charges
from dynascope.report.charts import Charts
from dynascope.report.content import Content, gather, opened
from dynascope.report.markup import Safe, join, text
from dynascope.report.words import headline
from dynascope.runs import Run

LIMIT = 1_000_000
"""Bytes a page may have; the number of points per line is lowered until it fits."""
POINTS = (400, 240, 140, 80, 40)


def write(run_or_path: Run | str | Path, to: str | Path | None = None) -> Path:
    """Write the report of a run.

    Args:
        run_or_path: an opened run or its folder; a running one is shown as far as it was written.
        to: the file to write; ``report.html`` inside the run's folder if None.

    Returns:
        Where the report is. It is written aside and renamed, so a reader never sees half of it.
    """
    content = gather(opened(run_or_path))
    target = content.path / "report.html" if to is None else Path(to)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        aside.write_text(page(content), encoding="utf-8")
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def page(content: Content) -> str:
    """The whole page, with as many points a line as fit into `LIMIT`; larger only at the fewest points."""
    markup = ""
    for points in POINTS:
        markup = _render(content, points)
        if len(markup.encode()) <= LIMIT:
            break
    return markup


def _render(content: Content, points: int) -> str:
    charts = Charts(points)
    main = join(
        sections.verdict(content),
        sections.standing_out(content),
        sections.model(content),
        symmetries(content),
        charges(content, charts),
        sections.training(content, charts),
        sections.norms(content),
    )
    style = _template("uPlot.min.css") + _template("style.css")
    scripts = [_template("uPlot.iife.min.js"), _template("page.js")]
    return Template(_template("page.html")).substitute(
        script_hashes=_hashes(scripts),
        style_hashes=_hashes([style]),
        generator=text(f"dynascope {__version__}"),
        title=text(f"{content.title}: {headline(content)[0]}"),
        style=style,
        bar=sections.bar(content),
        main=main,
        footer=sections.footer(content, __version__),
        data=embedded(_data(content, charts)),
        uplot=scripts[0],
        script=scripts[1],
    )


def embedded(data: object) -> Safe:
    r"""JSON that may stand inside a script element: no character in it can end the element or open a comment.

    Args:
        data: what strict JSON can hold.

    Returns:
        JSON that reads back equal.

    Example:
        >>> embedded({"name": "</script>"})
        '{"name":"\\u003c/script\\u003e"}'
    """
    plain = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":  # only ever inside strings, where the escape means the same
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Safe(plain)


def _data(content: Content, charts: Charts) -> dict[str, Any]:
    """What the script draws and the button saves."""
    kept = (
        "name",
        "status",
        "created",
        "finished",
        "versions",
        "seeds",
        "optimizer",
        "settings",
        "verdicts",
        "equilibrium",
    )
    about = {key: content.meta.get(key) for key in kept}
    return {
        "run": {**about, "name": content.title, "status": content.status, "dynascope": __version__},
        "charts": charts.specs,
    }


@cache
def _template(name: str) -> str:
    return resources.files("dynascope.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hashes(blocks: Iterable[str]) -> str:
    """Sources for the content security policy: only these blocks may run, nothing smuggled in by data."""
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'" for block in blocks
    )
