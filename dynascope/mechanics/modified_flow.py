r"""Modified flow: the differential equation that gradient descent with a finite step actually follows.

Without momentum, gradient descent with step eta follows, by backward error analysis,

    theta' = -g - (eta / 2) H g - eta^2 (H^2 g / 3 + T[g, g] / 12) + O(eta^3),

with g, H and T the first three derivatives of the loss; the middle term is the gradient of (eta / 4) |g|^2.
With momentum mu it follows m theta'' + (1 - mu) theta' = -g with the mass m = eta (1 + mu) / 2, started with
theta'(0) = -g / (1 + mu), which is where the slow motion of the steps from an empty buffer lies. Time is
learning_rate times steps in both.

Source: Kunin et al., arXiv 2012.04728; Barrett and Dherin, arXiv 2009.11162; the second-order term from Hairer,
Lubich and Wanner, Geometric Numerical Integration, chapter IX. Differs: the start velocity. The half-step velocity
-g / 2 is met in the limit mu -> 1 only and leaves an error of first order in eta otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from dynascope.base.errors import Unsupported
from dynascope.mechanics.inputs import Numbers, at_least_zero, fraction_below_one, one_of

Loss: TypeAlias = Callable[[Float[Tensor, " params"]], Float[Tensor, ""]]
# no shape here: a shape check at each of a million calls would cost more than a small network's gradient
State: TypeAlias = np.ndarray
Field: TypeAlias = Callable[[float, State], State]

# Tight enough that the integrator's error stays below that of any law compared with it, learning_rate^3 or more.
_RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE = 1e-10, 1e-12


@dataclass(frozen=True)
class Path:
    """A solution of a flow at the times asked for.

    Attributes:
        time: the times, in units of learning rate times steps.
        theta: the parameters at each time.
        velocity: d theta / d time at each time; with momentum it is part of the state.
    """

    time: Float[np.ndarray, "*times"]
    theta: Float[Tensor, "*times params"]
    velocity: Float[Tensor, "*times params"]


def modified_flow(
    loss_fn: Loss,
    theta0: Float[Tensor, " params"],
    *,
    learning_rate: float,
    time: Numbers,
    order: int = 1,
    momentum: float = 0.0,
    velocity: Float[Tensor, " params"] | None = None,
) -> Path:
    r"""Where gradient descent will be, as a function of time, up to an error of order learning_rate^(order + 1).

    Args:
        loss_fn: the full-batch loss of a flat parameter vector, weight decay included; three times differentiable
            for order 2, twice for order 1.
        theta0: the start, float64.
        learning_rate: eta > 0.
        time: one time or several, each 0 or more, in any order.
        order: 0 gradient flow (theta' = -g / (1 - momentum)), 1 the modified flow, 2 its next correction.
        momentum: mu in [0, 1); with momentum, order 1 is the second-order equation and order 2 does not exist.
        velocity: theta' at time 0 of a second-order equation, to continue from an earlier ``Path``; without it the
            flow starts where gradient descent starts, with an empty buffer.

    Returns:
        The path; ``theta`` has one row per time (no row axis for a single time).

    Raises:
        ValueError: a number is outside its range, theta0 is not float64, a velocity is given to a first-order
            equation, or the flow leaves every bound before the last time.
        Unsupported: order 2 with momentum.

    Example:
        On L = theta^2 / 2, five steps of 0.1 multiply theta by 0.9^5 = 0.59049.

        >>> start = torch.ones(1, dtype=torch.float64)
        >>> [round(modified_flow(lambda x: (x**2).sum() / 2, start, learning_rate=0.1, time=0.5, order=n
        ...                     ).theta.item(), 5) for n in (0, 1, 2)]
        [0.60653, 0.59156, 0.59057]
    """
    times = at_least_zero("time", time)
    mu = float(fraction_below_one("momentum", momentum))
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate is {learning_rate}; it must be finite and greater than 0")
    if theta0.dtype != torch.float64 or theta0.ndim != 1 or not torch.isfinite(theta0).all():
        raise ValueError(
            f"theta0 is {theta0.dtype} of shape {tuple(theta0.shape)}; it must be a finite, flat float64 vector"
        )
    one_of("order", order, (0, 1, 2))
    if mu and order == 2:
        raise Unsupported("the modified flow of order 2 with momentum", "no equation is known here", "use order 1")
    start = theta0.detach()
    if mu and order == 1:
        return _second_order_path(loss_fn, start, velocity, learning_rate=learning_rate, momentum=mu, times=times)
    if velocity is not None:
        raise ValueError("velocity is given, but this flow is of first order: its start is its whole state")
    field = _first_order_field(loss_fn, learning_rate, order, mu)
    theta = _integrate(field, start.numpy(), times, {"method": "DOP853"})
    speed = np.stack([field(0.0, row) for row in theta.reshape(-1, len(start))]).reshape(theta.shape)
    return Path(time=times, theta=torch.from_numpy(theta), velocity=torch.from_numpy(speed))


def _first_order_field(loss_fn: Loss, learning_rate: float, order: int, momentum: float) -> Field:
    def plain(_: float, state: State) -> State:
        theta = torch.from_numpy(state).requires_grad_()
        return -_derivative(loss_fn(theta), theta, again=False).numpy() / (1.0 - momentum)

    def bent(_: float, state: State) -> State:
        theta = torch.from_numpy(state).requires_grad_()
        slope = _derivative(loss_fn(theta), theta, again=True)
        direction = slope.detach()
        first = _derivative(slope @ direction, theta, again=order == 2)
        total = direction + learning_rate / 2.0 * first.detach()
        if order == 2:
            straight = _derivative(slope @ first.detach(), theta, again=True).detach()
            turning = _derivative(first @ direction, theta, again=False)
            total = total + learning_rate**2 * (straight / 3.0 + turning / 12.0)
        return -total.numpy()

    return bent if order else plain


def _second_order_path(
    loss_fn: Loss,
    start: Tensor,
    velocity: Tensor | None,
    *,
    learning_rate: float,
    momentum: float,
    times: Float[np.ndarray, "*times"],
) -> Path:
    """The second-order flow, in the variables x = theta + (mass / friction) theta' and theta'."""
    # x moves slowly, x' = -g / friction; the stiff part, theta'' = -(g + friction theta') / mass, is diagonal in the
    # velocity, which is all the integrator needs to know of the Jacobian at any number of parameters.
    size, friction = len(start), 1.0 - momentum
    mass = learning_rate * (1.0 + momentum) / 2.0
    lag = mass / friction

    def gradient(theta: State) -> State:
        point = torch.from_numpy(theta).requires_grad_()
        return _derivative(loss_fn(point), point, again=False).numpy()

    def field(_: float, state: State) -> State:
        slow, speed = state[:size], state[size:]
        slope = gradient(slow - lag * speed)
        return np.concatenate([-slope / friction, -(slope + friction * speed) / mass])

    theta = start.numpy()
    speed = -gradient(theta) / (1.0 + momentum) if velocity is None else velocity.detach().numpy()
    diagonal = np.concatenate([np.zeros(size), np.full(size, -1.0 / lag)])[None]
    stiff = {"method": "LSODA", "lband": 0, "uband": 0, "jac": lambda time, state: diagonal}
    states = _integrate(field, np.concatenate([theta + lag * speed, speed]), times, stiff)
    slow, speed = states[..., :size], states[..., size:].copy()
    # at time 0 the start itself, without the rounding of the change of variables
    path = np.where(times[..., None] == 0, theta, slow - lag * speed)
    return Path(time=times, theta=torch.from_numpy(path), velocity=torch.from_numpy(speed))


def _derivative(value: Tensor, theta: Tensor, *, again: bool) -> Tensor:
    return torch.autograd.grad(value, theta, create_graph=again, retain_graph=True)[0]


def _integrate(
    field: Field, start: State, times: Float[np.ndarray, "*times"], method: Mapping[str, Any]
) -> Float[np.ndarray, "*times state"]:
    """The solution at every time, integrated once from 0 to the last."""
    moments, places = np.unique(times, return_inverse=True)
    states, begin = [], 0.0
    state = start
    for end in moments:
        state = _advance(field, state, begin, end, method) if end > begin else state
        states.append(state)
        begin = end
    return np.stack(states)[places].reshape(*times.shape, len(start))


def _advance(field: Field, state: State, begin: float, end: float, method: Mapping[str, Any]) -> State:
    solution = solve_ivp(
        field, (begin, end), state, t_eval=[end], rtol=_RELATIVE_TOLERANCE, atol=_ABSOLUTE_TOLERANCE, **method
    )
    if not solution.success or not np.isfinite(solution.y).all():
        raise ValueError(f"the flow has no solution up to time {end}: {solution.message} Give an earlier time")
    return solution.y[:, -1]
