"""Small networks: shapes, determinism, and a random state left alone."""

import pytest
import torch
from torch import nn

from dynascope.tasks import models

FACTORIES = {
    "mlp": (lambda seed: models.mlp((5, 7, 3), seed=seed), (4, 5), 3),
    "tanh": (lambda seed: models.mlp((5, 7, 7, 3), seed=seed, activation=nn.Tanh), (4, 5), 3),
    "vgg": (lambda seed: models.vgg_like(((3, 4), (5,)), seed=seed, image=9, hidden=6), (4, 1, 9, 9), 10),
    "resnet": (
        lambda seed: models.resnet_like((4, 6), seed=seed, blocks=2, channels=3, classes=7),
        (4, 3, 8, 8),
        7,
    ),
    "conv_study": (lambda seed: models.conv_study(seed=seed), (4, 1, 8, 8), 10),
}


def vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", FACTORIES)
def test_the_seed_decides_everything_and_nothing_else_moves(name):
    build, inputs, outputs = FACTORIES[name]
    state = torch.get_rng_state()
    first = build(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(vector(first), vector(build(3)))
    assert not torch.equal(vector(first), vector(build(4)))
    assert first(torch.zeros(inputs)).shape == (inputs[0], outputs)


def test_the_random_state_comes_back_after_a_failure():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), models.seeded(0):
        nn.Linear(2, 2)(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_models_are_built_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        assert vector(models.mlp((2, 2), seed=0)).device.type == "cpu"


def test_conv_study_has_the_sizes_of_its_study():
    model = models.conv_study(seed=0, eps=1e-8)
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim > 1]
    assert shapes == [(8, 1, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (32, 128), (10, 32)]
    assert all(layer.bias is not None for layer in model if isinstance(layer, nn.Conv2d | nn.Linear))
    sides = []
    x = torch.zeros(1, 1, 8, 8)
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sides.append(x.shape[-1])
    assert sides == [8, 4, 4]
    assert model[1].eps == 1e-8


def test_vgg_like_layers_are_in_order():
    model = models.vgg_like(((3, 4), (5,)), seed=0, image=8, hidden=6)
    kinds = [type(layer).__name__ for layer in model]
    conv = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == [*conv, *conv, "MaxPool2d", *conv, "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    assert model[-3].in_features == 5 * 2 * 2


def test_a_residual_block_is_its_formula():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    for outputs, stride in ((3, 1), (5, 2)):
        block = models.ResidualBlock(3, outputs, stride).eval()
        inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
        shortcut = x if stride == 1 else block.downsample[1](block.downsample[0](x))
        assert torch.equal(block(x), torch.relu(shortcut + inner))
        assert not torch.equal(block(x), torch.relu(inner))  # control: without the shortcut
        assert block(x).shape == (2, outputs, 6 // stride, 6 // stride)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: models.mlp((5,), seed=0), r"sizes=\(5,\)"),
        (lambda: models.mlp((5, 0), seed=0), r"sizes=\(5, 0\)"),
        (lambda: models.vgg_like((), seed=0), r"stages=\(\)"),
        (lambda: models.vgg_like(((8,), ()), seed=0), r"stages=\(\(8,\), \(\)\)"),
        (lambda: models.vgg_like(((8,),) * 4, seed=0, image=8), "at most 3 for images of 8x8"),
        (lambda: models.resnet_like((), seed=0), r"widths=\(\)"),
        (lambda: models.resnet_like((4,), seed=0, blocks=0), "blocks=0"),
    ],
)
def test_impossible_sizes_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
