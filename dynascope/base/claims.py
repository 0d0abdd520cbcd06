r"""Claims, predictions and verdicts: what a paper says, what was measured, and whether the two agree.

A claim is supported only if the prediction is close to the measurement *and* a control, which ought to fail, does
fail. A comparison without a control decides nothing: a tolerance that anything passes is not evidence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from dynascope.base.errors import UnknownName
from dynascope.base.series import Series

Verdict: TypeAlias = Literal["supported", "refuted", "inconclusive", "not_run"]
Kind: TypeAlias = Literal["account", "law", "forecast"]
JsonValue: TypeAlias = float | int | str | bool | list["JsonValue"] | dict[str, "JsonValue"] | None
Metric: TypeAlias = Callable[[Series, Series], float]

VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class Prediction:
    """What a law says about a quantity, together with everything it was told.

    Attributes:
        series: the predicted values.
        inputs: names of the measured quantities the law was fed. A law that was fed its own answer shows it here.
        kind: ``account`` (fed the run's own updates at every step: a health check), ``law`` (fed the measured series
            named in ``inputs``, none of them the predicted quantity after time 0) or ``forecast`` (saw nothing later
            than the time it starts to speak of).
        assumptions: what must hold for the law to apply, in words.
        source: the paper or derivation, with its equation.

    Raises:
        ValueError: ``kind`` is none of the three.
    """

    series: Series
    inputs: tuple[str, ...]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Claim:
    """A statement that a measurement can contradict.

    Attributes:
        id: short name, unique inside a study.
        statement: the claim in words, understandable without the paper.
        tolerance: the largest error with which the claim still counts as true.
        reason: why the tolerance is what it is.
        control: what is compared in place of the claimed law, in words; it ought to fail.
        factor: by how much the control's error must exceed the claim's error.
        floor: the level the control's error must exceed to count as a failure; the tolerance, unless a claim asks
            for a more drastic failure.

    Raises:
        ValueError: a number is outside its range, or the tolerance comes without a reason.
    """

    id: str
    statement: str
    tolerance: float
    reason: str
    control: str
    factor: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_demands(self.tolerance, self.factor, self.floor)
        if not self.reason.strip():
            raise ValueError(f"claim {self.id!r} gives no reason for its tolerance {self.tolerance}; state one")


@dataclass(frozen=True)
class Comparison:
    """One claim, measured: the numbers and the verdict.

    ``predicted`` and ``measured`` are short JSON values for people to read; ``error`` was computed from the full
    series. ``error`` and ``control_error`` are None where nothing was executed.
    """

    claim_id: str
    statement: str
    predicted: JsonValue
    measured: JsonValue
    error: float | None
    tolerance: float
    reason: str
    control: str
    control_error: float | None
    control_factor: float
    verdict: Verdict
    kind: Kind | None = None
    inputs: tuple[str, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, JsonValue]:
        """The comparison as strict JSON: numbers that JSON lacks are written as "nan", "inf" and "-inf"."""
        return {
            "id": self.claim_id,
            "statement": self.statement,
            "predicted": _strict(self.predicted),
            "measured": _strict(self.measured),
            "error": _strict(self.error),
            "tolerance": _strict(self.tolerance),
            "reason": self.reason,
            "control": self.control,
            "control_error": _strict(self.control_error),
            "control_factor": _strict(self.control_factor),
            "verdict": self.verdict,
            "kind": self.kind,
            "inputs": list(self.inputs),
            "note": self.note,
        }


def judge(
    error: float | None,
    tolerance: float,
    control_error: float | None,
    factor: float,
    *,
    floor: float = 0.0,
) -> Verdict:
    """Decide on a claim from its error and the error of its control.

    The rules, in this order: nothing executed -> ``not_run``; no control, or NaN anywhere -> ``inconclusive``;
    error > tolerance -> ``refuted``; the control does not fail -> ``inconclusive``; otherwise ``supported``.
    A control fails if its error reaches ``factor`` times the claim's error and also exceeds the tolerance and the
    floor: a control that would itself pass shows that the test cannot tell the two apart.

    Args:
        error: the claim's error, at least 0; None if it was not measured.
        tolerance: the largest permitted error (an error equal to it passes).
        control_error: the control's error; None without a control.
        factor: by how much the control must be worse (exactly the factor is enough), at least 1.
        floor: the level the control's error must exceed.

    Returns:
        The verdict.

    Raises:
        ValueError: tolerance or floor is negative or NaN, or factor is below 1.

    Example:
        >>> judge(0.01, 0.06, 0.9, 10.0), judge(0.01, 0.06, 0.05, 10.0), judge(0.07, 0.06, 0.9, 10.0)
        ('supported', 'inconclusive', 'refuted')
        >>> judge(0.01, 0.06, None, 10.0), judge(None, 0.06, None, 10.0)
        ('inconclusive', 'not_run')
    """
    _check_demands(tolerance, factor, floor)
    if error is None:
        return "not_run"
    if control_error is None or isnan(error) or isnan(control_error):
        return "inconclusive"
    if error > tolerance:
        return "refuted"
    fails = control_error >= factor * error and control_error > max(tolerance, floor)
    return "supported" if fails else "inconclusive"


def conclude(
    claim: Claim,
    *,
    predicted: JsonValue,
    measured: JsonValue,
    error: float,
    control_error: float | None,
    prediction: Prediction | None = None,
    note: str = "",
) -> Comparison:
    """Judge a claim whose errors are already numbers.

    Args:
        claim: the claim.
        predicted: what was predicted, as a short JSON value.
        measured: what was measured, as a short JSON value.
        error: the claim's error.
        control_error: the control's error; None without a control.
        prediction: the prediction behind the numbers, for its kind and inputs.
        note: one sentence for people, for instance what surprised.

    Returns:
        The comparison with its verdict.
    """
    return Comparison(
        claim_id=claim.id,
        statement=claim.statement,
        predicted=predicted,
        measured=measured,
        error=float(error),
        tolerance=claim.tolerance,
        reason=claim.reason,
        control=claim.control,
        control_error=None if control_error is None else float(control_error),
        control_factor=claim.factor,
        verdict=judge(error, claim.tolerance, control_error, claim.factor, floor=claim.floor),
        kind=None if prediction is None else prediction.kind,
        inputs=() if prediction is None else prediction.inputs,
        note=note,
    )


def compare(
    claim: Claim,
    predicted: Prediction,
    measured: Series,
    control: Prediction | None,
    *,
    metric: str | Metric = "relative_to_motion",
) -> Comparison:
    """Compare a predicted series with the measured one, and the control's prediction with it too.

    Args:
        claim: the claim under test.
        predicted: the law's prediction; it must cover every measured step and may be denser.
        measured: the measured series.
        control: a prediction that ought to fail; without it the verdict is ``inconclusive``.
        metric: an error metric, by its name in ``METRICS`` or as a function of (predicted, measured).

    Returns:
        The comparison with its verdict.

    Raises:
        UnknownName: no metric has this name.
        ValueError: a prediction lacks measured steps or has another shape.
    """
    error_of = metric_named(metric) if isinstance(metric, str) else metric
    return conclude(
        claim,
        predicted=summary(aligned(predicted.series, measured)),
        measured=summary(measured),
        error=error_of(predicted.series, measured),
        control_error=None if control is None else error_of(control.series, measured),
        prediction=predicted,
    )


def not_run(claim: Claim, *, note: str) -> Comparison:
    """The comparison of a claim that was not executed, with the reason in ``note``."""
    return Comparison(
        claim_id=claim.id,
        statement=claim.statement,
        predicted=None,
        measured=None,
        error=None,
        tolerance=claim.tolerance,
        reason=claim.reason,
        control=claim.control,
        control_error=None,
        control_factor=claim.factor,
        verdict="not_run",
        note=note,
    )


def overall(verdicts: list[Verdict]) -> Verdict:
    """The verdict on a whole study: the worst news wins.

    One refuted claim refutes; otherwise one inconclusive claim leaves the study inconclusive; a study is supported
    if at least one claim is and the rest were not run.

    Args:
        verdicts: those of its claims.

    Returns:
        The study's verdict.

    Example:
        >>> overall(["supported", "refuted"]), overall(["supported", "not_run"]), overall([])
        ('refuted', 'supported', 'not_run')
    """
    for verdict in ("refuted", "inconclusive", "supported"):
        if verdict in verdicts:
            return verdict
    return "not_run"


# ---------------------------------------------------------------------------------------------- error metrics


def relative_to_motion(predicted: Series, measured: Series) -> float:
    r"""Largest error of a family over time, relative to how far the family moved.

    max_k |q_hat_k - q_k|_2 / max_k |q_k - q_0|_2, norms over all entries of the family. A law that says
    "nothing moves" has error 1. The ratio is NaN, hence no verdict, for a family that did not move at all.

    Args:
        predicted: the prediction, at least at every measured step.
        measured: the measured family.

    Returns:
        The relative error.

    Source: the error metric of the neural-mechanics study.

    Example:
        >>> steps = np.arange(3)
        >>> measured = Series(steps, np.array([[1.0], [2.0], [3.0]]), "q")
        >>> relative_to_motion(Series(steps, np.array([[1.0], [2.0], [3.5]]), "q"), measured)
        0.25
    """
    error = _norms(aligned(predicted, measured).values - measured.values)
    motion = _norms(measured.values - measured.values[:1])
    return ratio(float(error.max()), float(motion.max()))


def relative_to_start(predicted: Series, measured: Series) -> float:
    """Largest error of a family over time, relative to its first value: max_k |q_hat_k - q_k| / |q_0|."""
    error = _norms(aligned(predicted, measured).values - measured.values)
    return ratio(float(error.max()), float(_norms(measured.values)[0]))


def leak(predicted: Series, measured: Series, *, scale: Series) -> float:
    """Largest leak of an account: max over steps and charges of |Q_hat - Q| / scale.

    ``scale`` is the summed squared norm (degree 2) or summed absolute value (degree 1) of each charge's legs, so that a
    charge that is a small difference of large norms is not held to a precision that rounding forbids.

    Args:
        predicted: the accounted charges, at least at every measured step.
        measured: the charges.
        scale: the yardstick, at least at every measured step.

    Returns:
        The largest leak; NaN if a number is missing, infinite where legs of no size are said to carry a charge.
    """
    error = np.abs(aligned(predicted, measured).values - measured.values)
    yardstick = np.abs(aligned(scale, measured).values)
    if np.isnan(error).any() or np.isnan(yardstick).any():
        return float("nan")
    # A charge whose legs are all exactly zero can only be right (error 0) or infinitely wrong.
    shares = np.divide(error, yardstick, out=np.where(error > 0, np.inf, 0.0), where=yardstick > 0)
    return float(shares.max())


def slope_error(slope: float, expected: float) -> float:
    """Distance of a measured slope (an order of convergence, an exponent) from the expected one."""
    return abs(slope - expected)


def outside(value: float, low: float, high: float) -> float:
    """Distance of a value from the interval [low, high]: 0 inside, so that the tolerance is 0.

    Args:
        value: what was measured.
        low: smallest accepted value.
        high: largest accepted value.

    Returns:
        The distance; NaN for NaN.

    Example:
        >>> outside(1.0, 0.9, 1.3), outside(1.5, 0.5, 1.0)
        (0.0, 0.5)
    """
    if isnan(value):
        return float("nan")
    return max(low - value, value - high, 0.0)


def distance(first: ArrayLike, second: ArrayLike) -> float:
    """Euclidean distance of two arrays of the same shape."""
    return float(np.linalg.norm(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)))


def convergence_order(step_sizes: Sequence[float], errors: Sequence[float]) -> float:
    """The power with which an error shrinks with the step size: least-squares slope of log error against log step.

    NaN, hence no verdict, if an error is 0, infinite or not a number.

    Args:
        step_sizes: at least two different positive step sizes.
        errors: the error at each of them.

    Returns:
        The slope.

    Raises:
        ValueError: fewer than two different step sizes, one that is not positive, or another number of errors.

    Example:
        >>> round(convergence_order([0.1, 0.2, 0.4], [0.01, 0.04, 0.16]), 12)
        2.0
    """
    sizes, found = np.asarray(step_sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if sizes.shape != found.shape or len(np.unique(sizes)) < 2 or not (sizes > 0).all():
        raise ValueError(
            f"step_sizes is {list(step_sizes)} with {len(errors)} errors; give two or more different positive step "
            "sizes and an error for each"
        )
    if not (np.isfinite(found) & (found > 0)).all():
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(found), 1)[0])


def ratio(numerator: float, denominator: float) -> float:
    """Quotient without warnings: NaN for 0/0 and infinite for a positive number over 0."""
    if denominator != 0.0:
        return numerator / denominator
    return float("inf") if numerator > 0.0 else float("nan")


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {"relative_to_motion": relative_to_motion, "relative_to_start": relative_to_start}
)


def metric_named(name: str) -> Metric:
    """The error metric with this name.

    Args:
        name: a key of ``METRICS``; hyphens and underscores are equal.

    Returns:
        The metric.

    Raises:
        UnknownName: no metric has this name; the known ones are listed.
    """
    key = name.replace("-", "_")
    if key not in METRICS:
        raise UnknownName("error metric", name, tuple(METRICS))
    return METRICS[key]


# ------------------------------------------------------------------------------------------------- helpers


def aligned(predicted: Series, measured: Series) -> Series:
    """The prediction at the measured steps.

    Args:
        predicted: a series that may be denser than the measured one.
        measured: the steps wanted.

    Returns:
        The predicted values at these steps.

    Raises:
        ValueError: the prediction lacks measured steps, or its entries have another shape.
    """
    missing = measured.steps[~np.isin(measured.steps, predicted.steps)]
    if missing.size:
        raise ValueError(
            f"the series {predicted.name!r} has no value at step {int(missing[0])} ({missing.size} measured steps are "
            f"missing); it must cover every measured step of {measured.name!r}"
        )
    values = predicted.values[np.searchsorted(predicted.steps, measured.steps)]
    if values.shape != measured.values.shape:
        raise ValueError(
            f"the series {predicted.name!r} has entries of shape {values.shape[1:]}, {measured.name!r} has "
            f"{measured.values.shape[1:]}; both must describe the same family"
        )
    return Series(measured.steps, values, predicted.name, predicted.unit)


def joined(members: Sequence[Series], *, name: str) -> Series:
    """Several families with the same steps side by side, as one family.

    Args:
        members: at least one series, each with one axis of entries.
        name: name of the whole.

    Returns:
        The entries of all members, in their order.

    Raises:
        ValueError: there is no member, or the steps differ.
    """
    if not members:
        raise ValueError(f"members of {name!r} is empty; give at least one series")
    for other in members[1:]:
        if not np.array_equal(other.steps, members[0].steps):
            raise ValueError(f"{other.name!r} and {members[0].name!r} have other steps; cut them with Series.until")
    return Series(members[0].steps, np.concatenate([m.values for m in members], axis=1), name, members[0].unit)


def summary(series: Series) -> JsonValue:
    """A series in two numbers, for people: the root mean square over its entries at the first and the last step."""
    size = np.sqrt(np.mean(np.square(series.values.reshape(len(series.steps), -1)), axis=1))
    return {"rms at start": float(size[0]), "rms at end": float(size[-1])}


def _norms(values: Float[np.ndarray, "records ..."]) -> Float[np.ndarray, " records"]:
    return np.linalg.norm(values.reshape(len(values), -1), axis=1)


def _check_demands(tolerance: float, factor: float, floor: float) -> None:
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance is {tolerance}; it must be at least 0")
    if not factor >= 1.0:
        raise ValueError(f"factor is {factor}; it must be at least 1 (the control has to be worse)")
    if not floor >= 0.0:
        raise ValueError(f"floor is {floor}; it must be at least 0")


def _strict(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return value
