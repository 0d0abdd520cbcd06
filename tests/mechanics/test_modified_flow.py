"""The modified flow against gradient descent by torch.optim.SGD, by order of convergence."""

from functools import cache

import numpy as np
import pytest
import torch

from dynascope.base.errors import Unsupported
from dynascope.mechanics.modified_flow import modified_flow

DURATION = 1.0


@pytest.fixture(scope="module")
def tanh_net():
    """A flat loss of a tanh network with 31 parameters, and its start."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    theta0 = 0.8 * torch.randn(31, generator=generator, dtype=torch.float64)

    def loss(theta):
        hidden = torch.tanh(x @ theta[:20].view(4, 5) + theta[20:25])
        return ((hidden @ theta[25:30, None] + theta[30] - y) ** 2).mean()

    return loss, theta0


@cache
def descend(net, learning_rate, momentum):
    loss, theta0 = net
    theta = theta0.clone().requires_grad_()
    optimizer = torch.optim.SGD([theta], lr=learning_rate, momentum=momentum)
    for _ in range(round(DURATION / learning_rate)):
        optimizer.zero_grad()
        loss(theta).backward()
        optimizer.step()
    return theta.detach()


def gradient_of(loss, theta0):
    theta = theta0.clone().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


def errors(net, learning_rates, *, momentum=0.0, order, velocity=None):
    loss, theta0 = net
    found = []
    for rate in learning_rates:
        start = None if velocity is None else velocity * gradient_of(loss, theta0)
        path = modified_flow(
            loss, theta0, learning_rate=rate, time=DURATION, order=order, momentum=momentum, velocity=start
        )
        found.append((path.theta - descend(net, rate, momentum)).norm().item())
    return np.array(found)


def slope(found, learning_rates):
    return np.polyfit(np.log(learning_rates), np.log(found), 1)[0]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_order_of_convergence(tanh_net, order):
    rates = np.array([0.02, 0.01])
    assert abs(slope(errors(tanh_net, rates, order=order), rates) - (order + 1)) < 0.2


def test_each_order_is_better_than_the_one_before(tanh_net):
    flow, first, second = (errors(tanh_net, [0.02], order=order).item() for order in (0, 1, 2))
    assert flow > 10 * first
    assert first > 5 * second


@pytest.mark.parametrize("momentum", [0.3, 0.6])
def test_order_of_convergence_with_momentum(tanh_net, momentum):
    rates = np.array([0.01, 0.005])
    flow = errors(tanh_net, rates, momentum=momentum, order=0)
    modified = errors(tanh_net, rates, momentum=momentum, order=1)
    assert abs(slope(flow, rates) - 1.0) < 0.2
    assert abs(slope(modified, rates) - 2.0) < 0.2
    # the starts that look natural, at rest and with the half-step velocity, are of first order
    for speed in (0.0, -0.5):
        other = errors(tanh_net, rates, momentum=momentum, order=1, velocity=speed)
        assert abs(slope(other, rates) - 1.0) < 0.2
        assert (other > 10 * modified).all()


def test_strong_momentum(tanh_net):
    # the expansion parameter is learning_rate H / (1 - momentum)^2, here about 1: no clean order, but far better
    flow = errors(tanh_net, [0.005], momentum=0.9, order=0).item()
    modified = errors(tanh_net, [0.005], momentum=0.9, order=1).item()
    half_step = errors(tanh_net, [0.005], momentum=0.9, order=1, velocity=-0.5).item()
    at_rest = errors(tanh_net, [0.005], momentum=0.9, order=1, velocity=0.0).item()
    assert flow > 100 * modified
    assert at_rest > half_step > modified


@pytest.mark.parametrize(("order", "momentum"), [(0, 0.0), (1, 0.0), (2, 0.0), (0, 0.9), (1, 0.9)])
def test_flow_laws(tanh_net, order, momentum):
    loss, theta0 = tanh_net
    law = {"learning_rate": 0.05, "order": order, "momentum": momentum}
    times = np.array([[0.7, 0.0], [0.3, 0.7]])
    path = modified_flow(loss, theta0, time=times, **law)
    assert path.theta.shape == (2, 2, 31)
    torch.testing.assert_close(path.theta[0, 1], theta0, rtol=0, atol=0)
    for index in ((0, 0), (1, 0)):
        single = modified_flow(loss, theta0, time=times[index], **law)
        # two integrations with other steps, each within 1e-10 per step
        torch.testing.assert_close(path.theta[index], single.theta, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(path.velocity[index], single.velocity, rtol=1e-8, atol=1e-8)
    onward = path.velocity[1, 0] if momentum and order == 1 else None
    later = modified_flow(loss, path.theta[1, 0], time=0.4, velocity=onward, **law)
    torch.testing.assert_close(later.theta, path.theta[0, 0], rtol=1e-8, atol=1e-9)


def test_velocity_is_the_derivative_of_the_path(tanh_net):
    loss, theta0 = tanh_net
    for order, momentum in ((1, 0.0), (1, 0.9)):
        path = modified_flow(
            loss, theta0, learning_rate=0.05, time=[0.5 - 1e-4, 0.5, 0.5 + 1e-4], order=order, momentum=momentum
        )
        numeric = (path.theta[2] - path.theta[0]) / 2e-4
        # central differences over 1e-4 of a motion with rates up to 2: third derivatives times 1e-8
        torch.testing.assert_close(path.velocity[1], numeric, rtol=0, atol=1e-6)


def test_quadratic_loss_has_the_known_modified_rates():
    # theta' = log(1 - eta h) / eta theta is exact; the orders are its Taylor series
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    curvature = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def loss(theta):
        return (curvature * theta**2).sum() / 2

    rates = [curvature, curvature + 0.05 * curvature**2, curvature + 0.05 * curvature**2 + curvature**3 / 300]
    for order, rate in enumerate(rates):
        path = modified_flow(loss, start, learning_rate=0.1, time=1.5, order=order)
        torch.testing.assert_close(path.theta, start * torch.exp(-1.5 * rate), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1"),
        ({"time": [-1.0]}, "time is -1.0 at index 0"),
        ({"time": np.nan}, "time is nan"),
        ({"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
        ({"order": 3}, "order is 3; it must be 0 or 1 or 2"),
        ({"velocity": torch.zeros(2, dtype=torch.float64)}, "velocity is given"),
    ],
)
def test_bad_input_is_refused(options, message):
    start = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        modified_flow(lambda x: (x**2).sum(), start, **({"learning_rate": 0.1, "time": 1.0} | options))


def test_starts_that_are_not_flat_float64_are_refused():
    for start in (torch.ones(2), torch.full((2,), torch.nan, dtype=torch.float64)):
        with pytest.raises(ValueError, match="theta0 is"):
            modified_flow(lambda x: (x**2).sum(), start, learning_rate=0.1, time=1.0)


def test_order_two_with_momentum_is_refused():
    start = torch.ones(2, dtype=torch.float64)
    with pytest.raises(Unsupported, match="order 2 with momentum"):
        modified_flow(lambda x: (x**2).sum(), start, learning_rate=0.1, time=1.0, order=2, momentum=0.5)


def test_a_flow_that_escapes_is_refused():
    start = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"no solution up to time 2.0"):
        modified_flow(lambda x: -(x**3).sum() / 3, start, learning_rate=0.1, time=2.0, order=0)
