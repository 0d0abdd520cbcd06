"""The direction that PyTorch's SGD is about to apply, from its settings and its state before the step."""

from collections.abc import Mapping
from inspect import unwrap
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Optimizer

from dynascope.base.errors import DynascopeError


def follows_sgd(optimizer: Optimizer) -> bool:
    """Whether an optimiser's step is exactly that of ``torch.optim.SGD``, so that the laws of charges apply.

    Args:
        optimizer: any optimiser. A subclass that brings a step of its own does not follow SGD.

    Returns:
        True for SGD and for subclasses that inherit its step.
    """
    return isinstance(optimizer, SGD) and unwrap(type(optimizer).step) is unwrap(SGD.step)


def sgd_direction(
    theta: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"] | None,
    buffer: Float[Tensor, "*shape"] | None,
    settings: Mapping[str, Any],
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The direction u that PyTorch's SGD is about to apply to one parameter, and its new buffer v'.

    d = g + lambda theta (-g + lambda theta if the loss is maximised); v' = mu v + (1 - tau) d, but v' = d for
    an empty buffer or mu = 0; u = v', or d + mu v' for Nesterov; then theta' = theta - eta u.

    Args:
        theta: the parameter.
        gradient: its gradient; None if it has none, and then SGD leaves it alone.
        buffer: its momentum buffer; None before its first step.
        settings: its parameter group; empty if it is in none.

    Returns:
        u and v'.

    Example:
        >>> one = torch.ones(1)
        >>> settings = {"momentum": 0.5, "dampening": 0, "weight_decay": 1.0}
        >>> sgd_direction(one, one, 2 * one, settings)[0].item()
        3.0
    """
    old = torch.zeros_like(theta) if buffer is None else buffer
    if gradient is None or not settings:
        return torch.zeros_like(theta), old
    direction = (-gradient if settings.get("maximize") else gradient) + settings["weight_decay"] * theta
    if settings["momentum"] == 0:
        return direction, direction
    gain = 1.0 if buffer is None else 1.0 - settings["dampening"]
    new = settings["momentum"] * old + gain * direction
    return (direction + settings["momentum"] * new if settings.get("nesterov") else new), new


class Span(NamedTuple):
    """Where ``write_sgd_direction`` reads theta, v and g and writes u and, if there is room for it, w = v'."""

    theta: Tensor
    v: Tensor
    g: Tensor
    u: Tensor
    w: Tensor | None


def write_sgd_direction(span: Span, settings: Mapping[str, Any], *, fresh: bool) -> None:
    """``sgd_direction`` in place, for a stretch of memory that holds any number of parameters of one group.

    Args:
        span: the memory; v is zero where the buffer is empty.
        settings: the parameter group; empty, or None as gradient, is for the caller to handle (``stand_still``).
        fresh: the buffers are empty.

    Raises:
        DynascopeError: Nesterov momentum is in use and there is no room for v'.
    """
    momentum, decay = float(settings["momentum"]), float(settings["weight_decay"])
    if settings["maximize"]:
        torch.mul(span.theta, decay, out=span.u).sub_(span.g)
    else:
        torch.add(span.g, span.theta, alpha=decay, out=span.u)
    if settings["nesterov"]:
        if span.w is None:
            raise DynascopeError("Nesterov momentum was switched on after recording began")
        torch.add(span.u, span.v, alpha=momentum, out=span.w)
        span.u.add_(span.w, alpha=momentum)
        return
    if momentum and not fresh:
        if settings["dampening"]:
            span.u.mul_(1.0 - float(settings["dampening"]))
        span.u.add_(span.v, alpha=momentum)
    if span.w is not None:
        span.w.copy_(span.u)


def stand_still(span: Span) -> None:
    """The direction of a parameter that SGD leaves alone: u = 0 and v' = v.

    Args:
        span: the memory.
    """
    span.u.zero_()
    if span.w is not None:
        span.w.copy_(span.v)
