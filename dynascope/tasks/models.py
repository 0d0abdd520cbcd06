"""Small models a user would write: plain modules, built from a seed.

Every factory is deterministic in its ``seed`` and leaves the global random state where it was. Weights start
from PyTorch's own defaults, on the CPU and in the default floating type; move or cast the module afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with the CPU's random state started from ``seed``, and put the old state back afterwards.

    Args:
        seed: any integer that ``torch.manual_seed`` takes.

    Yields:
        Nothing; the block runs.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed: it also seeds the accelerators, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield


def mlp(sizes: Sequence[int], *, seed: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A multilayer perceptron: linear maps with biases, an activation between each two.

    Args:
        sizes: number of inputs, of units of each hidden layer, and of outputs.
        seed: fixes the initial weights.
        activation: makes the module between two linear maps.

    Returns:
        ``Linear, activation, Linear, ..., Linear`` for inputs of shape (batch, sizes[0]).

    Raises:
        ValueError: fewer than two sizes, or one below 1.

    Example:
        >>> [tuple(p.shape) for p in mlp((5, 7, 3), seed=0).parameters()]
        [(7, 5), (7,), (3, 7), (3,)]
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes={tuple(sizes)}: give at least two numbers of units, each 1 or more")
    with seeded(seed):
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
        return nn.Sequential(*layers[:-1])


def vgg_like(
    stages: Sequence[Sequence[int]],
    *,
    seed: int,
    channels: int = 1,
    image: int = 28,
    hidden: int = 64,
    classes: int = 10,
    bias: bool = True,
) -> nn.Sequential:
    """A VGG-like network: stages of conv-BatchNorm-ReLU that each end in a max-pool, then two linear maps.

    Args:
        stages: output channels of the 3x3 convolutions of each stage, for example ``((8, 8), (16, 16))``.
        seed: fixes the initial weights.
        channels: of the input images.
        image: height and width of the input images; each stage halves it, rounding down.
        hidden: units of the hidden linear layer.
        classes: number of outputs.
        bias: whether convolutions have biases, as in VGG; the normalisation behind them removes what a bias does.

    Returns:
        A flat ``Sequential`` for inputs of shape (batch, channels, image, image).

    Raises:
        ValueError: no stage, an empty stage, or more halvings than the image allows.
    """
    side = image >> len(stages)
    if not stages or not all(stages) or side < 1:
        raise ValueError(
            f"stages={stages}: give one or more non-empty stages, at most {image.bit_length() - 1} for "
            f"images of {image}x{image} pixels (each stage halves the side)"
        )
    with seeded(seed):
        layers: list[nn.Module] = []
        width = channels
        for stage in stages:
            for outputs in stage:
                layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU()]
                width = outputs
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Flatten(), nn.Linear(width * side**2, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
        return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut: ``relu(x' + bn2(conv2(relu(bn1(conv1(x))))))``.

    The shortcut ``x'`` is the identity, or a strided 1x1 convolution with BatchNorm where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h2 w2"]:
        """Apply the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.downsample(x) + self.bn2(self.conv2(y)))


def resnet_like(
    widths: Sequence[int], *, seed: int, blocks: int = 1, channels: int = 1, classes: int = 10
) -> nn.Sequential:
    """A ResNet-like network: a 3x3 stem, residual stages, global average pooling, one linear map.

    Args:
        widths: channels of each stage; every stage after the first halves the image in its first block.
        seed: fixes the initial weights.
        blocks: residual blocks in each stage.
        channels: of the input images.
        classes: number of outputs.

    Returns:
        The network, for images of any size.

    Raises:
        ValueError: no stage, or fewer than one block.
    """
    if not widths or blocks < 1:
        raise ValueError(f"widths={tuple(widths)}, blocks={blocks}: give one or more widths and at least one block")
    with seeded(seed):
        stem = [
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        stages: list[nn.Module] = []
        width = widths[0]
        for index, outputs in enumerate(widths):
            first = ResidualBlock(width, outputs, stride=1 if index == 0 else 2)
            stages.append(nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1))))
            width = outputs
        return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def conv_study(*, seed: int, eps: float = 1e-5) -> nn.Sequential:
    """The network of the study neural-mechanics, for images of 8x8 pixels.

    It has one BatchNorm (scale and bias translation), one rescale bond between convolutions, one through a
    flatten, one between linear maps. Sizes: 8x8 after the first convolution, 4x4 after the strided second and
    after the third, so 8 * 16 = 128 features reach the first linear map.

    Args:
        seed: fixes the initial weights.
        eps: the epsilon of BatchNorm; its scale symmetry is exact only at 0.

    Returns:
        A flat ``Sequential`` for inputs of shape (batch, 1, 8, 8).
    """
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8, eps=eps),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
