import copy

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from dynascope.base.clock import Clock
from dynascope.base.errors import UnknownName
from dynascope.functional.params import parameters_of
from dynascope.functional.snapshot import OptimizerView, Snapshot
from tests.cases import OPTIMIZERS, Case, case


def step(it: Case, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    it.model(it.x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_reading_changes_nothing(kind: str) -> None:
    it = case("tied")
    optimizer = OPTIMIZERS[kind](it.model.parameters())
    view = OptimizerView(optimizer, it.model)
    for _ in range(2):  # before the first step, when the state is empty, and after it
        before = copy.deepcopy(optimizer.state_dict())
        entries = len(optimizer.state)
        for name in parameters_of(it.model):
            view.settings(name), view.state(name), view.group_index(name)
        assert view.groups
        assert len(optimizer.state) == entries
        assert str(optimizer.state_dict()) == str(before)
        step(it, optimizer)


def test_settings_and_state_by_name() -> None:
    it = case("mlp")
    weights, biases = [it.model[0].weight, it.model[2].weight], [it.model[0].bias]
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": biases}], lr=0.5, momentum=0.9)
    view = OptimizerView(optimizer, it.model)
    assert view.kind == "SGD"
    assert view.settings("2.weight")["weight_decay"] == 0.1
    assert view.settings("0.bias")["weight_decay"] == 0
    assert "params" not in view.settings("0.bias")
    assert [group.names for group in view.groups] == [("0.weight", "2.weight"), ("0.bias",)]
    assert view.groups[1].settings["momentum"] == 0.9
    assert view.state("0.weight") == {}
    step(it, optimizer)
    assert view.state("0.weight")["momentum_buffer"] is optimizer.state[it.model[0].weight]["momentum_buffer"]


def test_frozen_parameter_has_neither_settings_nor_state() -> None:
    it = case("mlp")
    view = OptimizerView(torch.optim.SGD([it.model[0].weight], lr=0.5), it.model)
    assert (view.settings("2.bias"), view.state("2.bias"), view.group_index("2.bias")) == ({}, {}, None)


def test_schedules_and_groups_added_later_are_seen() -> None:
    it = case("mlp")
    optimizer = torch.optim.SGD([it.model[0].weight], lr=0.5)
    view = OptimizerView(optimizer, it.model)
    optimizer.param_groups[0]["lr"] = 0.25
    assert view.settings("0.weight")["lr"] == 0.25
    assert view.group_index("0.bias") is None
    optimizer.add_param_group({"params": [it.model[0].bias], "lr": 2.0})
    assert view.settings("0.bias")["lr"] == 2.0
    assert view.group_index("0.bias") == 1


def test_settings_are_a_copy() -> None:
    it = case("mlp")
    optimizer = torch.optim.SGD(it.model.parameters(), lr=0.5)
    OptimizerView(optimizer, it.model).settings("0.weight")["lr"] = 9
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_every_name_of_a_tied_weight_works() -> None:
    it = case("tied")
    view = OptimizerView(torch.optim.SGD(it.model.parameters(), lr=0.5, momentum=0.9), it.model)
    assert view.settings("twin.weight") == view.settings("enter.weight") != {}
    assert view.groups[0].names.count("enter.weight") == 1


def test_parameters_of_other_models_are_left_out() -> None:
    it = case("mlp")
    other = nn.Linear(1, 1)
    view = OptimizerView(torch.optim.SGD([*other.parameters(), it.model[0].weight], lr=0.5), it.model)
    assert view.groups[0].names == ("0.weight",)


def test_unknown_parameter() -> None:
    view = OptimizerView(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5), nn.Linear(1, 1))
    for read in (view.settings, view.state, view.group_index):
        with pytest.raises(UnknownName, match="did you mean 'weight'"):
            read("weigth")


def test_snapshot_knows_its_clock() -> None:
    assert Snapshot(step=3, time=0.5, params={}).clock == Clock(3, 0.5)
