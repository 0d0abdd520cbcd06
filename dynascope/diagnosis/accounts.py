"""The laws of charges applied to a run, beside what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynascope.base.claims import Prediction, leak, relative_to_motion
from dynascope.base.errors import UnknownName, Unsupported
from dynascope.base.series import Series
from dynascope.base.settings import SGDSettings
from dynascope.mechanics.charge_laws import account, one_step_terms
from dynascope.mechanics.continuous_laws import continuous, naive
from dynascope.mechanics.predictions import prediction
from dynascope.mechanics.step_settings import StepSettings, step_settings
from dynascope.runs import Run, RunWriter, load

# A leak of an exact charge: rounding of the sums that the account is fed, over thousands of steps. Measured leaks are
# 1e-14 in float64 and 1e-6 in float32; a broken law leaks 1e-3 and more.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
# A gradient of this share of what moves the other weights is rounding: sums in float32 over a batch and its positions,
# up to 1e5 terms that should cancel, leave up to 6e-8 * sqrt(1e5) = 2e-5; a broken symmetry pushes with 1e-2 and more.
ROUNDING = 1e-4
# A normalisation epsilon up to 1e-3 pushes with 1e-6 to 1e-3 of it; clipping by value, with 1e-2, is not excused.
EPSILON = 5e-3
PREFIX = "charges:"
_SCHEDULED = ("learning_rate", "momentum", "weight_decay")
_YARDSTICK = {1: "absolute values", 2: "squared norms"}


@dataclass(frozen=True)
class FamilyPrediction:
    """What the laws say about one family of charges, and what was measured.

    Attributes:
        name: the family's name.
        words: one line for people.
        degree: 2 for quadratic charges, 1 for linear ones.
        exact: False where the charge holds only at normalisation epsilon 0.
        sampled: True where only single steps were recorded, so the account is of these steps one by one.
        measured: the charge before every recorded step, and after the last one where the record is whole; after every
            recorded step where it is sampled.
        scale: the yardstick of a leak.
        account: the exact account, None without a law.
        law: the continuous law, None where it does not apply.
        naive: gradient flow without the finite step, None where it does not apply.
        leak: of the account.
        epsilon_leak: leak of the account without its named term, where it has one.
        named: "epsilon" where a normalisation epsilon, "rounding" where the rounding of a gradient that is zero by
            symmetry enters the account under its own name.
        law_error: error of the continuous law relative to the motion of the charge.
        naive_error: the same of the naive law.
        tolerance: largest permitted leak.
        reason: why there is no account, or no continuous law beside it; empty where there are both.
        diverged: the first recorded step with a number that is not finite, None if there is none; everything above is
            of the steps before it.
    """

    name: str
    words: str
    degree: int
    exact: bool
    sampled: bool
    measured: Series
    scale: Series
    account: Prediction | None = None
    law: Prediction | None = None
    naive: Prediction | None = None
    leak: float | None = None
    epsilon_leak: float | None = None
    named: str = ""
    law_error: float | None = None
    naive_error: float | None = None
    tolerance: float = 0.0
    reason: str = ""
    diverged: int | None = None

    @property
    def balances(self) -> bool | None:
        """Whether the account balances; None without an account."""
        return None if self.leak is None else bool(self.leak <= self.tolerance)

    def __str__(self) -> str:
        says = [] if self.balances is None else ["balances" if self.balances else "LEAKS"]
        says += [f"({self.named} named; {self.epsilon_leak:.0e} without)"] if self.named else []
        says += [] if self.diverged is None else [f"until step {self.diverged}, where numbers are no longer finite"]
        verdict = " ".join(says)
        numbers = (_short(x) for x in (self.leak, self.law_error, self.naive_error))
        return f"{self.name[:44]:<44} {' '.join(numbers)}  {'; '.join(x for x in (verdict, self.reason) if x)}"


@dataclass(frozen=True)
class Predictions:
    """Predictions for all families of a run.

    Attributes:
        run: name of the run.
        families: one entry per family of charges.
        assumed: settings that were assumed in place of the recorded ones.
    """

    run: str
    families: tuple[FamilyPrediction, ...]
    assumed: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> FamilyPrediction:
        """The family with this name.

        Returns:
            What is said about it.

        Raises:
            UnknownName: the run has no such family.
        """
        found = {f.name: f for f in self.families}
        if name not in found:
            raise UnknownName("family of charges", name, found)
        return found[name]

    @property
    def balances(self) -> bool:
        """Whether every account there is balances."""
        return all(f.balances is not False for f in self.families)

    def verdicts(self) -> list[dict[str, Any]]:
        """One entry per family and kind of statement, as a run keeps them.

        Returns:
            JSON-able dictionaries.
        """
        return [entry for f in self.families for entry in _verdicts(f)]

    def store(self, writer: RunWriter) -> None:
        """Write the predicted series and the verdicts into a run that is still open.

        Args:
            writer: the run's writer.
        """
        for f in self.families:
            made = {"account": f.account, "law": f.law, "naive": f.naive}
            columns = {k: p.series.values for k, p in made.items() if p is not None}
            if columns:
                writer.block(f"predicted:{f.name}", f.measured.steps, columns)
        writer.update(verdicts=self.verdicts())

    def __str__(self) -> str:
        head = f"{'charges':<44} {'leak':>9} {'law':>9} {'naive':>9}  verdict"
        rows = [str(f) for f in self.families] or ["no charge was recorded in this run"]
        return "\n".join([head, "-" * len(head), *rows])


def _verdicts(f: FamilyPrediction) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    common = {"family": PREFIX + f.name, "sampled": f.sampled}
    until = "" if f.diverged is None else f" before step {f.diverged}, where numbers are no longer finite"
    if f.leak is not None:
        words = f"leaks {f.leak:.1e} of the {_YARDSTICK[f.degree]} of its legs{until}"
        if f.epsilon_leak is not None:
            words += f"; without the {f.named} of its gradient {f.epsilon_leak:.1e}"
        verdict = "balances" if f.balances else "leaks"
        out.append({**common, "kind": "account", "error": f.leak, "tolerance": f.tolerance, "verdict": verdict,
                    "words": words})  # fmt: skip
    for kind, error in (("law", f.law_error), ("naive", f.naive_error)):
        if error is not None and np.isfinite(error):
            out.append({**common, "kind": kind, "error": error, "tolerance": None, "verdict": "measured",
                        "words": f"off by {error:.1e} of the charge's motion{until}"})  # fmt: skip
    return out


def _short(value: float | None) -> str:
    return f"{'-':>9}" if value is None or not np.isfinite(value) else f"{value:9.1e}"


def predict_run(run: Run | str | Path, *, assume: Mapping[str, float] | None = None) -> Predictions:
    """Apply the laws of charges to a run and compare them with what was measured.

    The account is fed the size of every update (``source``) and the first value; the continuous law is fed the same,
    and neither sees a later value of the charge. Where a run diverged, both are of the steps before.

    Args:
        run: a run, or its folder.
        assume: settings to assume in place of the recorded ones, such as ``{"weight_decay": 0.0}``: a wrong assumption
            must show as a leak.

    Returns:
        The predictions, family by family.

    Raises:
        ValueError: there is no such setting, or a value is outside its range.
    """
    run = run if isinstance(run, Run) else load(run)
    assumed = _assumed(assume or {})
    names = [n.removeprefix(PREFIX) for n in run.families if n.startswith(PREFIX)]
    scalars = run.scalars  # read once: a run that is still open is read from disk at every look
    families = [_Family(run, name, scalars) for name in names]
    moving = max((f.push for f in families), default=0.0)
    found = tuple(_predict(f, assumed, moving) for f in families)
    return Predictions(str(run.meta.get("name", run.path)), found, assumed)


def _assumed(assume: Mapping[str, float]) -> dict[str, float]:
    known = [f.name for f in fields(SGDSettings)]
    unknown = sorted(set(assume) - set(known))
    if unknown:
        raise ValueError(f"assume names {', '.join(map(repr, unknown))}; settings are {', '.join(known)}")
    wanted: dict[str, Any] = {"learning_rate": 0.0, **assume}
    try:
        SGDSettings(**wanted)
    except ValueError as error:
        raise ValueError(f"assume: {error}") from error
    return dict(assume)


class _Family:
    """One family as recorded: its columns, up to the first number that is not finite, and the run around them."""

    def __init__(self, run: Run, name: str, scalars: Mapping[str, Series]) -> None:
        self.name, self.run, self.scalars = name, run, scalars
        self.about = run.families[PREFIX + name]
        self.degree, self.exact = int(self.about["degree"]), bool(self.about["exact"])
        self.shared: list[int] = list(self.about.get("groups") or [])
        """The parameter groups that share the legs, if there are several; else empty."""
        read = {column: run.series(PREFIX + name, column) for column in self.about["columns"]}
        finite = np.all([np.isfinite(s.values).all(axis=1) for s in read.values()], axis=0)
        stop = len(finite) if finite.all() else int(np.argmin(finite))
        steps = read["value"].steps
        self.diverged = int(steps[stop]) if stop < len(steps) else None
        self.steps = steps[:stop]
        self.columns = {column: replace(s, steps=s.steps[:stop], values=s.values[:stop]) for column, s in read.items()}
        every = int(run.meta.get("settings", {}).get("every", 1))
        self.whole = bool((np.diff(self.steps) == 1).all()) and every == 1

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column].values

    def form(self, column: str) -> np.ndarray | None:
        """A recorded form, (steps, size), or (steps, groups, size) where several groups share the legs."""
        columns = [f"{column}[{group}]" for group in self.shared] or [column]
        if any(c not in self.columns for c in columns):
            return None
        return np.stack([self[c] for c in columns], axis=1) if self.shared else self[column]

    def forms(self, *wanted: str) -> dict[str, np.ndarray]:
        """Those of some forms that were recorded; the gradient's counts only where groups share the legs."""
        asked = [column for column in wanted if column != "gradient" or self.shared]
        return {column: form for column in asked if (form := self.form(column)) is not None}

    @property
    def push(self) -> float:
        """Typical size of an update of this family's legs, 0 where it was not recorded."""
        source = self.columns.get("source")
        return float(np.sqrt(np.abs(source.values).mean())) if source is not None and len(source.values) else 0.0

    def excuse(self, moving: float) -> str:
        """What may let a gradient along the symmetry into the account under its own name, if it is small enough.

        Args:
            moving: typical size of an update of the run's weights.

        Returns:
            "epsilon", "rounding", or nothing where the gradient is too large for either or was not recorded.
        """
        if "gradient" not in self.columns:
            return ""
        lever = np.ones(()) if self.degree == 1 else np.sqrt(self["scale"])
        push = np.divide(self["gradient"], lever, out=np.zeros_like(self["gradient"]), where=lever > 0)
        share = np.sqrt(np.mean(push**2))
        if not self.exact:
            return "epsilon" if share <= EPSILON * moving else ""
        return "rounding" if _precision(self.run) == "float32" and share <= ROUNDING * moving else ""

    def settings(self, assume: Mapping[str, float]) -> StepSettings:
        """The settings at every recorded step, one column for each parameter group that moves the legs."""
        legs = {leg["group"]: leg["settings"] for leg in self.about["legs"]}
        groups = self.shared or list(legs)[:1]
        empty = bool(self.run.meta.get("optimizer", {}).get("fresh", True)) and bool(self.steps[0] == 0)
        scheduled = {key: self._schedule(key, groups) for key in _SCHEDULED if key not in assume}
        made = [SGDSettings(**{**legs[group], **assume}) for group in groups]
        return step_settings(made, steps=len(self.steps), fresh=empty, **scheduled)

    def _schedule(self, key: str, groups: list[int]) -> np.ndarray | None:
        """What a scheduler changed; None where it was never recorded."""
        names = [key if group == 0 else f"{key}/{group}" for group in groups]
        if any(name not in self.scalars for name in names):
            return None
        series = [self.scalars[name] for name in names]
        at = [np.maximum(np.searchsorted(s.steps, self.steps, side="right") - 1, 0) for s in series]
        return np.stack([s.values[places] for s, places in zip(series, at, strict=True)], axis=1)


def _predict(family: _Family, assume: Mapping[str, float], moving: float) -> FamilyPrediction:
    value, scale = family.columns["value"], family.columns["scale"]
    if "after" in family.columns and len(value):
        after = family.columns["after"]
        grown = _grown(scale, after)
        value, scale = (_with_last(value, after), _with_last(scale, grown)) if family.whole else (after, grown)
    base = FamilyPrediction(
        family.name, family.about["words"], family.degree, family.exact, not family.whole, value, scale,
        tolerance=TOLERANCE[_precision(family.run)], diverged=family.diverged,
        reason=family.about.get("without_law") or ("" if len(value) else "no finite record of it"),
    )  # fmt: skip
    if base.reason:
        return base
    try:
        settings = family.settings(assume)
    except (Unsupported, ValueError) as error:
        return replace(base, reason=str(error))
    return _whole(family, base, settings, moving) if family.whole else _sampled(family, base, settings, moving)


def _with_last(series: Series, after: Series) -> Series:
    steps = np.append(series.steps, series.steps[-1] + 1)
    return replace(series, steps=steps, values=np.concatenate([series.values, after.values[-1:]]))


def _grown(scale: Series, after: Series) -> Series:
    """The yardstick after each step, recorded only before it: the legs of a charge are no less than the charge."""
    return replace(scale, values=np.maximum(scale.values, np.abs(after.values)))


def _precision(run: Run) -> str:
    return "float64" if run.meta.get("model", {}).get("dtype") == "float64" else "float32"


def _whole(family: _Family, base: FamilyPrediction, settings: StepSettings, moving: float) -> FamilyPrediction:
    first = {k: v[0] for k, v in family.forms("value", "momentum").items()}
    begin, fed = first.pop("value"), family.forms("source", "cross", "gradient")
    memory = [f"{k} at its first step" for k in first]

    def made(law: str, values: np.ndarray, *inputs: str) -> Prediction:
        used = [f"{base.name}/{k}" for k in ("value at its first step", *inputs)]
        return prediction(law, values, steps=base.measured.steps, quantity=base.name, inputs=used)

    def balance(**epsilon: np.ndarray) -> Prediction:
        accounted = account(begin, settings, degree=family.degree, **first, **fed, **epsilon)
        return made("account", accounted.value, *memory, *_inputs(fed, epsilon))

    def judged(made: Prediction) -> FamilyPrediction:
        return replace(base, account=made, leak=leak(made.series, base.measured, scale=base.scale))

    out, named = judged(balance()), family.excuse(moving)
    if named == "epsilon" or (named and not out.balances):
        out = replace(judged(balance(epsilon=family["gradient"])), named=named, epsilon_leak=out.leak)
    driven = {"source": family["source"]} if family.degree == 2 else {}
    start = {k: family[k][0] for k in ("value", *first)}
    try:
        law = made(
            "continuous", continuous(**start, settings=settings, degree=family.degree, **driven), *memory, *driven
        )
        plain = made("naive", naive(start["value"], settings, degree=family.degree))
    except (Unsupported, ValueError) as error:
        return replace(out, reason=str(error))
    moved = _moves(base)
    return replace(
        out, law=law, naive=plain,
        law_error=relative_to_motion(law.series, base.measured) if moved else None,
        naive_error=relative_to_motion(plain.series, base.measured) if moved else None,
    )  # fmt: skip


def _inputs(fed: Mapping[str, np.ndarray], epsilon: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the columns that an account was fed; its term for an epsilon is the gradient along the symmetry."""
    return [*fed, *(["gradient"] if epsilon and "gradient" not in fed else [])]


def _moves(base: FamilyPrediction) -> bool:
    """Whether the charge moved by more than its account's tolerance; below that a relative error says nothing."""
    motion = np.abs(base.measured.values - base.measured.values[:1]).max(initial=0.0)
    return bool(motion > base.tolerance * np.abs(base.scale.values).max(initial=0.0))


def _sampled(family: _Family, base: FamilyPrediction, settings: StepSettings, moving: float) -> FamilyPrediction:
    fed = family.forms("value", "source", "momentum", "gradient")

    def judged(**epsilon: np.ndarray) -> FamilyPrediction:
        terms = one_step_terms(settings=settings, degree=family.degree, **fed, **epsilon)
        values = replace(base.measured, values=family["value"] + sum(terms.values()))
        used = [f"{base.name}/{k}" for k in _inputs(fed, epsilon)]
        made = prediction("account", values.values, steps=values.steps, quantity=base.name, inputs=used)
        return replace(base, account=made, leak=leak(values, base.measured, scale=base.scale))

    out, named = judged(), family.excuse(moving)
    if named == "epsilon" or (named and not out.balances):
        return replace(judged(epsilon=family["gradient"]), named=named, epsilon_leak=out.leak)
    return out
