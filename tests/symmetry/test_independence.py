"""Ranks of charge families against dense autograd Jacobians."""

import pytest
import torch

from dynascope.symmetry.charges import Charge, Leg
from dynascope.symmetry.independence import ChargeSpan

POINT = {
    "a": torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "b": torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
}
ROWS = Leg("a", 1.0, torch.arange(4).reshape(4, 1), 4)
COLUMNS = Leg("b", -1.0, torch.arange(4).reshape(1, 4), 4)
HALVES = Leg("a", 1.0, (torch.arange(4) // 2).reshape(4, 1), 2)


def family(*legs, degree=2, full=False):
    size = legs[0].size * (legs[0].size + 1) // 2 if full else legs[0].size
    return Charge("c", "rescale", degree, legs, size, True, "", full=full)


def dense_rank(*charges):
    def values(a, b):
        return torch.cat([c.value({"a": a, "b": b}) for c in charges])

    parts = torch.autograd.functional.jacobian(values, (POINT["a"], POINT["b"]))
    return int(torch.linalg.matrix_rank(torch.cat([p.flatten(1) for p in parts], dim=1)))


@pytest.mark.parametrize(
    "charges",
    [
        [family(ROWS, COLUMNS)],
        [family(ROWS, COLUMNS), family(ROWS)],
        [family(ROWS), family(HALVES)],
        [family(ROWS, COLUMNS, full=True), family(ROWS, COLUMNS)],
        [family(ROWS, degree=1), family(HALVES, degree=1), family(ROWS)],
        # rank-limited: 10 entries of a 4 x 4 matrix built from 3 columns
        [family(ROWS, full=True)],
    ],
)
def test_gained_ranks_add_up_to_the_dense_rank(charges):
    span = ChargeSpan(POINT)
    gained = [span.add(charge) for charge in charges]
    assert sum(gained) == span.rank == dense_rank(*charges)


def test_coarse_view_of_a_fine_law_adds_nothing_but_a_new_leg_does():
    span = ChargeSpan(POINT)
    assert span.add(family(ROWS)) == 4
    assert span.add(family(HALVES)) == 0
    assert span.add(family(COLUMNS)) == 4


@pytest.mark.parametrize("full", [False, True])
def test_sparse_gradients_equal_autograd(full):
    charge = family(ROWS, COLUMNS, full=full)
    dense = torch.autograd.functional.jacobian(lambda a, b: charge.value({"a": a, "b": b}), (POINT["a"], POINT["b"]))
    expected = torch.cat([part.flatten(1) for part in dense], dim=1)
    expected = expected / expected.norm(dim=1, keepdim=True)
    found = torch.from_numpy(ChargeSpan(POINT)._gradients(charge).toarray())
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)  # rounding of a division


def test_unused_elements_do_not_make_a_coarse_view_independent():
    used = {"a": torch.ones(4, 3, dtype=torch.float64), "b": torch.ones(2, 4, dtype=torch.float64)}
    used["a"][3] = 0
    upper = Leg("a", 1.0, torch.tensor([0, 1, 2, -1]).reshape(4, 1), 3)
    whole = Leg("a", 1.0, torch.zeros(1, 1, dtype=torch.int64), 1)
    masked, plain = ChargeSpan(POINT, used), ChargeSpan(POINT)
    assert [masked.add(family(upper)), masked.add(family(whole))] == [3, 0]
    assert [plain.add(family(upper)), plain.add(family(whole))] == [3, 1]
