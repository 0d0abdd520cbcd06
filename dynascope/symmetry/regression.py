r"""Engine R: charges found by regression on gradients, without any knowledge of layers.

If a family of charges Q_i = sum_legs c |theta_leg,i|^2 is conserved by gradient flow on every loss, then
sum_legs c <theta_leg,i, g_leg,i> = 0 for the gradient g of <w, f> at every parameter point, on every input
and for every cotangent w. That is one linear equation in the coefficients c per point and channel; their
common null space is the list of laws. Degree-1 charges obey the same with <1, g>.

Source: symmetry-discovery digest, section 3.2. Differs: one cotangent per point (rows that share a point are
dependent), and matrix-valued charges are found as the diagonal law whose off-diagonal entries vanish too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import compress, permutations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.symmetry.charges import Charge, Leg
from dynascope.symmetry.draws import (
    Params,
    PureFunction,
    Sample,
    check_deterministic,
    cotangent_gradient,
    fresh,
    near,
)
from dynascope.symmetry.evidence import VALID, Draw, Pattern, control, residual, widen
from dynascope.symmetry.independence import ChargeSpan
from dynascope.symmetry.views import ViewTable, channel_views, group_views

# A parameter whose share of the gradient stays below this at every point has no influence: float64 rounding
# through a network is 1e-15 to 1e-12, a used parameter has a share above 1e-6.
NULL_SHARE = 1e-9
# Smallest residual of a law whose coefficients are spoilt by half. Random theta and gradient in a class of d
# elements have a cosine near 1/sqrt(d), so 1e-4 admits classes of ten million elements and stays four orders
# above VALID.
SPOILT = 1e-4
# Coefficients are small rationals; the fit gives them to about 1e-12.
RATIONAL = 1e-6
# Fresh points for validation, half of them near the given parameters.
VALIDATION_DRAWS = 6
# Points for the null parameters and the sums along one axis (each a single yes or no, so few suffice), and
# the least for a fit.
FIRST_DRAWS = 8
# With as many rows as columns a fit invents laws; three times as many leave no accidental null space.
ROWS_PER_COLUMN = 3


@dataclass(frozen=True, eq=False)
class Law:
    """A family of charges and the evidence for it.

    Attributes:
        charge: the family; its sign is such that the first parameter counts positively.
        pattern: which entries of the matrix sum c theta theta^T are conserved: all, diagonal blocks, or the
            diagonal.
        independent: number of its charges that are independent of the laws before it in the list.
        residual: largest relative violation over fresh draws, per charge (Cauchy-Schwarz bound of the terms =
            1).
        control: the same for the law with its least important coefficient spoilt by half; must be large.
    """

    charge: Charge
    pattern: Pattern
    independent: int
    residual: float
    control: float


@dataclass(frozen=True, eq=False)
class Regression:
    """What charge regression found.

    Attributes:
        laws: the kept laws, finest first.
        null_parameters: parameters that never influence the output.
        gap: smallest ratio, over all fits, between a direction that is not a law and one that is; inf where
            none was.
        draws: number of parameter points used in the fits.
        rejected: names of proposals that failed validation, in words with their residual.
    """

    laws: tuple[Law, ...]
    null_parameters: tuple[str, ...]
    gap: float
    draws: int
    rejected: tuple[str, ...]

    @property
    def charges(self) -> tuple[Charge, ...]:
        """The charge families."""
        return tuple(law.charge for law in self.laws)

    @property
    def residuals(self) -> dict[str, float]:
        """Residual of each family by its name."""
        return {law.charge.name: law.residual for law in self.laws}

    @property
    def dimension(self) -> int:
        """Number of independent charges."""
        return sum(law.independent for law in self.laws)


def discover(
    f: PureFunction,
    params: Params,
    sample: Sample,
    *,
    generator: torch.Generator,
    sizes: Sequence[int] | None = None,
    tolerance: float = 1e-9,
) -> Regression:
    """Find the charges of f by regression on random gradients.

    Args:
        f: pure function of parameters and inputs in float64, deterministic, with the head the loss will see.
        params: parameters by name, each tied tensor once.
        sample: draws inputs; for BatchNorm in train mode give batches of at least 4.
        generator: source of all randomness.
        sizes: channel counts to look for; by default every divisor of every axis length.
        tolerance: singular values below it, relative to the Cauchy-Schwarz bound of the columns, count as
            laws.

    Returns:
        Validated, independent laws and the null parameters.

    Raises:
        ValueError: ``params`` is empty, or a size or the tolerance is out of range.
        Unsupported: f is not deterministic.

    Example:
        >>> def f(p, x):
        ...     return torch.relu(x @ p["a"]) @ p["b"]
        >>> rng = torch.Generator().manual_seed(0)
        >>> params = {"a": torch.randn(3, 4).double(), "b": torch.randn(4, 2).double()}
        >>> found = discover(f, params, lambda g: torch.randn(8, 3, generator=g).double(), generator=rng)
        >>> [(c.name, c.size) for c in found.charges]
        [('rescale/a-b', 4)]
    """
    _check_arguments(params, sizes, tolerance)
    check_deterministic(f, params, sample(generator))

    def draws(start: int, count: int) -> list[Draw]:
        return [_draw(f, params, sample, generator, fresh if k % 2 else near) for k in range(start, start + count)]

    first = draws(0, FIRST_DRAWS)
    null = tuple(name for name in params if all(g[name].norm().item() < NULL_SHARE for _, g in first))
    live = {name: tuple(p.shape) for name, p in params.items() if name not in null}
    targets = _targets(live, sizes)
    tables = [_Table(views) for n in targets if (views := channel_views(live, n))]
    count = max((table.draws_needed for table in tables), default=FIRST_DRAWS)
    for k in range(count):
        stacked = _products(*(first[k : k + 1] or draws(k, 1))[0], live)
        for table in tables:
            table.absorb(k, stacked)
    fits = [table.solve(degree, tolerance) for degree in (1, 2) for table in tables]
    proposals = _group_proposals(first, live) + [charge for charges, _ in fits for charge in charges]
    used = {name: torch.stack([g[name] != 0 for _, g in first]).any(0).double() for name in params}
    laws, rejected = _keep(proposals, draws(0, VALIDATION_DRAWS), ChargeSpan(fresh(params, generator), used))
    return Regression(laws, null, min((gap for _, gap in fits), default=math.inf), count, rejected)


def _draw(f: PureFunction, params: Params, sample: Sample, generator: torch.Generator, point: Any) -> Draw:
    theta = point(params, generator)
    return theta, cotangent_gradient(f, theta, sample(generator), generator)


def _check_arguments(params: Params, sizes: Sequence[int] | None, tolerance: float) -> None:
    if not params:
        raise ValueError("params is empty; a model without parameters has no charges, give at least one tensor")
    if any(size < 1 for size in sizes or ()):
        raise ValueError(f"sizes = {list(sizes or ())}; permitted are channel counts of at least 1")
    if not 0 < tolerance < 1e-3:
        raise ValueError(f"tolerance = {tolerance}; permitted is 0 < tolerance < 1e-3, 1e-9 suits float64")


def _targets(shapes: dict[str, tuple[int, ...]], sizes: Sequence[int] | None) -> list[int]:
    lengths = {length for shape in shapes.values() for length in shape}
    given = sizes if sizes is not None else {k for n in lengths for k in range(1, n + 1) if n % k == 0}
    return sorted({1, *given}, reverse=True)


def _group_proposals(draws: Sequence[Draw], shapes: dict[str, tuple[int, ...]]) -> list[Charge]:
    """Single tensors whose gradient sums to zero along an axis: the finest group per axis."""
    found = [
        next((law for view in views if residual(law := _charge((view,), 1), draws) < VALID), None)
        for views in group_views(shapes)
    ]
    return sorted((law for law in found if law is not None), key=lambda law: -law.size)


def _products(theta: Params, gradient: Params, names: Iterable[str]) -> dict[str, Tensor]:
    """What the contractions sum: theta g, theta^2, g^2, g and 1 per element."""
    pairs = {name: (theta[name], gradient[name]) for name in names}
    return {name: torch.stack([p * g, p * p, g * g, g, torch.ones_like(g)]) for name, (p, g) in pairs.items()}


class _Table:
    """The linear system of one channel size: rows (draw, channel), columns views, unknowns coefficients."""

    def __init__(self, views: tuple[Leg, ...]) -> None:
        self._contract = ViewTable(views)
        self._rows: list[Float[Tensor, "5 size views"]] = []
        self.draws_needed = max(FIRST_DRAWS, math.ceil(ROWS_PER_COLUMN * len(views) / views[0].size))

    def absorb(self, k: int, stacked: dict[str, Tensor]) -> None:
        """Add the rows of the k-th draw while more are needed."""
        if k < self.draws_needed:
            self._rows.append(self._contract.sums(stacked))

    def solve(self, degree: int, tolerance: float) -> tuple[list[Charge], float]:
        """Null space as families of charges with sparse, rational coefficients, and the gap above it."""
        weighted, squares, gradients, plain, ones = torch.cat(self._rows, dim=1)
        values, norms = (plain, ones) if degree == 1 else (weighted, squares)
        # Columns are scaled by their Cauchy-Schwarz bound, not by their own norm: a column that is a law by
        # itself is pure rounding and must stay small.
        scale = (norms * gradients).sum(0).sqrt()
        used = scale > 0  # a window may hold elements that never influence the output
        if not used.any():
            return [], math.inf
        _, sigma, right = torch.linalg.svd(values[:, used] / scale[used], full_matrices=False)
        kernel = sigma < tolerance
        views = list(compress(self._contract.views, used.tolist()))
        rows = _sparse_rows(right[kernel] / scale[used])
        return [_combine(views, row, degree) for row in rows], _gap(sigma, kernel)


def _gap(sigma: Tensor, kernel: Tensor) -> float:
    if not kernel.any() or kernel.all():
        return math.inf
    rounding = torch.finfo(sigma.dtype).eps
    return (sigma[~kernel].min() / sigma[kernel].max().clamp(min=rounding)).item()


def _sparse_rows(null: Float[Tensor, "laws views"]) -> Float[Tensor, "laws views"]:
    """A sparse basis of the same space with leading coefficients 1 and small rationals elsewhere."""
    if not len(null):
        return null
    rows = _sparsest(_echelon(null / null.abs().amax(dim=1, keepdim=True)))
    leading = torch.stack([row[row.abs() > RATIONAL][0] for row in rows])
    return (rows / leading[:, None]).clone().apply_(_rational)


def _echelon(rows: Float[Tensor, "laws views"]) -> Float[Tensor, "laws views"]:
    """Reduced row echelon form with partial pivoting."""
    top = 0
    for column in range(rows.shape[1]):
        if top == len(rows):
            break
        best = top + int(rows[top:, column].abs().argmax())
        if rows[best, column].abs() < RATIONAL:
            continue
        rows[[top, best]] = rows[[best, top]]
        rows[top] /= rows[top, column].clone()
        others = torch.arange(len(rows)) != top
        rows[others] -= rows[others, column, None] * rows[top]
        top += 1
    return rows


def _sparsest(rows: Float[Tensor, "laws views"]) -> Float[Tensor, "laws views"]:
    """Add multiples of rows to each other while that leaves fewer legs: chains split into their links."""
    pairs = list(permutations(range(len(rows)), 2))
    while sum(_shorten(rows, i, j) for i, j in pairs):
        pass
    return rows


def _shorten(rows: Tensor, i: int, j: int) -> bool:
    """Replace row i by its sparsest combination with row j; True where that has fewer legs."""
    shared = (rows[[i, j]].abs() > RATIONAL).all(0).nonzero().flatten().tolist()
    candidates = [rows[i] - rows[i, k] / rows[j, k] * rows[j] for k in shared]
    best = min(candidates, key=_support, default=rows[i])
    shorter = _support(best) < _support(rows[i])
    if shorter:
        rows[i] = best
    return shorter


def _support(row: Tensor) -> int:
    return int((row.abs() > RATIONAL).sum())


def _rational(value: float) -> float:
    near_by = float(Fraction(value).limit_denominator(12))
    return near_by if abs(near_by - value) < RATIONAL else value


def _combine(views: Sequence[Leg], row: Tensor, degree: int) -> Charge:
    legs = (replace(view, coefficient=c) for view, c in zip(views, row.tolist(), strict=True) if abs(c) > RATIONAL)
    return _charge(tuple(legs), degree)


def _charge(legs: tuple[Leg, ...], degree: int) -> Charge:
    same_sign = len({leg.coefficient > 0 for leg in legs}) == 1
    kind = "translation" if degree == 1 else "scale" if same_sign else "rescale"
    size = legs[0].size
    name = "".join(f"{_sign(leg)}{leg.parameter}" for leg in legs).removeprefix("+")
    power = "" if degree == 1 else "²"
    terms = " ".join(f"{_sign(leg)} Σ{leg.parameter}{power}" for leg in legs).removeprefix("+ ")
    words = f"{terms} is conserved " + (f"for each of {size} channels" if size > 1 else "in total")
    return Charge(f"{kind}/{name}", kind, degree, legs, size, True, words)


def _sign(leg: Leg) -> str:
    size = abs(leg.coefficient)
    return ("-" if leg.coefficient < 0 else "+") + ("" if size == 1 else f"{size:g}")


def _keep(
    proposals: Sequence[Charge], draws: Sequence[Draw], span: ChargeSpan
) -> tuple[tuple[Law, ...], tuple[str, ...]]:
    """Validate on unseen draws and keep what is independent of the laws before it."""
    laws, rejected = [], []
    for proposal in proposals:
        worst = residual(proposal, draws)
        if worst > VALID:
            rejected.append(f"{proposal.name}: residual {worst:.1e} on fresh draws")
            continue
        charges, pattern = widen(proposal, draws)
        for charge in charges:
            spoilt = control(charge, draws)
            if spoilt < SPOILT:
                rejected.append(f"{charge.name}: a spoilt copy holds as well ({spoilt:.1e})")
            elif independent := span.add(charge):
                charge = replace(charge, name=_unique(charge.name, [law.charge.name for law in laws]))
                laws.append(Law(charge, pattern, independent, residual(charge, draws), spoilt))
    return tuple(laws), tuple(rejected)


def _unique(name: str, taken: Sequence[str]) -> str:
    same = sum(other.partition("#")[0] == name for other in taken)
    return f"{name}#{same + 1}" if same else name
