"""Rules for scales and index spaces on graphs where the answer is known by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynascope.symmetry.families import families
from dynascope.symmetry.graph import trace
from dynascope.symmetry.scales import IndexDomain, ScaleDomain


def scales(model: nn.Module, *inputs: Tensor, domain: type = ScaleDomain) -> list[tuple[int, dict[str, float]]]:
    """(number of channels, coefficient by parameter) of every family."""
    one = domain(trace(model, inputs), None)
    one.run()
    places = [(n, c, labels) for n, field in one.params.items() for c, labels in field]
    return [(f.size, {p.key: p.coefficient for p in f.parts}) for f in families(one.system.solve(), places)]


class Pointwise(nn.Module):
    """fc1 -> function -> fc2."""

    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


X = torch.randn(5, 3)
PLAIN = [(4, {"a.weight": 1.0, "a.bias": 1.0, "b.weight": -1.0})]
SQUARED = [(4, {"a.weight": 1.0, "a.bias": 1.0, "b.weight": -2.0})]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.relu, PLAIN), (torch.abs, PLAIN), (lambda h: F.leaky_relu(h, 0.3), PLAIN), (lambda h: 3.0 * h, PLAIN),
        (lambda h: -h, PLAIN), (lambda h: h + h, PLAIN), (lambda h: F.dropout(h, 0.5), PLAIN),
        (lambda h: h.view(5, 2, 2).transpose(1, 2).reshape(5, 4).relu(), PLAIN),
        (lambda h: torch.cat([h[:, :2].relu(), h[:, 2:]], 1), PLAIN),
        (lambda h: torch.relu(h) ** 2, SQUARED), (lambda h: torch.relu(h) * h, SQUARED), (torch.square, SQUARED),
        (torch.tanh, []), (F.gelu, []), (lambda h: h + 1, []), (lambda h: h.cumsum(1), []), (F.relu6, []),
        (lambda h: torch.relu(h) + torch.relu(h) ** 2, []),
    ],
)  # fmt: skip
def test_elementwise_functions(function, expected: list) -> None:
    assert scales(Pointwise(function), X) == expected


def test_a_mean_over_units_leaves_one_common_scale() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)).mean(1, keepdim=True))

    assert scales(Mean(), X) == [(1, {"a.weight": 1.0, "a.bias": 1.0, "b.weight": -1.0})]


def test_a_norm_written_by_hand_is_seen_through() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gain = nn.Linear(3, 4), nn.Linear(4, 2), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(self.gain * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)))

    found = scales(Norm(), X)
    assert (1, {"a.weight": 1.0, "a.bias": 1.0}) in found
    assert (4, {"gain": 1.0, "b.weight": -1.0}) in found
    assert len(found) == 2


def test_diagonal_networks_have_one_scale_per_element() -> None:
    class Diagonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.v = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.u * self.v)

    ((size, legs),) = scales(Diagonal(), X)
    assert size == 6
    assert legs["u"] * legs["v"] == -1.0


def test_a_product_with_a_matrix_on_the_right_is_a_contraction() -> None:
    class Right(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.a) @ self.b

    assert scales(Right(), X) == [(4, {"a": 1.0, "b": -1.0})]


def test_index_spaces_outlive_the_functions_on_them() -> None:
    assert scales(Pointwise(F.gelu), X, domain=IndexDomain) == PLAIN
    assert scales(Pointwise(torch.tanh), X, domain=IndexDomain) == PLAIN
    assert scales(Pointwise(lambda h: h.cumsum(1)), X, domain=IndexDomain) == []


def test_a_gate_shares_its_index_space_with_what_it_gates() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.u, self.d = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.d(torch.sigmoid(self.g(x)) * self.u(x))

    ((size, legs),) = scales(Gated(), X, domain=IndexDomain)
    assert size == 4
    assert legs == {"g.weight": 1.0, "g.bias": 1.0, "u.weight": 1.0, "u.bias": 1.0, "d.weight": -1.0}
    assert scales(Gated(), X) == [(4, {"u.weight": 1.0, "u.bias": 1.0, "d.weight": -1.0})]
