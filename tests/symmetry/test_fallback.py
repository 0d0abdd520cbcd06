"""Regression alone finds the same charges as the graph, and its symmetries pass the same verification."""

import pytest
import torch
from torch import nn

from dynascope.symmetry.fallback import module_function, proposals
from dynascope.symmetry.find import inspect_model
from dynascope.symmetry.trial import EXACT, try_action
from dynascope.symmetry.verify import Bench, draw

NETS = {
    "relu": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (6, 4), "softmax"),
    "gelu": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)), (6, 4), "identity"),
    "batchnorm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
        (8, 4), "identity",
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), (6, 4), "identity"),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv1d(6, 2, 1)
        ),
        (6, 1, 8), "identity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_graph_and_regression_agree_on_the_conserved_charges(name: str) -> None:
    """Two engines that share nothing: labels pushed through the graph, and null spaces of gradients."""
    build, shape, output = NETS[name]
    model, x = build().train(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    anatomy = inspect_model(model, x, output=output)
    rng = torch.Generator().manual_seed(0)
    bench = Bench(module_function(model, (x,), {}, output), tuple(draw(model, [x], rng) for _ in range(2)))
    found = proposals(bench, rng)
    by_graph = sum(c.size for c in anatomy.charge_families)
    by_regression = sum(s.charge.size for s in found)
    assert by_graph == by_regression
    for s in found:
        outcome = try_action(bench, s.action, mode="train", generator=rng)
        assert max(outcome.residual, outcome.finite) < EXACT
