"""Sums by class against a loop over single elements."""

import itertools

import pytest
import torch

from dynascope.functional.class_sums import Cell, Piece, Sums, cut

SHAPES = [(3,), (3,), (4, 3), (), (5, 2, 3), (2, 6), (7,)]
CELLS = [
    Cell(0, (), None, 3, 0),  # neighbours of one kind: one copy
    Cell(1, (), None, 3, 3),
    Cell(2, (1,), None, 4, 6),
    Cell(2, (0,), None, 3, 10),
    Cell(3, (), None, 1, 13),
    Cell(4, (0, 2), None, 2, 14),
    Cell(4, (1, 2), None, 5, 16),
    Cell(4, (1,), None, 15, 21),
    Cell(5, (0,), torch.tensor([0, 0, 1, -1, 2, 1]), 3, 36),
    Cell(5, (1,), torch.tensor([1, 0]), 2, 39),
    Cell(6, (0,), torch.tensor([0]), 1, 41),
    Cell(4, (), torch.arange(30) % 4 - 1, 3, 42),
    Cell(5, (0, 2), None, 3, 45, (2, 3, 2)),  # three stretches of two columns
    Cell(5, (0, 1), None, 2, 48, (2, 3, 2)),  # every second column
]


def slow(cell, tensor):
    """One element at a time."""
    sums = torch.zeros(cell.size, dtype=torch.float64)
    tensor = tensor if cell.shape is None else tensor.reshape(cell.shape)
    kept = [axis for axis in range(tensor.ndim) if axis not in cell.summed]
    lengths = [tensor.shape[axis] for axis in kept]
    for index in itertools.product(*map(range, tensor.shape)):
        flat = 0
        for axis, length in zip(kept, lengths, strict=True):
            flat = flat * length + index[axis]
        label = flat if cell.classes is None else int(cell.classes[flat])
        if label >= 0:
            sums[label] += tensor[index]
    return sums


def run(limit, cells, quantities):
    out = torch.full((len(quantities), 50), torch.nan, dtype=torch.float64)
    for pieces in cut(SHAPES, limit):
        memory = torch.full((len(quantities), pieces[-1].stop), torch.nan, dtype=torch.float64)
        for row, tensors in zip(memory, quantities, strict=True):
            for piece in pieces:
                piece.view(row).copy_(piece.of(tensors[piece.tensor]))
        Sums(pieces, cells, memory, out).run()
    return out


@pytest.mark.parametrize("limit", [1, 4, 7, 10, 31, 1000])
def test_sums_equal_a_loop_over_elements(limit):
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    quantities = [[torch.randn(shape, **draw) for shape in SHAPES] for _ in range(2)]
    out = run(limit, CELLS, quantities)
    for row, tensors in zip(out, quantities, strict=True):
        for cell in CELLS:
            expected = slow(cell, tensors[cell.tensor])
            torch.testing.assert_close(row[cell.start : cell.start + cell.size], expected, rtol=1e-14, atol=1e-14)


def test_the_comparison_notices_a_wrong_class():
    quantities = [[torch.ones(shape, dtype=torch.float64) for shape in SHAPES]]
    wrong = Cell(5, (0,), torch.tensor([0, 1, 1, -1, 2, 1]), 3, 0)
    assert not torch.equal(run(10, [wrong], quantities)[0, :3], slow(CELLS[8], quantities[0][5]))


@pytest.mark.parametrize("limit", [1, 4, 7, 1000])
def test_buckets_hold_every_element_once(limit):
    seen = [torch.zeros(shape) for shape in SHAPES]
    for pieces in cut(SHAPES, limit):
        for piece in pieces:
            piece.of(seen[piece.tensor]).add_(1)
        total = pieces[-1].stop
        # one row of a tensor is never divided, and the widest has six elements
        assert total <= max(limit, 6)
        assert total == sum(piece.stop - piece.start for piece in pieces)
    assert all((count == 1).all() for count in seen)


def test_uncut_tensors_stay_whole():
    pieces = [piece for bucket in cut(SHAPES, 4, frozenset({4})) for piece in bucket]
    assert [piece for piece in pieces if piece.tensor == 4] == [Piece(4, 0, 5, True, 0, (5, 2, 3))]


def test_neighbouring_vectors_are_copied_at_once():
    (pieces,) = cut(SHAPES[:2], 10)
    sums = Sums(pieces, CELLS[:2], torch.zeros(1, 6), torch.zeros(1, 6))
    assert len(sums._copies) == 1
