import contextlib

import numpy as np
import pytest

from dynascope.base import series as module
from dynascope.base.errors import UnknownName
from dynascope.base.series import REDUCTIONS, Series, mean_over, reduce, standard_error_over, tail

CHECKED = "Type-check error"
"""What is said instead of our own words when the tests run with the annotations checked."""


def random_series(records: int = 7, shape: tuple[int, ...] = (3,), seed: int = 0) -> Series:
    rng = np.random.default_rng(seed)
    return Series(np.cumsum(rng.integers(1, 5, records)), rng.normal(size=(records, *shape)), name="noise", unit="m")


def slow(series: Series, reduce_list: object) -> np.ndarray:
    """Each entry on its own, as plain Python lists."""
    entries = series.values.reshape(len(series), -1)
    answers = [reduce_list([float(x) for x in entry]) for entry in entries.T]  # type: ignore[operator]
    return np.array(answers).reshape(series.values.shape[1:])


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("mean", lambda v: sum(v) / len(v)),
        ("median", middle),
        ("final", lambda v: v[-1]),
        ("max_abs", lambda v: max(abs(x) for x in v)),
    ],
)
def test_reductions_agree_with_plain_python(name: str, plain: object, shape: tuple[int, ...]) -> None:
    series = random_series(shape=shape)
    answer = reduce(series, name)
    assert answer.shape == shape
    np.testing.assert_allclose(answer, slow(series, plain), rtol=1e-14)  # a sum of seven numbers in float64
    assert not np.allclose(answer, slow(series, sum))  # the control: another reduction differs


def test_slope_is_the_least_squares_line() -> None:
    series = random_series(records=20)
    design = np.stack([np.ones(20), series.steps], axis=1)
    expected = np.linalg.lstsq(design, series.values, rcond=None)[0][1]
    np.testing.assert_allclose(module.slope(series), expected, rtol=1e-10)  # another algorithm, 20 records
    assert not np.allclose(module.slope(series), (series.values[-1] - series.values[0]) / 20)


def test_quantile_interpolates() -> None:
    series = Series(np.arange(5), np.array([4.0, 0.0, 1.0, 3.0, 2.0]), name="x")
    assert reduce(series, "quantile", q=0.125) == 0.5
    with pytest.raises(ValueError, match=r"q must lie in \[0, 1\], got 2"):
        reduce(series, "quantile", q=2.0)


def test_every_reduction_refuses_an_empty_series() -> None:
    empty = Series(np.empty(0, np.int64), np.empty((0, 2)), name="nothing")
    for name, function in REDUCTIONS.items():
        with pytest.raises(ValueError, match="'nothing' has 0 records"):
            function(empty, **({"q": 0.5} if name == "quantile" else {}))


def test_nan_is_not_swallowed() -> None:
    series = Series(np.arange(2), np.array([np.nan, 1.0]), name="x")
    assert np.isnan([reduce(series, name) for name in ("mean", "median", "max_abs", "slope")]).all()


def test_an_unknown_reduction_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="median"):
        reduce(random_series(), "medain")


def test_tail_keeps_the_end() -> None:
    series = Series(np.arange(10), np.arange(10.0), name="x", unit="s")
    assert tail(series, fraction=0.3).values.tolist() == [7.0, 8.0, 9.0]
    assert tail(series, fraction=0.3).steps.tolist() == [7, 8, 9]
    assert tail(series, fraction=0.3).unit == "s"
    assert tail(series, fraction=0.001).values.tolist() == [9.0]
    with pytest.raises(ValueError, match="fraction"):
        tail(series, fraction=0.0)


def test_until_includes_the_step() -> None:
    series = Series(np.array([0, 5, 9]), np.array([1.0, 2.0, 3.0]), name="x")
    assert [len(series.until(step)) for step in (-1, 0, 4, 5, 9, 99)] == [0, 1, 1, 2, 3, 3]


def test_over_seeds() -> None:
    members = [random_series(seed=0), Series(random_series().steps, random_series(seed=1).values, name="b")]
    stacked = np.stack([member.values for member in members])
    np.testing.assert_array_equal(mean_over(members).values, (stacked[0] + stacked[1]) / 2)
    # For two members the standard error is half their distance.
    np.testing.assert_allclose(standard_error_over(members).values, np.abs(stacked[0] - stacked[1]) / 2, rtol=1e-13)
    with pytest.raises(ValueError, match="at least 2 series, got 1"):
        standard_error_over(members[:1])
    with pytest.raises(ValueError, match="share steps"):
        mean_over([members[0], members[0].until(4)])
    with pytest.raises(ValueError, match="share steps"):
        mean_over([members[0], Series(members[0].steps + 1, members[0].values, name="late")])
    with pytest.raises(ValueError, match="at least 1 series, got 0"):
        mean_over([])


def test_narrower_types_are_widened() -> None:
    with contextlib.suppress(TypeError):  # refused where the tests run with the annotations checked
        series = Series(np.arange(2, dtype=np.int32), np.ones(2, np.float32), name="x")
        assert (series.steps.dtype, series.values.dtype) == (np.int64, np.float64)


def test_arrays_are_read_only() -> None:
    values = np.ones(2)
    series = Series(np.arange(2), values, name="x")
    with pytest.raises(ValueError, match="read-only"):
        series.values[0] = 5.0
    values[0] = 5.0  # the caller's array stays his own


@pytest.mark.parametrize(
    ("steps", "values", "words"),
    [
        ([0, 1], [1.0], "one record per step"),
        ([[0]], [1.0], "one-dimensional"),
        ([0, 0], [1.0, 2.0], "0 followed by 0"),
        ([3, 5, 4], [1.0, 2.0, 3.0], "5 followed by 4"),
        ([0.5, 1.0], [1.0, 2.0], "convertible to int64"),
        ([0, 1], [1j, 2j], "convertible to float64"),
    ],
)
def test_bad_arrays_are_refused(steps: list, values: list, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{words}|{CHECKED}"):
        Series(np.array(steps), np.array(values), name="x")
