"""Bilinear and linear forms of many tensors at once: sums by class of products of quantities that share their shapes.

``theta``, a gradient and a momentum buffer are three *quantities* of the same list of tensors. ``Forms``
copies the quantities of all tensors side by side, multiplies them pairwise and sums the products by class, a
bucket at a time. The caller fills in the quantities (and may compute further ones from them) and reads one
row of sums a pair.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.functional.class_sums import Cell, Piece, Sums, cut


class Gram(NamedTuple):
    """A tensor whose rows are multiplied with each other instead of summed by class.

    Attributes:
        tensor: which tensor, by its position in the list of shapes.
        summed: axes along which the row does not change.
        order: for each element of the remaining axes, sorted by row, its flat position; several elements may
            share a row and are then laid end to end.
        rows: number of rows n; the sums are the upper triangle of an n by n matrix.
        start: first column of the output that they are written to.
    """

    tensor: int
    summed: tuple[int, ...]
    order: Tensor
    rows: int
    start: int

    @property
    def size(self) -> int:
        """Numbers in the upper triangle."""
        return self.rows * (self.rows + 1) // 2


class Bucket(NamedTuple):
    """Tensors, or stretches of them, that are worked on at once.

    Attributes:
        pieces: what lies where.
        quantities: working memory, one row a quantity.
        targets: the pieces' views of the quantities that are copied in, quantity by quantity.
        products: left factor, right factors, where their products go.
        magnitude: where |quantity 0| goes; None where no linear form is asked for.
        sums: what turns products into the output.
    """

    pieces: list[Piece]
    quantities: Float[Tensor, "quantities flat"]
    targets: list[Tensor]
    products: list[tuple[Tensor, Tensor, Tensor]]
    magnitude: Tensor | None
    sums: list["Sums | _GramSums"]

    def load(self, *quantities: Sequence[Tensor | None]) -> None:
        """Copy the tensors of each quantity in; None stands for zeros.

        Args:
            quantities: for each quantity that is copied in, one tensor for each shape.
        """
        zero = self.quantities.new_zeros(())
        sources = [
            zero if (tensor := tensors[piece.tensor]) is None else piece.of(tensor)
            for tensors in quantities
            for piece in self.pieces
        ]
        torch._foreach_copy_(self.targets, sources)  # pyright: ignore[reportPrivateImportUsage]

    def run(self) -> None:
        """Write the sums of this bucket."""
        for left, right, out in self.products:
            torch.mul(left, right, out=out)
        if self.magnitude is not None:
            torch.abs(self.quantities[0], out=self.magnitude)
        for sums in self.sums:
            sums.run()


def forms(
    shapes: Sequence[tuple[int, ...]],
    *,
    quadratic: Sequence[Cell],
    linear: Sequence[Cell],
    grams: Sequence[Gram],
    copied: int,
    pairs: Sequence[tuple[int, int]],
    out: Float[Tensor, "rows sums"],
    limit: int,
    magnitude: bool = False,
) -> list[Bucket]:
    """Plan the forms of a list of tensors; every view that running them needs is made here.

    Args:
        shapes: the tensors' shapes.
        quadratic: sums by class of products of two quantities.
        linear: sums by class of the quantities that are copied in.
        grams: products of rows.
        copied: how many quantities are copied in.
        pairs: quantities to multiply, in the order of the output's rows; those from ``copied`` on (after the
            row for the magnitude, if there is one) are computed by the caller between ``load`` and ``run``.
        out: the output. Quadratic sums and products of rows fill a row for each pair; linear sums a row for
            each copied quantity and, below them, the magnitude.
        limit: elements worked on at once.
        magnitude: linear forms also sum |quantity 0|.

    Returns:
        The buckets, to be loaded and run in this order.
    """
    buckets = cut(shapes, limit, frozenset(gram.tensor for gram in grams))
    capacity = max(pieces[-1].stop for pieces in buckets)
    lines = copied + magnitude
    memory = out.new_zeros(max(lines, 1 + max(max(pair) for pair in pairs)), capacity)
    squares = out.new_zeros(len(pairs), capacity)
    planned = []
    for pieces in buckets:
        x, p = memory[:, : pieces[-1].stop], squares[:, : pieces[-1].stop]
        here = {piece.tensor: piece for piece in pieces}
        first, second = ([cell for cell in cells if cell.tensor in here] for cells in (quadratic, linear))
        sums: list[Sums | _GramSums] = []
        if first:
            sums.append(Sums(pieces, first, p, out[: len(pairs)]))
        if second:
            sums.append(Sums(pieces, second, x[:lines], out[:lines]))
        sums += [
            _GramSums(gram, here[gram.tensor].view(x), _runs(pairs), out[: len(pairs)])
            for gram in grams
            if gram.tensor in here
        ]
        planned.append(
            Bucket(
                pieces=pieces,
                quantities=x,
                targets=[piece.view(x[quantity]) for quantity in range(copied) for piece in pieces],
                products=[(x[left], x[right], p[rows]) for left, right, rows in _runs(pairs)] if first else [],
                magnitude=x[copied] if magnitude and second else None,
                sums=sums,
            )
        )
    return planned


class _GramSums:
    """The products of one tensor's rows."""

    def __init__(
        self,
        gram: Gram,
        quantities: Tensor,
        runs: list[tuple[int, slice, slice]],
        out: Float[Tensor, "rows sums"],
    ) -> None:
        self._gram, self._quantities, self._runs = gram, quantities, runs
        self._order = gram.order.to(out.device)
        self._upper = torch.triu_indices(gram.rows, gram.rows, device=out.device)
        self._out = out[:, gram.start : gram.start + gram.size]
        axes = range(quantities.ndim - 1)
        self._axes = [axis + 1 for axis in axes if axis not in gram.summed] + [axis + 1 for axis in gram.summed]

    def run(self) -> None:
        """Write the upper triangles of the symmetric parts of all products."""
        # float64 also keeps out autocast and TF32, which the training may have switched on.
        x = self._quantities.double().permute(0, *self._axes)
        rows = x.reshape(len(x), len(self._order), -1)[:, self._order].reshape(len(x), self._gram.rows, -1)
        products = torch.cat([rows[left] @ rows[right].mT for left, right, _ in self._runs])
        self._out.copy_(((products + products.mT) / 2)[:, self._upper[0], self._upper[1]])


def _runs(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, slice, slice]]:
    """Neighbouring pairs with one left factor and consecutive right factors, multiplied by one call.

    Args:
        pairs: quantities to multiply.

    Returns:
        Left factor, right factors and output rows of each call.

    Example:
        >>> _runs([(0, 0), (0, 1), (4, 4)])
        [(0, slice(0, 2, None), slice(0, 2, None)), (4, slice(4, 5, None), slice(2, 3, None))]
    """
    runs = []
    for (left, _), members in groupby(enumerate(pairs), key=lambda item: (item[1][0], item[1][1] - item[0])):
        rows, rights = zip(*((row, pair[1]) for row, pair in members), strict=True)
        runs.append((left, slice(rights[0], rights[-1] + 1), slice(rows[0], rows[-1] + 1)))
    return runs
