"""Completeness as a number: the null directions there are, against those that have a name."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynascope.functional.params import flatten
from dynascope.symmetry.kinds import Symmetry
from dynascope.symmetry.nullspace import Nullity, jacobian_nullity
from dynascope.symmetry.operations import LINEAR
from dynascope.symmetry.propose import Bond
from dynascope.symmetry.verify import Bench, random_input

# Normalised generators of different families are either dependent to rounding or far from it.
_DEPENDENT = 1e-8


@dataclass(frozen=True)
class Census:
    """Null directions of the Jacobian of outputs over parameters, measured and explained.

    Attributes:
        nullity: measured number of null directions at generic parameters.
        gap: ratio of the smallest kept to the largest dropped singular value; large means a clear count.
        explained: rank of the generators of all symmetries at the same parameters.
        fibres: words and number of directions that belong to no group, such as those of a rank-deficient product.
        dependent: generators that the others already span (the sum of dimensions minus ``explained``).
        stray: generators outside the measured null space; 0 unless an engine is wrong.
        dead: null directions at the model's own parameters that generic ones do not have.
    """

    nullity: int
    gap: float
    explained: int
    fibres: tuple[tuple[str, int], ...]
    dependent: int
    stray: int
    dead: int

    @property
    def unexplained(self) -> int:
        """Null directions without a name."""
        return self.nullity - self.explained - sum(n for _, n in self.fibres)

    def __str__(self) -> str:
        parts = [f"census: nullity {self.nullity} = {self.explained} symmetries"]
        parts += [f"{n} {words}" for words, n in self.fibres]
        parts.append(f"{self.unexplained} unexplained")
        remarks = f" (gap {self.gap:.1e}" + (f"; {self.dead} more from dead units here" if self.dead else "") + ")"
        return " + ".join(parts) + remarks


def take_census(bench: Bench, symmetries: Sequence[Symmetry], bonds: Sequence[Bond], *, seed: int = 0) -> Census:
    """Measure the nullity and account for it.

    Args:
        bench: the function and its points.
        symmetries: confirmed symmetries.
        bonds: index spaces, for the fibres of linear chains.
        seed: seed of the parameters and inputs drawn.

    Returns:
        The census.
    """
    rng = torch.Generator().manual_seed(seed)
    d = bench.draws[0]

    def f(params: dict[str, Tensor], inputs: tuple) -> Tensor:
        return bench.function(params, d.buffers, inputs, epsilon_zero=True)

    def sample(generator: torch.Generator) -> tuple:
        # Inputs of several sizes visit more of the pieces of a piecewise linear network.
        size = float(torch.empty(()).uniform_(0.5, 4.0, generator=generator))
        drawn = [random_input(v, generator) for v in d.inputs]
        return tuple(v * size if isinstance(v, Tensor) and v.is_floating_point() else v for v in drawn)

    def proven(point: dict[str, Tensor]) -> int:
        return _rank(_generators(symmetries, point, d.buffers))

    found = jacobian_nullity(f, d.params, sample, generator=rng, known=proven)
    known = _generators(symmetries, found.point, d.buffers)
    outside = known - found.basis @ (found.basis.T @ known)
    stray = int((torch.linalg.vector_norm(outside, dim=0) > 1e-6).sum())  # unit columns; true members leave 1e-10
    explained = _rank(known)
    fibres, span = [], known
    for words, directions in _fibres(bonds, found):
        joined = torch.cat([span, directions], dim=1)
        extra = _rank(joined) - _rank(span)
        if extra:
            fibres.append((words, extra))
        span = joined
    total = sum(s.dimension for s in symmetries)
    return Census(found.dimension, found.gap, explained, tuple(fibres), total - explained, stray, found.dead)


def _generators(symmetries: Sequence[Symmetry], params: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
    """All generators at one point as unit columns."""
    columns = []
    for s in symmetries:
        size = int(torch.Size(s.action.shape).numel())
        for k in range(size):
            element = torch.zeros(size, dtype=torch.float64)
            element[k] = 1.0
            field = s.generator(params, element.reshape(s.action.shape), buffers)
            full = {n: field[n].expand(p.shape) if n in field else torch.zeros_like(p) for n, p in params.items()}
            columns.append(flatten(full))
    count = sum(p.numel() for p in params.values())
    matrix = torch.stack(columns, dim=1) if columns else torch.zeros(count, 0, dtype=torch.float64)
    norms = torch.linalg.vector_norm(matrix, dim=0)
    return matrix[:, norms > 0] / norms[norms > 0]


def _rank(matrix: Tensor) -> int:
    if not matrix.numel():
        return 0
    values = torch.linalg.svdvals(matrix)
    return int((values > _DEPENDENT * values[0]).sum())


def _fibres(bonds: Sequence[Bond], found: Nullity) -> list[tuple[str, Tensor]]:
    """Null directions of linear chains that depend on the parameters: what the readers cannot see."""
    out = []
    for bond in (b for b in bonds if b.behaviours <= LINEAR):
        readers = [leg.unfold(found.point[leg.parameter]) for leg in bond.legs if leg.coefficient < 0]
        writers = [leg for leg in bond.legs if leg.coefficient > 0]
        if not readers or not writers:
            continue
        _, values, right = torch.linalg.svd(torch.cat(readers, dim=1).T, full_matrices=True)
        kernel = right[int((values > 1e-10 * values[0]).sum()) :].T  # exact zeros of a wide matrix, at rounding
        if not kernel.shape[1]:
            continue
        columns = []
        for leg in writers:
            p = found.point[leg.parameter]
            rest = leg.unfold(p).shape[1]
            for j in range(kernel.shape[1]):
                for r in range(rest):
                    rows = torch.zeros(bond.size, rest, dtype=torch.float64)
                    rows[:, r] = kernel[:, j]
                    columns.append(_embed(leg.parameter, leg.fold(rows, p), found.point))
        matrix = torch.stack(columns, dim=1)
        matrix = matrix - (matrix - found.basis @ (found.basis.T @ matrix))  # only what is null indeed
        words = f"fibre of the rank-deficient product over {bond.name} (no group action)"
        norms = torch.linalg.vector_norm(matrix, dim=0)
        out.append((words, matrix[:, norms > 0.5]))  # unit columns that lie in the null space keep their length
    return out


def _embed(name: str, value: Tensor, params: dict[str, Tensor]) -> Tensor:
    return flatten({n: value if n == name else torch.zeros_like(p) for n, p in params.items()})
