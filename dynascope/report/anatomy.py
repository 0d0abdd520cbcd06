"""The section on symmetries: a table of them, the bond graph, and the bonds in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynascope.report import graph
from dynascope.report.content import Content, as_float
from dynascope.report.markup import Safe, join, number, readable, tag
from dynascope.report.parts import absent, folded, pill, section

SLIM = 360
"""Pixels up to which the bond graph stands beside its table, and not above it."""
NAMES = 6
"""Parameters listed on one side of a bond; the others are counted and stand in the tooltip."""
HEAD = ("Symmetry", "Kind", "Group", "Dimension", "Holds", "Residual", "At the real epsilon", "Charge")


def symmetries(content: Content) -> Safe:
    """The symmetries as a table, and the bonds they act on as a drawing and a table."""
    anatomy = content.meta.get("anatomy") or {}
    found = anatomy.get("symmetries") or []
    bonds = [_bonds(anatomy["bonds"])] if anatomy.get("bonds") else []
    if not found:
        words = (
            "The model has no continuous symmetry that could be verified."
            if anatomy
            else "No anatomy is stored in this run, so its symmetries are not known here."
        )
        return section("symmetries", "Symmetries", None, absent(words), *bonds)
    exact = sum(bool(symmetry.get("exact")) for symmetry in found)
    intro = (
        f"{len(found)} symmetries with {readable(anatomy.get('dimension'))} continuous dimensions in all: "
        f"{exact} exact, {len(found) - exact} up to a normalisation's epsilon. "
        "Each was verified numerically on the model itself."
    )
    recorded = {family.name: f"family-{index}" for index, family in enumerate(content.families)}
    rows = [_symmetry(index, symmetry, recorded) for index, symmetry in enumerate(found)]
    return section("symmetries", "Symmetries", intro, *folded("Symmetries of the model", HEAD, rows), *bonds)


def _symmetry(index: int, symmetry: Mapping[str, Any], recorded: Mapping[str, str]) -> list[object]:
    source = f"run.json#/anatomy/symmetries/{index}"
    name, charge = str(symmetry.get("name", "")), symmetry.get("charge")
    link: object = "not recorded" if charge else "none"
    if charge in recorded:
        link = tag("a", "shown below", href=f"#{recorded[str(charge)]}")
    holds = pill("exact", "good") if symmetry.get("exact") else pill("up to epsilon", "open")
    return [
        join(tag("span", symmetry.get("words") or name, class_="words"), tag("span", name, class_="mono")),
        symmetry.get("kind", "–"),
        symmetry.get("group", "–"),
        number(symmetry.get("dimension"), f"{source}/dimension"),
        join(holds, tag("div", ", ".join(symmetry.get("modes") or ()), class_="muted")),
        number(as_float(symmetry.get("residual")), f"{source}/residual"),
        number(as_float(symmetry.get("violation")), f"{source}/violation"),
        link,
    ]


def _bonds(bonds: Sequence[Mapping[str, Any]]) -> Safe:
    rows = [
        [
            tag("span", bond.get("name"), class_="mono"),
            number(bond.get("size"), f"run.json#/anatomy/bonds/{index}/size"),
            bond.get("group") or "no continuous group",
            ", ".join(map(str, bond.get("through") or ())) or "–",
            _names(bond.get("writers") or ()),
            _names(bond.get("readers") or ()),
        ]
        for index, bond in enumerate(bonds)
    ]
    drawing = graph.draw(bonds)
    label = "Bond graph, scrollable"
    scroll = tag("div", drawing.markup, class_="graph", tabindex="0", role="region", aria_label=label)
    caption = tag(
        "figcaption",
        "Bonds (pills) are index spaces that operations sum over or carry along; "
        "boxes are the parameters that write and read them.",
    )
    words = folded("The same bonds in words", ("Bond", "Size", "Group", "Through", "Writers", "Readers"), rows)
    return tag(
        "div",
        tag("figure", tag("h3", "Bond graph"), scroll, caption, class_="card"),
        tag("div", *words),
        class_="bonds wide" if drawing.width > SLIM else "bonds",
    )


def _names(words: Sequence[str]) -> Safe:
    shown = [tag("div", word, class_="mono") for word in words[:NAMES]]
    if len(words) > NAMES:
        hidden = words[NAMES:]
        shown.append(tag("div", f"and {len(hidden)} more", class_="muted", title=", ".join(hidden)))
    return join(*shown) or Safe("–")
