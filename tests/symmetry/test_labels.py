"""The linear system of labels against dense linear algebra."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynascope.symmetry.labels import PINNED, System, compact, scaled, tighten, varying


def test_tight_labels_know_where_they_change() -> None:
    labels = torch.arange(3).view(1, 3, 1).expand(2, 3, 4).clone()
    assert varying(tighten(labels)) == {1}
    assert torch.equal(tighten(labels), labels)
    assert compact([tighten(labels)])[0].shape == (1, 3, 1)


def test_fresh_labels_never_repeat_and_never_are_the_pinned_one() -> None:
    system = System()
    a, b = system.fresh((2, 3)), system.fresh((4, 3), axes=[1])
    assert PINNED not in a
    assert len(torch.unique(torch.cat([a.reshape(-1), b[0]]))) == 9
    assert torch.equal(b[0], b[3])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.sampled_from([-2.0, -1.0, 0.5, 1.0])),
        max_size=6,
    )
)
def test_solutions_are_the_null_space_of_the_equations(rows: list) -> None:
    """Each row: v_a - v_b + c v_c = 0, label 0 pinned."""
    system = System()
    system.fresh((5,))
    dense = np.zeros((len(rows) + 1, 6))
    dense[-1, PINNED] = 1.0
    for i, (a, b, c, weight) in enumerate(rows):
        system.require(((1.0, torch.tensor(a)), (-1.0, torch.tensor(b)), (weight, torch.tensor(c))))
        dense[i, a] += 1.0
        dense[i, b] -= 1.0
        dense[i, c] += weight
    basis = system.solve().matrix.toarray()
    assert np.abs(dense @ basis).max(initial=0.0) < 1e-12  # small rationals, eliminated exactly
    assert basis.shape[1] == 6 - np.linalg.matrix_rank(dense)
    assert np.linalg.matrix_rank(basis) == basis.shape[1]


def test_terms_along_different_axes_are_separated_by_constants() -> None:
    """r[o] - c[i] = 0 for all o, i leaves one number: the separation must not cost o times i equations."""
    system = System()
    rows, columns = system.fresh((4, 1)), system.fresh((1, 5))
    system.require(((1.0, rows.expand(4, 5)), (-1.0, columns.expand(4, 5))))
    assert system.solve().size == 1


def test_uniform_ties_everything_along_an_axis() -> None:
    system = System()
    field = ((1.0, system.fresh((3, 4))),)
    out = system.uniform(field, [1])
    assert system.solve().size == 3
    assert varying(tighten(out[0][1])) == {0}


def test_single_writes_a_sum_as_one_unknown() -> None:
    system = System()
    a, b = system.fresh((3,)), system.fresh((3,))
    one = system.single(((1.0, a), (-2.0, b)))
    assert len(one) == 1
    solution = system.solve()
    z = torch.randn(solution.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = solution.values(z)
    torch.testing.assert_close(values[one[0][1]], values[a] - 2 * values[b], rtol=1e-12, atol=1e-12)


def test_driven_labels_are_solved_for_last() -> None:
    system = System()
    free, driven = system.fresh((2,)), system.fresh((2,))
    system.driven.append(driven)
    extra = system.fresh((2,))
    system.require(((1.0, free), (1.0, driven), (1.0, extra)))
    solution = system.solve()
    for label in driven.tolist():
        row = solution.matrix[[label]].toarray()[0]
        assert np.count_nonzero(row) == 1
        assert row.max() == 1.0


def test_slots_split_sums_by_coefficient() -> None:
    system = System()
    a, b, c = system.fresh(()), system.fresh(()), system.fresh(())
    system.require(((1.0, c), (-1.0, a), (-2.0, b)))
    slots = system.solve().slots(torch.stack([a, c]))
    assert {w for w, _ in slots} == {1.0, 2.0}


def test_scaling_by_zero_gives_the_empty_field() -> None:
    assert scaled(((1.0, torch.tensor([1])),), 0.0) == ()


@pytest.mark.parametrize("coefficients", [(1.0, -1.0), (2.0, -2.0)])
def test_two_opposite_terms_are_an_equality(coefficients: tuple[float, float]) -> None:
    system = System()
    a, b = system.fresh((2,)), system.fresh((2,))
    system.require(((coefficients[0], a), (coefficients[1], b)))
    assert system.solve().size == 2
