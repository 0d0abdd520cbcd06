"""The section on charges: the table of errors, a card for every family, the leak over time."""

import numpy as np

from dynascope.report.charts import Charts, family_chart, leak_chart
from dynascope.report.content import PREDICTIONS, Content, Family
from dynascope.report.markup import Safe, join, number, tag
from dynascope.report.parts import absent, folded, pill, section, verdict_pill

DRAWN_FAMILIES = 60
"""Families of charges with a chart of their own; further ones are in the table only."""
KINDS = {
    "translation": "the sum of the weights of a group, kept because a common shift changes nothing",
    "scale": "the squared norm of a group, kept because its length changes nothing",
    "rescale": "squared norm in minus squared norm out, kept because a gain before can be undone behind",
    "rotation": "the part of a Gram matrix that a rotation leaves free",
    "gl": "the balance of Gram matrices on both sides of a linear bond",
}
HEAD = ("Family", "Charges", "Account's leak", "Law's error", "Naive law's error", "Account")
CAPTION = "How well each family is predicted: leaks are shares of its scale, errors shares of how far it moved"
INTRO = (
    "A symmetry conserves a charge under gradient flow; the optimiser's steps, momentum and decay move it "
    "in a way that can be computed. The account replays every step exactly; "
    "the law knows only its declared inputs."
)


def charges(content: Content, charts: Charts) -> Safe:
    """Every family: the table of errors, then measured against predicted."""
    if not content.families:
        return section("charges", "Charges", None, absent("No charge was recorded in this run."))
    rows = [_row(family, f"family-{index}") for index, family in enumerate(content.families)]
    leak = leak_chart(charts, content)
    missing = tag("p", "No account is stored in this run, so its leak cannot be shown.", class_="muted")
    return section(
        "charges",
        "Charges",
        INTRO,
        *folded(CAPTION, HEAD, rows),
        *_cards(content, charts),
        tag("h3", "The accounts' leak over time"),
        tag("div", leak, class_="card") if leak else missing,
    )


def _cards(content: Content, charts: Charts) -> list[Safe]:
    """Cards by kind; where there are too many, those that do not hold or leak most."""
    order = sorted(range(len(content.families)), key=lambda index: _urgency(content.families[index]))
    drawn = sorted(order[:DRAWN_FAMILIES])
    parts = []
    for kind in dict.fromkeys(content.families[index].kind for index in drawn):
        same = [index for index in drawn if content.families[index].kind == kind]
        words = tag("span", f": {KINDS[kind]}", class_="muted") if kind in KINDS else None
        cards = [_card(charts, content.families[index], f"family-{index}") for index in same]
        parts += [tag("h3", kind.capitalize(), words), tag("div", *cards, class_="grid")]
    left = len(content.families) - len(drawn)
    return [*parts, tag("p", f"{left} further families are in the table only.", class_="muted")] if left else parts


def _urgency(family: Family) -> tuple[bool, float]:
    """Families with a prediction out of tolerance come first, then those with the largest leak."""
    account = family.judgements.get("account")
    holds = all(judgement.mark != "bad" for judgement in family.judgements.values())
    return holds, -(account.error or 0.0) if account else 0.0


def _row(family: Family, anchor: str) -> list[object]:
    name = tag("a", family.words or family.name, href=f"#{anchor}", class_="words")
    cells: list[object] = [
        join(name, tag("span", family.name, class_="mono")),
        number(family.size, f"{family.key}/value"),
    ]
    for kind in PREDICTIONS:
        judgement = family.judgements.get(kind)
        cells.append(number(judgement.error, judgement.source) if judgement else _unjudged(family, kind))
    return [*cells, verdict_pill(family.judgements.get("account"), exact=family.exact)]


def _unjudged(family: Family, kind: str) -> object:
    """The leak as recorded, where no verdict stores it."""
    if kind == "account" and family.leak is not None and len(family.leak):
        return number(float(np.max(family.leak.values)), f"{family.leak_source}@max")
    return "–"


def _card(charts: Charts, family: Family, anchor: str) -> Safe:
    pills = []
    for kind, words in (("account", "leak"), ("law", "law's error"), ("naive", "naive error")):
        judgement = family.judgements.get(kind)
        if judgement is not None:
            shown = join(f"{words} ", number(judgement.error, judgement.source))
            pills.append(pill(shown, judgement.mark, judgement.words))
    pills += [pill("holds up to epsilon", "open")] if not family.exact else []
    pills += [pill("sampled", "open")] if family.sampled else []
    failed = [
        f"{judged.kind.capitalize()}: {judged.words}."
        for judged in family.judgements.values()
        if judged.words and judged.mark == "bad"
    ]
    return tag(
        "article",
        tag("h3", family.words or family.name),
        tag("span", family.name, class_="mono"),
        tag("div", *pills, class_="chips") if pills else None,
        *[tag("p", words, class_="muted") for words in failed],
        family_chart(charts, family),
        class_="card family",
        id=anchor,
    )
