"""The small algebra under the graph rules: fields of labels, and the linear system that they have to satisfy.

A *label* is the index of an unknown real number (the log-scale of one hidden unit, the shift of one channel). A *field*
says how a tensor moves: at every element the sum of ``coefficient * unknown[label]``. Because a field is stored as an
integer tensor of the shape of the value it describes, operations that only move data (reshape, permute, concatenate,
slice, repeat ...) are interpreted by *running them on the labels*. Constant axes cost nothing: they are broadcast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

PINNED = 0  # the label whose unknown is zero

Term = tuple[float, Tensor]  # coefficient, labels (int64, the value's shape, broadcast where constant)
Field = tuple[Term, ...]  # a sum of terms; empty means "does not move"

# Coefficients of our rules are small rationals; elimination leaves rounding far below this.
_ZERO = 1e-9


def tighten(labels: Tensor) -> Tensor:
    """Store axes along which nothing changes as broadcast axes.

    Args:
        labels: any integer tensor.

    Returns:
        Equal labels with stride 0 wherever possible.
    """
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1 and labels.stride(axis) != 0:
            head = labels.narrow(axis, 0, 1)
            if bool((labels == head).all()):
                labels = head.expand(labels.shape)
    return labels


def varying(labels: Tensor) -> frozenset[int]:
    """Axes along which tight labels change.

    Args:
        labels: tight labels.

    Returns:
        The axes.
    """
    return frozenset(a for a in range(labels.ndim) if labels.shape[a] > 1 and labels.stride(a) != 0)


def compact(labels: Sequence[Tensor]) -> list[Tensor]:
    """Drop the axes along which none of several labels changes.

    Args:
        labels: tight labels of one shape.

    Returns:
        The same labels with length 1 on those axes.
    """
    out = list(labels)
    for axis in range(out[0].ndim):
        if not any(axis in varying(one) for one in labels):
            out = [one.narrow(axis, 0, 1) if one.shape[axis] > 1 else one for one in out]
    return out


def scaled(one: Field, factor: float) -> Field:
    """Multiply a field by a number.

    Args:
        one: a field.
        factor: the number.

    Returns:
        The field of ``factor`` times the motion.
    """
    return tuple((c * factor, labels) for c, labels in one) if factor else ()


@dataclass(frozen=True)
class Solution:
    """All solutions of a system: ``unknown[label] = sum_k matrix[label, k] * coordinate[k]``.

    Attributes:
        matrix: labels x coordinates, sparse.
    """

    matrix: csr_array

    @property
    def size(self) -> int:
        """Number of coordinates."""
        _, columns = self.matrix.shape  # type: ignore[misc]
        return int(columns)

    def values(self, coordinates: Tensor) -> Tensor:
        """Unknowns by label.

        Args:
            coordinates: one number per free coordinate.

        Returns:
            One float64 number per label.
        """
        return torch.from_numpy(self.matrix @ coordinates.detach().cpu().double().numpy())

    def slots(self, labels: Tensor) -> list[tuple[float, Tensor]]:
        """Split labels by coefficient: where an unknown is ``c * coordinate[k]``, the entry is k, elsewhere -1.

        Args:
            labels: labels of any shape, axes without change of length 1.

        Returns:
            Pairs (c, k of the labels' shape); an unknown that is a sum of several coordinates gives several pairs.
        """
        flat = labels.reshape(-1).numpy()
        start, end = self.matrix.indptr[flat], self.matrix.indptr[flat + 1]
        out: list[tuple[float, Tensor]] = []
        for slot in range(int((end - start).max(initial=0))):
            present = start + slot < end
            where = np.minimum(start + slot, max(self.matrix.nnz - 1, 0))
            weights = np.where(present, np.round(self.matrix.data[where], 9), 0.0)
            for weight in np.unique(weights[present]):
                k = np.where(present & (weights == weight), self.matrix.indices[where], -1)
                out.append((float(weight), torch.from_numpy(k.astype(np.int64)).reshape(labels.shape)))
        return out


@dataclass
class System:
    """Unknowns and the equations between them.

    Attributes:
        size: number of labels given out.
        driven: labels whose value is decided elsewhere; elimination solves for the others first.
    """

    size: int = 1
    driven: list[Tensor] = field(default_factory=list)
    _zero: list[np.ndarray] = field(default_factory=list)
    _pairs: list[np.ndarray] = field(default_factory=list)
    _rows: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def fresh(self, shape: Sequence[int], axes: Sequence[int] | None = None) -> Tensor:
        """New labels for a value.

        Args:
            shape: shape of the value.
            axes: axes along which every index gets its own label; None means all of them.

        Returns:
            Labels of that shape, broadcast along the other axes.
        """
        axes = range(len(shape)) if axes is None else [a % len(shape) for a in axes]
        small = [n if a in axes else 1 for a, n in enumerate(shape)]
        count = int(np.prod(small)) if small else 1
        labels = torch.arange(self.size, self.size + count).reshape(small)
        self.size += count
        return labels.expand(tuple(shape))

    def require(self, *fields: Field) -> None:
        """Demand that a sum of fields vanishes at every element.

        Terms that change along different axes must each be constant, which keeps the system as small as the sum of the
        axes instead of their product.

        Args:
            *fields: fields of shapes that broadcast together.
        """
        terms = [(c, labels) for one in fields for c, labels in one if c]
        if not terms:
            return
        shape = torch.broadcast_shapes(*[labels.shape for _, labels in terms])
        terms = [(c, tighten(labels.expand(shape))) for c, labels in terms]
        groups: list[tuple[frozenset[int], list[Term]]] = []
        constants = [t for t in terms if not varying(t[1])]
        for term in (t for t in terms if varying(t[1])):
            axes, members = varying(term[1]), [term]
            for other in [g for g in groups if g[0] & axes]:
                groups.remove(other)
                axes, members = axes | other[0], other[1] + members
            groups.append((axes, members))
        if len(groups) <= 1:
            self._emit((groups[0][1] if groups else []) + constants)
            return
        levels = [self.fresh(()) for _ in groups]
        for (_, members), level in zip(groups, levels, strict=True):
            self._emit([*members, (-1.0, level.expand(shape))])
        self._emit([*constants, *[(1.0, level.expand(shape)) for level in levels]])

    def same(self, one: Field, other: Field) -> None:
        """Demand that two fields are equal.

        Args:
            one: a field.
            other: a field of a shape that broadcasts with the first.
        """
        self.require(one, scaled(other, -1.0))

    def uniform(self, one: Field, axes: Sequence[int]) -> Field:
        """Demand that a field does not change along some axes.

        Args:
            one: a field.
            axes: the axes.

        Returns:
            The same field, broadcast along them.
        """
        out = []
        for c, labels in one:
            head = labels
            for axis in axes:
                head = head.narrow(axis, 0, 1)
            out.append((c, head.expand(labels.shape)))
        if any(varying(tighten(labels)) & {a % labels.ndim for a in axes} for _, labels in one):
            self.same(one, tuple(out))
        return tuple(out)

    def single(self, one: Field) -> Field:
        """Write a field as one term with coefficient 1, with new unknowns if need be.

        Args:
            one: a field.

        Returns:
            A field of at most one term.
        """
        if not one or (len(one) == 1 and one[0][0] == 1.0):
            return one
        small = compact([tighten(labels) for _, labels in one])
        new = self.fresh(small[0].shape)
        self.require(tuple((c, s) for (c, _), s in zip(one, small, strict=True)), ((-1.0, new),))
        return ((1.0, new.expand(one[0][1].shape)),)

    def _emit(self, terms: Sequence[Term]) -> None:
        terms = [(c, labels) for c, labels in terms if not (labels.numel() and bool((labels == PINNED).all()))]
        if not terms:
            return
        small = torch.broadcast_tensors(*compact([labels for _, labels in terms]))
        flat = np.unique(np.stack([s.reshape(-1).numpy() for s in small], axis=1), axis=0)
        coefficients = np.array([c for c, _ in terms])
        if len(terms) == 1:
            self._zero.append(flat[:, 0])
        elif len(terms) == 2 and coefficients.sum() == 0:
            self._pairs.append(flat)
        else:
            self._rows.append((coefficients, flat))

    def solve(self) -> Solution:
        """Eliminate.

        Returns:
            A sparse basis of all solutions; coordinates are ordered by the first label they move.
        """
        pairs = [np.stack([z, np.full_like(z, PINNED)], axis=1) for z in self._zero] + self._pairs
        rows = self._rows
        while True:
            roots = _roots(self.size, pairs)
            rows, merged = _reduce(rows, roots)
            if not merged:
                break
            pairs = [*pairs, *merged]
        driven = np.zeros(self.size, dtype=bool)
        for labels in self.driven:
            driven[roots[labels.reshape(-1).numpy()]] = True
        return Solution(_null_basis(self.size, roots, rows, driven))


def _roots(size: int, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """Smallest label of each label's class under the equalities, so that the pinned class keeps label 0."""
    if not pairs:
        return np.arange(size)
    both = np.concatenate(pairs)
    graph = coo_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    smallest = np.full(component.max() + 1, size)
    np.minimum.at(smallest, component, np.arange(size))
    return smallest[component]


Rows = list[tuple[np.ndarray, np.ndarray]]


def _reduce(rows: Rows, roots: np.ndarray) -> tuple[Rows, list[np.ndarray]]:
    """Rewrite equations in classes; those that became an equality or a zero are returned as pairs."""
    kept: Rows = []
    merged: list[np.ndarray] = []
    buckets: dict[tuple, list[np.ndarray]] = {}
    for coefficients, labels in rows:
        for row in np.unique(roots[labels], axis=0):
            total: dict[int, float] = {}
            for c, label in zip(coefficients, row.tolist(), strict=True):
                if label != PINNED:
                    total[label] = total.get(label, 0.0) + float(c)
            items = sorted((label, c) for label, c in total.items() if abs(c) > _ZERO)
            if len(items) == 1:
                merged.append(np.array([[items[0][0], PINNED]]))
            elif len(items) == 2 and abs(items[0][1] + items[1][1]) < _ZERO:
                merged.append(np.array([[items[0][0], items[1][0]]]))
            elif items:
                lead = items[0][1]
                key = tuple(c / lead for _, c in items)
                buckets.setdefault(key, []).append(np.array([label for label, _ in items]))
    for key, members in buckets.items():
        kept.append((np.array(key), np.unique(np.stack(members), axis=0)))
    return kept, merged


def _null_basis(size: int, roots: np.ndarray, rows: Rows, driven: np.ndarray) -> csr_array:
    """Sparse basis of the solutions: free classes are coordinates, the others follow from them."""
    follow: dict[int, dict[int, float]] = {}
    for equations in _components(rows):
        unknowns = sorted({label for row in equations for label in row}, key=lambda v: (driven[v], -v))
        matrix = np.array([[row.get(u, 0.0) for u in unknowns] for row in equations])
        for lead, row in _echelon(matrix):
            follow[unknowns[lead]] = {
                unknowns[j]: -row[j] for j in range(len(unknowns)) if j != lead and abs(row[j]) > _ZERO
            }
    classes = np.unique(roots)
    free = [int(c) for c in classes if c != PINNED and int(c) not in follow]
    column = {c: k for k, c in enumerate(free)}
    entries: dict[int, list[tuple[int, float]]] = {c: [(column[c], 1.0)] for c in free}
    for c, terms in follow.items():
        entries[c] = sorted((column[u], w) for u, w in terms.items())
    indptr, indices, data = [0], [], []
    for root in roots.tolist():
        for k, w in entries.get(root, ()):
            indices.append(k)
            data.append(w)
        indptr.append(len(indices))
    return csr_array((np.array(data), np.array(indices, dtype=np.int64), np.array(indptr)), shape=(size, len(free)))


def _components(rows: Rows) -> list[list[dict[int, float]]]:
    """Equations grouped by the unknowns they share."""
    equations = [dict(zip(r.tolist(), c.tolist(), strict=True)) for c, labels in rows for r in labels]
    if not equations:
        return []
    names = {u: i for i, u in enumerate(sorted({u for e in equations for u in e}))}
    n = len(names)
    ends = [(n + i, names[u]) for i, e in enumerate(equations) for u in e]
    both = np.array(ends)
    graph = coo_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(n + len(equations),) * 2)
    _, component = connected_components(graph, directed=False)
    groups: dict[int, list[dict[int, float]]] = {}
    for i, equation in enumerate(equations):
        groups.setdefault(int(component[n + i]), []).append(equation)
    return list(groups.values())


def _echelon(matrix: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Reduced row echelon form, as (leading column, row) pairs."""
    matrix, out, used = matrix.copy(), [], 0
    for column in range(matrix.shape[1]):
        pivot = used + int(np.argmax(np.abs(matrix[used:, column]))) if used < len(matrix) else -1
        if pivot < 0 or abs(matrix[pivot, column]) < _ZERO:
            continue
        matrix[[used, pivot]] = matrix[[pivot, used]]
        matrix[used] /= matrix[used, column]
        others = np.arange(len(matrix)) != used
        matrix[others] -= np.outer(matrix[others, column], matrix[used])
        out.append((column, used))
        used += 1
    return [(column, matrix[row]) for column, row in out]
