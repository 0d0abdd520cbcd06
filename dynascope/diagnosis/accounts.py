"""The laws of charges applied to a run, beside what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynascope.base.claims import Prediction, leak, relative_to_motion
from dynascope.base.errors import Unsupported
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
PREFIX = "charges:"
_SCHEDULED = ("learning_rate", "momentum", "weight_decay")


@dataclass(frozen=True)
class FamilyPrediction:
    """What the laws say about one family of charges, and what was measured.

    Attributes:
        name: the family's name.
        words: one line for people.
        exact: False where the charge holds only at normalisation epsilon 0.
        sampled: True where only single steps were recorded, so the account is of these steps one by one.
        measured: the charge before every recorded step, and after the last one where the record is whole.
        scale: the yardstick of a leak.
        account: the exact account, None without a law.
        law: the continuous law, None where it does not apply.
        naive: gradient flow without the finite step, None where it does not apply.
        leak: of the account.
        epsilon_leak: leak of the account without its epsilon term, for a charge that is not exact.
        law_error: error of the continuous law relative to the motion of the charge.
        naive_error: the same of the naive law.
        tolerance: largest permitted leak.
        reason: why there is no law, or an empty string.
    """

    name: str
    words: str
    exact: bool
    sampled: bool
    measured: Series
    scale: Series
    account: Prediction | None = None
    law: Prediction | None = None
    naive: Prediction | None = None
    leak: float | None = None
    epsilon_leak: float | None = None
    law_error: float | None = None
    naive_error: float | None = None
    tolerance: float = 0.0
    reason: str = ""

    @property
    def balances(self) -> bool | None:
        """Whether the account balances; None without an account."""
        return None if self.leak is None else bool(self.leak <= self.tolerance)


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
        return next(f for f in self.families if f.name == name)

    @property
    def balances(self) -> bool:
        """Whether every account there is balances."""
        return all(f.balances is not False for f in self.families)

    def verdicts(self) -> list[dict[str, Any]]:
        """One entry per family and kind of statement, as a run keeps them.

        Returns:
            JSON-able dictionaries.
        """
        out: list[dict[str, Any]] = []
        for f in self.families:
            common = {"family": PREFIX + f.name, "sampled": f.sampled}
            if f.leak is not None:
                words = f"leaks {f.leak:.1e} of the squared norms of its legs"
                if f.epsilon_leak is not None:
                    words += f"; without its epsilon term {f.epsilon_leak:.1e}"
                verdict = "balances" if f.balances else "leaks"
                out.append({**common, "kind": "account", "error": f.leak, "tolerance": f.tolerance, "verdict": verdict,
                            "words": words})  # fmt: skip
            for kind, error in (("law", f.law_error), ("naive", f.naive_error)):
                if error is not None and np.isfinite(error):
                    out.append({**common, "kind": kind, "error": error, "tolerance": None, "verdict": "measured",
                                "words": f"off by {error:.1e} of the charge's motion"})  # fmt: skip
        return out

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
        lines = [head, "-" * len(head)]
        for f in self.families:
            verdict = f.reason or ("balances" if f.balances else "LEAKS") + ("" if f.exact else " (epsilon term named)")
            lines.append(f"{f.name[:44]:<44} {_short(f.leak)} {_short(f.law_error)} {_short(f.naive_error)}  {verdict}")
        return "\n".join(lines)


def _short(value: float | None) -> str:
    return f"{'-':>9}" if value is None or not np.isfinite(value) else f"{value:9.1e}"


def predict_run(run: Run | str | Path, *, assume: Mapping[str, float] | None = None) -> Predictions:
    """Apply the laws of charges to a run and compare them with what was measured.

    The account is fed the size of every update (``source``) and the first value; the continuous law is fed the same, and
    neither sees a later value of the charge.

    Args:
        run: a run, or its folder.
        assume: settings to assume in place of the recorded ones, such as ``{"weight_decay": 0.0}``: a wrong assumption
            must show as a leak.

    Returns:
        The predictions, family by family.
    """
    run = run if isinstance(run, Run) else load(run)
    names = [n for n in run.families if n.startswith(PREFIX)]
    found = tuple(_family(run, n.removeprefix(PREFIX), dict(assume or {})) for n in names)
    return Predictions(str(run.meta.get("name", run.path)), found, dict(assume or {}))


def _family(run: Run, name: str, assume: Mapping[str, float]) -> FamilyPrediction:
    about = run.families[PREFIX + name]
    value, scale = run.series(PREFIX + name, "value"), run.series(PREFIX + name, "scale")
    whole = bool(len(value) and (np.diff(value.steps) == 1).all())
    columns = set(about["columns"])
    if whole and len(value) and "after" in columns:
        after = run.series(PREFIX + name, "after")
        value, scale = _with_last(value, after), _with_last(scale, scale)
    base = FamilyPrediction(
        name, about["words"], bool(about["exact"]), not whole, value, scale,
        tolerance=TOLERANCE[_precision(run)], reason=about.get("without_law") or "",
    )  # fmt: skip
    if base.reason or not len(value):
        return base
    try:
        settings = _settings(run, about, value.steps[:-1] if whole else value.steps, assume)
    except (Unsupported, ValueError) as error:
        return replace(base, reason=str(error))
    return _whole(run, base, about, settings) if whole else _sampled(run, base, about, settings)


def _with_last(series: Series, after: Series) -> Series:
    steps = np.append(series.steps, series.steps[-1] + 1)
    return Series(steps, np.concatenate([series.values, after.values[-1:]]), name=series.name, unit=series.unit)


def _precision(run: Run) -> str:
    return "float64" if run.meta.get("model", {}).get("dtype") == "float64" else "float32"


def _settings(run: Run, about: Mapping[str, Any], steps: np.ndarray, assume: Mapping[str, float]) -> StepSettings:
    groups = _leg_groups(about)
    legs = {leg["group"]: leg["settings"] for leg in about["legs"]}
    made = [SGDSettings(**(legs[g] | dict(assume))) for g in groups]
    return step_settings(
        made, steps=len(steps), fresh=bool(len(steps) and steps[0] == 0),
        **{key: _schedule(run, key, groups, steps) for key in _SCHEDULED if key not in assume},
    )  # fmt: skip


def _leg_groups(about: Mapping[str, Any]) -> list[int]:
    return list(about.get("groups") or []) or sorted({leg["group"] for leg in about["legs"]})[:1]


def _schedule(run: Run, key: str, groups: list[int], steps: np.ndarray) -> np.ndarray | None:
    """What a scheduler changed, one column per leg group; None where it was never recorded."""
    columns = []
    for group in groups:
        name = key if group == 0 else f"{key}/{group}"
        if name not in run.scalars:
            return None
        series = run.scalars[name]
        at = np.searchsorted(series.steps, steps, side="right") - 1
        columns.append(series.values[np.maximum(at, 0)])
    return np.stack(columns, axis=1)


def _forms(run: Run, name: str, about: Mapping[str, Any], column: str) -> np.ndarray | None:
    """A recorded form, (steps, size), or (steps, groups, size) where several groups share the legs."""
    groups = about.get("groups") or []
    columns = [f"{column}[{g}]" for g in groups] if groups else [column]
    if any(c not in about["columns"] and c not in _recorded(run, name) for c in columns):
        return None
    series = [run.series(PREFIX + name, c).values for c in columns]
    return np.stack(series, axis=1) if groups else series[0]


def _recorded(run: Run, name: str) -> set[str]:
    return set(run.families[PREFIX + name].get("recorded", ())) | set(run.families[PREFIX + name]["columns"])


def _inputs(run: Run, name: str, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    wanted = ("value", "momentum", "source", "cross")
    found = {c: _forms(run, name, about, c) for c in wanted}
    if about.get("groups"):
        found["gradient"] = _forms(run, name, about, "gradient")
    return {c: v for c, v in found.items() if v is not None}


def _whole(run: Run, base: FamilyPrediction, about: Mapping[str, Any], settings: StepSettings) -> FamilyPrediction:
    inputs, degree, steps = _inputs(run, base.name, about), int(about["degree"]), base.measured.steps
    fed = {k: v for k, v in inputs.items() if k in {"source", "cross", "gradient"}}
    start = {"momentum": inputs["momentum"][0]} if "momentum" in inputs else {}
    used = (f"{base.name}/value at its first step", *(f"{base.name}/{k}" for k in fed))

    def made(law: str, values: np.ndarray) -> Prediction:
        return prediction(law, values, steps=steps, quantity=base.name, inputs=used)

    epsilon = None if base.exact else run.series(PREFIX + base.name, "gradient").values
    named = {} if epsilon is None else {"epsilon": epsilon}
    exact = made("account", account(inputs["value"][0], settings, degree=degree, **fed, **start, **named).value)
    out = replace(base, account=exact, leak=leak(exact.series, base.measured, scale=base.scale))
    if epsilon is not None:
        bare = made("account", account(inputs["value"][0], settings, degree=degree, **fed, **start).value)
        out = replace(out, epsilon_leak=leak(bare.series, base.measured, scale=base.scale))
    value = run.series(PREFIX + base.name, "value").values[0]
    source = run.series(PREFIX + base.name, "source").values if degree == 2 else None
    try:
        law = made("continuous", continuous(value, settings, degree=degree, source=source))
        plain = made("naive", naive(value, settings, degree=degree))
    except (Unsupported, ValueError) as error:
        return replace(out, reason="" if out.leak is not None else str(error))
    moved = _moves(base)
    return replace(
        out, law=law, naive=plain,
        law_error=relative_to_motion(law.series, base.measured) if moved else None,
        naive_error=relative_to_motion(plain.series, base.measured) if moved else None,
    )  # fmt: skip


def _moves(base: FamilyPrediction) -> bool:
    """Whether the charge moved by more than its account's tolerance; below that a relative error says nothing."""
    motion = np.abs(base.measured.values - base.measured.values[:1]).max(initial=0.0)
    return bool(motion > base.tolerance * np.abs(base.scale.values).max(initial=0.0))


def _sampled(run: Run, base: FamilyPrediction, about: Mapping[str, Any], settings: StepSettings) -> FamilyPrediction:
    inputs = _inputs(run, base.name, about)
    fed = {k: v for k, v in inputs.items() if k in {"source", "momentum", "gradient"}}
    if not base.exact:
        fed["epsilon"] = run.series(PREFIX + base.name, "gradient").values
    terms = one_step_terms(inputs["value"], settings, degree=int(about["degree"]), **fed)
    after = run.series(PREFIX + base.name, "after")
    predicted = replace(after, values=run.series(PREFIX + base.name, "value").values + sum(terms.values()))
    used = tuple(f"{base.name}/{k}" for k in ("value", *fed))
    made = prediction("account", predicted.values, steps=after.steps, quantity=base.name, inputs=used)
    return replace(base, measured=after, account=made, leak=leak(predicted, after, scale=base.scale))
