"""The zoo: every symmetry found, verified and accounted for, and none invented."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dynascope.base.errors import Unsupported
from dynascope.symmetry.find import inspect_model, softmax_axis
from dynascope.symmetry.nullspace import jacobian_nullity
from dynascope.symmetry.trial import EXACT


def _load(name: str):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"symmetry_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


zoo = _load("zoo")
SLOW = {"conv residual", "conv residual eval"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c.name in SLOW), id=c.name) for c in zoo.CASES]
)
def test_every_null_direction_of_the_zoo_has_a_name(case) -> None:
    anatomy = inspect_model(case.model(), case.inputs(), output=case.output)
    census = anatomy.census()
    assert anatomy.dimension == case.dimension
    assert census.explained == anatomy.dimension  # the families are independent of each other
    assert census.unexplained == 0
    assert census.stray == 0
    assert anatomy.unknown_ops == ()
    assert all(s.residual < EXACT for s in anatomy.symmetries)
    assert all(s.violation > EXACT for s in anatomy.symmetries if not s.exact)


def test_the_nullity_is_counted_independently() -> None:
    """The reference counts of the design, from the Jacobian alone."""
    for sizes, activation, expected in (((5, 7, 3), nn.ReLU, 7), ((5, 7, 3), nn.Tanh, 0), ((5, 4, 3), nn.Identity, 21)):
        net = nn.Sequential(nn.Linear(sizes[0], sizes[1]), activation(), nn.Linear(sizes[1], sizes[2])).double()

        def f(params: dict[str, Tensor], x: Tensor, net: nn.Module = net) -> Tensor:
            return torch.func.functional_call(net, params, (x,))

        def sample(generator: torch.Generator, width: int = sizes[0]) -> Tensor:
            return 3 * torch.randn(64, width, generator=generator, dtype=torch.float64)

        params = dict(net.named_parameters())
        found = jacobian_nullity(f, params, sample, generator=torch.Generator().manual_seed(0))
        assert found.dimension == expected


def test_the_census_names_the_fibre_of_a_rank_deficient_product() -> None:
    anatomy = inspect_model(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), torch.randn(4, 5))
    census = anatomy.census()
    assert (census.nullity, census.explained, census.unexplained) == (21, 20, 0)
    assert census.fibres[0][1] == 1
    assert "fibre of the rank-deficient product" in str(census)


BREAKS = {
    "gelu": (lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)), 0),
    "no bias": (lambda: nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3)), 7),
    "relu6": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU6(), nn.Linear(7, 3)), 0),
    "padded linear convs": (
        lambda: nn.Sequential(nn.Conv1d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 2, 3, padding=1), nn.Flatten()), 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_breaking_a_network_changes_the_list_in_the_right_way(name: str) -> None:
    build, expected = BREAKS[name]
    model = build()
    first = next(m for m in model if not isinstance(m, nn.Flatten))
    inputs = torch.randn(4, 1, 8) if isinstance(first, nn.Conv1d) else torch.randn(4, 5)
    assert inspect_model(model, inputs).dimension == expected


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)).train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    inspect_model(model, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), output="softmax")
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_modes_are_listed_and_running_statistics_move_along() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, eps=1e-30), nn.ReLU(), nn.Linear(6, 2)).train()
    anatomy = inspect_model(model, torch.randn(8, 4))
    scale = next(s for s in anatomy.symmetries if s.kind == "scale")
    assert scale.modes == ("train", "eval")


class DataDependent(nn.Module):
    """Cannot be exported: the path depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(h) if float(h.sum()) > -1 else self.b(-h)


def test_a_module_that_cannot_be_exported_falls_back_to_regression() -> None:
    anatomy = inspect_model(DataDependent(), torch.randn(6, 4))
    assert anatomy.dimension == 5
    assert any("regression alone" in n for n in anatomy.notes)


class Unknown(nn.Module):
    """Uses an operation without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.cumsum(torch.relu(self.a(x)), dim=1))))


def test_an_unknown_operation_is_named_and_what_it_touches_stays() -> None:
    anatomy = inspect_model(Unknown(), torch.randn(6, 4))
    assert anatomy.unknown_ops == ("cumsum",)
    assert anatomy.dimension == 5  # the second layer's units; the first layer's would need a rule


class Noisy(nn.Module):
    """Two equal calls differ."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x + torch.randn_like(x))


def test_bad_input_is_refused_in_words() -> None:
    net = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="no parameters"):
        inspect_model(nn.ReLU(), torch.randn(2, 4))
    with pytest.raises(ValueError, match="output is 'logits'"):
        inspect_model(net, torch.randn(2, 4), output="logits")
    with pytest.raises(ValueError, match="mode is 'test'"):
        inspect_model(net, torch.randn(2, 4), mode="test")
    with pytest.raises(ValueError, match="example_inputs is a str"):
        inspect_model(net, "x")
    with pytest.raises(Unsupported, match="two identical calls"):
        inspect_model(Noisy(), torch.randn(2, 4))


def test_the_class_axis_of_logits() -> None:
    assert [softmax_axis(r) for r in (1, 2, 3, 4)] == [0, 1, 2, 1]
