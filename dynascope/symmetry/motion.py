r"""Engine M: a null direction explained by how it moves the activations inside the network.

A parameter direction that changes no output still moves tensors inside: delta a = J_a delta theta. Where that
motion is affine in the activation itself, delta a_i = M a_i + c over all samples i, the tensor is a bond and
the matrices M that occur span the Lie algebra of its group. No list of operations is consulted, so this
explains what a rule book cannot.

All counts are of independent directions and do not depend on the basis of the null space.
Source: symmetry-discovery digest, section 3.6.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dynascope.functional.params import Params, flatten, unflatten

Activations = Callable[[Params, Any], Mapping[str, Tensor]]
NullVectors = Float[Tensor, "params null"] | Sequence[Mapping[str, Tensor]]
Algebra = Literal["gl", "diagonal", "scalar", "antisymmetric", "antisymmetric+scalar", "other", "shift", "none"]

# Relative motion per relative parameter change below which a tensor stands still: null vectors are exact to
# about 1e-12.
STILL = 1e-7
# Share of a unit motion that no affine map explains: rounding gives 1e-12 to 1e-8, a true misfit 1e-2 or
# more.
MISFIT = 1e-5
# Tangents pushed forward together; bounds the memory to this many copies of the activations.
CHUNK = 64


@dataclass(frozen=True, eq=False)
class Motion:
    """How the null space moves one tensor.

    Attributes:
        tensor: its name.
        size: features that take part (those its readers ignore are left out).
        relative: per null vector, relative motion of the tensor per relative change of all parameters.
        moved: number of independent motions.
        affine: number of independent motions that are affine in the tensor itself.
        residual: largest misfit among the affine motions, each of size 1.
        misfit: smallest misfit among the others, inf where all are affine.
        algebra: type of the span of the linear parts M; "shift" where all are zero, "none" where no motion is
            affine.
        linear: dimension of that span.
    """

    tensor: str
    size: int
    relative: Float[Tensor, " null"]
    moved: int
    affine: int
    residual: float
    misfit: float
    algebra: Algebra
    linear: int

    @property
    def shifts(self) -> int:
        """Number of independent affine motions without a linear part."""
        return self.affine - self.linear

    @property
    def unexplained(self) -> int:
        """Number of independent motions that are not affine in the tensor."""
        return self.moved - self.affine


@dataclass(frozen=True)
class Ownership:
    """Which tensors own null directions.

    Attributes:
        nothing: directions that move no tensor at all: redundancies inside one operation.
        only: per tensor, directions that move this tensor and no other.
        shared: the remaining directions, which move linked tensors together.
    """

    nothing: int
    only: Mapping[str, int]
    shared: int


def explain(
    tensors: Activations,
    params: Params,
    inputs: Any,
    null_vectors: NullVectors,
    *,
    axes: Mapping[str, int] | None = None,
    ignored: Mapping[str, Float[Tensor, "features ignored"]] | None = None,
) -> tuple[Motion, ...]:
    """Say for every tensor how the null space moves it, and which algebra that motion spans.

    Args:
        tensors: pure function of parameters and inputs giving the activations by name; the first axis is the
            samples'.
        params: the point at which the null vectors were taken.
        inputs: a batch with at least twice as many positions as any tensor has features.
        null_vectors: columns in the order of ``flatten(params)``, or a list of dicts by parameter name.
        axes: feature axis of a tensor where it is not the last one.
        ignored: per tensor, directions that all its readers ignore (the ones vector before a LayerNorm);
            motion and activation are then taken modulo these.

    Returns:
        One record per tensor, in the order of ``tensors``.

    Raises:
        ValueError: null vectors of the wrong length, an unknown tensor in ``axes`` or ``ignored``, or too few
            positions.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> a, x = torch.randn(2, 3, generator=rng).double(), torch.randn(9, 2, generator=rng).double()
        >>> stretch = [{"a": a * torch.tensor([1.0, 0, 0])}, {"a": a * torch.tensor([0, 1.0, 0])}]
        >>> (hidden,) = explain(lambda p, x: {"hidden": x @ p["a"]}, {"a": a}, x, stretch)
        >>> hidden.algebra, hidden.linear
        ('diagonal', 2)
    """
    activations, moves = _push(tensors, params, inputs, null_vectors, axes or {})
    ignored = ignored or {}
    _check_known("ignored", ignored, activations)
    records = []
    for name, a in activations.items():
        kept = _complement(ignored[name]) if name in ignored else torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        records.append(_describe(name, a @ kept, moves[name] @ kept))
    return tuple(records)


def moves_only(
    tensors: Activations,
    params: Params,
    inputs: Any,
    null_vectors: NullVectors,
    *,
    axes: Mapping[str, int] | None = None,
) -> Ownership:
    """Count the null directions that move a single tensor, or none.

    The directions that leave all other tensors still are the null space of their stacked motions; those that
    move nothing are subtracted.

    Args:
        tensors: pure function of parameters and inputs giving the activations by name.
        params: the point at which the null vectors were taken.
        inputs: a batch of inputs.
        null_vectors: independent null vectors, as for :func:`explain`.
        axes: feature axis of a tensor where it is not the last one.

    Returns:
        The counts; they add up to the number of null vectors.

    Raises:
        ValueError: null vectors of the wrong length or an unknown tensor in ``axes``.
    """
    _, moves = _push(tensors, params, inputs, null_vectors, axes or {})
    flat = {name: move.flatten(1) for name, move in moves.items()}
    total = next(iter(flat.values())).shape[0]
    nothing = total - _rank(list(flat.values()))
    only = {name: total - _rank([move for other, move in flat.items() if other != name]) - nothing for name in flat}
    return Ownership(nothing, only, total - nothing - sum(only.values()))


def _push(
    tensors: Activations, params: Params, inputs: Any, null_vectors: NullVectors, axes: Mapping[str, int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Activations (positions, features) and motions (null, positions, features), in relative units."""
    matrix = _as_matrix(null_vectors, params)

    def forward(point: Params) -> dict[str, Tensor]:
        return dict(tensors(point, inputs))

    def tangent(vector: Tensor) -> dict[str, Tensor]:
        return torch.func.jvp(forward, (params,), (unflatten(vector, params),))[1]

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        # An operation without a batched derivative is looped over: slower, not wrong.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        activations = forward(params)
        moves = torch.func.vmap(tangent, chunk_size=CHUNK)(matrix.T)
    _check_known("axes", axes, activations)
    length = flatten(params).norm()
    rows, pushed = {}, {}
    for name, a in activations.items():
        axis = axes.get(name, -1) % a.ndim
        size = a.norm().clamp(min=torch.finfo(a.dtype).tiny)
        rows[name] = a.movedim(axis, -1).reshape(-1, a.shape[axis]) * (a.numel() ** 0.5 / size)
        move = moves[name].movedim(axis + 1, -1).flatten(1, -2)
        pushed[name] = move * (length / size)
    return rows, pushed


def _as_matrix(null_vectors: NullVectors, params: Params) -> Float[Tensor, "params null"]:
    if not isinstance(null_vectors, Tensor):
        null_vectors = torch.stack([flatten({name: v[name] for name in params}) for v in null_vectors], dim=1)
    length = len(flatten(params))
    if null_vectors.ndim != 2 or len(null_vectors) != length or not null_vectors.shape[1]:
        raise ValueError(
            f"null_vectors has shape {tuple(null_vectors.shape)}; permitted is ({length}, k) with k >= 1, "
            "one column per null vector in the order of the parameters"
        )
    return null_vectors / null_vectors.norm(dim=0)


def _check_known(argument: str, given: Mapping[str, Any], activations: Mapping[str, Tensor]) -> None:
    if unknown := sorted(set(given) - set(activations)):
        raise ValueError(f"{argument} names {unknown}; permitted are the tensors {sorted(activations)}")


def _complement(directions: Float[Tensor, "features ignored"]) -> Float[Tensor, "features kept"]:
    left, sigma, _ = torch.linalg.svd(directions.to(torch.float64), full_matrices=True)
    rank = int((sigma > 1e-12 * sigma.max()).sum())  # directions are given exactly, so only rounding is dropped
    return left[:, rank:]


def _describe(
    name: str, a: Float[Tensor, "positions features"], move: Float[Tensor, "null positions features"]
) -> Motion:
    positions, features = a.shape
    if positions < 2 * (features + 1):
        raise ValueError(
            f"tensor {name} has {positions} positions for {features} features; permitted are at least "
            f"{2 * (features + 1)}, give a larger batch (or name the feature axis in axes)"
        )
    _, sigma, units = torch.linalg.svd(move.flatten(1), full_matrices=False)
    units = units[sigma > STILL].reshape(-1, positions, features)
    varying = units - units.mean(1, keepdim=True)
    left, spread, span = _principal(a - a.mean(0))
    _, misfit, mixing = torch.linalg.svd((varying - left @ (left.T @ varying)).flatten(1).T, full_matrices=False)
    affine = misfit < MISFIT
    fitted = torch.einsum("mu,upf->mpf", mixing[affine], varying)
    algebra, linear = _classify((left.T @ fitted) / spread[:, None], span)
    return Motion(
        tensor=name,
        size=features,
        relative=move.flatten(1).norm(dim=1),
        moved=len(units),
        affine=int(affine.sum()),
        residual=misfit[affine].max().item() if affine.any() else 0.0,
        misfit=misfit[~affine].min().item() if not affine.all() else float("inf"),
        algebra=algebra,
        linear=linear,
    )


def _principal(centred: Float[Tensor, "positions features"]) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition on what the activation spans; rounding leaves 1e-16 elsewhere."""
    left, spread, span = torch.linalg.svd(centred, full_matrices=False)
    covered = spread > 1e-9 * spread.max()
    return left[:, covered], spread[covered], span[covered]


def _classify(maps: Float[Tensor, "affine span features"], span: Float[Tensor, "span features"]) -> tuple[Algebra, int]:
    """Smallest algebra that contains matrices with the measured action, and the dimension of the action."""
    # An activation that does not vary in all directions (more units than inputs) determines M only on its
    # span V: maps holds (M V)^T. A type is accepted where matrices of that type with these values on V exist.
    if not len(maps):
        return "none", 0
    if not maps.numel():  # the activation is constant
        return "shift", 0
    _, sigma, basis = torch.linalg.svd(maps.flatten(1), full_matrices=False)
    # Motions have size 1 and activations unit entries, so a genuine linear part is far above rounding.
    basis = basis[sigma > MISFIT * sigma.max().clamp(min=1e-3)].reshape(-1, *span.shape)
    if not len(basis):
        return "shift", 0
    for algebra, misfit in _TYPES.items():
        if misfit(basis, span).abs().max() < MISFIT:
            return algebra, len(basis)
    return ("gl" if len(basis) == span.numel() else "other"), len(basis)


Basis = Float[Tensor, "linear span features"]
Span = Float[Tensor, "span features"]


def _not_scalar(basis: Basis, span: Span) -> Basis:
    return basis - (basis * span).sum((1, 2), keepdim=True) / span.square().sum() * span


def _not_diagonal(basis: Basis, span: Span) -> Basis:
    # a feature that never varies has no direction in the span and must not move
    weight = span.square().sum(0).clamp(min=1e-12)
    return basis - (basis * span).sum(1, keepdim=True) / weight * span


def _not_antisymmetric(basis: Basis, span: Span) -> Float[Tensor, "linear span span"]:
    inside = basis @ span.T  # V^T M^T V; an antisymmetric M with these values on V exists iff this is antisymmetric
    return inside + inside.mT


def _not_conformal(basis: Basis, span: Span) -> Float[Tensor, "linear span span"]:
    symmetric = _not_antisymmetric(basis, span)
    trace = symmetric.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return symmetric - trace * torch.eye(len(span), dtype=span.dtype, device=span.device)


# From small to large: the first type whose misfit vanishes names the algebra.
_TYPES: dict[Algebra, Callable[[Basis, Span], Tensor]] = {
    "scalar": _not_scalar,
    "diagonal": _not_diagonal,
    "antisymmetric": _not_antisymmetric,
    "antisymmetric+scalar": _not_conformal,
}


def _rank(moves: list[Tensor]) -> int:
    if not moves:
        return 0
    return int((torch.linalg.svdvals(torch.cat(moves, dim=1)) > STILL).sum())
