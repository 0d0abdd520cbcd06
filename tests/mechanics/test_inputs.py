import numpy as np
import pytest

from dynascope.mechanics.inputs import at_least_zero, finite, fraction_below_one, one_of


def test_good_numbers_come_back_as_float64():
    for check in (finite, at_least_zero, fraction_below_one):
        array = check("x", np.array([0, 0.5], dtype=np.float32))
        assert array.dtype == np.float64
        assert array.tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        (finite, [0.0, np.nan], "x is nan at index 1; it must be finite"),
        (finite, -np.inf, "x is -inf; it must be finite"),
        (at_least_zero, [[0.0, 1.0], [-2.0, 0.0]], r"x is -2.0 at index \(1, 0\); it must be 0 or more"),
        (at_least_zero, np.inf, "finite"),
        (fraction_below_one, 1.0, r"x is 1.0; it must be in \[0, 1\)"),
        (fraction_below_one, -0.1, r"x is -0.1; it must be in \[0, 1\)"),
    ],
)
def test_bad_numbers_are_named_with_place_and_range(check, values, message):
    with pytest.raises(ValueError, match=message):
        check("x", values)


def test_one_of_lists_what_is_permitted():
    assert one_of("order", 1, (0, 1, 2)) == 1
    with pytest.raises(ValueError, match="order is 3; it must be 0 or 1 or 2"):
        one_of("order", 3, (0, 1, 2))
