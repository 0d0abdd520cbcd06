"""The front door of inspection."""

from typing import Any

from torch import nn

from dynascope.symmetry.anatomy import Anatomy
from dynascope.symmetry.find import inspect_model


def inspect(model: nn.Module, example_inputs: Any, output: str = "identity", *, mode: str | None = None) -> Anatomy:
    """Find the continuous symmetries of a model from its graph, and verify each one in double precision.

    Args:
        model: any module; weights, buffers, mode and random state are left as they are.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.
        output: "identity", or "softmax" where the loss ignores a common shift of the logits (cross-entropy).
        mode: "train" or "eval"; the model's present mode if None.

    Returns:
        The anatomy: print it, or ask for ``.symmetries``, ``.charges(params)``, ``.dimension`` and ``.census()``.

    Raises:
        ValueError: an argument is not permitted, or the model has no parameters.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
        >>> inspect(net, torch.randn(4, 5)).dimension
        7
    """
    return inspect_model(model, example_inputs, output=output, mode=mode)
