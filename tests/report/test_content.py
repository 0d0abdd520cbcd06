"""What is read from a run: leaks, verdicts, and columns that are missing or too short."""

import numpy as np
import pytest

from dynascope.report.content import Content, Judgement, as_float, gather, judgements, read_family
from dynascope.runs import RunWriter, load
from tests.report.builder import build


def test_leak_is_the_largest_relative_difference(run, content):
    family = content.families[0]
    value, scale = (run.series(family.key, column).values for column in ("value", "scale"))
    account = run.series(f"predicted:{family.name}", "account").values
    assert family.leak_source == f"predicted:{family.name}/account"
    slow = [max(abs(account[k, i] - value[k, i]) / scale[k, i] for i in range(family.size)) for k in range(50)]
    np.testing.assert_allclose(family.leak.values[:50], slow, rtol=1e-12)  # float64 rounding of one division


def test_without_predictions_there_is_no_leak_and_no_verdict(bare):
    assert all(family.leak is None and not family.judgements for family in bare.families)
    assert {line.column for line in bare.families[0].lines.lines} == {"value"}


def test_verdicts_are_found_with_and_without_the_prefix():
    stored = [{"family": name, "kind": "law", "error": 1.0, "verdict": "refuted"} for name in ("charges:a", "a", "b")]
    assert judgements(stored, "charges:a")["law"].source == "run.json#/verdicts/1/error"
    assert judgements(stored[:1], "charges:a")["law"].mark == "bad"
    assert judgements(stored, "charges:c") == {}


@pytest.mark.parametrize(
    ("error", "tolerance", "verdict", "mark"),
    [
        (0.1, 0.2, "inconclusive", "good"),
        (0.3, 0.2, "inconclusive", "bad"),
        (float("nan"), 0.2, "inconclusive", "bad"),
        (0.1, None, "inconclusive", "open"),
        (None, 0.2, "not_run", "open"),
        (0.3, 0.2, "supported", "good"),
        (0.1, 0.2, "refuted", "bad"),
        (0.1, None, "balances", "good"),
        (0.1, None, "leaks", "bad"),
        (0.1, None, "measured", "open"),
    ],
)
def test_mark_follows_the_stored_verdict_and_then_the_tolerance(error, tolerance, verdict, mark):
    assert Judgement("law", error, tolerance, verdict, False, "", "").mark == mark


def test_holes_in_the_steps_mean_sampled(tmp_path):
    writer = RunWriter.create(tmp_path / "r", {"name": "r"})
    writer.block("charges:a", np.array([0, 10, 20]), {"value": np.ones((3, 2))})
    writer.block("charges:b", np.array([0, 1, 2]), {"value": np.ones((3, 2))})
    writer.block("kernel", np.array([0, 1]), {"drift": np.ones((2, 2))})
    writer.finish("complete")
    content = gather(load(tmp_path / "r"))
    assert [family.sampled for family in content.families] == [True, False]
    assert [name for name, _ in content.others] == ["kernel"]


def test_a_sampled_account_is_compared_with_the_charge_after_its_step(tmp_path):
    family = read_family(build(tmp_path / "r", steps=100, every=10), "charges:scale/features.0.weight")
    assert family is not None
    assert family.sampled
    assert family.leak.values.max() < 1e-5  # the built account is off by 3e-8 and a little more with time
    assert {line.column for line in family.lines.lines} == {"value"}


def test_predictions_may_stand_beside_the_measured_columns_and_end_early(tmp_path):
    writer = RunWriter.create(tmp_path / "r", {"name": "r"})
    columns = {
        "value": np.ones((3, 2)),
        "account": np.full((3, 2), 1.5),
        "scale": np.ones((3, 2)),
        "naive": np.zeros((3, 2)),
    }
    writer.block("charges:a", np.arange(3), columns)
    writer.block("predicted:a", np.array([1, 2, 3]), {"law": np.full((3, 2), 7.0)})
    writer.finish("complete")
    family = read_family(load(tmp_path / "r"), "charges:a")
    assert family is not None
    assert family.leak.values.tolist() == [0.5, 0.5, 0.5]
    (law,) = [line for line in family.lines.lines if (line.row, line.column) == ("median", "law")]
    np.testing.assert_array_equal(law.values, [np.nan, 7.0, 7.0])
    assert law.source == "predicted:a/law"


def test_zero_difference_over_zero_scale_is_no_leak(tmp_path):
    writer = RunWriter.create(tmp_path / "r", {"name": "r"})
    zero = np.zeros((2, 1))
    columns = {"value": zero, "account": np.array([[0.0], [1.0]]), "scale": zero}
    writer.block("charges:a", np.array([0, 1]), columns)
    writer.finish("complete")
    family = read_family(load(tmp_path / "r"), "charges:a")
    assert family is not None
    assert family.leak.values.tolist() == [0.0, float("inf")]


def test_an_empty_run_is_content_too(tmp_path):
    RunWriter.create(tmp_path / "r", {}).finish("failed")
    content = gather(load(tmp_path / "r"))
    assert isinstance(content, Content)
    assert (content.families, content.steps, content.status) == ((), None, "failed")


def test_stored_numbers():
    assert as_float("inf") == float("inf")
    assert as_float(2) == 2.0
    assert as_float("many") is None
