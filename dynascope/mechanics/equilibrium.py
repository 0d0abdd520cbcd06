r"""Where weight decay and the finite step balance: stationary charges, norms, angles and effective learning rates.

Under SGD the exact second-order recursion of a quadratic charge (see ``continuous_laws``) is at rest, in the mean,
where decay meets source:

    Q = eta (1 + mu) S / (2 lambda),    S = B(u, u) of the applied direction.

For a scale symmetry the gradient is orthogonal to theta and g = g_hat / |theta|, with g_hat the gradient at unit
norm. If g_hat is white noise of mean square G, then S follows from G, and the equilibrium closes:

    Q^2 = eta G / (lambda (1 - mu) (2 - eta lambda / (1 + mu))),    Q = |theta|^2.

The angle between successive theta does not depend on the gradient at all: its cosine is 1 - eta lambda / (1 + mu).
eta stands for learning_rate (1 - dampening).

Source: Tanaka and Kunin, arXiv 2105.02716, section on implicit adaptive optimisation; angles as in Wan et al.,
arXiv 2006.08419. Differs: both papers give the limit eta lambda -> 0; these forms hold for the discrete steps.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynascope.base.errors import Unsupported
from dynascope.base.settings import SGDSettings
from dynascope.mechanics.inputs import Numbers, at_least_zero, finite, fraction_below_one


@dataclass(frozen=True)
class Equilibrium:
    """The stationary state of scale-invariant groups under SGD with weight decay.

    Attributes:
        squared_norm: |theta|^2 of each group, infinite without weight decay.
        angle: root mean square angle between successive steps, in radians.
        effective_learning_rate: learning_rate (1 - dampening) / |theta|^2, the learning rate of the direction
            theta / |theta|; with momentum the direction drifts 1 / (1 - momentum) times as fast.
        relaxation_steps: steps in which the distance to equilibrium falls by a factor e, close to it.
    """

    squared_norm: Float[np.ndarray, "..."]
    angle: float
    effective_learning_rate: Float[np.ndarray, "..."]
    relaxation_steps: float


def equilibrium(settings: SGDSettings, unit_gradient: Numbers) -> Equilibrium:
    """The stationary norm, angle per step and effective learning rate of scale-invariant groups.

    Assumes: an exact scale symmetry, gradients of successive steps independent with mean 0 and a stationary mean
    square at unit norm, and a norm that fluctuates little (relative variance about learning_rate weight_decay).
    Accuracy: the squared norm to a relative error of about learning_rate weight_decay / (1 - momentum) for such
    noise; gradients correlated over steps raise it, by up to (1 + momentum) / (1 - momentum) for constant ones.
    The angle needs only stationarity.

    Args:
        settings: constant settings of all legs.
        unit_gradient: mean square gradient at unit norm, E |theta|^2 |g|^2, one per group.

    Returns:
        The equilibrium.

    Raises:
        ValueError: a number is outside its range, or the decay is so strong that there is no equilibrium.
        Unsupported: Nesterov momentum.

    Example:
        >>> rest = equilibrium(SGDSettings(learning_rate=0.1, weight_decay=0.01), [20.0])
        >>> rest.squared_norm.round(3).tolist(), round(rest.angle, 4)
        ([10.003], 0.0447)
    """
    rate, mu, decay = _checked(settings)
    power = at_least_zero("unit_gradient", unit_gradient)
    pull = decay * (1.0 - mu) * (2.0 - rate * decay / (1.0 + mu))
    squared = np.asarray(np.sqrt(rate * power / pull)) if pull else np.full_like(power, np.inf)
    effective = np.divide(rate, squared, out=np.full_like(power, np.inf), where=squared > 0)
    return Equilibrium(
        squared_norm=squared,
        # 2 arcsin(x / 2) with x the relative step: the arc cosine would lose half the digits of a small angle
        angle=float(2.0 * np.arcsin(np.sqrt(rate * decay / (2.0 * (1.0 + mu))))),
        effective_learning_rate=effective,
        relaxation_steps=float((1.0 - mu) / (4.0 * rate * decay)) if decay else np.inf,
    )


def stationary_charge(settings: SGDSettings, source: Numbers) -> Float[np.ndarray, "..."]:
    """The value at which a quadratic charge rests for a given mean source, for any symmetry. Exact in the mean.

    Args:
        settings: constant settings of all legs.
        source: mean of B(u, u) of the applied direction, weight decay included; negative where readers move more.

    Returns:
        Q = eta (1 + mu) S / (2 lambda (1 - tau)), infinite without weight decay (0 where the source is 0 too).

    Raises:
        ValueError: a number is outside its range.
        Unsupported: Nesterov momentum.

    Example:
        >>> stationary_charge(SGDSettings(learning_rate=0.1, weight_decay=0.05), [2.0, -1.0]).tolist()
        [2.0, -1.0]
    """
    _, mu, decay = _checked(settings)
    drive = settings.learning_rate * (1.0 + mu) * finite("source", source)
    pull = 2.0 * decay * (1.0 - (settings.dampening if mu else 0.0))
    return np.divide(drive, pull, out=np.where(drive == 0, 0.0, np.copysign(np.inf, drive)), where=pull > 0)


def _checked(settings: SGDSettings) -> tuple[float, float, float]:
    """learning_rate (1 - dampening), momentum and weight decay, in the range where an equilibrium can exist."""
    if settings.nesterov:
        raise Unsupported(
            "the equilibrium under Nesterov momentum",
            "the closed form describes the heavy ball",
            "follow charge_laws.account, which is exact for Nesterov, until it is stationary",
        )
    mu = float(fraction_below_one("momentum", settings.momentum))
    tau = float(fraction_below_one("dampening", settings.dampening)) if mu else 0.0
    rate = settings.learning_rate * (1.0 - tau)
    if rate <= 0:
        raise ValueError(f"learning_rate is {settings.learning_rate}; it must be greater than 0")
    if rate * settings.weight_decay >= 1.0 + mu:
        raise ValueError(
            f"learning_rate (1 - dampening) weight_decay is {rate * settings.weight_decay}; "
            f"it must be below 1 + momentum = {1.0 + mu}, beyond which every charge diverges"
        )
    return rate, mu, settings.weight_decay
