"""What every study has to satisfy before anybody looks at its verdicts. Executes no run."""

import ast
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from dynascope import tasks
from dynascope.base.registry import Member
from dynascope.studies import STUDIES, Scale, Study

MATHEMATICS: Final = frozenset({"torch", "numpy", "scipy", "jax", "pandas"})
"""Packages that a study must not import: it wires, others compute."""


def check_study(name: str) -> tuple[str, ...]:
    """Check a registered study.

    Args:
        name: its public name.

    Returns:
        The names of the checks that it passed, which are all of ``CHECKS``; count them, so that none can evaporate.

    Raises:
        AssertionError: a check failed; the message names the study, the check and what to change.
        UnknownName: no study is called so.
    """
    member = STUDIES.get(name)
    for check, passes in CHECKS.items():
        complaint = passes(member)
        if complaint:
            raise AssertionError(f"study {name!r}, {check}: {complaint}")
    return tuple(CHECKS)


def _plan(member: Member[Any], scale: Scale) -> Study:
    return member.value(scale)


def _plans(member: Member[Any]) -> dict[Scale, Study]:
    return {scale: _plan(member, scale) for scale in get_args(Scale)}


def _card_is_filled(member: Member[Any]) -> str:
    stem = member.value.__module__.rpartition(".")[2]
    if member.card.name.replace("-", "_") != stem:
        return f"the card's name {member.card.name!r} differs from the file's, {stem!r}"
    empty = [
        name for name in ("title", "paper", "authors", "venue", "year", "summary") if not getattr(member.card, name)
    ]
    return f"the card leaves {', '.join(empty)} empty" if empty else ""


def _claims_are_decidable(member: Member[Any]) -> str:
    for scale, study in _plans(member).items():
        ids = [claim.id for claim in study.claims]
        if not ids or len(set(ids)) < len(ids):
            return (
                f"scale {scale!r} has {len(ids)} claims with {len(set(ids))} different ids; every claim needs its own"
            )
        silent = [claim.id for claim in study.claims if not (claim.statement.strip() and claim.control.strip())]
        if silent:
            return f"{silent[0]!r} lacks a statement or a control; without a control there is no verdict"
    return ""


def _quick_states_the_same_claims(member: Member[Any]) -> str:
    quick, default = (_plan(member, scale).claims for scale in ("quick", "default"))
    return (
        ""
        if quick == default
        else "scales quick and default state different claims; leave some out by not judging them"
    )


def _plans_are_repeatable(member: Member[Any]) -> str:
    for scale, study in _plans(member).items():
        again = _plan(member, scale)
        if {k: s.name for k, s in study.runs.items()} != {k: s.name for k, s in again.runs.items()}:
            return f"two plans of scale {scale!r} differ; finished runs could not be reused"
    return ""


def _runs_are_possible(member: Member[Any]) -> str:
    known = {name.replace("_", "-") for name in tasks.names()}
    wanted = {spec.task for study in _plans(member).values() for spec in study.runs.values()}
    missing = sorted(wanted - known)
    return f"there is no task {missing[0]!r}" if missing else ""


def _quick_is_quick(member: Member[Any]) -> str:
    quick, default = (sum(s.steps for s in _plan(member, scale).runs.values()) for scale in ("quick", "default"))
    return f"scale quick takes {quick} steps, default {default}; it must not take more" if quick > default else ""


def _files_are_explained(member: Member[Any]) -> str:
    missing = [str(path) for study in _plans(member).values() for path, words in study.files.items() if not words]
    return f"{missing[0]} is needed, but no words say what belongs there" if missing else ""


def _no_mathematics(member: Member[Any]) -> str:
    source = inspect.getsource(inspect.getmodule(member.value) or member.value)
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    found = sorted(MATHEMATICS & {name.partition(".")[0] for name in plain | parts})
    return f"it imports {', '.join(found)}; push the formula down one storey" if found else ""


CHECKS: Final[Mapping[str, Callable[[Member[Any]], str]]] = MappingProxyType(
    {
        "the card is filled": _card_is_filled,
        "the claims are decidable": _claims_are_decidable,
        "quick states the same claims": _quick_states_the_same_claims,
        "plans are repeatable": _plans_are_repeatable,
        "runs are possible": _runs_are_possible,
        "quick is quick": _quick_is_quick,
        "files are explained": _files_are_explained,
        "no mathematics": _no_mathematics,
    }
)
"""Every check by name: a function that returns a complaint, or nothing."""
