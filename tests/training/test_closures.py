"""Closures of optimiser steps."""

import torch
from torch import nn

from dynascope.training.closures import closure_of, with_look


def test_the_closure_is_found_by_position_and_by_name():
    def closure():
        return 1.0

    assert closure_of(("optimizer", closure), {}) is closure
    assert closure_of(("optimizer",), {"closure": closure}) is closure
    assert closure_of(("optimizer",), {}) is None


def test_one_look_a_step_after_the_first_call():
    seen, calls = [], []

    def closure():
        calls.append(len(calls))
        return float(len(calls))

    (_, first, extra), _ = with_look(("optimizer", closure, "more"), {}, seen.append)
    assert extra == "more"
    assert [first(), first(), first()] == [1.0, 2.0, 3.0]
    assert seen == [1.0]
    _, kwargs = with_look(("optimizer",), {"closure": closure, "other": 2}, seen.append)
    assert kwargs["other"] == 2
    assert kwargs["closure"]() == 4.0
    assert seen == [1.0, 4.0]


def test_weights_have_not_moved_when_somebody_looks():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.LBFGS([weight], lr=0.5)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    args, _ = with_look((optimizer, closure), {}, lambda loss: seen.append((weight.detach().clone(), loss.item())))
    optimizer.step(*args[1:])
    assert seen[0][0].tolist() == [1, 1]
    assert seen[0][1] == 2.0
    assert weight.tolist() != [1, 1]
