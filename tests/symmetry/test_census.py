"""The census counts right where the answer is known, and notices what does not belong."""

import torch
from torch import nn

from dynascope.symmetry.census import take_census
from dynascope.symmetry.find import inspect_model


def test_dead_units_are_told_apart_from_symmetries() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias[0] = -100.0
    census = inspect_model(model, torch.randn(8, 3)).census()
    assert census.nullity == 4
    assert census.dead > 0
    assert "dead units" in str(census)


def test_generators_that_are_no_symmetry_are_stray() -> None:
    relu = inspect_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 3))
    tanh = inspect_model(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(8, 3))
    assert take_census(tanh.bench, relu.symmetries, ()).stray == 4


def test_generators_counted_twice_are_noticed() -> None:
    relu = inspect_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 3))
    twice = take_census(relu.bench, relu.symmetries * 2, ())
    assert (twice.dependent, twice.explained, twice.unexplained) == (4, 4, 0)
