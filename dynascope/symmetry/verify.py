"""The model as a pure function in double precision, and the random points at which claims about it are tried."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from dynascope.symmetry.draws import near
from dynascope.symmetry.graph import Graph
from dynascope.symmetry.kinds import Params


@dataclass(frozen=True)
class Draw:
    """One random point at which claims are tried.

    Attributes:
        params: generic parameters, float64.
        buffers: buffers, running statistics generic too.
        inputs: flattened inputs.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    inputs: tuple[Any, ...]


Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Bench:
    """The model as a pure function, and the points at which claims are tried.

    Attributes:
        function: ``function(params, buffers, inputs, epsilon_zero=, batch_statistics=)`` -> output behind its head.
        draws: random points.
    """

    function: Function
    draws: tuple[Draw, ...]


def head(output: Tensor, softmax_axis: int | None) -> Tensor:
    """What the loss can see of the output.

    Args:
        output: the model's output.
        softmax_axis: axis along which a common shift does not matter, or None.

    Returns:
        The output, or its log-softmax.
    """
    return output if softmax_axis is None else output.log_softmax(softmax_axis)


def graph_function(graph: Graph, softmax_axis: int | None) -> Function:
    """The exported graph as a function to be tried.

    Args:
        graph: traced module.
        softmax_axis: see :func:`head`.

    Returns:
        The function.
    """

    def function(params: Params, buffers: Params, inputs: Sequence[Any], **options: Any) -> Tensor:
        return head(graph.evaluate(params, buffers, inputs, **options), softmax_axis)  # type: ignore[arg-type]

    return function


def module_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers in double precision on the CPU, detached, tied weights once.

    Args:
        model: the module.

    Returns:
        Parameters and buffers by name.
    """

    def wide(t: Tensor) -> Tensor:
        t = t.detach().cpu()
        return t.double() if t.is_floating_point() else t.clone()

    params = {n: wide(p) for n, p in model.named_parameters()}
    return params, {n: wide(b) for n, b in model.named_buffers()}


def random_input(value: Any, generator: torch.Generator) -> Any:
    """An input like the example: same shape, other numbers.

    Args:
        value: one flattened example input.
        generator: source of randomness.

    Returns:
        Normal numbers of the example's mean and spread, shuffled integers, anything else as it is.
    """
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    if value.is_floating_point():
        wide = value.double()
        spread = float(wide.std()) if wide.numel() > 1 else 1.0
        noise = torch.randn(wide.shape, generator=generator, dtype=torch.float64)
        return wide.mean() + (spread if spread > 0 else 1.0) * noise
    if value.dtype == torch.bool or value.numel() < 2:
        return value
    return value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)


def draw(model: nn.Module, inputs: Sequence[Any], generator: torch.Generator) -> Draw:
    """Draw a generic point.

    Args:
        model: the module.
        inputs: flattened example inputs.
        generator: source of randomness.

    Returns:
        The point.
    """
    params, buffers = module_tensors(model)
    params = near(params, generator)
    for name, b in buffers.items():
        if name.endswith("running_mean"):
            buffers[name] = b + 0.3 * torch.randn(b.shape, generator=generator, dtype=torch.float64)
        elif name.endswith("running_var"):
            buffers[name] = b * (0.3 * torch.randn(b.shape, generator=generator, dtype=torch.float64)).exp()
    return Draw(params, buffers, tuple(random_input(v, generator) for v in inputs))


def jacobian_vector(
    function: Callable[[dict[str, Tensor]], Tensor], params: Params, tangent: Mapping[str, Tensor]
) -> Tensor:
    """Directional derivative of the output, in forward mode where torch has it and by two reverse passes elsewhere.

    Args:
        function: params -> output.
        params: the point.
        tangent: direction, by name; parameters not named stay.

    Returns:
        The derivative, of the output's shape.
    """
    moved = {n: params[n] for n in tangent}
    direction = {n: t.expand(params[n].shape).to(params[n]) for n, t in tangent.items()}

    def inner(some: dict[str, Tensor]) -> Tensor:
        return function({**params, **some})

    with sdpa_kernel(SDPBackend.MATH):
        try:
            return torch.func.jvp(inner, (moved,), (direction,))[1]
        except (NotImplementedError, RuntimeError):
            return _double_reverse(inner, moved, direction)


def _double_reverse(inner: Callable, moved: dict[str, Tensor], direction: dict[str, Tensor]) -> Tensor:
    leaves = {n: p.detach().requires_grad_() for n, p in moved.items()}
    out = inner(leaves)
    dual = torch.zeros_like(out, requires_grad=True)
    grads = torch.autograd.grad(out, list(leaves.values()), dual, create_graph=True, allow_unused=True)
    total = sum((g * direction[n]).sum() for n, g in zip(leaves, grads, strict=True) if g is not None)
    if not isinstance(total, Tensor) or not total.requires_grad:
        return torch.zeros_like(out)
    return torch.autograd.grad(total, dual)[0].detach()


def flatten_inputs(args: tuple, kwargs: Mapping[str, Any] | None) -> list[Any]:
    """Flatten example inputs the way the exported graph takes them.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.

    Returns:
        Leaves in order.
    """
    return pytree.tree_flatten((args, dict(kwargs or {})))[0]
