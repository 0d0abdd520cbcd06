"""The direction of SGD against the steps that torch takes."""

import pytest
import torch
from torch import nn

from dynascope.base.errors import DynascopeError
from dynascope.functional.sgd import Span, follows_sgd, sgd_direction, stand_still, write_sgd_direction

SETTINGS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "heavy ball": {"momentum": 0.9, "weight_decay": 0.1},
    "dampened": {"momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "maximize": {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_both_forms_give_the_step_that_torch_takes(settings):
    generator = torch.Generator().manual_seed(0)
    theta = nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=0.1, **settings)
    for step in range(3):
        theta.grad = torch.randn(6, generator=generator, dtype=torch.float64)
        before, group = theta.detach().clone(), optimizer.param_groups[0]
        buffer = optimizer.state[theta].get("momentum_buffer") if step else None
        u, w = sgd_direction(before, theta.grad, buffer, group)
        v = torch.zeros_like(before) if buffer is None else buffer.clone()
        span = Span(before, v, theta.grad, torch.empty_like(before), torch.empty_like(before))
        write_sgd_direction(span, group, fresh=buffer is None)
        w = w.clone()
        optimizer.step()
        moved = (before - theta.detach()) / 0.1
        # rounding of a handful of operations
        for found in (u, span.u):
            torch.testing.assert_close(found, moved, rtol=1e-13, atol=1e-13)
        if "momentum" in settings:
            torch.testing.assert_close(span.w, optimizer.state[theta]["momentum_buffer"], rtol=1e-13, atol=1e-13)
            torch.testing.assert_close(w, span.w, rtol=1e-13, atol=1e-13)


def test_without_gradient_or_group_nothing_moves():
    one = torch.ones(2)
    u, w = sgd_direction(one, None, 2 * one, {"momentum": 0.9, "dampening": 0, "weight_decay": 0.1})
    assert u.tolist() == [0, 0]
    assert w.tolist() == [2, 2]
    assert sgd_direction(one, one, None, {})[0].tolist() == [0, 0]
    span = Span(one, 2 * one, one, torch.ones(2), torch.ones(2))
    stand_still(span)
    assert span.u.tolist() == [0, 0]
    assert span.w.tolist() == [2, 2]


def test_nesterov_without_room_for_its_buffer_is_refused():
    one = torch.ones(2)
    group = torch.optim.SGD([nn.Parameter(one)], lr=0.1, momentum=0.9, nesterov=True).param_groups[0]
    with pytest.raises(DynascopeError, match="Nesterov"):
        write_sgd_direction(Span(one, one, one, one.clone(), None), group, fresh=False)


def test_only_the_step_of_sgd_itself_counts():
    class Same(torch.optim.SGD):
        pass

    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    parameters = [nn.Parameter(torch.ones(1))]
    assert follows_sgd(torch.optim.SGD(parameters, lr=0.1))
    assert follows_sgd(Same(parameters, lr=0.1))
    assert not follows_sgd(Own(parameters, lr=0.1))
    assert not follows_sgd(torch.optim.Adam(parameters))
