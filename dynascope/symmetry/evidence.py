"""How well a proposed family of charges holds on given draws, and how badly a spoilt copy of it fails."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.symmetry.charges import Charge, Leg
from dynascope.symmetry.draws import Params

Draw = tuple[Params, Params]
Pattern = Literal["full", "blocks", "diag"]

# Largest residual of a law on unseen draws: laws sit at 1e-15, the nearest non-laws above 1e-4.
VALID = 1e-8


def violation(charge: Charge, theta: Params, gradient: Params) -> Float[Tensor, " size"]:
    """Half the rate of change of each charge along a gradient, <grad Q, g> / 2 (degree 1: <grad Q, g>).

    Args:
        charge: the family.
        theta: parameters by name.
        gradient: gradient by name.

    Returns:
        One number per charge, zero for a law.
    """
    return charge.linear(gradient) if charge.degree == 1 else charge.bilinear(theta, gradient)


def bound(charge: Charge, theta: Params, gradient: Params) -> Float[Tensor, " size"]:
    """Cauchy-Schwarz bound of the violation: sum over legs of |c| |theta_i| |g_i|.

    Args:
        charge: the family.
        theta: parameters by name.
        gradient: gradient by name.

    Returns:
        One number per charge.
    """
    total = gradient[charge.legs[0].parameter].new_zeros(charge.size)
    for leg in charge.legs:
        p, g = theta[leg.parameter], gradient[leg.parameter]
        p_norm = leg.reduce(torch.ones_like(p) if charge.degree == 1 else p.square()).sqrt()
        g_norm = leg.reduce(g.square()).sqrt()
        total = total + abs(leg.coefficient) * (_outer(p_norm, g_norm) if charge.full else p_norm * g_norm)
    return total


def relative(charge: Charge, theta: Params, gradient: Params) -> Float[Tensor, " size"]:
    """Violation of each charge over its own bound, so that a small broken channel cannot hide.

    Args:
        charge: the family.
        theta: parameters by name.
        gradient: gradient by name.

    Returns:
        One number between 0 and 1 per charge.
    """
    yardstick = bound(charge, theta, gradient)
    # A channel that is dead on this input has only rounding in its gradient: its bound is floored at a
    # millionth of the largest channel's, which still shows any violation above 1e-14 of that channel's terms.
    floor = (1e-6 * yardstick.max()).clamp(min=torch.finfo(yardstick.dtype).tiny)
    return violation(charge, theta, gradient).abs() / (yardstick + floor)


def residual(charge: Charge, draws: Sequence[Draw]) -> float:
    """Largest relative violation over charges and draws; stops at the first draw that is no law's.

    Args:
        charge: the family.
        draws: pairs of parameters and gradient.

    Returns:
        The residual.
    """
    worst = 0.0
    for theta, gradient in draws:
        worst = max(worst, relative(charge, theta, gradient).max().item())
        if worst > VALID:
            break
    return worst


def control(charge: Charge, draws: Sequence[Draw]) -> float:
    """Residual of the least damaging spoilt copy: one leg (or, of a single leg, half) counted 1.5 times.

    Args:
        charge: the family.
        draws: pairs of parameters and gradient.

    Returns:
        The smallest over legs of the median over charges of the largest over draws (dead channels cannot
        fail).
    """
    if len(charge.legs) == 1:
        violations = [_half_spoilt(charge, theta, gradient) for theta, gradient in draws]
        return torch.stack(violations).amax(0).median().item()
    spoilt = [replace(charge, legs=legs) for legs in _one_changed(charge.legs)]
    return min(torch.stack([relative(c, *draw) for draw in draws]).amax(0).median().item() for c in spoilt)


def widen(charge: Charge, draws: Sequence[Draw]) -> tuple[tuple[Charge, ...], Pattern]:
    """Find whether the off-diagonal entries <theta_i, theta_j> are conserved too.

    Args:
        charge: a diagonal family of degree 2 that holds.
        draws: pairs of parameters and gradient.

    Returns:
        The matrix-valued charges (one, or one per diagonal block), or the family itself, and the pattern.
    """
    size = charge.size
    if charge.degree == 1 or size == 1:
        return (charge,), "diag"
    matrix = _matrix_charge(charge, charge.legs, "")
    worst = torch.stack([relative(matrix, *draw) for draw in draws]).amax(0)
    rows, columns = torch.triu_indices(size, size)
    for block in (b for b in range(size, 1, -1) if size % b == 0):
        inside = rows // block == columns // block
        if bool((worst[inside] < VALID).all()):
            if block == size:
                return (matrix,), "full"
            return tuple(_blocks(charge, block)), "blocks"
    return (charge,), "diag"


def _matrix_charge(charge: Charge, legs: tuple[Leg, ...], suffix: str) -> Charge:
    size = legs[0].size
    name = f"gl/{charge.name.partition('/')[2]}{suffix}"
    count = size * (size + 1) // 2
    words = f"{charge.words.partition(' is conserved')[0]} as a symmetric {size} x {size} matrix is conserved"
    return Charge(name, "gl", 2, legs, count, charge.exact, words, full=True)


def _blocks(charge: Charge, block: int) -> Iterator[Charge]:
    for k in range(charge.size // block):
        legs = tuple(replace(leg, classes=_window(leg.classes, k * block, block), size=block) for leg in charge.legs)
        yield _matrix_charge(charge, legs, f"[{k}]")


def _window(classes: Tensor, start: int, length: int) -> Tensor:
    return torch.where((classes >= start) & (classes < start + length), classes - start, -1)


def _one_changed(legs: tuple[Leg, ...]) -> Iterator[tuple[Leg, ...]]:
    for k, leg in enumerate(legs):
        yield (*legs[:k], replace(leg, coefficient=1.5 * leg.coefficient), *legs[k + 1 :])


def _half_spoilt(charge: Charge, theta: Params, gradient: Params) -> Tensor:
    """A law's positive and negative terms cancel; counting the positive ones 1.5 times must show."""
    name = charge.legs[0].parameter
    p, g = theta[name], gradient[name]
    positive = (g if charge.degree == 1 else p * g) > 0
    return relative(charge, theta, {name: torch.where(positive, 1.5 * g, g)})


def _outer(p_norm: Tensor, g_norm: Tensor) -> Tensor:
    both = torch.outer(p_norm, g_norm)
    rows, columns = torch.triu_indices(len(both), len(both))
    return ((both + both.T) / 2)[rows, columns]
