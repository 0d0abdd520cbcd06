r"""The continuous laws of a charge under SGD with momentum: an oscillator, driven by the squared velocity.

Eliminating B(theta, v) from the exact account of the heavy ball leaves, with no approximation,

    Q(k+1) - Q(k) = mu (Q(k) - Q(k-1)) - d eta lambda Q(k) + eta^2 (S(k+1) + mu S(k)),

where d is the charge's degree, S(k+1) = B(v, v) of the velocity applied at step k, and eta stands for
learning_rate (1 - dampening), v for the velocity per unit of that time. Its continuous form is

    Q'' + 2 gamma Q' + omega^2 Q = 2 S,
    gamma = (1 - mu) / (eta (1 + mu)),   omega^2 = 2 d lambda / (eta (1 + mu)),

and S = 0 for a linear charge. From a start with buffer v(0) the slow motion of the steps is met by the start
velocity Q'(0) = -d (lambda Q + 2 mu B(theta, v(0))) / (1 + mu), so that the error is of second order in eta.

Source: Kunin et al., arXiv 2012.04728. Differs: (1) the paper starts at rest, Q'(0) = 0, which is of first order;
the half-step velocity, Q'(0) = -d lambda Q / 2, still is, unless mu is close to 1. (2) the paper drops Q'' where
there is no momentum; that law is ``first_order`` here. (3) the driven part is propagated step by step, in place of
an integral over growing exponentials that needs 128-bit floats.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import exprel

from dynascope.mechanics.inputs import Numbers, finite, fraction_below_one, one_of
from dynascope.mechanics.oscillator import responses
from dynascope.mechanics.recurrence import accumulate
from dynascope.mechanics.step_settings import StepSettings, effective_learning_rate, uniform

# Gauss-Legendre points on one step. Within the stability bound both rates times the step stay below 2, where 16
# points integrate the response to rounding.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def continuous(
    value: Numbers,
    settings: StepSettings,
    *,
    degree: int,
    source: Numbers | None = None,
    momentum: Numbers = 0.0,
) -> Float[np.ndarray, "steps1 size"]:
    """The second-order law: a charge before each step and after the last, from its first value and its source.

    Second order in the learning rate at fixed time. Settings may change from step to step (the law holds piecewise,
    on the clock of ``step_settings.clock``); the source is held constant during its step and integrated exactly.

    Args:
        value: the charge before the first step, (size,).
        settings: settings shared by all legs.
        degree: 2 for quadratic charges, 1 for linear ones.
        source: measured B(u, u) of the direction applied at each step, weight decay included; None means 0.
        momentum: B(theta, v) before the first step, 0 for an empty buffer.

    Returns:
        The predicted charges.

    Raises:
        ValueError: an input has the wrong shape or is not finite, the dampening is outside [0, 1), or the decay is
            so strong that the steps themselves would be unstable.
        Unsupported: Nesterov momentum, or legs with different settings.

    Example:
        >>> from dynascope.base.settings import SGDSettings
        >>> from dynascope.mechanics.step_settings import step_settings
        >>> settings = step_settings(SGDSettings(learning_rate=0.1, weight_decay=0.5), steps=20)
        >>> continuous([1.0], settings, degree=1)[-1].round(3).tolist(), round(0.95**20, 3)
        ([0.359], 0.358)
    """
    settings = uniform(settings, "the continuous law")
    step = _stable_steps(settings, degree)
    initial = _initial(value, momentum, settings, degree)
    change, push = _transition(settings, step, degree)
    force = 2.0 * _source(source, settings, degree, initial.shape[-1])
    return accumulate(initial, change, push[..., None] * force[:, None])[:, 0]


def first_order(
    value: Numbers, settings: StepSettings, *, degree: int, source: Numbers | None = None
) -> Float[np.ndarray, "steps1 size"]:
    r"""The paper's law without momentum: Q' = -d lambda Q + eta S.

    Q(t) = exp(-d lambda t) Q(0) + eta \int exp(-d lambda (t - x)) S(x) dx. First order in the learning rate where
    there is decay; exact where there is none.

    Args:
        value: the charge before the first step, (size,).
        settings: settings shared by all legs, with momentum 0.
        degree: 2 for quadratic charges, 1 for linear ones.
        source: B(g, g) or B(u, u) at each step; the two differ by lambda^2 Q, beyond the law's accuracy.

    Returns:
        The predicted charges, before each step and after the last.

    Raises:
        ValueError: there is momentum, an input has the wrong shape or is not finite, or the decay is too strong.
        Unsupported: legs with different settings.
    """
    settings = uniform(settings, "the first-order law")
    if settings.momentum.any():
        raise ValueError(f"momentum is {settings.momentum.max()}; it must be 0, or use the law ``continuous``")
    step = _stable_steps(settings, degree)
    initial = finite("value", value)[None]
    rate = degree * settings.weight_decay[:, 0]
    force = _source(source, settings, degree, initial.shape[-1])
    # (1 - exp(-rate step)) / rate, smooth at rate 0
    width = step * exprel(-rate * step)
    return accumulate(initial, np.expm1(-rate * step)[:, None, None], (step * width)[:, None, None] * force[:, None])[
        :, 0
    ]


def naive(value: Numbers, settings: StepSettings, *, degree: int) -> Float[np.ndarray, "steps1 size"]:
    """The law of gradient flow, which knows no finite step: pure exponential decay. A control, meant to fail.

    Q(t) = Q(0) exp(-d lambda t / (1 - mu)).

    Args:
        value: the charge before the first step, (size,).
        settings: settings shared by all legs.
        degree: 2 for quadratic charges, 1 for linear ones.

    Returns:
        The charge before each step and after the last.

    Raises:
        ValueError: an input is not finite.
        Unsupported: Nesterov momentum, or legs with different settings.
    """
    settings = uniform(settings, "the law of gradient flow")
    one_of("degree", degree, (1, 2))
    rate = effective_learning_rate(settings) * settings.weight_decay / (1.0 - settings.momentum)
    exponent = np.concatenate([[0.0], np.cumsum(rate[:, 0])])
    return np.exp(-degree * exponent)[:, None] * finite("value", value)


def damping_and_frequency(
    learning_rate: float, *, momentum: float, weight_decay: float, degree: int, dampening: float = 0.0
) -> tuple[float, float]:
    """The oscillator of a charge at constant settings: gamma and omega per unit of time.

    Under-damped where gamma < omega: the charge then swings through zero on its way down.

    Args:
        learning_rate: eta > 0.
        momentum: mu in [0, 1).
        weight_decay: lambda >= 0.
        degree: 2 for quadratic charges, 1 for linear ones.
        dampening: tau in [0, 1).

    Returns:
        gamma and omega.

    Raises:
        ValueError: a number is outside its range.

    Example:
        >>> damping_and_frequency(0.1, momentum=0.9, weight_decay=0.05, degree=2)  # under-damped
        (0.526..., 1.025...)
    """
    one_of("degree", degree, (1, 2))
    if not learning_rate > 0:
        raise ValueError(f"learning_rate is {learning_rate}; it must be greater than 0")
    mu, tau = float(fraction_below_one("momentum", momentum)), float(fraction_below_one("dampening", dampening))
    if not 0 <= weight_decay < np.inf:
        raise ValueError(f"weight_decay is {weight_decay}; it must be 0 or more")
    mass = learning_rate * (1.0 - tau) * (1.0 + mu)
    return (1.0 - mu) / mass, float(np.sqrt(2.0 * degree * weight_decay / mass))


def _transition(
    settings: StepSettings, step: Float[np.ndarray, " steps"], degree: int
) -> tuple[Float[np.ndarray, "steps 2 2"], Float[np.ndarray, "steps 2"]]:
    """How one step changes (Q, Q'): a matrix, and the push of a unit force, both exact."""
    # In gamma eta and (omega eta)^2 everything stays finite when a schedule takes the learning rate to 0: the
    # position then rests while the velocity keeps forgetting.
    mu, decay = settings.momentum[:, 0], settings.weight_decay[:, 0]
    gamma, stiffness = (1.0 - mu) / (1.0 + mu), 2.0 * degree * decay / (1.0 + mu)
    omega = np.sqrt(stiffness * step)
    even, odd = responses(gamma, omega, np.ones_like(gamma))
    points = (_NODES + 1.0) / 2.0
    area = sum(
        weight / 2.0 * responses(gamma, omega, np.full_like(gamma, point))[1]
        for point, weight in zip(points, _WEIGHTS, strict=True)
    )
    change = np.stack(
        [
            np.stack([-stiffness * step * area, step * odd], axis=-1),
            np.stack([-stiffness * odd, even - gamma * odd - 1.0], axis=-1),
        ],
        axis=-2,
    )
    return change, np.stack([step**2 * area, step * odd], axis=-1)


def _initial(value: Numbers, momentum: Numbers, settings: StepSettings, degree: int) -> Float[np.ndarray, "2 size"]:
    start = finite("value", value)
    if start.ndim != 1:
        raise ValueError(f"value has shape {start.shape}; it must be (size,)")
    if settings.steps == 0:
        return np.stack([start, np.zeros_like(start)])
    mu, decay = settings.momentum[0, 0], settings.weight_decay[0, 0]
    dampening = settings.dampening[0, 0] if mu else 0.0
    # PyTorch does not dampen the first gradient: a kick of 1 / (1 - dampening) against the later ones.
    kick = (1.0 + dampening) / (1.0 - dampening) if settings.fresh[0, 0] else 1.0
    memory = finite("momentum", momentum) / (1.0 - dampening)
    velocity = -degree * (kick * decay * start + 2.0 * mu * memory) / (1.0 + mu)
    return np.stack([start, velocity])


def _stable_steps(settings: StepSettings, degree: int) -> Float[np.ndarray, " steps"]:
    """Time per step, once it is sure that the discrete steps themselves are stable."""
    one_of("degree", degree, (1, 2))
    fraction_below_one("dampening", settings.dampening)
    step, decay, mu = effective_learning_rate(settings)[:, 0], settings.weight_decay[:, 0], settings.momentum[:, 0]
    bound = 2.0 * (1.0 + mu) / degree
    worst = int(np.argmax(step * decay / bound)) if settings.steps else 0
    if settings.steps and step[worst] * decay[worst] >= bound[worst]:
        raise ValueError(
            f"learning_rate (1 - dampening) weight_decay is {step[worst] * decay[worst]} at step {worst}; "
            f"it must be below 2 (1 + momentum) / degree = {bound[worst]}, beyond which the charge itself diverges"
        )
    return step


def _source(source: Numbers | None, settings: StepSettings, degree: int, size: int) -> Float[np.ndarray, "steps size"]:
    """The squared velocity per unit of time at each step."""
    if source is None:
        return np.zeros((settings.steps, size))
    if degree == 1:
        raise ValueError("source is given for a charge of degree 1; linear charges have none")
    array = finite("source", source)
    if array.shape != (settings.steps, size):
        raise ValueError(f"source has shape {array.shape}; it must be (steps, size) = {(settings.steps, size)}")
    undamped = np.where(settings.momentum == 0, 1.0, 1.0 - settings.dampening)
    return array / undamped**2
