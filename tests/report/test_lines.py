"""Thinning keeps what the eye would miss, and invents nothing."""

from itertools import pairwise

import numpy as np
import pytest

from dynascope.report.lines import Line, Lines, chosen, compact, summarise, thin


def spiky(count: int = 5000, lines: int = 3) -> Lines:
    rng = np.random.default_rng(3)
    values = np.cumsum(rng.normal(size=(lines, count)), axis=1)
    values[1, count // 2 + 3] += 1000.0
    values[2, count // 7] -= 1000.0
    return Lines(np.arange(count) * 7, tuple(Line("single", f"c{i}", 0, row) for i, row in enumerate(values)))


def test_every_kept_point_was_recorded():
    drawn = spiky()
    kept = thin(drawn, 100)
    at = {step: index for index, step in enumerate(drawn.steps.tolist())}
    where = [at[step] for step in kept.steps.tolist()]
    for before, after in zip(drawn.lines, kept.lines, strict=True):
        np.testing.assert_array_equal(before.values[where], after.values)


def test_ends_and_extremes_of_every_line_stay_where_plain_striding_loses_them():
    drawn = spiky()
    kept = thin(drawn, 100)
    assert (kept.steps[0], kept.steps[-1]) == (drawn.steps[0], drawn.steps[-1])
    assert len(kept.steps) <= 100 + 2 + 2 * len(drawn.lines)
    strided = drawn.lines[1].values[:: len(drawn.steps) // 100]
    assert strided.max() < drawn.lines[1].values.max()  # the control: every 50th point misses the spike
    for before, after in zip(drawn.lines, kept.lines, strict=True):
        assert (before.values.min(), before.values.max()) == (after.values.min(), after.values.max())


def test_a_single_line_keeps_minimum_and_maximum_of_every_bucket():
    drawn = spiky(lines=3)
    drawn = Lines(drawn.steps, drawn.lines[:1])
    kept = set(thin(drawn, 100).steps.tolist())
    edges = np.linspace(0, len(drawn.steps), 51).astype(int)
    for start, stop in pairwise(edges):
        bucket = drawn.lines[0].values[start:stop]
        assert {int(drawn.steps[start + bucket.argmin()]), int(drawn.steps[start + bucket.argmax()])} <= kept


def test_the_extreme_of_a_smooth_line_stays_beside_a_noisy_one():
    steps = np.arange(5003)
    hill = 1 - ((steps - 2511) / 3000.0) ** 2
    noise = np.random.default_rng(0).normal(size=len(steps))
    lines = tuple(Line("single", name, 0, values) for name, values in (("hill", hill), ("noise", noise)))
    assert thin(Lines(steps, lines), 60).lines[0].values.max() == 1.0


def test_a_bucket_keeps_the_furthest_line_not_the_mean_of_all():
    values = np.zeros((3, 1000))
    values[0, [503, 900]] = 10.0, 10.5
    values[1:, 507], values[1:, 0] = 0.55, 1.0
    kept = thin(Lines(np.arange(1000), tuple(Line("single", "value", 0, row) for row in values)), 20)
    assert 503 in kept.steps


def test_short_lines_stay_whole_and_too_few_points_are_refused():
    drawn = spiky(count=50)
    assert thin(drawn, 50) is drawn
    with pytest.raises(ValueError, match="points = 7"):
        thin(drawn, 7)


def test_non_finite_values_survive_thinning():
    values = np.linspace(0, 1, 1000)
    values[600:] = np.nan
    values[500] = np.inf
    kept = thin(Lines(np.arange(1000), (Line("single", "value", 0, values),)), 40).lines[0].values
    assert np.isnan(kept).any()
    assert np.nanmin(kept) == 0.0


def test_summary_of_a_family_against_plain_numpy():
    value = np.random.default_rng(1).normal(size=(20, 9))
    drawn = summarise(np.arange(20), {"value": value, "law": value + 1}, {"value": "v", "law": "predicted:l"})
    lines = {(line.row, line.column): line for line in drawn.lines}
    assert lines["median", "law"].source == "predicted:l"
    assert len(drawn.lines) == 10  # median and three neurons twice, the band once
    np.testing.assert_allclose(lines["median", "law"].values, np.median(value, axis=1) + 1)
    np.testing.assert_allclose(lines["high", "value"].values, np.quantile(value, 0.9, axis=1))
    assert lines["largest", "value"].neuron == int(value[-1].argmax())
    np.testing.assert_array_equal(lines["smallest", "law"].values, value[:, int(value[-1].argmin())] + 1)


def test_small_families():
    one = summarise(np.arange(3), {"value": np.ones((3, 1))}, {"value": "v"})
    assert [line.row for line in one.lines] == ["single"]
    two = summarise(np.arange(3), {"value": np.array([[1.0, 2.0]] * 3)}, {"value": "v"})
    assert [line.row for line in two.lines] == ["median", "largest", "smallest"]


def test_diverged_neurons_are_not_chosen_and_leave_gaps_without_warning():
    value = np.ones((3, 6))
    value[-1, :2] = np.inf, np.nan
    value[1] = [np.inf, -np.inf] * 3  # a quantile between them is infinity minus infinity
    drawn = summarise(np.arange(3), {"value": value}, {"value": "v"})
    assert not {0, 1} & {line.neuron for line in drawn.lines}
    assert chosen(np.array([np.nan, 1.0])) == {}


def test_compact_rounds_and_marks_gaps():
    assert compact(np.array([1 / 3, 2.0, np.inf, -1e-20])) == [0.333333, 2, None, -1e-20]
