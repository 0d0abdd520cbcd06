r"""The damped oscillator that a charge follows under momentum, in one formula for all three regimes.

q'' + 2 gamma q' + omega^2 q = 0 is solved by q(t) = q(0) (c + gamma s) + q'(0) s with

    c(t) = exp(-gamma t) cosh(r t),   s(t) = exp(-gamma t) sinh(r t) / r,   r^2 = gamma^2 - omega^2,

cosine and sine where r^2 < 0. Both functions are smooth in r^2, so critical damping is no special case; what needs
care is only that no growing exponential is ever formed and no nearly equal numbers are subtracted.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import exprel

from dynascope.mechanics.inputs import Numbers, at_least_zero, finite


def oscillator(
    value: Numbers, damping: Numbers, frequency: Numbers, time: Numbers, *, velocity: Numbers = 0.0
) -> Float[np.ndarray, "..."]:
    r"""Position of a damped oscillator at any time: under-damped, critical or over-damped.

    Solves q'' + 2 gamma q' + omega^2 q = 0. All arguments broadcast against each other.

    Args:
        value: q(0).
        damping: gamma >= 0, per unit of time.
        frequency: omega >= 0, per unit of time.
        time: times >= 0.
        velocity: q'(0).

    Returns:
        q(time).

    Raises:
        ValueError: damping, frequency or time is negative, or a number is not finite.

    Source: Kunin et al., arXiv 2012.04728, harmonic oscillator of the charges under momentum.
    Differs: the paper's code evaluates the three regimes apart and cancels digits near critical damping.

    Example:
        >>> oscillator(2.0, 0.0, np.pi, [0.0, 1.0, 2.0]).round(12).tolist()
        [2.0, -2.0, 2.0]
    """
    return oscillator_state(value, damping, frequency, time, velocity=velocity)[0]


def oscillator_state(
    value: Numbers, damping: Numbers, frequency: Numbers, time: Numbers, *, velocity: Numbers = 0.0
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Position and velocity of a damped oscillator, from which it can be continued.

    Args:
        value: q(0).
        damping: gamma >= 0, per unit of time.
        frequency: omega >= 0, per unit of time.
        time: times >= 0.
        velocity: q'(0).

    Returns:
        q(time) and q'(time).

    Raises:
        ValueError: damping, frequency or time is negative, or a number is not finite.
    """
    gamma, omega = at_least_zero("damping", damping), at_least_zero("frequency", frequency)
    even, odd = responses(gamma, omega, at_least_zero("time", time))
    start, speed = finite("value", value), finite("velocity", velocity)
    position = start * (even + gamma * odd) + speed * odd
    return np.asarray(position), np.asarray(speed * (even - gamma * odd) - start * omega**2 * odd)


def responses(
    damping: Float[np.ndarray, "..."], frequency: Float[np.ndarray, "..."], time: Float[np.ndarray, "..."]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    r"""The two responses c and s of a damped oscillator (see the head of this file), for any regime.

    Over-damped, both are written with the slow root -omega^2 / (gamma + r), which loses no digits, and with
    exprel(x) = (exp x - 1) / x, which is smooth at x = 0.

    Args:
        damping: gamma >= 0.
        frequency: omega >= 0.
        time: times >= 0.

    Returns:
        c(time), without unit, and s(time), in units of time.
    """
    square = (damping - frequency) * (damping + frequency)
    root = np.sqrt(np.abs(square))
    total = damping + root
    slow = np.divide(-(frequency**2), total, out=np.zeros_like(total * frequency), where=total > 0)
    over_scale, fade = np.exp(slow * time), -2.0 * root * time
    over = over_scale * (1.0 + np.exp(fade)) / 2.0, over_scale * time * exprel(fade)
    under_scale, angle = np.exp(-damping * time), root * time
    # numpy's sinc(x) is sin(pi x) / (pi x), smooth at 0
    under = under_scale * np.cos(angle), under_scale * time * np.sinc(angle / np.pi)
    return np.where(square >= 0, over[0], under[0]), np.where(square >= 0, over[1], under[1])
