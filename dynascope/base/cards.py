"""Cards: the single source of facts about a probe, a study or a task.

Documentation pages, ``dynascope list``, the report's legend and the citations are generated from them.
"""

import re
from collections.abc import Set
from dataclasses import dataclass, field

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def _check_name(name: str) -> None:
    """Refuse a name that could not be a file name and a command-line word at once."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r} must be lower-case letters and digits, words joined by '-' or '_'")


@dataclass(frozen=True)
class ProbeCard:
    """What one probe measures and when to distrust it.

    Args:
        name: public name, equal to the name of the probe's file.
        measures: the quantity, in words.
        equation: the quantity, as a formula.
        needs: fields of the ``Snapshot`` beyond ``params`` that the probe reads, such as ``{"gradients"}``.
        cost: what one call costs, in passes over the batch.
        source: paper key or "-".
        fails_when: the conditions under which the number means nothing.
    """

    name: str
    measures: str
    equation: str
    needs: Set[str] = field(default_factory=frozenset)
    cost: str = ""
    source: str = "-"
    fails_when: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name)
        object.__setattr__(self, "needs", frozenset(self.needs))


@dataclass(frozen=True)
class StudyCard:
    """Which paper a study re-measures.

    Args:
        name: public name, such as ``neural-mechanics``.
        title: title of the paper.
        paper: arXiv identifier or DOI.
        authors: as printed on the paper.
        venue: where it appeared.
        year: when it appeared.
        summary: the claims under test, in one or two sentences.
    """

    name: str
    title: str
    paper: str
    authors: str
    venue: str
    year: int
    summary: str

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True)
class TaskCard:
    """What a task consists of and where its data come from.

    Args:
        name: public name, such as ``digits``.
        title: one line for people.
        summary: examples, inputs, classes and how they are split.
        source: who made the data.
        licence: terms under which the data are distributed.
    """

    name: str
    title: str = ""
    summary: str = ""
    source: str = "-"
    licence: str = "-"

    def __post_init__(self) -> None:
        _check_name(self.name)


Card = ProbeCard | StudyCard | TaskCard
