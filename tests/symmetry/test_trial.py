"""Verification lets true claims through and stops false ones."""

import pytest
import torch
from torch import nn

from dynascope.symmetry import trial
from dynascope.symmetry.actions import spread
from dynascope.symmetry.find import inspect_model, judge
from dynascope.symmetry.graph import trace
from dynascope.symmetry.kinds import Action
from dynascope.symmetry.trial import EXACT, try_action, try_actions
from dynascope.symmetry.verify import Bench, draw, graph_function


def bench_of(model: nn.Module, x: torch.Tensor) -> Bench:
    rng = torch.Generator().manual_seed(0)
    return Bench(graph_function(trace(model, (x,)), None), tuple(draw(model, [x], rng) for _ in range(2)))


MODEL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
K = torch.arange(4)


def rescale(*, bias: float = 1.0, out: float = -1.0) -> Action:
    """Rescaling of the hidden units, right with the default coefficients."""
    legs = {"0.weight": (1.0, K.view(4, 1)), "0.bias": (bias, K), "2.weight": (out, K.view(1, 4))}

    def tangent(params, buffers, z):
        return {n: c * spread(z, k) * params[n] for n, (c, k) in legs.items()}

    def finite(params, buffers, z):
        moved = {n: params[n] * (c * spread(z, k)).exp() for n, (c, k) in legs.items()}
        return {**params, **moved}, dict(buffers)

    return Action((4,), 4, tangent, finite)


def attempt(action: Action):
    return try_action(bench_of(MODEL, X), action, mode="train", generator=torch.Generator().manual_seed(1))


def test_a_true_symmetry_holds_to_rounding() -> None:
    outcome = attempt(rescale())
    assert outcome.residual < EXACT
    assert outcome.finite < EXACT
    assert outcome.violation < EXACT
    assert outcome.control > 1e-3
    assert outcome.modes == ("train", "eval")


@pytest.mark.parametrize("wrong", [{"bias": 0.0}, {"bias": 0.9}, {"out": -1.01}, {"out": 1.0}])
def test_a_false_symmetry_is_seen_clearly(wrong: dict) -> None:
    outcome = attempt(rescale(**wrong))
    assert outcome.residual > 1e-3
    assert outcome.modes == ()
    words = judge(inspect_model(MODEL, X).symmetries[0], outcome, "train")
    assert isinstance(words, str)
    assert "not confirmed" in words


def test_all_at_once_gives_the_same_verdicts_and_isolates_the_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PATIENCE", 0.0)
    actions = [rescale(), rescale(bias=0.9), rescale(), rescale(out=-1.01), rescale()]
    rng = torch.Generator().manual_seed(1)
    found = try_actions(bench_of(MODEL, X), actions, mode="train", generator=rng, fragile=[False] * 5)
    assert [o.residual < EXACT for o in found] == [True, False, True, False, True]
    assert [o.finite < EXACT for o in found] == [True, False, True, False, True]
    assert found[0].modes == ("train", "eval")
    assert found[1].modes == ()


def test_the_large_model_way_finds_the_same_anatomy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).train()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    one = inspect_model(model, x, output="softmax")
    monkeypatch.setattr(trial, "PATIENCE", 0.0)
    other = inspect_model(model, x, output="softmax")
    assert [(s.name, s.dimension, s.exact) for s in one.symmetries] == [
        (s.name, s.dimension, s.exact) for s in other.symmetries
    ]
