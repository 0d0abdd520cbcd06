"""What stands out, in sentences with numbers: pure functions from what a run holds to findings.

No finding rests on a number that is not in the run folder; each names the series it read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dynascope.base.series import Series
from dynascope.report.content import Content, Family
from dynascope.report.markup import readable

Level = Literal["good", "info", "warning"]

PUSH = 1e-4
"""Share of a charge's scale by which a gradient may move it before we say so: the leak that the account of a
float32 run is allowed, so that what lies below is within what rounding explains."""


@dataclass(frozen=True)
class Finding:
    """One sentence.

    Attributes:
        level: how it should look.
        text: the sentence.
        source: the series or entry it was read from.
    """

    level: Level
    text: str
    source: str


def findings(content: Content) -> list[Finding]:
    """Everything that stands out in a run, most urgent first.

    Args:
        content: the run.

    Returns:
        Findings, warnings first, in a fixed order.
    """
    anatomy = content.meta.get("anatomy") or {}
    said = [
        *status(content.status, content.steps),
        *non_finite(content.scalars),
        *accounts(content.families),
        *broken_since(content.families),
        *pushed(content.families, content.scalars.get("learning_rate")),
        *laws(content.families),
        *sampled(content.families),
        *loss(content.scalars.get("loss")),
        *unknown_operations(anatomy.get("unknown_ops") or ()),
        *notes(content.meta.get("notes") or ()),
        *missing(content),
    ]
    rank = {"warning": 0, "good": 1, "info": 2}
    return sorted(said, key=lambda finding: rank[finding.level])


def headline(content: Content) -> tuple[str, str]:
    """The verdict first: a short title and how it looks ("good", "bad", "open").

    Args:
        content: the run.

    Returns:
        Title and look.

    Example:
        >>> from pathlib import Path
        >>> headline(Content(Path("a"), "complete", {}, {}, (), ()))
        ('No charge was recorded.', 'open')
    """
    judged = [family.judgements["account"] for family in content.families if "account" in family.judgements]
    bad = sum(judgement.mark == "bad" for judgement in judged)
    if non_finite(content.scalars):
        return "The numbers stop being finite.", "bad"
    if bad:
        share = f"{bad} of {len(judged)} accounts" if len(judged) > 1 else "The account"
        return f"{share} {'does' if bad == 1 else 'do'} not balance.", "bad"
    if judged and all(judgement.mark == "good" for judgement in judged):
        return ("Every account balances." if len(judged) > 1 else "The account balances."), "good"
    if content.families:
        return "Charges recorded, not yet judged.", "open"
    return "No charge was recorded.", "open"


def status(word: str, steps: int | None) -> list[Finding]:
    """A run that did not end well, or has not ended.

    Args:
        word: status of the run.
        steps: how many steps it covers, if known.

    Returns:
        One finding, or none for a complete run.

    Example:
        >>> status("complete", 10)
        []
        >>> status("interrupted", 10)[0].text
        'The run was interrupted; this page shows its 10 steps up to the last write.'
    """
    how = {"running": "is still running", "interrupted": "was interrupted", "failed": "failed"}.get(word)
    if how is None:
        return []
    shown = f"its {steps} steps up to the last write" if steps else "what was written until then"
    return [
        Finding(
            "info" if word == "running" else "warning",
            f"The run {how}; this page shows {shown}.",
            "run.json#/status",
        )
    ]


def non_finite(scalars: Mapping[str, Series]) -> list[Finding]:
    """Scalars that stop being finite, with the first step at which they do."""
    said = []
    for name in ("loss", "gradient_norm"):
        values = np.asarray(scalars[name].values) if name in scalars else np.zeros(0)
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            step, what = scalars[name].steps[wrong[0]], readable(float(values[wrong[0]]))
            count = f"{wrong.size} of {values.size} recorded values"
            label = name.replace("_", " ")
            said.append(
                Finding(
                    "warning",
                    f"The {label} is {what} at step {step} ({count} are not finite).",
                    f"scalars/{name}",
                )
            )
    return said


def loss(series: Series | None) -> list[Finding]:
    """How far the loss fell or rose between its first and last value."""
    if series is None or len(series.steps) < 2:
        return []
    first, last = float(series.values[0]), float(series.values[-1])
    if not (np.isfinite(first) and np.isfinite(last)):
        return []
    way = "falls" if last < first else "rises" if last > first else "stays"
    text = (
        f"The loss {way} from {readable(first)} at step {series.steps[0]} "
        f"to {readable(last)} at step {series.steps[-1]}."
    )
    return [Finding("info" if last <= first else "warning", text, "scalars/loss")]


def accounts(families: Sequence[Family]) -> list[Finding]:
    """Which accounts balance, and the largest leak."""
    held = [(family, family.judgements["account"]) for family in families if "account" in family.judgements]
    good = [(family, judgement) for family, judgement in held if judgement.mark == "good"]
    said = [
        Finding(
            "warning",
            f"The account of {family.name} does not balance: "
            f"its leak is {readable(judgement.error)} of the scale"
            + (f", {readable(judgement.tolerance)} is allowed." if judgement.tolerance is not None else "."),
            judgement.source,
        )
        for family, judgement in held
        if judgement.mark == "bad"
    ]
    if good:
        family, worst = max(good, key=lambda pair: pair[1].error if pair[1].error is not None else 0.0)
        count = sum(family.size for family, _ in good)
        allowed = f" ({readable(worst.tolerance)} is allowed)" if worst.tolerance is not None else ""
        text = (
            f"{_plural(len(good), 'account balances', 'accounts balance')} "
            f"({_plural(count, 'charge', 'charges')} in all): "
            f"the largest leak is {readable(worst.error)} of the scale{allowed}, in {family.name}."
        )
        said.append(Finding("good", text, worst.source))
    return said


def broken_since(families: Iterable[Family]) -> list[Finding]:
    """For each account that exceeds its stored tolerance: the first step at which its leak does."""
    said = []
    for family in families:
        judgement = family.judgements.get("account")
        if family.leak is None or judgement is None or judgement.tolerance is None or judgement.mark != "bad":
            continue
        over = np.flatnonzero(~(family.leak.values <= judgement.tolerance))  # a leak that is not a number is over
        if over.size:
            step, leak = family.leak.steps[over[0]], readable(float(family.leak.values[over[0]]))
            text = f"The account of {family.name} leaks since step {step}: {leak} of the scale there."
            said.append(Finding("warning", text, family.leak_source))
    return said


def pushed(families: Sequence[Family], learning_rate: Series | None) -> list[Finding]:
    """Charges that the gradient itself moves, which the symmetry forbids.

    The push of a family is the sum over its recorded steps of degree * learning_rate * |B(theta, g)| / scale.

    Args:
        families: with their relative push by step.
        learning_rate: the scalar by step; without it nothing can be said.

    Returns:
        One finding for each exact family that is moved, and one for all the approximate ones together.
    """
    if learning_rate is None:
        return []
    said, small = [], []
    for family in families:
        total = _push(family, learning_rate)
        if total is None or not total > 0:
            continue
        judged = family.judgements.get("account")
        # Where the account balances without it, the push is rounding that came and went.
        if family.exact and total > PUSH and not (judged and judged.mark == "good"):
            moved = f"The gradient moves {family.name} by {readable(total)} of its scale in all"
            text = f"{moved}; an exact symmetry forbids it."
            said.append(Finding("warning", text, f"{family.key}/gradient"))
        elif not family.exact:
            small.append((total, family))
    if small:
        total, family = max(small, key=lambda pair: pair[0])
        text = (
            f"{_plural(len(small), 'family holds', 'families hold')} only up to a normalisation's epsilon, "
            f"which moves {'it' if len(small) == 1 else 'them'} by up to {readable(total)} of the scale "
            f"in all ({family.name})."
        )
        said.append(Finding("info", text, f"{family.key}/gradient"))
    return said


def laws(families: Iterable[Family]) -> list[Finding]:
    """Where the law beats the naive law, and by how much at least and at most."""
    ratios = []
    for family in families:
        law, naive = (family.judgements.get(kind) for kind in ("law", "naive"))
        if law and naive and law.error and naive.error is not None and np.isfinite([law.error, naive.error]).all():
            ratios.append((naive.error / law.error, law.error, naive.error, family.name, law.source))
    if not ratios:
        return []
    (low, *_), (high, error, naive_error, name, source) = min(ratios), max(ratios)
    text = (
        f"The law's error is smaller than the naive law's by a factor between {readable(low)} "
        f"and {readable(high)} (at best {readable(error)} against {readable(naive_error)}, {name})."
    )
    if len(ratios) == 1:
        pair = f"The law's error is {readable(error)}, the naive law's {readable(naive_error)}"
        text = f"{pair}: a factor of {readable(high)} ({name})."
    return [Finding("good" if low > 1 else "warning", text, source)]


def sampled(families: Iterable[Family]) -> list[Finding]:
    """A thinned record, whose accounts are of single steps."""
    holes = [family for family in families if family.sampled]
    if not holes:
        return []
    gaps = np.diff(holes[0].lines.steps)
    every = f"about every {int(np.median(gaps))} steps" if gaps.size and np.median(gaps) > 1 else "not at every step"
    text = f"The record is sampled ({every}): accounts are of single steps, not of the whole way between them."
    return [Finding("info", text, f"{holes[0].key}/step")]


def unknown_operations(names: Sequence[str]) -> list[Finding]:
    """Operations the anatomy did not know, where symmetries may be missing."""
    if not names:
        return []
    text = f"Unknown to the anatomy, so symmetries through them may be missing: {', '.join(map(str, names))}."
    return [Finding("warning", text, "run.json#/anatomy/unknown_ops")]


def notes(entries: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Notes written while recording."""
    return [
        Finding(
            "warning" if entry.get("level") == "warning" else "info",
            (f"Step {entry['step']}: " if entry.get("step") is not None else "") + str(entry.get("text", "")),
            f"run.json#/notes/{index}",
        )
        for index, entry in enumerate(entries)
    ]


def missing(content: Content) -> list[Finding]:
    """What a page could show and this run does not hold."""
    absent = []
    if not content.meta.get("anatomy"):
        absent.append("the model's anatomy (symmetries and bonds)")
    if "loss" not in content.scalars:
        absent.append("the loss")
    if not content.families:
        absent.append("charges")
    elif not any(family.judgements for family in content.families):
        absent.append("predictions")
    return [Finding("info", f"Not in this run: {', '.join(absent)}.", "run.json")] if absent else []


def _push(family: Family, learning_rate: Series) -> float | None:
    if family.push is None or family.degree is None:
        return None
    rates = dict(zip(learning_rate.steps.tolist(), learning_rate.values.tolist(), strict=True))
    parts = [
        rates[step] * push
        for step, push in zip(family.push.steps.tolist(), family.push.values, strict=True)
        if step in rates
    ]
    return family.degree * float(np.sum(parts)) if parts else None


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
