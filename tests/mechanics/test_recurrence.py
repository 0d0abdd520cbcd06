from fractions import Fraction

import numpy as np
import pytest

from dynascope.mechanics.recurrence import accumulate


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 10, 99, 100, 101])
def test_states_are_those_of_a_plain_loop(steps):
    rng = np.random.default_rng(steps)
    initial, drive = rng.normal(size=(3, 2, 5)), rng.normal(size=(steps, 3, 2, 5))
    change = 0.5 * rng.normal(size=(steps, 3, 2, 2))
    states = accumulate(initial, change, drive)
    assert states.shape == (steps + 1, 3, 2, 5)
    expected = initial.copy()
    np.testing.assert_array_equal(states[0], initial)
    for step in range(steps):
        expected = np.stack([(np.eye(2) + change[step, g]) @ expected[g] + drive[step, g] for g in range(3)])
        np.testing.assert_allclose(states[step + 1], expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_changes_that_1_would_swallow_are_kept():
    # 1 + 3e-17 is 1 in float64; ten thousand such steps are not nothing, and exact arithmetic knows what they are
    steps, tiny = 10_000, 3e-17
    states = accumulate(np.ones((1, 1)), np.full((steps, 1, 1), tiny), np.zeros((steps, 1, 1)))
    expected = float((1 + Fraction(tiny)) ** 100 - 1) * 100
    # the starts of 100 blocks are rounded once each, by half of 2.2e-16
    assert abs((states[-1].item() - 1.0) - expected) < 1.2e-14


def test_arguments_are_left_alone():
    initial, change, drive = np.ones((1, 1)), np.full((2, 1, 1), -0.5), np.zeros((2, 1, 1))
    accumulate(initial, change, drive)
    assert initial.item() == 1.0
    assert (change == -0.5).all()
    assert not drive.any()
