"""What there is: studies, probes and tasks, from their cards."""

from typing import Any

from dynascope.base.errors import DynascopeError
from dynascope.base.registry import Registry
from dynascope.probes import PROBES
from dynascope.studies import STUDIES
from dynascope.tasks import TASKS

_ROOMS: dict[str, tuple[Registry, tuple[str, ...]]] = {
    "studies": (STUDIES, ("title", "summary")),
    "probes": (PROBES, ("measures",)),
    "tasks": (TASKS, ("summary", "title", "data")),
}


def catalogue() -> dict[str, dict[str, str]]:
    """Names and one line each, by room.

    Returns:
        Room -> name -> words; a member whose optional package is missing says so.
    """
    return {
        room: {n: _words(registry, n, fields) for n in registry.names()} for room, (registry, fields) in _ROOMS.items()
    }


def citations() -> str:
    """The papers and data behind the package, from the cards.

    Returns:
        A page in Markdown.
    """
    papers = sorted((STUDIES.get(n).card for n in STUDIES.names()), key=lambda card: (card.year, card.title))
    data = sorted({(card.source, card.licence) for card in (TASKS.get(n).card for n in TASKS.names())})
    lines = ["# Citations", "", "Generated from the cards by `make docs`; cite what you use.", "", "## Papers", ""]
    lines += [f"- {c.authors}. *{c.title}*. {c.venue}, {c.year}. arXiv {c.paper}. Study: `{c.name}`." for c in papers]
    lines += ["", "## Data", ""]
    lines += [f"- {source}. Licence: {licence}." if licence != "-" else f"- {source}." for source, licence in data]
    return "\n".join(lines) + "\n"


def _words(registry: Registry, name: str, fields: tuple[str, ...]) -> str:
    try:
        card: Any = registry.get(name).card
    except DynascopeError as error:
        return f"unavailable: {error}"
    return next((str(getattr(card, f)) for f in fields if getattr(card, f, None)), "")
