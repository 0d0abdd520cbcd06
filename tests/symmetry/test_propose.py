"""Words, names and bonds that the proposals carry."""

import torch
from torch import nn

from dynascope.symmetry.families import Part
from dynascope.symmetry.graph import trace
from dynascope.symmetry.propose import bonds, count_words, layer, short, slice_words, unused_parameters


def test_bonds_know_their_writers_readers_and_what_they_pass_through() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    (bond,), _ = bonds(trace(model, (torch.randn(8, 3),)), None)
    assert bond.size == 4
    assert set(bond.writers) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert bond.readers == ("3.weight",)
    assert bond.through == ("linear", "batch_norm", "relu")


def test_words_are_short_and_countable() -> None:
    assert count_words(1, "channel") == "1 channel"
    assert count_words(3, "channel") == "3 channels"
    assert layer("net.0.weight") == "net.0"
    assert layer("0.weight") == "layer 0"
    assert layer("gain") == "gain"
    assert short(["a.weight", "a.bias", "b.weight", "c.weight"]) == "a, b and 1 more"


def test_slices_in_words() -> None:
    k = torch.arange(4)
    assert slice_words(Part("w", 1.0, k.view(4, 1))) == "rows"
    assert slice_words(Part("w", 1.0, k.view(1, 4))) == "columns"
    assert slice_words(Part("w", 1.0, torch.tensor([0, -1, 1, -1]).view(1, 4))) == "columns, 2 of 4"
    assert slice_words(Part("w", 1.0, torch.zeros(1, 1, dtype=torch.int64))) == "all of it"


def test_unused_parameters_are_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Idle()
    found = unused_parameters(
        trace(model, (torch.randn(2, 2),)), {n: tuple(p.shape) for n, p in model.named_parameters()}
    )
    assert {s.name: s.dimension for s in found} == {"unused/idle.weight": 6, "unused/idle.bias": 3}
