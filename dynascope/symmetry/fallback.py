"""Inspection without a graph: charges found by regression on gradients alone, verified like all others."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dynascope.base.errors import Unsupported
from dynascope.functional.model import as_function
from dynascope.symmetry.actions import mixing, scaling, spread
from dynascope.symmetry.charges import Charge, Leg
from dynascope.symmetry.families import Family, Part
from dynascope.symmetry.kinds import Action, Moved, Params, Symmetry, SymmetryLeg
from dynascope.symmetry.regression import discover
from dynascope.symmetry.verify import Bench, head, random_input

# Zero to double precision; torch refuses 0 itself in a batch normalisation.
NO_EPSILON = 1e-30
_EPSILONS = ("eps", "epsilon", "variance_epsilon", "layer_norm_eps")


def module_function(model: nn.Module, args: tuple, kwargs: dict[str, Any], output: str) -> Callable[..., Tensor]:
    """The module itself as a function to be tried, in double precision on a copy.

    Args:
        model: the module.
        args: positional example inputs.
        kwargs: keyword example inputs.
        output: "identity" or "softmax".

    Returns:
        ``function(params, buffers, inputs, epsilon_zero=, batch_statistics=)``.
    """
    plain = copy.deepcopy(model).cpu().double()
    zero = copy.deepcopy(plain)
    for module in zero.modules():
        for name in _EPSILONS:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, NO_EPSILON)
    _, spec = pytree.tree_flatten((args, kwargs))

    def function(
        params: Params,
        buffers: Params,
        inputs: Sequence[Any],
        *,
        epsilon_zero: bool = False,
        batch_statistics: bool | None = None,
    ) -> Tensor:
        mode = None if batch_statistics is None else "train" if batch_statistics else "eval"
        some, more = pytree.tree_unflatten(list(inputs), spec)
        result = as_function(zero if epsilon_zero else plain, mode=mode)(dict(params), dict(buffers), *some, **more)
        return head(_first(result, model), _axis(result, model, output))

    return function


def _first(result: Any, model: nn.Module) -> Tensor:
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim:
            return leaf
    raise Unsupported(
        f"{type(model).__name__}'s output",
        "none of its outputs is a floating-point tensor with at least one axis",
        "return the logits or predictions themselves, not only the loss",
    )


def _axis(result: Any, model: nn.Module, output: str) -> int | None:
    rank = _first(result, model).ndim
    return None if output == "identity" else rank - 1 if rank <= 3 else 1


def proposals(bench: Bench, rng: torch.Generator) -> list[Symmetry]:
    """Symmetries whose charges regression finds.

    Args:
        bench: the function and its points.
        rng: source of randomness.

    Returns:
        Proposals, to be verified like any other.
    """
    d = bench.draws[0]

    def f(params: Params, inputs: Any) -> Tensor:
        return bench.function(params, d.buffers, inputs, epsilon_zero=True)

    def sample(generator: torch.Generator) -> tuple:
        return tuple(random_input(v, generator) for v in d.inputs)

    found = discover(f, d.params, sample, generator=rng)
    out = [symmetry_of(charge, {n: tuple(p.shape) for n, p in d.params.items()}) for charge in found.charges]
    for name in found.null_parameters:
        p = d.params[name]
        classes = torch.arange(p.numel()).view(p.shape)
        words = f"{p.numel()} numbers of {name} that nothing after them can see"
        charge = Charge(f"translation/{name}", "translation", 1, _leg(name, classes), p.numel(), True, words)
        out.append(symmetry_of(charge, {name: tuple(p.shape)}))
    return out


def _leg(name: str, classes: Tensor) -> tuple:
    return (Leg(name, 1.0, classes, int(classes.max()) + 1),)


def symmetry_of(charge: Charge, shapes: dict[str, tuple[int, ...]]) -> Symmetry:
    """The symmetry that conserves a charge: its field is the charge's gradient.

    Args:
        charge: a family of charges.
        shapes: shapes of the parameters.

    Returns:
        The symmetry, not yet verified.
    """
    parts = tuple(Part(leg.parameter, leg.coefficient, leg.classes) for leg in charge.legs)
    legs = tuple(SymmetryLeg(p.key, p.coefficient, "by regression", shapes[p.key]) for p in parts)
    if charge.full:
        n = charge.legs[0].size
        action, group = mixing(charge.legs, (), n, "gl"), f"GL({n})"
    elif charge.degree == 2:
        action = scaling(Family(torch.arange(charge.size), parts), ())
        group = f"positive diagonal ({charge.size})"
    else:
        action, group = _constant(parts, charge.size), f"translations ({charge.size})"
    return Symmetry(charge.name, charge.words, charge.kind, group, legs, None, action, charge)


def _constant(parts: Sequence[Part], size: int) -> Action:
    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        change: dict[str, Tensor] = {}
        for p in parts:
            moved = p.coefficient * spread(element, p.classes).expand(params[p.key].shape)
            change[p.key] = change[p.key] + moved if p.key in change else moved
        return change

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        change = tangent(params, buffers, element)
        return {n: p + change[n] if n in change else p for n, p in params.items()}, dict(buffers)

    return Action((size,), size, tangent, finite)
