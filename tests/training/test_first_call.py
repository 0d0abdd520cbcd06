"""Inputs of the first training-mode call."""

import pytest
import torch
from torch import nn

from dynascope.base.errors import Unsupported
from dynascope.training.first_call import FirstCall


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, scale=1.0, *, shift=None):
        x = self.layer(x) * scale
        return x if shift is None else x + shift


def test_the_first_call_in_training_mode_is_copied_and_the_hook_is_gone():
    net, x = Net(), torch.ones(3, 2)
    call = FirstCall(net)
    net.eval()(torch.zeros(1, 2))
    net.train()(x)
    x.zero_()
    net(torch.zeros(5, 2))
    (kept,) = call.inputs()
    assert kept.equal(torch.ones(3, 2))
    assert not net._forward_pre_hooks


def test_keyword_arguments_become_a_dict_by_name():
    net, x = Net(), torch.ones(3, 2)
    call = FirstCall(net)
    net(x, shift=torch.ones(2))
    assert sorted(call.inputs()) == ["shift", "x"]
    call = FirstCall(net)
    net(x=x)
    assert sorted(call.inputs()) == ["x"]


def test_without_a_call_the_way_out_is_named():
    call = FirstCall(Net())
    with pytest.raises(Unsupported, match="example_inputs"):
        call.inputs()


def test_remove_leaves_nothing():
    net = Net()
    FirstCall(net).remove()
    assert not net._forward_pre_hooks


def test_arguments_that_cannot_be_copied_do_not_disturb_the_call():
    class Odd(torch.Tensor):
        def detach(self):
            raise RuntimeError("no")

    net = Net()
    call = FirstCall(net)
    assert net(torch.ones(1, 2), torch.ones(1).as_subclass(Odd)).shape == (1, 2)
    with pytest.raises(Unsupported):
        call.inputs()


def test_a_module_compiled_in_place_is_refused():
    net = Net()
    net.compile(backend="eager")
    with pytest.raises(Unsupported, match="compiled in place"):
        FirstCall(net)
