"""How well a network does on the test examples."""

import torch
from torch import nn

from dynascope.functional.task import Task


def evaluate(task: Task, model: nn.Module, *, batch_size: int = 1000) -> float:
    """The task's metric on its test examples, in eval mode and without gradients.

    Every module's mode is put back afterwards.

    Args:
        task: test examples and metric; the metric is a mean over the examples of a batch.
        model: the network, on its own device.
        batch_size: examples at a time; the last batch may be smaller and counts less.

    Returns:
        The mean over all test examples.

    Raises:
        ValueError: batch_size is below 1, or the task has no test examples.
    """
    if batch_size < 1 or len(task.test) == 0:
        raise ValueError(f"batch_size={batch_size}, {len(task.test)} test examples: both must be 1 or more")
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            total = 0.0
            for start in range(0, len(task.test), batch_size):
                batch = task.test[start : start + batch_size]
                output = model(batch.x.to(device))
                total += task.metric(output, batch.y.to(device)).item() * len(batch)
    finally:
        for module, training in modes:
            module.training = training
    return total / len(task.test)
