"""Pieces that several sections share."""

from collections.abc import Iterable, Mapping, Sequence

from dynascope.report.content import Judgement
from dynascope.report.markup import Safe, number, table, tag

MANY = 24
"""Rows of a table that are shown before the rest folds away."""


def section(name: str, title: str, intro: str | None, *parts: object) -> Safe:
    """A section of the page that carries its title as its label."""
    heading = tag("h2", title, id=f"{name}-title")
    lead = tag("p", intro, class_="intro") if intro else None
    return tag("section", heading, lead, *parts, id=name, aria_labelledby=f"{name}-title")


def absent(words: str) -> Safe:
    """What is missing, in words, where it would stand."""
    return tag("p", words, class_="intro absent")


def folded(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[Safe]:
    """A table whose rows beyond `MANY` fold away."""
    shown = [table(caption, head, rows[:MANY])]
    if len(rows) > MANY:
        rest = table(f"{caption}, continued", head, rows[MANY:])
        shown.append(tag("details", tag("summary", f"Show {len(rows) - MANY} more"), rest))
    return shown


def pill(words: object, mark: str, hint: str | None = None) -> Safe:
    """A small coloured label; the shape of its dot tells the marks apart without colour."""
    return tag("span", words, class_=f"pill {mark}", title=hint or None)


def verdict_pill(judgement: Judgement | None, *, exact: bool) -> Safe:
    """Whether an account balances, in words."""
    if judgement is None:
        return pill("not judged", "open")
    words = {"good": "balances", "bad": "does not balance", "open": "not judged"}[judgement.mark]
    return pill(words if exact else f"{words} (epsilon)", judgement.mark, judgement.words)


def flat(nested: object, prefix: str = "") -> dict[str, object]:
    """Nested settings as one level, with names joined by points; long lists are counted, not shown.

    Args:
        nested: a mapping as JSON holds it; anything else counts as empty.
        prefix: put before every name.

    Returns:
        Names and plain values.

    Example:
        >>> flat({"class": "SGD", "groups": [{"momentum": 0.9}], "betas": [0.9, 0.99]})
        {'class': 'SGD', 'momentum': 0.9, 'betas': '0.9, 0.99'}
    """
    result: dict[str, object] = {}
    for key, value in nested.items() if isinstance(nested, Mapping) else ():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result.update(flat(value, f"{name}."))
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                result.update(flat(item, prefix if len(value) == 1 else f"{name} {index}."))
        else:
            result[name] = _listed(value) if isinstance(value, list) else value
    return result


def facts(title: str, values: Mapping[str, object], source: str) -> Safe | None:
    """A card of names and values; None if there is nothing to show."""
    shown = [(key, value) for key, value in values.items() if value is not None and value != ""][:40]
    if not shown:
        return None
    leaves = [key.rpartition(".")[2] for key, _ in shown]
    items = []
    for (key, value), leaf in zip(shown, leaves, strict=True):
        name = leaf if leaves.count(leaf) == 1 else key  # "settings.momentum" is "momentum" where nothing else is
        items.append(tag("div", tag("dt", name.replace("_", " ")), tag("dd", _fact(value, source))))
    return tag("div", tag("h3", title), tag("dl", *items, class_="facts"), class_="card")


def _listed(values: Iterable[object]) -> str:
    words = [str(value) for value in values]
    return ", ".join(words) if len(words) <= 8 else f"{len(words)} entries"


def _fact(value: object, source: str) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        grouped = f"{value:,}".replace(",", "\u202f")
        return tag("data", grouped, class_="n", value=value, data_source=source, title=f"from {source}")
    return number(value, source, 6) if isinstance(value, float) else str(value)
