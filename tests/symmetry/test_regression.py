"""Charge regression finds every known law of small networks, invents none, and needs no luck."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dynascope.base.errors import Unsupported
from dynascope.symmetry import regression
from dynascope.symmetry.regression import Regression, discover
from dynascope.symmetry.views import channel_views


class ConvResidual(nn.Module):
    """Convolutions of 4, 6, 4 channels with BatchNorm, a residual and a flattened head."""

    def __init__(self) -> None:
        super().__init__()
        self.c0, self.b0 = nn.Conv2d(3, 4, 3, padding=1), _norm(4)
        self.c1, self.b1 = nn.Conv2d(4, 6, 3, padding=1, bias=False), _norm(6)
        self.c2, self.b2 = nn.Conv2d(6, 4, 3, padding=1, bias=False), _norm(4)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b0(self.c0(x)).relu()
        x = (x + self.b2(self.c2(self.b1(self.c1(x)).relu()))).relu()
        return self.fc(F.max_pool2d(x, 2).flatten(1))


class TiedAutoencoder(nn.Module):
    """Decoder = transposed encoder; two layers deep, the outer hidden layer keeps a rescaling."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(6, 5) / 2), nn.Parameter(torch.randn(4, 6) / 2)
        self.b1, self.b2, self.b3 = (nn.Parameter(torch.randn(n)) for n in (6, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x @ self.w1.T + self.b1).relu()
        code = (hidden @ self.w2.T + self.b2).relu()
        return (code @ self.w2 + self.b3).relu() @ self.w1


class ShallowTied(nn.Module):
    """One hidden layer with tied weights: W W^T fixes every scale, no charge is left."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 5) / 2), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w.T + self.b).relu() @ self.w


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(5, 7), nn.Linear(5, 4), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.left(x), self.right(x)], -1).relu())


class Block(nn.Module):
    """Pre-LayerNorm transformer block with two heads: the reference network of the null-space accounting."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.pe = nn.Embedding(11, 8), nn.Parameter(torch.randn(5, 8) / 2)
        self.l1, self.l2, self.lf = (nn.LayerNorm(8, eps=0) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.f1, self.f2, self.u = nn.Linear(8, 10), nn.Linear(10, 8), nn.Linear(8, 11, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.e(x) + self.pe
        n = self.l1(stream)
        q, k, v = (m(n).view(*x.shape, 2, 4).transpose(1, 2) for m in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        stream = stream + self.o(mixed.transpose(1, 2).flatten(2))
        stream = stream + self.f2(F.gelu(self.f1(self.l2(stream))))
        return self.u(self.lf(stream))


def _norm(channels: int) -> nn.Module:
    # the smallest epsilon BatchNorm accepts is above zero; 1e-30 is below rounding
    return nn.BatchNorm2d(channels, eps=1e-30, track_running_stats=False)


def _mlp(activation: Callable[[], nn.Module], *widths: int) -> nn.Module:
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().double()


def _softmax(y: Tensor) -> Tensor:
    return y.log_softmax(-1)


def find(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    *,
    head: object = None,
    seed: int = 1,
    **options: object,
) -> Regression:
    model = _seeded(build)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def f(p: dict[str, Tensor], x: Tensor) -> Tensor:
        y = functional_call(model, p, (x,))
        return _softmax(y) if head == "softmax" else y

    def sample(generator: torch.Generator) -> Tensor:
        if options.get("tokens"):
            return torch.randint(0, 11, shape, generator=generator)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    keywords = {key: value for key, value in options.items() if key != "tokens"}
    return discover(f, params, sample, generator=torch.Generator().manual_seed(seed), **keywords)


def laws(found: Regression) -> dict[str, int]:
    return {law.charge.name: law.independent for law in found.laws}


SUMS = {"translation/4.weight": 6, "translation/4.bias": 1}
NEURONS = {"rescale/0.weight+0.bias-2.weight": 7, "rescale/2.weight+2.bias-4.weight": 6}
CASES = {
    "relu, softmax": (lambda: _mlp(nn.ReLU, 5, 7, 6, 4), (8, 5), "softmax", SUMS | NEURONS),
    "relu": (lambda: _mlp(nn.ReLU, 5, 7, 6, 4), (8, 5), None, NEURONS),
    "gelu": (lambda: _mlp(nn.GELU, 5, 7, 6, 4), (8, 5), None, {}),
    "tanh": (lambda: _mlp(nn.Tanh, 5, 7, 3), (8, 5), None, {}),
    "conv, BatchNorm, residual": (
        ConvResidual,
        (6, 3, 4, 4),
        "softmax",
        {
            "translation/fc.weight": 16,
            "translation/fc.bias": 1,
            "scale/c0.weight": 4,
            "scale/c1.weight": 6,
            "scale/c2.weight": 4,
            "rescale/b1.weight+b1.bias-c2.weight": 6,
            "rescale/b0.weight+b0.bias-c1.weight+b2.weight+b2.bias-fc.weight": 4,
        },
    ),
    "grouped conv": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, groups=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        (6, 3, 6, 6),
        None,
        {"rescale/0.weight+0.bias-2.weight": 8, "rescale/2.weight+2.bias-5.weight": 6},
    ),
    "depthwise conv": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        (6, 3, 6, 6),
        None,
        {"rescale/0.weight+0.bias-2.weight": 6, "rescale/2.weight+2.bias-5.weight": 6},
    ),
    "GroupNorm": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6, eps=0), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)),
        (6, 3, 4, 4),
        None,
        {"translation/0.bias": 2, "scale/0.weight+0.bias": 2, "rescale/1.weight+1.bias-4.weight": 6},
    ),
    "LayerNorm": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6, eps=0), nn.Linear(6, 8)),
        (8, 5),
        None,
        {
            "translation/0.weight": 5,
            "translation/0.bias": 1,
            "rescale/1.weight+1.bias-2.weight": 6,
            "scale/0.weight+0.bias": 1,
        },
    ),
    "tied autoencoder": (TiedAutoencoder, (8, 5), None, {"rescale/w1-w2+b1-b3": 6}),
    "shallow tied autoencoder": (ShallowTied, (8, 5), None, {}),
    "concatenation": (
        Concatenated,
        (8, 5),
        None,
        {"rescale/left.weight+left.bias-out.weight": 7, "rescale/right.weight+right.bias-out.weight": 4},
    ),
    "linear": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)),
        (8, 5),
        None,
        {"gl/0.weight+0.bias-1.weight": 10},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_exactly_the_known_laws_are_found(case):
    build, shape, head, expected = CASES[case]
    found = find(build, shape, head=head)
    assert laws(found) == expected
    assert found.rejected == ()
    # laws sit at rounding level, spoilt copies far above, and no singular value is in between
    assert max((law.residual for law in found.laws), default=0.0) < 1e-13
    assert min((law.control for law in found.laws), default=1.0) > 1e-3
    assert found.gap > 1e9


@pytest.mark.parametrize("seed", range(4))
def test_the_list_does_not_depend_on_the_seed(seed):
    assert laws(find(lambda: _mlp(nn.ReLU, 6, 6, 6, 6), (8, 6), head="softmax", seed=seed)) == {
        "translation/4.weight": 6,
        "translation/4.bias": 1,
        "rescale/0.weight+0.bias-2.weight": 6,
        "rescale/2.weight+2.bias-4.weight": 6,
    }


def test_bias_before_batch_norm_is_a_null_parameter():
    assert find(ConvResidual, (6, 3, 4, 4), sizes=[4]).null_parameters == ("c0.bias",)


def test_linear_chain_reports_its_matrix_charge_and_its_pattern():
    (law,) = find(lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), (8, 5)).laws
    assert (law.pattern, law.charge.kind, law.charge.size, law.charge.full) == ("full", "gl", 10, True)


def test_a_narrow_linear_chain_counts_only_independent_entries():
    # 1-4-1 without biases: q (2r + 1 - q) / 2 = 7 of the 10 entries (r = 4 hidden, q = 2 rows of [U; V])
    found = find(lambda: nn.Sequential(nn.Linear(1, 4, bias=False), nn.Linear(4, 1, bias=False)), (8, 1))
    assert found.dimension == 7
    assert found.laws[0].charge.size == 10


def test_a_law_of_one_size_is_lost_when_that_size_is_not_asked_for():
    assert laws(find(lambda: _mlp(nn.ReLU, 5, 7, 3), (8, 5), sizes=[1])) == {"rescale/0.weight+0.bias-2.weight": 1}


def test_validation_rejects_a_law_whose_coefficients_are_slightly_wrong(monkeypatch):
    monkeypatch.setattr(regression, "_rational", lambda value: value + 0.001 * (value < 0))
    found = find(lambda: _mlp(nn.ReLU, 5, 7, 3), (8, 5), sizes=[7])
    assert found.laws == ()
    assert "residual" in found.rejected[0]


def test_a_law_without_a_failing_control_is_rejected(monkeypatch):
    monkeypatch.setattr(regression, "control", lambda charge, draws: 1e-5)
    found = find(lambda: _mlp(nn.ReLU, 5, 7, 3), (8, 5), sizes=[7])
    assert found.laws == ()
    assert "a spoilt copy holds as well" in found.rejected[0]


def test_elements_that_are_never_used_break_nothing():
    def half_used(p, x):
        return torch.relu(x @ p["w"][:4].T) @ p["v"].T

    generator = torch.Generator().manual_seed(0)
    params = {
        "w": torch.randn(8, 3, generator=generator, dtype=torch.float64),
        "v": torch.randn(2, 4, generator=generator, dtype=torch.float64),
    }
    found = discover(
        half_used,
        params,
        lambda g: torch.randn(8, 3, generator=g, dtype=torch.float64),
        generator=generator,
        sizes=[4],
    )
    assert laws(found) == {"rescale/w-v": 4}


def test_every_fit_has_three_rows_per_column():
    for size in (1, 2, 6):
        views = channel_views({"w": (6, 12), "u": (12, 6), "b": (12,)}, size)
        assert regression._Table(views).draws_needed * size >= 3 * len(views)


def test_a_function_of_no_parameter_has_only_null_parameters():
    generator = torch.Generator().manual_seed(0)
    found = discover(
        lambda p, x: x, {"w": torch.ones(2).double()}, lambda g: torch.ones(3).double(), generator=generator
    )
    assert (found.laws, found.null_parameters) == ((), ("w",))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"params": {}}, "params is empty"), ({"sizes": [0]}, "sizes"), ({"tolerance": 0.5}, "tolerance = 0.5")],
)
def test_bad_arguments_are_named(change, words):
    arguments = {"params": {"w": torch.ones(2).double()}, "sizes": None, "tolerance": 1e-9} | change
    with pytest.raises(ValueError, match=words):
        discover(
            lambda p, x: p["w"],
            arguments.pop("params"),
            lambda g: None,
            generator=torch.Generator().manual_seed(0),
            **arguments,
        )


def test_active_dropout_is_refused():
    with pytest.raises(Unsupported, match="identical calls differ"):
        find(lambda: nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5)), (8, 5))


@pytest.mark.slow
def test_transformer_block_gives_the_116_charges_of_the_reference():
    found = find(Block, (6, 5), head="softmax", tokens=True)
    assert found.null_parameters == ("k.bias",)
    degree = {1: 0, 2: 0}
    for law in found.laws:
        degree[law.charge.degree] += law.independent
    assert degree == {1: 44 + 7, 2: 65}
    heads = [law for law in found.laws if law.pattern == "blocks"]
    assert [law.charge.size for law in heads] == [10, 10, 10, 10]
