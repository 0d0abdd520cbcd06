"""The oscillator against arithmetic with 60 digits, across the three regimes."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from dynascope.mechanics.oscillator import oscillator, oscillator_state

getcontext().prec = 60


def exact(value, damping, frequency, time, velocity=0.0):
    """The Taylor series of the solution in 60-digit decimals: q(n+2) = -2 gamma q(n+1) - omega^2 q(n)."""
    gamma, square = Decimal(damping), Decimal(frequency) ** 2
    older, newer, t = Decimal(value), Decimal(velocity), Decimal(time)
    total, factor = older, Decimal(1)
    for n in range(1, 500):
        factor *= t / n
        total += newer * factor
        older, newer = newer, -2 * gamma * newer - square * older
    return float(total)


NEAR_CRITICAL = [1.0 + sign * 10.0**-k for k in range(1, 17) for sign in (-1, 1)]


@pytest.mark.parametrize("time", [1e-9, 0.1, 3.0, 20.0])
@pytest.mark.parametrize("velocity", [0.0, -0.7])
def test_all_regimes_have_full_precision(velocity, time):
    frequencies = np.array([0.0, 1e-8, 1e-3, 0.5, *NEAR_CRITICAL, 1.0, 1.5, 3.0])
    computed = oscillator(1.3, 1.0, frequencies, time, velocity=velocity)
    expected = [exact(1.3, 1.0, float(w), time, velocity) for w in frequencies]
    # angles up to 60 carry a rounding of 60 eps; relative to the envelope where the swing passes zero
    np.testing.assert_allclose(computed, expected, rtol=1e-14, atol=1e-14 * np.exp(-time))


def test_textbook_forms_of_the_three_regimes():
    t = np.linspace(0, 5, 7)
    under = 2 * np.exp(-0.5 * t) * (np.cos(2 * t) + 0.25 * np.sin(2 * t))
    np.testing.assert_allclose(oscillator(2.0, 0.5, np.sqrt(4.25), t), under, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(oscillator(2.0, 0.5, 0.5, t), 2 * np.exp(-0.5 * t) * (1 + 0.5 * t), rtol=1e-14)
    slow, fast = -0.25, -1.75
    over = 2 * (slow * np.exp(fast * t) - fast * np.exp(slow * t)) / (slow - fast)
    np.testing.assert_allclose(oscillator(2.0, 1.0, np.sqrt(slow * fast), t), over, rtol=1e-13)


def test_equation_of_motion_is_solved():
    for gamma, omega in ((0.3, 2.0), (2.0, 2.0), (3.0, 1.0)):
        path = solve_ivp(
            lambda _, y, g=gamma, w=omega: [y[1], -2 * g * y[1] - w**2 * y[0]],
            (0, 2),
            [1.0, 0.4],
            method="DOP853",
            rtol=1e-12,
            atol=1e-13,
        )
        state = oscillator_state(1.0, gamma, omega, 2.0, velocity=0.4)
        np.testing.assert_allclose(state, path.y[:, -1], rtol=1e-9)


@pytest.mark.parametrize(("gamma", "omega"), [(0.3, 2.0), (2.0, 2.0), (3.0, 1.0), (0.0, 0.0)])
def test_flow_laws(gamma, omega):
    times = np.array([0.0, 0.4, 1.7])
    assert oscillator(1.5, gamma, omega, 0.0, velocity=3.0) == 1.5
    single = [oscillator(1.5, gamma, omega, t, velocity=3.0) for t in times]
    np.testing.assert_array_equal(oscillator(1.5, gamma, omega, times, velocity=3.0), single)
    q, speed = oscillator_state(1.5, gamma, omega, 0.4, velocity=3.0)
    np.testing.assert_allclose(oscillator(q, gamma, omega, 1.3, velocity=speed), single[-1], rtol=1e-13)


def test_long_times_neither_overflow_nor_stall():
    # beta = 0, eta = 0.1, a million steps: gamma t = 1e6, and the slow root is -omega^2 / (2 gamma) = -1e-5
    far = oscillator(1.0, 10.0, np.sqrt(2e-4), 1e5)
    assert np.isclose(far, np.exp(-1.0), rtol=1e-5)
    assert oscillator(1.0, 10.0, 0.0, 1e9) == 1.0
    assert oscillator(1.0, 1.0, 5.0, 1e6) == 0.0
    assert oscillator(2.0, 0.0, 0.0, 3.0, velocity=1.0) == 5.0


@pytest.mark.parametrize("bad", [{"damping": -1.0}, {"frequency": -1.0}, {"time": [-1.0]}, {"value": np.nan}])
def test_bad_input_is_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        oscillator(**({"value": 1.0, "damping": 1.0, "frequency": 1.0, "time": 1.0} | bad))
