"""The tasks by name."""

import math

import numpy as np
import pytest
import torch

from dynascope import tasks
from dynascope.base.errors import UnknownName
from dynascope.tasks import catalog, datasets

NEEDS_A_PATH = {"cifar10-vgg", "cifar100-resnet", "tiny-imagenet-vgg"}


@pytest.fixture
def fake_images(monkeypatch):
    """Readers that answer at once with few random images of the right shape."""

    def split(*shape, classes=10):
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(4, *shape, generator=generator), torch.randint(classes, (4,), generator=generator)
        return lambda *_, **__: datasets.Split(catalog.Data(x, y), catalog.Data(x, y))

    monkeypatch.setattr(datasets, "mnist5k", split(1, 28, 28))
    monkeypatch.setattr(datasets, "mnist1d", split(40))
    monkeypatch.setattr(datasets, "fashion_mnist", split(1, 28, 28))
    monkeypatch.setattr(datasets, "cifar10", split(3, 32, 32))
    monkeypatch.setattr(datasets, "cifar100", split(3, 32, 32, classes=100))
    monkeypatch.setattr(datasets, "tiny_imagenet", split(3, 64, 64, classes=200))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_task_fits_together(fake_images, precision):
    dtype = {"float32": torch.float32, "float64": torch.float64}[precision]
    assert len(tasks.names()) == 12
    for name in tasks.names():
        path = {"path": "-"} if name in NEEDS_A_PATH else {}
        task = tasks.get(name, precision=precision, **path)
        assert task.name == task.card.name == name
        assert task.output == "softmax"
        model, batch = task.model(0), task.train[:4]
        output = model(batch.x)
        loss, metric = task.loss(output, batch.y), task.metric(output, batch.y)
        assert output.dtype == loss.dtype == dtype
        # an untrained network knows nothing yet: its loss is near log(classes)
        assert loss.item() == pytest.approx(math.log(output.shape[1]), rel=0.5)
        assert 0 <= metric.item() <= 1


def test_settings_reach_the_task():
    task = tasks.get("digits_mlp", hidden=(16, 8), held_out=100)
    assert [tuple(p.shape) for p in task.model(0).parameters() if p.ndim == 2] == [(16, 64), (8, 16), (10, 8)]
    assert (len(task.train), len(task.test)) == (1697, 100)
    assert tasks.get("digits-conv", eps=1e-8).model(0)[1].eps == 1e-8
    # float32 sums of 1437 numbers up to 1
    assert task.train.x.mean(dim=0).abs().max() < 1e-6


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'digits-mlp'"):
        tasks.get("digit-mlp")
    with pytest.raises(ValueError, match=r"precision='float16'.*'float32', 'float64'"):
        tasks.get("digits-mlp", precision="float16")
    with pytest.raises(TypeError, match="widths"):
        tasks.get("digits-mlp", widths=(3,))


def test_loss_and_metric_by_hand():
    output = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 0])
    by_hand = np.mean([np.log(1 + np.exp(-2)), np.log(2), np.log(1 + np.e)])
    # two float64 formulas of the same number
    assert catalog.cross_entropy(output, y).item() == pytest.approx(by_hand, rel=1e-14)
    assert catalog.accuracy(output, y).item() == pytest.approx(1 / 3, rel=1e-14)  # a tie counts for class 0
