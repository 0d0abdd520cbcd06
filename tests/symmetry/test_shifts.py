"""Rules for constants: where they may enter, and who takes them back."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynascope.symmetry.find import inspect_model


def shifts(model: nn.Module, x: Tensor, output: str = "identity") -> dict[str, int]:
    """Dimension of shift and translation families by name."""
    found = inspect_model(model, x, output=output)
    assert not found.notes, found.notes
    return {s.name: s.dimension for s in found.symmetries if s.kind in {"shift", "translation"}}


L = nn.Linear
X = torch.randn(6, 3)
IMAGE = torch.randn(6, 1, 7, 7)


def chain(*between: nn.Module) -> nn.Module:
    return nn.Sequential(L(3, 4), *between, L(4, 2))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (chain(), {"shift/0.bias>1.bias": 4}),
        (chain(nn.ReLU()), {}),
        (chain(nn.Dropout(0.2)), {}),  # a mask is no constant
        (chain(nn.Dropout(0.2)).eval(), {"shift/0.bias>2.bias": 4}),
        (chain(nn.Dropout(0.0)), {"shift/0.bias>2.bias": 4}),
        (nn.Sequential(L(3, 4), L(4, 2, bias=False)), {}),
        # a map without bias in between passes the shift on
        (nn.Sequential(L(3, 4), L(4, 5, bias=False), L(5, 2)), {"shift/0.bias>2.bias": 4}),
        (nn.Sequential(L(3, 4), L(4, 5, bias=False), nn.ReLU(), L(5, 2)), {}),
        (chain(nn.BatchNorm1d(4, affine=False)), {"translation/0.bias": 4}),
        (
            chain(nn.LayerNorm(4, elementwise_affine=False), nn.ReLU()),
            {"translation/0.bias": 1, "translation/0.weight": 3},
        ),
        (chain(nn.LayerNorm(4), nn.ReLU()), {"translation/0.bias": 1, "translation/0.weight": 3}),
    ],
)
def test_who_takes_a_constant_back(model: nn.Module, expected: dict[str, int]) -> None:
    assert shifts(model, X) == expected


@pytest.mark.parametrize(
    ("padding", "mode", "expected"),
    [(0, "zeros", 3), (1, "zeros", 0), (1, "circular", 3), (1, "replicate", 3), (1, "reflect", 3)],
)
def test_zeros_at_the_border_stop_a_constant(padding: int, mode: str, expected: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3, padding=padding, padding_mode=mode), nn.ReLU())
    assert sum(shifts(model, IMAGE).values()) == expected


@pytest.mark.parametrize(("pool", "expected"), [
    (nn.AvgPool2d(2), 3), (nn.MaxPool2d(2), 3), (nn.AdaptiveAvgPool2d(1), 3), (nn.AvgPool2d(3, padding=1), 0),
    (nn.AvgPool2d(3, padding=1, count_include_pad=False), 3),
])  # fmt: skip
def test_pooling_passes_a_constant_on(pool: nn.Module, expected: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), pool, nn.Flatten(), nn.LazyLinear(2))
    model(IMAGE)
    assert sum(shifts(model, IMAGE).values()) == expected


def test_summands_trade_constants() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = L(3, 4), L(3, 4), L(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.a(x) - 2 * self.b(x)))

    anatomy = inspect_model(Two(), X)
    (family,) = [s for s in anatomy.symmetries if s.kind == "translation"]
    assert family.dimension == 4
    params = dict(Two().named_parameters())
    # conserved: the combination of both biases along which nothing changes, (a, b) ~ (2, 1) up to a factor
    conserved = family.charge.value(params)
    expected = params["a.bias"] * 2 + params["b.bias"]
    ratio = conserved / expected
    torch.testing.assert_close(ratio, ratio[:1].expand(4), rtol=1e-5, atol=0)  # float32 parameters


def test_softmax_ignores_a_common_shift_of_the_logits() -> None:
    assert shifts(chain(nn.ReLU()), X, "softmax") == {"translation/2.bias": 1, "translation/2.weight": 4}


def test_convolutional_logits_too() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 5, 3, padding=1))
    assert shifts(model, IMAGE, "softmax") == {"translation/2.bias": 1, "translation/2.weight": 3 * 9}


def test_running_statistics_pass_a_constant_on_to_the_offset() -> None:
    model = chain(nn.BatchNorm1d(4), nn.Tanh()).eval()
    assert shifts(model, X) == {"shift/0.bias>1.bias": 4}


def test_a_scaled_constant_is_followed() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = L(3, 4), L(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(-self.a(x) / 3.0 + F.pad(x, (0, 1)))

    assert shifts(Scaled(), X) == {"shift/a.bias>c.bias": 4}
