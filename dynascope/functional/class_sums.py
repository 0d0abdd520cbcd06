"""Many sums over parts of many tensors in few calls.

A *cell* asks for the sums of one tensor's elements by class (rows, columns, channels, heads, ...). The
tensors lie side by side in flat working memory, cut into *buckets* that fit a processor's cache; several
quantities of the same tensors lie in rows below each other, so that one call sums all of them. All views
are made once, and running the sums only runs kernels. Nothing here knows what the numbers mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Cell:
    """Sums of one tensor's elements by class, and where they go.

    Attributes:
        tensor: which tensor, by its position in the list of shapes.
        summed: axes along which the class does not change.
        classes: class of each element of the remaining axes, flattened, -1 for none; None where that is 0,
            1, 2, ...
        size: number of classes.
        start: first column of the output that the sums are written to.
        shape: the shape in which the tensor is looked at, its first axis unchanged; None for its own. ``summed``
            counts the axes of this shape.
    """

    tensor: int
    summed: tuple[int, ...]
    classes: Tensor | None
    size: int
    start: int
    shape: tuple[int, ...] | None = None


class Piece(NamedTuple):
    """A tensor, or a stretch of its first axis, at its place in a bucket."""

    tensor: int
    first: int
    last: int
    whole: bool
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """End of the piece in its bucket."""
        return self.start + prod(self.shape)

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor that this piece holds."""
        return tensor if self.whole else tensor[self.first : self.last]

    def seen_by(self, cell: Cell, memory: Float[Tensor, "rows flat"]) -> Tensor:
        """This piece's part of flat memory, in the shape in which a cell looks at it, behind the leading axis."""
        shape = self.shape if cell.shape is None else (self.last - self.first, *cell.shape[1:])
        return memory[:, self.start : self.stop].view((len(memory), *shape))

    def view(self, memory: Float[Tensor, "*rows flat"]) -> Tensor:
        """This piece's part of flat memory, in the piece's shape behind any leading axes."""
        return memory[..., self.start : self.stop].view((*memory.shape[:-1], *self.shape))


def cut(shapes: Sequence[tuple[int, ...]], limit: int, uncut: frozenset[int] = frozenset()) -> list[list[Piece]]:
    """Pack tensors into buckets of at most ``limit`` elements, in order; larger tensors are cut along their first axis.

    Args:
        shapes: the tensors' shapes.
        limit: elements in a bucket; a single row of a tensor may exceed it.
        uncut: tensors that must stay in one piece, whatever their size.

    Returns:
        Buckets of pieces.

    Example:
        >>> [[(p.tensor, p.first, p.last) for p in bucket] for bucket in cut([(2,), (5, 2)], limit=4)]
        [[(0, 0, 2)], [(1, 0, 2)], [(1, 2, 4)], [(1, 4, 5)]]
    """
    buckets: list[list[Piece]] = []
    for tensor, shape in enumerate(shapes):
        rows, width = (shape[0], prod(shape[1:])) if shape else (1, 1)
        step = rows if tensor in uncut or rows * width <= limit else max(1, limit // width)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            used = buckets[-1][-1].stop if buckets else 0
            if not buckets or used + (last - first) * width > limit:
                buckets.append([])
                used = 0
            whole = last - first == rows
            part = (last - first, *shape[1:]) if shape else ()
            buckets[-1].append(Piece(tensor, first, last, whole, used, part))
    return buckets


class Sums:
    """The sums of a bucket's cells, ready to run again and again.

    Args:
        pieces: the bucket.
        cells: the cells of these tensors.
        source: working memory, one row a quantity, at least as wide as the bucket.
        out: the output, one row a quantity. A tensor's first piece overwrites its cells, later pieces add
            to them.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        cells: Sequence[Cell],
        source: Float[Tensor, "rows flat"],
        out: Float[Tensor, "rows sums"],
    ) -> None:
        copied: list[tuple[int, int, int]] = []
        self._reductions: list[tuple[Tensor, tuple[int, ...], Tensor]] = []
        self._additions: list[tuple[Tensor, tuple[int, ...], Tensor]] = []
        self._scatters: list[tuple[Tensor, tuple[int, ...], Tensor, Tensor, bool]] = []
        for piece in pieces:
            for cell in (cell for cell in cells if cell.tensor == piece.tensor):
                if cell.classes is not None:
                    self._scatters.append(_scatter(piece, cell, source, out))
                elif not cell.summed:
                    copied.append((piece.start, cell.start + piece.first * prod(piece.shape[1:]), prod(piece.shape)))
                elif 0 in cell.summed and piece.first > 0:
                    self._additions.append(_reduction(piece, cell, source, out))
                else:
                    self._reductions.append(_reduction(piece, cell, source, out))
        self._copies = [
            (out[:, to : to + length], source[:, start : start + length]) for start, to, length in _merged(copied)
        ]

    def run(self) -> None:
        """Sum what stands in the working memory now."""
        for target, part in self._copies:
            target.copy_(part)
        for part, axes, target in self._reductions:
            torch.sum(part, axes, out=target)
        for part, axes, target in self._additions:
            target.add_(part.sum(axes))
        for part, axes, classes, target, first in self._scatters:
            _run_scatter(part, axes, classes, target, first)


def _reduction(piece: Piece, cell: Cell, source: Tensor, out: Tensor) -> tuple[Tensor, tuple[int, ...], Tensor]:
    part = piece.seen_by(cell, source)
    kept = _kept(cell, part)
    # The first axis is the slowest: a stretch of it is a stretch of the classes, unless it is summed away.
    start = cell.start if 0 in cell.summed else cell.start + piece.first * prod(kept[1:])
    target = out[:, start : start + prod(kept)].view(out.shape[0], *kept)
    return part, tuple(axis + 1 for axis in cell.summed), target


def _scatter(
    piece: Piece, cell: Cell, source: Tensor, out: Tensor
) -> tuple[Tensor, tuple[int, ...], Tensor, Tensor, bool]:
    part = piece.seen_by(cell, source)
    kept = prod(_kept(cell, part))
    start = 0 if 0 in cell.summed or part.ndim == 1 else piece.first * (kept // part.shape[1])
    classes = torch.arange(cell.size) if cell.classes is None else cell.classes
    classes = classes[start : start + kept].to(source.device)
    # Class -1 is collected in one extra cell, which is then dropped.
    classes = torch.where(classes < 0, cell.size, classes)
    target = out[:, cell.start : cell.start + cell.size]
    return part, tuple(axis + 1 for axis in cell.summed), classes, target, piece.first == 0


def _kept(cell: Cell, part: Tensor) -> tuple[int, ...]:
    return tuple(length for axis, length in enumerate(part.shape[1:]) if axis not in cell.summed)


def _run_scatter(part: Tensor, axes: tuple[int, ...], classes: Tensor, target: Tensor, first: bool) -> None:
    kept = part.sum(axes) if axes else part
    sums = target.new_zeros(target.shape[0], target.shape[1] + 1)
    sums.index_add_(1, classes, kept.reshape(target.shape[0], -1))
    (target.copy_ if first else target.add_)(sums[:, :-1])


def _merged(copies: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Neighbouring copies that are neighbours in the target too become one."""
    merged: list[tuple[int, int, int]] = []
    for start, to, length in copies:
        if merged and merged[-1][0] + merged[-1][2] == start and merged[-1][1] + merged[-1][2] == to:
            start, to, length = merged[-1][0], merged[-1][1], merged.pop()[2] + length
        merged.append((start, to, length))
    return merged
