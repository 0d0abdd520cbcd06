"""The metric on the test examples."""

import pytest
import torch
from torch import nn

from dynascope import tasks
from dynascope.training.evaluate import evaluate


def test_uneven_batches_give_the_plain_mean_and_leave_no_trace():
    task = tasks.get("digits-vgg", precision="float64")
    model = task.model(0)
    model[4].eval()  # one layer frozen by its owner
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    value = evaluate(task, model, batch_size=77)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    right = (model.eval()(task.test.x).argmax(1) == task.test.y).sum().item()
    assert value == pytest.approx(right / 360, rel=1e-14)


def test_modes_come_back_after_a_failure():
    task = tasks.get("digits-mlp")
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        evaluate(task, model)
    assert model[0].training


def test_nothing_to_evaluate_is_refused():
    task = tasks.get("digits-mlp", held_out=0)
    with pytest.raises(ValueError, match="0 test examples"):
        evaluate(task, task.model(0))
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate(tasks.get("digits-mlp"), task.model(0), batch_size=0)
