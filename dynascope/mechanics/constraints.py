r"""What a symmetry demands of every gradient and every Hessian, checked on a loss at hand.

A one-parameter symmetry moves the parameters along a field xi(theta) = M theta + c. Because the loss of *every* batch
is constant along it, differentiating once and twice gives

    <g, xi> = 0    and    H xi + M^T g = 0.

Both are relative residuals here: the first against the lengths of the two vectors on the family's coordinates, the
second against what H does to a random direction on the same coordinates and of the same length. A symmetry leaves
rounding, any other combination of weights something of order one.

Source: Kunin et al., arXiv 2012.04728, geometric properties of gradient and Hessian.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.base.errors import NotASymmetry, Unsupported
from dynascope.functional.hessian import HessianOperator
from dynascope.functional.params import Params, norm
from dynascope.symmetry.charges import Charge, Leg


@dataclass(frozen=True)
class Residuals:
    """How far a family of charges is from obeying the two constraints.

    Attributes:
        name: the family.
        gradient: relative residual of the gradient's constraint, one per charge.
        hessian: relative residual of the Hessian's constraint, for the family as a whole.
    """

    name: str
    gradient: Float[np.ndarray, " size"]
    hessian: float

    @property
    def largest(self) -> float:
        """The largest residual: what has to be small for a symmetry."""
        return float(np.max([*self.gradient, self.hessian]))  # unlike max(), NaN wins

    @property
    def typical(self) -> float:
        """The smaller of the gradient's median residual and the Hessian's: what has to be large for a control."""
        return float(np.min([np.median(self.gradient), self.hessian]))

    def require(self, tolerance: float) -> None:
        """Refuse a family that is no symmetry of the loss.

        Args:
            tolerance: the largest residual that rounding explains.

        Raises:
            NotASymmetry: a residual is larger, or not a number.
        """
        if not self.largest <= tolerance:
            raise NotASymmetry(self.name, self.largest, tolerance)


def constraint_residuals(
    loss_fn: Callable[[Params], Tensor], params: Params, charge: Charge, *, seed: int = 0
) -> Residuals:
    """Check both constraints for one family of charges; one gradient and two Hessian products.

    Args:
        loss_fn: the loss of one batch as a function of the parameters, such as ``functional.model.batch_loss(...)``;
            BatchNorm must use the statistics of the batch for its scale symmetry to be there.
        params: where to check, float64.
        charge: the family, usually one of ``anatomy.charge_families``.
        seed: fixes the random combination of the family's fields and the direction to compare with.

    Returns:
        The residuals.

    Raises:
        Unsupported: the charge is matrix-valued; its diagonal is the rescale family of the same bond.
        ValueError: the parameters are not float64, whose rounding the residuals are about.

    Example:
        Shifting all logits of a softmax classifier by a constant changes no loss.

        >>> legs = (Leg("a", 1.0, torch.zeros(1, dtype=torch.int64), 1),)
        >>> charge = Charge("shift", "translation", 1, legs, 1, True, "")
        >>> loss = lambda p: -torch.log_softmax(p["a"], 0)[0]
        >>> at = {"a": torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)}
        >>> constraint_residuals(loss, at, charge, seed=1).largest < 1e-12
        True
    """
    if charge.full:
        raise Unsupported(
            f"the constraint check of the matrix-valued charge {charge.name}",
            "its fields mix units",
            "check the rescale family of the same bond",
        )
    if any(params[leg.parameter].dtype != torch.float64 for leg in charge.legs):
        raise ValueError(f"the parameters of {charge.name} must be float64; give model.double() and its parameters")
    generator = torch.Generator().manual_seed(seed)
    curvature = HessianOperator(loss_fn, params)
    gradient = curvature.gradient
    weights = torch.randn(charge.size, generator=generator, dtype=torch.float64)
    field = _along(charge, params, params if charge.degree == 2 else None, weights)
    turned = _along(charge, params, gradient if charge.degree == 2 else {}, weights)
    probe = {name: torch.randn(x.shape, generator=generator, dtype=x.dtype) * (x != 0) for name, x in field.items()}
    probe_length = norm(field) / norm(probe)
    moved = curvature.product(field)
    compared = curvature.product({name: x * probe_length for name, x in probe.items()})
    rest = norm({name: moved[name] + turned[name] for name in moved})
    return Residuals(
        name=charge.name,
        gradient=_gradient_residual(charge, params, gradient).numpy(),
        hessian=float(rest / (norm(compared) + norm(turned))),
    )


def _gradient_residual(charge: Charge, params: Params, gradient: Params) -> Float[Tensor, " size"]:
    """|<g, xi_i>| over |g| |xi_i|, both lengths on the coordinates of the i-th charge; 0 where g vanishes there."""
    ones = {leg.parameter: torch.ones_like(params[leg.parameter]) for leg in charge.legs}
    base = params if charge.degree == 2 else ones
    product = charge.bilinear(base, gradient) if charge.degree == 2 else charge.linear(gradient)
    lengths = _squares(charge, base).sqrt() * _squares(charge, gradient, weighted=False).sqrt()
    return torch.where(lengths > 0, product.abs() / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 0.0)


def _squares(charge: Charge, x: Params, *, weighted: bool = True) -> Float[Tensor, " size"]:
    """Squared length on each charge's coordinates, with or without the squared coefficients of the legs."""
    return torch.stack(
        [leg.reduce(x[leg.parameter].square()) * (leg.coefficient**2 if weighted else 1.0) for leg in charge.legs]
    ).sum(0)


def _along(charge: Charge, params: Params, base: Params | None, weights: Float[Tensor, " size"]) -> Params:
    """Sum over charges of weight_i A_i base, zero off the family's legs; with base None the ones, with {} nothing."""
    out = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    for leg in charge.legs:
        values = torch.ones_like(params[leg.parameter]) if base is None else (base or out)[leg.parameter]
        out[leg.parameter] = out[leg.parameter] + _coefficients(leg, weights) * values
    return out


def _coefficients(leg: Leg, weights: Float[Tensor, " size"]) -> Float[Tensor, "..."]:
    """The diagonal of A for one leg: its coefficient times the weight of each element's class."""
    return leg.coefficient * leg.spread(weights)
