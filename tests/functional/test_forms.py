"""Forms of several quantities against einsum, one pair at a time."""

import pytest
import torch

from dynascope.functional.class_sums import Cell
from dynascope.functional.forms import Gram, forms

SHAPES = [(4,), (4, 3), (2, 4)]
QUADRATIC = [Cell(0, (), None, 4, 0), Cell(1, (1,), None, 4, 4), Cell(2, (0,), None, 4, 8)]
LINEAR = [Cell(1, (0,), None, 3, 12)]
GRAMS = [Gram(1, (1,), torch.arange(4), 4, 15), Gram(2, (0,), torch.tensor([0, 2, 1, 3]), 2, 25)]
PAIRS = [(0, 0), (0, 1), (3, 3)]


@pytest.mark.parametrize("limit", [3, 8, 100])
def test_forms_equal_einsum(limit):
    generator = torch.Generator().manual_seed(0)
    x, y, u = ([torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES] for _ in range(3))
    out = torch.zeros(3, 28, dtype=torch.float64)
    plan = {"quadratic": QUADRATIC, "linear": LINEAR, "grams": GRAMS, "copied": 2, "pairs": PAIRS, "magnitude": True}
    for bucket in forms(SHAPES, **plan, out=out, limit=limit):
        bucket.load(x, [None, *y[1:]])
        for piece in bucket.pieces:
            piece.view(bucket.quantities[3]).copy_(piece.of(u[piece.tensor]))
        bucket.run()
    quantities = {0: x, 1: [torch.zeros_like(y[0]), *y[1:]], 3: u}
    for row, (left, right) in enumerate(PAIRS):
        a, b = quantities[left], quantities[right]
        expected = [a[0] * b[0], torch.einsum("ij,ij->i", a[1], b[1]), torch.einsum("ij,ij->j", a[2], b[2])]
        torch.testing.assert_close(out[row, :12], torch.cat(expected), rtol=1e-13, atol=1e-13)
        product = a[1] @ b[1].T
        triangle = ((product + product.T) / 2)[*torch.triu_indices(4, 4)]
        torch.testing.assert_close(out[row, 15:25], triangle, rtol=1e-13, atol=1e-13)
        # columns 0 and 2 laid end to end are row 0, columns 1 and 3 row 1
        rows_a, rows_b = (torch.stack([z[2][:, [0, 2]].T.reshape(-1), z[2][:, [1, 3]].T.reshape(-1)]) for z in (a, b))
        product = rows_a @ rows_b.T
        torch.testing.assert_close(
            out[row, 25:28], ((product + product.T) / 2)[*torch.triu_indices(2, 2)], rtol=1e-13, atol=1e-13
        )
    linear = torch.stack([x[1].sum(0), y[1].sum(0), x[1].abs().sum(0)])
    torch.testing.assert_close(out[:, 12:15], linear, rtol=1e-13, atol=1e-13)


def test_a_bfloat16_autocast_does_not_reach_the_products():
    x = [torch.full((4,), 1 / 3), torch.full((4, 3), 1 / 3), torch.zeros(2, 4)]
    out = torch.zeros(1, 28)
    (bucket,) = forms(SHAPES, quadratic=[], linear=[], grams=GRAMS, copied=1, pairs=[(0, 0)], out=out, limit=100)
    with torch.autocast("cpu", torch.bfloat16):
        bucket.load(x)
        bucket.run()
    # bfloat16 would be off by 1e-3
    torch.testing.assert_close(out[0, 15:25], torch.full((10,), 1 / 3), rtol=1e-6, atol=0)
