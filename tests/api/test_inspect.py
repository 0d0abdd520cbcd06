"""The front door of inspection: the reference counts, nothing left on the model, and refusals."""

import copy

import pytest
import torch
from torch import nn

import dynascope as ds
from dynascope.api.inspect import inspect
from dynascope.symmetry.find import inspect_model


def network(hidden: int, *activation: nn.Module, width: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, hidden), *activation, nn.Linear(hidden, 3))


@pytest.mark.parametrize(
    ("model", "dimension"),
    [(network(7, nn.ReLU()), 7), (network(7, nn.Tanh()), 0), (network(4), 20)],
    ids=["ReLU 5-7-3", "tanh 5-7-3", "linear 5-4-3"],
)
def test_the_reference_counts(model: nn.Module, dimension: int) -> None:
    anatomy = inspect(model, torch.randn(4, 5), output="identity")
    assert anatomy.dimension == dimension
    assert anatomy.unknown_ops == ()


def test_the_public_name_is_the_door() -> None:
    assert ds.inspect is inspect


def test_the_door_only_passes_on() -> None:
    model, x = network(7, nn.ReLU()), torch.randn(4, 5)
    for output, mode in (("identity", None), ("softmax", "eval")):
        mine, theirs = inspect(model, x, output, mode=mode), inspect_model(model, x, output=output, mode=mode)
        assert [s.name for s in mine.symmetries] == [s.name for s in theirs.symmetries]
        assert (mine.output, mine.mode) == (output, mode or "train")
    assert inspect(model, x, "softmax").dimension > inspect(model, x).dimension


@pytest.mark.parametrize("inputs", ["tensor", "tuple", "dict"])
def test_inputs_in_three_forms(inputs: str) -> None:
    x = torch.randn(4, 5)
    forms = {"tensor": x, "tuple": (x,), "dict": {"input": x}}
    assert inspect(network(7, nn.ReLU()), forms[inputs]).dimension == 7


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    inspect(model, torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), mode="eval")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[0].bias.grad is None


def test_refusals(unchecked: None) -> None:
    x = torch.randn(4, 5)
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        inspect(nn.ReLU(), x)
    with pytest.raises(ValueError, match="softmx"):
        inspect(network(7), x, "softmx")
    with pytest.raises(ValueError, match="training"):
        inspect(network(7), x, mode="training")
