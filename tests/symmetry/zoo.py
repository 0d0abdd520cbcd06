"""Small networks of every kind that the graph rules must understand, with their number of symmetries."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvResidual(nn.Module):
    """Two convolutions with batch normalisation around a residual addition."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 6, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.third = nn.Conv2d(6, width, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.first(x)))
        h = torch.relu(h + self.norm3(self.third(torch.relu(self.norm2(self.second(h))))))
        return self.head(F.avg_pool2d(h, 2).flatten(1))


class Concatenation(nn.Module):
    """Two branches joined; one through ReLU, one through tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(5, 4), nn.Linear(5, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([torch.relu(self.left(x)), torch.tanh(self.right(x))], dim=1))


class TiedAutoencoder(nn.Module):
    """Decoder weight is the transposed encoder weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6) / 2)
        self.bias = nn.Parameter(torch.randn(4) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.weight, self.bias)), self.weight.t())


class SharedLayer(nn.Module):
    """The same square layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.shared(torch.relu(self.shared(torch.relu(self.first(x)))))))


class Residual(nn.Module):
    """A residual MLP with a nonlinear branch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.out = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.down(torch.relu(self.up(torch.relu(h))))
        return self.out(torch.relu(h))


class LinearSkip(nn.Module):
    """A skip around one linear map, which can absorb what happens to the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.out(torch.relu(h + self.inside(h)))


class ConvSkip(nn.Module):
    """A skip around one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.out = nn.Linear(3 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.out(F.avg_pool2d(torch.relu(h + self.inside(h)), 2).flatten(1))


class GatedUnit(nn.Module):
    """SwiGLU: the linear branch may be rescaled, the gate may not."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(4, 6, bias=False),
            nn.Linear(4, 6, bias=False),
            nn.Linear(6, 3, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """Linear map unfolded into an image and read by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.spread, self.read = nn.Linear(6, 3 * 4 * 4), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(torch.relu(self.spread(x)).view(-1, 3, 4, 4))


class TokenNorm(nn.Module):
    """Embedding with positions, layer normalisation and a bias-free reader."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(7, 6), nn.Parameter(torch.randn(5, 6) / 2)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.token(x) + self.place))


class WithUnused(nn.Module):
    """One layer never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.out = nn.Linear(3, 4), nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.used(x)))


@dataclass(frozen=True)
class Case:
    """One network of the zoo.

    Attributes:
        name: for the test's name.
        build: makes the module.
        shape: shape of a floating input, or of integers below ``tokens``.
        output: "identity" or "softmax".
        train: mode.
        dimension: number of continuous symmetries where a formula gives it.
        tokens: number of tokens where inputs are integers.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dimension: int
    output: str = "identity"
    train: bool = True
    tokens: int | None = None

    def model(self) -> nn.Module:
        """The module, always the same."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build().train(self.train)

    def inputs(self) -> Tensor:
        """Example inputs, always the same."""
        generator = torch.Generator().manual_seed(1)
        if self.tokens:
            return torch.randint(self.tokens, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator)


def _mlp(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers)


L = nn.Linear
CASES = (
    Case("relu", lambda: nn.Sequential(L(5, 7), nn.ReLU(), L(7, 3)), (4, 5), 7),
    Case("relu softmax", lambda: nn.Sequential(L(5, 7), nn.ReLU(), L(7, 3)), (4, 5), 7 + 8, "softmax"),
    Case("tanh", lambda: nn.Sequential(L(5, 7), nn.Tanh(), L(7, 3)), (4, 5), 0),
    Case("gelu", lambda: nn.Sequential(L(5, 7), nn.GELU(), L(7, 3)), (4, 5), 0),
    Case("linear", lambda: nn.Sequential(L(5, 4), L(4, 3)), (4, 5), 20),
    Case("deep leaky", lambda: nn.Sequential(L(4, 5), nn.LeakyReLU(), L(5, 6), nn.ReLU(), L(6, 2)), (4, 4), 11),
    Case("dropout", lambda: nn.Sequential(L(5, 7), nn.ReLU(), nn.Dropout(0.5), L(7, 3)), (4, 5), 7),
    # an active mask passes scales, but no change of basis and no constant
    Case("linear dropout", lambda: nn.Sequential(L(5, 4), nn.Dropout(0.5), L(4, 3)), (8, 5), 4),
    Case("prelu", lambda: nn.Sequential(L(5, 6), nn.PReLU(6), L(6, 3)), (4, 5), 6),
    Case("batchnorm1d", lambda: nn.Sequential(L(5, 6), nn.BatchNorm1d(6), nn.ReLU(), L(6, 3)), (8, 5), 6 + 6 + 6),
    Case(
        "batchnorm1d eval",
        lambda: nn.Sequential(L(5, 6), nn.BatchNorm1d(6), nn.ReLU(), L(6, 3)),
        (8, 5),
        18,
        train=False,
    ),
    Case("batchnorm tanh", lambda: nn.Sequential(L(5, 6), nn.BatchNorm1d(6), nn.Tanh(), L(6, 3)), (8, 5), 12),
    Case("conv residual", ConvResidual, (8, 1, 6, 6), (4 + 6 + 4) + (4 + 4) + (4 + 6) + 37, "softmax"),
    # conv biases before running statistics are absorbed by the norm's offset: first and third; second has no bias
    Case(
        "conv residual eval", ConvResidual, (8, 1, 6, 6), (4 + 6 + 4) + (4 + 4) + (4 + 6) + 37, "softmax", train=False
    ),
    Case("layernorm", lambda: nn.Sequential(L(5, 6), nn.LayerNorm(6), L(6, 3)), (4, 5), 10 + 1 + 6 + 1 + 6 + 5 + 3),
    Case(
        "layernorm plain",
        lambda: nn.Sequential(L(5, 6), nn.LayerNorm(6, elementwise_affine=False), L(6, 3)),
        (4, 5),
        20,
    ),
    Case("layernorm relu", lambda: nn.Sequential(L(5, 6), nn.LayerNorm(6), nn.ReLU(), L(6, 3)), (4, 5), 13),
    Case("rmsnorm", lambda: nn.Sequential(L(5, 6), nn.RMSNorm(6), L(6, 3)), (4, 5), 22),
    Case(
        "groupnorm",
        lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), L(96, 3)),
        (4, 1, 6, 6),
        2 + 2 + 6,
    ),
    Case(
        "instancenorm",
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Flatten(), L(64, 3)),
        (4, 1, 6, 6),
        4 + 4 + 4,
    ),
    Case(
        "grouped conv",
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, groups=2),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            L(6, 3),
        ),
        (4, 1, 6, 6),
        4 + 6,
    ),
    Case(
        "depthwise conv",
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            L(4, 3),
        ),
        (4, 1, 6, 6),
        4 + 4,
    ),
    Case(
        "instancenorm eval",
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
            nn.ReLU(),
            nn.Flatten(),
            L(48, 2),
        ),
        (4, 1, 6, 6),
        3 + 3 + 3,
        train=False,
    ),
    Case(
        "conv3d",
        lambda: nn.Sequential(nn.Conv3d(1, 3, 2), nn.ReLU(), nn.Conv3d(3, 2, 2), nn.ReLU(), nn.Flatten(), L(16, 2)),
        (4, 1, 4, 4, 4),
        3 + 2,
    ),
    Case(
        "conv1d",
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 3), nn.ReLU(), nn.Flatten(), L(12, 2)),
        (4, 2, 8),
        4 + 3,
    ),
    Case("concatenation", Concatenation, (4, 5), 4),
    Case("tied autoencoder", TiedAutoencoder, (4, 6), 0),
    Case("shared layer", SharedLayer, (4, 4), 5),
    Case("residual", Residual, (4, 4), 5 + 6),
    Case("linear skip", LinearSkip, (4, 4), 5 + 5),
    Case("conv skip", ConvSkip, (4, 1, 6, 6), 3 + 3),
    Case("swiglu", GatedUnit, (4, 4), 6),
    Case("decoder", Decoder, (4, 6), 3),
    # O(5), scale, gains, constants traded between tokens and places and along the ones, absorbed offsets, writes, null
    Case("tokens", TokenNorm, (4, 5), 10 + 1 + 6 + (6 + 5) + 6 + (7 - 1) + 4, tokens=7),
    Case("unused", WithUnused, (4, 3), 4 + 8),
)
