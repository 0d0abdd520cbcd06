"""Verdicts: every branch of the rules with its boundary, and the error metrics against hand-computed values."""

import json
from functools import partial

import numpy as np
import pytest

from dynascope.base.claims import (
    METRICS,
    Claim,
    Comparison,
    Prediction,
    aligned,
    compare,
    conclude,
    convergence_order,
    distance,
    joined,
    judge,
    leak,
    metric_named,
    not_run,
    outside,
    overall,
    ratio,
    relative_to_motion,
    relative_to_start,
    slope_error,
    summary,
)
from dynascope.base.errors import UnknownName
from dynascope.base.series import Series

NAN, INF = float("nan"), float("inf")


def series(values: object, steps: object = None, name: str = "charge") -> Series:
    array = np.asarray(values, dtype=np.float64)
    return Series(np.arange(len(array)) if steps is None else np.asarray(steps), array, name)


def claim(**changes: object) -> Claim:
    settings = {"tolerance": 0.06, "reason": "1.5 times the worst measured", "control": "no law", "factor": 10.0}
    return Claim(id="law", statement="the law holds", **(settings | changes))  # pyright: ignore[reportArgumentType]


def prediction(values: object, **changes: object) -> Prediction:
    settings = {"inputs": ("source",), "kind": "law", "assumptions": (), "source": "by hand"}
    return Prediction(series(values, name="predicted"), **(settings | changes))  # pyright: ignore[reportArgumentType]


# (error, tolerance, control error, factor, floor) -> verdict
BRANCHES = {
    "nothing executed": ((None, 0.1, 5.0, 10.0, 0.0), "not_run"),
    "nothing executed, no control": ((None, 0.1, None, 10.0, 0.0), "not_run"),
    "no control": ((0.01, 0.1, None, 10.0, 0.0), "inconclusive"),
    "no control, although the error is large": ((9.0, 0.1, None, 10.0, 0.0), "inconclusive"),
    "the error is NaN": ((NAN, 0.1, 5.0, 10.0, 0.0), "inconclusive"),
    "the control is NaN": ((0.01, 0.1, NAN, 10.0, 0.0), "inconclusive"),
    "a refutation needs a control that is a number": ((9.0, 0.1, NAN, 10.0, 0.0), "inconclusive"),
    "error above the tolerance": ((0.11, 0.1, 5.0, 10.0, 0.0), "refuted"),
    "refuted even where the control is better": ((0.11, 0.1, 0.0, 10.0, 0.0), "refuted"),
    "infinite error": ((INF, 0.1, INF, 10.0, 0.0), "refuted"),
    "error exactly the tolerance": ((0.1, 0.1, 5.0, 10.0, 0.0), "supported"),
    "error just above the tolerance": ((np.nextafter(0.1, 1), 0.1, 5.0, 10.0, 0.0), "refuted"),
    "control short of the factor": ((0.05, 0.1, 0.49, 10.0, 0.0), "inconclusive"),
    "control exactly at the factor": ((0.0625, 0.1, 0.625, 10.0, 0.0), "supported"),
    "control just below the factor": ((0.0625, 0.1, np.nextafter(0.625, 0), 10.0, 0.0), "inconclusive"),
    "control that passes the tolerance itself": ((1e-14, 1e-8, 1e-10, 10.0, 0.0), "inconclusive"),
    "control exactly at the tolerance": ((1e-14, 1e-8, 1e-8, 10.0, 0.0), "inconclusive"),
    "control below the floor": ((1e-14, 1e-8, 5e-3, 10.0, 1e-2), "inconclusive"),
    "control above the floor": ((1e-14, 1e-8, 5e-2, 10.0, 1e-2), "supported"),
    "infinite control": ((0.01, 0.1, INF, 10.0, 0.0), "supported"),
    "a perfect law against a perfect control": ((0.0, 0.0, 0.0, 10.0, 0.0), "inconclusive"),
}


@pytest.mark.parametrize("case", BRANCHES, ids=str)
def test_judge_follows_the_rules(case: str) -> None:
    (error, tolerance, control, factor, floor), verdict = BRANCHES[case]
    assert judge(error, tolerance, control, factor, floor=floor) == verdict


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tolerance": -1e-9}, "tolerance is -1e-09"),
        ({"tolerance": NAN}, "tolerance is nan"),
        ({"factor": 0.5}, "factor is 0.5"),
        ({"floor": -1.0}, "floor is -1.0"),
        ({"reason": "  "}, "gives no reason"),
    ],
)
def test_a_claim_states_sensible_demands(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        claim(**changes)


def test_judge_refuses_senseless_demands() -> None:
    with pytest.raises(ValueError, match=r"factor is 0\.0"):
        judge(0.1, 0.1, 1.0, 0.0)


def test_prediction_kind_is_one_of_three() -> None:
    with pytest.raises(ValueError, match=r"'guess'; it must be one of account, law, forecast"):
        prediction([[1.0]], kind="guess")


def test_relative_to_motion_is_the_largest_error_over_the_largest_motion() -> None:
    measured = series([[7.0, 1.0], [10.0, 5.0], [7.0, 2.0]])  # moves by 5 at most
    predicted = series([[7.0, 1.0], [10.0, 5.0], [7.6, 2.8]])  # is wrong by 1 at most
    assert relative_to_motion(predicted, measured) == pytest.approx(0.2)
    still = series(np.tile([7.0, 1.0], (3, 1)))
    assert relative_to_motion(still, measured) == 1.0  # "nothing moves" is wrong by the whole motion
    assert np.isnan(relative_to_motion(still, still))
    assert relative_to_motion(measured, still) == INF


def test_relative_to_start_divides_by_the_first_value() -> None:
    assert relative_to_start(series([[3.0, 4.0], [3.0, 5.0]]), series([[3.0, 4.0], [3.0, 4.0]])) == pytest.approx(0.2)


def test_leak_divides_each_charge_by_its_own_scale() -> None:
    measured, predicted = series([[1.0, 2.0], [1.0, 2.0]]), series([[1.0, 2.0], [1.1, 2.5]])
    assert leak(predicted, measured, scale=series([[10.0, 10.0], [1.0, 100.0]])) == pytest.approx(0.1)
    assert leak(measured, measured, scale=series([[0.0, 1.0], [0.0, 1.0]])) == 0.0
    assert leak(predicted, measured, scale=series([[0.0, 1.0], [0.0, 1.0]])) == INF
    assert np.isnan(leak(predicted, measured, scale=series([[NAN, 1.0], [1.0, 1.0]])))


def test_metrics_of_single_numbers() -> None:
    assert slope_error(1.9, 2.0) == pytest.approx(0.1)
    assert outside(0.9, 0.9, 1.3) == outside(1.3, 0.9, 1.3) == outside(1.0, 0.9, 1.3) == 0.0
    assert outside(0.5, 1.0, 2.0) == outside(2.5, 1.0, 2.0) == 0.5
    assert np.isnan(outside(NAN, 0.0, 1.0))
    assert ratio(1.0, 4.0) == 0.25
    assert ratio(1.0, 0.0) == INF
    assert np.isnan(ratio(0.0, 0.0))


def test_metrics_by_name() -> None:
    assert metric_named("relative-to-motion") is METRICS["relative_to_motion"] is relative_to_motion
    with pytest.raises(UnknownName, match="relative_to_motion"):
        metric_named("relative_to_moton")


def test_aligned_takes_the_measured_steps_and_refuses_gaps() -> None:
    dense = series([[0.0], [1.0], [2.0], [3.0]])
    assert aligned(dense, series([[0.0], [2.0]], steps=[0, 2])).values.tolist() == [[0.0], [2.0]]
    with pytest.raises(ValueError, match="no value at step 4"):
        aligned(dense, series([[0.0], [2.0]], steps=[0, 4]))
    with pytest.raises(ValueError, match=r"entries of shape \(1,\)"):
        aligned(dense, series(np.zeros((2, 3))))


def test_summary_is_the_root_mean_square_at_both_ends() -> None:
    assert summary(series([[3.0, 4.0], [0.0, 2.0]])) == {
        "rms at start": pytest.approx(np.sqrt(12.5)),
        "rms at end": pytest.approx(np.sqrt(2.0)),
    }


def test_compare_measures_the_law_and_its_control() -> None:
    measured = series([[0.0], [1.0], [2.0]])
    good, bad = prediction([[0.0], [1.0], [2.02]]), prediction([[0.0], [0.0], [0.0]])
    result = compare(claim(), good, measured, bad)
    assert (result.verdict, result.kind, result.inputs) == ("supported", "law", ("source",))
    assert result.error == pytest.approx(0.01)
    assert result.control_error == 1.0
    assert compare(claim(), bad, measured, bad).verdict == "refuted"
    assert compare(claim(), good, measured, good).verdict == "inconclusive"
    assert compare(claim(), good, measured, None).verdict == "inconclusive"
    assert compare(claim(), prediction([[0.0], [NAN], [2.0]]), measured, bad).verdict == "inconclusive"


def test_compare_accepts_a_metric_by_value() -> None:
    measured, scale = series([[1.0], [1.0]]), series([[4.0], [4.0]])
    result = compare(claim(), prediction([[1.0], [1.2]]), measured, None, metric=partial(leak, scale=scale))
    assert result.error == pytest.approx(0.05)


def test_not_run_says_why() -> None:
    result = not_run(claim(), note="the files are absent")
    assert (result.verdict, result.error, result.note) == ("not_run", None, "the files are absent")


def test_a_comparison_is_strict_json() -> None:
    result = conclude(claim(), predicted={"a": INF, "b": [NAN, 1]}, measured=2.0, error=NAN, control_error=INF)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text)["predicted"] == {"a": "inf", "b": ["nan", 1]}
    assert {"id", "statement", "predicted", "measured", "error", "tolerance", "reason", "control"} <= set(
        json.loads(text)
    )


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([], "not_run"),
        (["not_run"], "not_run"),
        (["supported", "not_run"], "supported"),
        (["supported", "inconclusive", "not_run"], "inconclusive"),
        (["inconclusive", "refuted", "supported"], "refuted"),
    ],
)
def test_overall_takes_the_worst_news(verdicts: list, verdict: str) -> None:
    assert overall(verdicts) == verdict


def test_comparison_is_immutable() -> None:
    result = not_run(claim(), note="-")
    with pytest.raises(AttributeError):
        result.verdict = "supported"  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(result, Comparison)


def test_convergence_order_is_the_slope_in_logarithms() -> None:
    sizes = [0.4, 0.1, 0.2]
    assert convergence_order(sizes, [3 * size**2.5 for size in sizes]) == pytest.approx(2.5)
    assert np.isnan(convergence_order(sizes, [1.0, 0.0, 1.0]))
    assert np.isnan(convergence_order(sizes, [1.0, NAN, 1.0]))
    for wrong in ([0.1, 0.1], [0.1], [0.1, -0.2]):
        with pytest.raises(ValueError, match="two or more different positive"):
            convergence_order(wrong, [1.0] * len(wrong))
    with pytest.raises(ValueError, match="an error for each"):
        convergence_order([0.1, 0.2], [1.0])


def test_distance_is_euclidean() -> None:
    assert distance([0.0, 0.0], [3.0, 4.0]) == 5.0


def test_joined_puts_families_side_by_side() -> None:
    first, second = series([[1.0], [2.0]]), series([[3.0, 4.0], [5.0, 6.0]])
    assert joined([first, second], name="both").values.tolist() == [[1.0, 3.0, 4.0], [2.0, 5.0, 6.0]]
    with pytest.raises(ValueError, match="have other steps"):
        joined([first, series([[1.0], [2.0]], steps=[0, 2])], name="both")
    with pytest.raises(ValueError, match="'both' is empty"):
        joined([], name="both")
