"""Parameters by name and as one vector.

``params`` is always ``dict[str, Tensor]``; ``theta`` is the same numbers as one vector, in the names' order.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

Params = dict[str, Tensor]


def parameters_of(model: nn.Module) -> Params:
    """The model's parameters, detached but sharing memory: a view of the live values, not a copy.

    Args:
        model: any module; a tied weight appears once, under its first name.

    Returns:
        Name to tensor, in the order of ``model.named_parameters()``.

    Example:
        >>> {name: tuple(p.shape) for name, p in parameters_of(nn.Linear(2, 3)).items()}
        {'weight': (3, 2), 'bias': (3,)}
    """
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def buffers_of(model: nn.Module) -> Params:
    """The model's buffers, detached but sharing memory.

    Args:
        model: any module; a shared buffer appears once, under its first name.

    Returns:
        Name to tensor, in the order of ``model.named_buffers()``.
    """
    return {name: buffer.detach() for name, buffer in model.named_buffers()}


def flatten(params: Mapping[str, Tensor]) -> Shaped[Tensor, " params"]:
    """All numbers as one vector, in the order of the names.

    Args:
        params: name to tensor, at least one.

    Returns:
        A new vector; mixed precisions are promoted to the widest.

    Raises:
        ValueError: params is empty.
    """
    if not params:
        raise ValueError("params={} must hold at least one tensor: the model has no parameters")
    return torch.cat([tensor.reshape(-1) for tensor in params.values()])


def unflatten(theta: Shaped[Tensor, " params"], like: Mapping[str, Tensor]) -> Params:
    """Undo ``flatten``.

    Args:
        theta: the vector.
        like: names, shapes and precisions to give back; its values are not read.

    Returns:
        Name to tensor; views of ``theta`` where the precision agrees.

    Raises:
        ValueError: the vector's length is not the number of entries in ``like``.

    Example:
        >>> like = {"a": torch.zeros(2), "b": torch.zeros(1, 1)}
        >>> unflatten(torch.arange(3.0), like)["b"]
        tensor([[2.]])
    """
    sizes = [tensor.numel() for tensor in like.values()]
    if theta.numel() != sum(sizes):
        raise ValueError(f"theta has {theta.numel()} entries, but the names in like hold {sum(sizes)}")
    pieces = theta.split(sizes)
    return {
        name: piece.view(tensor.shape).to(tensor.dtype)
        for (name, tensor), piece in zip(like.items(), pieces, strict=True)
    }


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Sum over all names of the entrywise products.

    Args:
        a: name to tensor.
        b: the same names and shapes.

    Returns:
        The inner product, in the precision of the tensors.

    Raises:
        ValueError: the names differ.
    """
    if a.keys() != b.keys():
        raise ValueError(f"a and b must have the same names; only one of them has {sorted(a.keys() ^ b.keys())}")
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def norm(params: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Euclidean length of all numbers taken as one vector.

    Args:
        params: name to tensor, at least one.

    Returns:
        The norm, in the precision of the tensors.
    """
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in params.values()]))
