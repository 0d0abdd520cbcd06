"""The parts of the page around symmetries and charges: pure functions from a run's content to markup."""

import numpy as np

from dynascope.report.charts import Charts, scalar_lines
from dynascope.report.content import Content
from dynascope.report.equilibrium import equilibrium
from dynascope.report.markup import Safe, join, number, table, tag
from dynascope.report.parts import absent, facts, flat, pill, section
from dynascope.report.words import Finding, findings, headline, non_finite

LINKS = {
    "findings": "Findings",
    "model": "Model",
    "symmetries": "Symmetries",
    "charges": "Charges",
    "training": "Training",
    "equilibrium": "Norms",
}
ICONS = {
    "good": "M4 12.5 9.5 18 20 6.5",
    "warning": "M12 3 22 20H2ZM12 10v4.5M12 17.3v.1",
    "info": "M5 12h14",
}
METHOD = (
    "An account is fed the run's own updates at every step: a health check, never a prediction. A law names "
    "the measured series it was fed, none of them the charge after its start. The naive law leaves out the "
    "finite step. The leak is the largest |account − value| over the summed squared norms of the weights "
    "that take part. Every number names its series: point at it."
)
CITATION = (
    "Laws of charges: Kunin, Sagastuy-Brena, Ganguli, Yamins, Tanaka, Neural Mechanics: Symmetry and Broken "
    "Conservation Laws in Deep Learning Dynamics, ICLR 2021, arXiv 2012.04728."
)
REDUCTIONS = {"first": lambda values: values[0], "median": np.median, "last": lambda values: values[-1]}


def bar(content: Content) -> Safe:
    """The line at the top: name, ways to the sections, the theme switch."""
    brand = tag("span", "dynascope ", tag("span", content.title), class_="brand")
    links = [tag("a", words, href=f"#{where}") for where, words in LINKS.items()]
    button = tag("button", "Dark", id="theme", class_="button", type="button")
    return tag("header", tag("div", brand, tag("nav", *links, aria_label="Sections"), button), class_="bar")


def verdict(content: Content) -> Safe:
    """The verdict in words, then the few numbers one asks for first."""
    title, mark = headline(content)
    lead = _lead(content)
    over = [
        tag("span", f"Run {content.title}"),
        pill(content.status, "good" if content.status == "complete" else "open"),
        tag("span", str(content.meta.get("created") or "")[:16].replace("T", " ")),
    ]
    tiles = [tag("div", tag("dt", words), tag("dd", shown)) for words, shown in _tiles(content)]
    return tag(
        "section",
        tag("p", *over, class_="over"),
        tag("h1", title, class_=mark),
        tag("p", lead.text, class_="lead", data_source=lead.source, title=f"from {lead.source}") if lead else None,
        tag("dl", *tiles, class_="tiles") if tiles else None,
        class_="verdict",
        aria_label="Verdict",
    )


def standing_out(content: Content) -> Safe:
    """What stands out beside the verdict, in sentences."""
    lead = _lead(content)
    items = [_item(finding) for finding in findings(content) if finding != lead]
    body = tag("ul", *items, class_="findings") if items else absent("Nothing beside the verdict.")
    return section("findings", "What stands out", None, body)


def model(content: Content) -> Safe:
    """What the model is and how it was trained."""
    anatomy = content.meta.get("anatomy") or {}
    wanted = ("model", "parameters", "mode", "output", "dimension")
    first = {key: anatomy[key] for key in wanted if anatomy.get(key) is not None}
    more = {
        key: value
        for key, value in flat(content.meta.get("model")).items()
        if key not in first and value not in first.values()
    }
    settings = {**flat(content.meta.get("settings")), **flat(content.meta.get("seeds"), "seed of ")}
    cards = [
        facts("The model", {**first, **more}, "run.json#/anatomy, model"),
        facts("The optimiser", flat(content.meta.get("optimizer")), "run.json#/optimizer"),
        facts("Settings and seeds", settings, "run.json#/settings, seeds"),
    ]
    kept = [card for card in cards if card]
    body = tag("div", *kept, class_="grid three") if kept else absent("The run does not describe its model.")
    notes = [tag("p", note, class_="muted") for note in anatomy.get("notes") or ()]
    return section("model", "The model", None, body, *notes)


def training(content: Content, charts: Charts) -> Safe:
    """Loss, learning rate and the other scalars."""
    rates = sorted(name for name in content.scalars if name.split("/")[0] == "learning_rate")
    plans = {"Loss": ["loss"], "Learning rate": rates, "Gradient norm": ["gradient_norm"]}
    cards = [card for title, names in plans.items() if (card := _scalar_card(content, charts, title, names))]
    drawn = {name for names in plans.values() for name in names}
    rest = [
        [name.replace("_", " "), *[_reduced(content, name, word) for word in REDUCTIONS]]
        for name, series in content.scalars.items()
        if name not in drawn and len(series) and series.values.ndim == 1
    ]
    others = [
        [
            name,
            str(about.get("kind") or "–"),
            number(about.get("size"), f"run.json#/families/{name}/size"),
            ", ".join(about.get("columns") or ()),
        ]
        for name, about in content.others
    ]
    parts = [tag("div", *cards, class_="grid") if cards else absent("No scalar was recorded in this run.")]
    if rest:
        parts += [tag("h3", "Other scalars"), table("Other recorded scalars", ["Scalar", *REDUCTIONS], rest)]
    if others:
        caption = "Series in the run folder that have no figure here"
        parts += [tag("h3", "Other series"), table(caption, ["Family", "Kind", "Size", "Columns"], others)]
    return section("training", "Training", None, *parts)


def norms(content: Content) -> Safe:
    """Effective learning rates and equilibrium norms."""
    title = "Effective learning rates and norms"
    entries = content.meta.get("equilibrium") or []
    if not entries:
        words = "No equilibrium is stored in this run: it needs scale symmetries, weight decay and a prediction."
        return section("equilibrium", title, None, absent(words))
    intro = (
        "Where a norm does not change the function, steps make it grow and decay makes it shrink; "
        "their balance sets the effective learning rate."
    )
    cards = [equilibrium(index, entry) for index, entry in enumerate(entries)]
    return section("equilibrium", title, intro, tag("div", *cards, class_="grid"))


def footer(content: Content, version: str) -> Safe:
    """Method, citation, versions and the data."""
    used = ", ".join(f"{name} {word}" for name, word in flat(content.meta.get("versions")).items())
    made = f"Made with {used}." if used else "No versions are stored in this run."
    button = tag("button", "Save the numbers (JSON)", id="download", class_="button", type="button")
    charts = tag("p", "Charts by uPlot (MIT licence, Leon Sorokin).")
    blocks = [
        tag("div", tag("h2", "Method"), tag("p", METHOD)),
        tag("div", tag("h2", "Citation"), tag("p", f"dynascope {version}. {CITATION}"), charts),
        tag("div", tag("h2", "This run"), tag("p", made), tag("p", button)),
    ]
    return tag("footer", tag("div", tag("div", *blocks, class_="cols")))


def _lead(content: Content) -> Finding | None:
    """The finding that explains the headline: that of an account, or else the most urgent one."""
    said = findings(content)
    broken = non_finite(content.scalars)
    accounts = (finding for finding in said if finding.source.startswith("run.json#/verdicts"))
    return broken[0] if broken else next(accounts, next(iter(said), None))


def _item(finding: Finding) -> Safe:
    path = tag("path", d=ICONS[finding.level])
    icon = tag("svg", path, viewBox="0 0 24 24", role="img", aria_label=finding.level)
    words = tag("span", finding.text, data_source=finding.source, title=f"from {finding.source}")
    return tag("li", icon, words, class_=finding.level)


def _tiles(content: Content) -> list[tuple[str, object]]:
    """Numbers at a glance; only those the run holds."""
    tiles: list[tuple[str, object]] = []
    dimension = (content.meta.get("anatomy") or {}).get("dimension")
    loss = content.scalars.get("loss")
    if content.steps:
        tiles.append(("optimiser steps", number(content.steps, "scalars/*@first..last")))
    if loss is not None and len(loss):
        first, last = (number(float(loss.values[i]), f"scalars/loss@{loss.steps[i]}") for i in (0, -1))
        tiles.append(("loss, first and last", join(first, " → ", last)))
    if dimension is not None:
        tiles.append(("continuous symmetries", number(dimension, "run.json#/anatomy/dimension")))
    if content.families:
        count = sum(family.size for family in content.families)
        tiles.append(("charges recorded", number(count, "charges:*/value")))
    leaks, law, naive = (_errors(content, kind) for kind in ("account", "law", "naive"))
    if leaks:
        tiles.append(("largest leak of an account", number(*leaks[-1])))
    if law and naive:
        better, worse = (number(*errors[len(errors) // 2]) for errors in (law, naive))
        shown = join(better, tag("span", " vs ", class_="muted"), worse)
        tiles.append(("median error, law against naive law", shown))
    return tiles


def _errors(content: Content, kind: str) -> list[tuple[float, str]]:
    """Stored errors of one kind with their sources, smallest first; what is not a number comes last."""
    judged = (family.judgements.get(kind) for family in content.families)
    errors = ((found.error, found.source) for found in judged if found and found.error is not None)
    return sorted(errors, key=lambda pair: (bool(np.isnan(pair[0])), pair[0]))


def _scalar_card(content: Content, charts: Charts, title: str, names: list[str]) -> Safe | None:
    drawn = scalar_lines(content.scalars, names)
    if drawn is None:
        return None
    steady = title == "Learning rate" and all(np.ptp(line.values) == 0 for line in drawn.lines)
    figure = charts.figure(
        drawn,
        label=f"{title} over time",
        ylabel=title.lower(),
        source="scalars",
        caption="Constant over the whole run." if steady else "As recorded; thinned points are left out, not averaged.",
        zero=True,
        names={name: name.replace("_", " ") for name in names},
    )
    return tag("div", tag("h3", title), figure, class_="card")


def _reduced(content: Content, name: str, word: str) -> Safe:
    value = float(REDUCTIONS[word](content.scalars[name].values))
    return number(value, f"scalars/{name}@{word}", 4)
