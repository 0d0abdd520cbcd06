"""Generic parameter points and checked evaluations: what every numerical engine of this room starts from.

A law is an identity in the parameters, so one special point proves nothing: biases at zero hide their
coefficient, gains at one hide theirs, a dead unit obeys every law. The engines therefore look at two kinds of
points: *near* the given parameters, where the user is, and *fresh* ones, which keep only shapes and the sign
of one-signed tensors.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dynascope.base.errors import Unsupported
from dynascope.functional.params import Params

PureFunction = Callable[[Params, Any], Tensor]
Sample = Callable[[torch.Generator], Any]

# Relative size of the perturbation: large enough to leave special values, small enough for a working network.
SPREAD = 0.3
# Standard deviation of fresh vectors: biases this small against pre-activations of size 1 leave no unit dead
# by accident.
VECTOR_SPREAD = 0.25


def near(params: Params, generator: torch.Generator) -> Params:
    """Perturb every tensor by 30 % of its median absolute value; zero tensors get noise of size 0.1.

    Tensors of one sign (gains, variances) are multiplied by exp(0.3 noise), so that they keep it.

    Args:
        params: parameters by name.
        generator: source of randomness.

    Returns:
        New tensors, detached.
    """
    return {name: _near(p.detach(), generator) for name, p in params.items()}


def fresh(params: Params, generator: torch.Generator) -> Params:
    """Draw every tensor anew at the scale of a working network, whatever its values were.

    Matrices and filters get variance 1 / fan_in, vectors standard deviation 0.25; tensors of one sign keep
    it. A unit that is dead at the given parameters is therefore alive here.

    Args:
        params: parameters by name; only shapes and common signs are used.
        generator: source of randomness.

    Returns:
        New tensors, detached.
    """
    return {name: _fresh(p.detach(), generator) for name, p in params.items()}


def evaluate(f: PureFunction, params: Params, inputs: Any) -> Tensor:
    """Call f and check that its output can carry a law.

    Args:
        f: pure function of parameters and inputs.
        params: parameters by name, float64.
        inputs: whatever ``sample`` drew.

    Returns:
        The output, with at least one entry.

    Raises:
        ValueError: a parameter is not float64, or the output is not a finite, non-empty float64 tensor.
    """
    for name, p in params.items():
        if p.dtype != torch.float64:
            raise ValueError(f"parameter {name} has dtype {p.dtype}; laws are measured in float64, cast a copy first")
    # The fused attention kernels lack second and forward derivatives.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        output = f(params, inputs)
    if not isinstance(output, Tensor) or output.dtype != torch.float64 or output.numel() == 0:
        is_tensor = isinstance(output, Tensor)
        given = f"{output.dtype} of shape {tuple(output.shape)}" if is_tensor else type(output).__name__
        raise ValueError(f"f returned {given}; permitted is one non-empty float64 tensor, select it in f")
    if not bool(output.detach().isfinite().all()):
        raise ValueError("f returned infinite or missing values at a generic point; permitted are finite outputs")
    return output


def check_deterministic(f: PureFunction, params: Params, inputs: Any) -> None:
    """Refuse a function that gives two answers to one question.

    Args:
        f: pure function of parameters and inputs.
        params: parameters by name.
        inputs: whatever ``sample`` drew.

    Raises:
        Unsupported: two identical calls differ.
    """
    with torch.no_grad():
        first, second = evaluate(f, params, inputs).detach(), evaluate(f, params, inputs).detach()
    if not torch.equal(first, second):
        raise Unsupported(
            "measuring symmetries of this function",
            f"two identical calls differ by up to {(first - second).abs().max().item():.1e}",
            "replace dropout by the identity and fix every random choice inside the model",
        )


def cotangent_gradient(f: PureFunction, params: Params, inputs: Any, generator: torch.Generator) -> Params:
    """Gradient of <w, f> for a random w: a law that holds for it holds for every loss and label.

    Args:
        f: pure function of parameters and inputs.
        params: parameters by name.
        inputs: whatever ``sample`` drew.
        generator: source of w.

    Returns:
        Gradients by name, scaled to total norm 1 (all zero where the output does not depend on any
        parameter).
    """
    live = {name: p.detach().requires_grad_() for name, p in params.items()}
    output = evaluate(f, live, inputs)
    if not output.requires_grad:
        return {name: torch.zeros_like(p) for name, p in params.items()}
    cotangent = _noise(output.detach(), generator)
    found = torch.autograd.grad(output, list(live.values()), cotangent, allow_unused=True, materialize_grads=True)
    total = torch.sqrt(sum((g.square().sum() for g in found), start=output.new_zeros(()))).item()
    return {name: g / (total or 1.0) for name, g in zip(live, found, strict=True)}


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


def _one_signed(p: Tensor) -> bool:
    return bool((p > 0).all()) or bool((p < 0).all())


def _near(p: Tensor, generator: torch.Generator) -> Tensor:
    noise = _noise(p, generator)
    if _one_signed(p):
        return p * torch.exp(SPREAD * noise)
    # The median, so that one extreme entry does not drown the others in noise; where most are zero, the mean.
    typical = p.abs().median() if (p != 0).sum() > p.numel() / 2 else p.abs().mean()
    return p + noise * (SPREAD * typical if typical > 0 else 0.1)


def _fresh(p: Tensor, generator: torch.Generator) -> Tensor:
    noise = _noise(p, generator)
    fan_in = p.numel() / p.shape[0] if p.ndim > 1 else 1.0
    if _one_signed(p):
        return p.sign() * torch.exp(VECTOR_SPREAD * noise) / fan_in**0.5
    return noise / fan_in**0.5 if p.ndim > 1 else VECTOR_SPREAD * noise
