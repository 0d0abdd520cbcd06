from pathlib import Path

import numpy as np
import pytest

from dynascope.runs.families import FamilyWriter
from dynascope.runs.records import as_steps, check_columns, fitting, stacked

CHECKED = "Type-check error"
"""What is said instead of our own words when the tests run with the annotations checked."""


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "'x' needs at least one column"),
        ({"value": np.ones((2, 2))}, r"x/value must be an array of real numbers up to float64 with 1 axes"),
        ({"value": 1.0}, r"x/value must be an array .* shape \(\)"),
        ({"value": np.ones(0)}, "x/value must be an array .* at least one entry"),
        ({"value": np.ones(2), "after": ["a", "b"]}, "x/after must be an array of real numbers"),
        ({"value": np.array([1j])}, "x/value .* complex128"),
        ({"value": np.array([None])}, "x/value .* object"),
        ({"value": np.ones(1, np.longdouble)}, "x/value .* up to float64"),
        ({"value": np.ones(2), "after": np.ones(3)}, r"x/after has shape \(3,\), value \(2,\)"),
    ],
)
def test_a_bad_record_is_refused_by_name(columns: dict, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{words}|{CHECKED}"):
        stacked("x", columns, axis=0)


@pytest.mark.parametrize("column", ["step", "index", "", 3, None])
def test_a_column_needs_a_name_of_its_own(column: object) -> None:
    check_columns("x", ["value", "time"])
    with pytest.raises(ValueError, match=f"{column!r} of 'x' cannot be the name of a column"):
        check_columns("x", ["value", column])


@pytest.mark.parametrize("steps", [[], [[0]], [0.0], [-1], [3, 3], [3, 2], ["0"], [True]])
def test_bad_steps_are_refused(steps: list) -> None:
    with pytest.raises(ValueError, match="steps of 'x' must be a non-empty list of increasing integers >= 0"):
        as_steps("x", steps)
    assert as_steps("x", [0, 3]).dtype == as_steps("x", np.array([0], np.uint8)).dtype == np.int64


@pytest.mark.parametrize(
    ("dtypes", "stored"),
    [(("f2", "f4"), "f4"), (("f4", "f4"), "f4"), (("f4", "f8"), "f8"), (("f4", "i4"), "f8"), (("?", "u1"), "f8")],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_columns_are_stacked_without_losing_a_digit(dtypes: tuple[str, str], stored: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    shape = (5,) if axis == 0 else (4, 5)
    columns = {name: (3 * rng.random(shape)).astype(dtype) for name, dtype in zip("ab", dtypes, strict=True)}
    values = stacked("x", columns, axis=axis)
    assert values.dtype == stored
    for place, column in enumerate(columns.values()):
        np.testing.assert_array_equal(values[..., place, :], column)


def test_columns_may_come_in_another_order(tmp_path: Path) -> None:
    writer = FamilyWriter(tmp_path, "x", columns=("a", "b", "c"), size=1, dtype="float64")
    values = np.array([[[3.0], [1.0], [2.0]]])
    np.testing.assert_array_equal(fitting(writer, np.array([0]), ["c", "a", "b"], values), [[[1.0], [2.0], [3.0]]])
