"""Charges against a loop over elements."""

import pytest
import torch

from dynascope.symmetry.charges import Charge, Leg

GENERATOR = torch.Generator().manual_seed(0)


def tensor(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


CLASSES = {
    "rows": torch.arange(3).view(3, 1, 1),
    "columns": torch.arange(4).view(1, 4, 1),
    "some columns, turned round": torch.tensor([1, -1, 0, -1]).view(1, 4, 1),
    "everything": torch.zeros(1, 1, 1, dtype=torch.int64),
    "rows and columns": torch.arange(12).flip(0).view(3, 4, 1),
}


@pytest.mark.parametrize("name", CLASSES)
def test_reduce_adds_up_the_elements_of_each_class(name: str) -> None:
    classes, x = CLASSES[name], tensor(3, 4, 2)
    size = int(classes.max()) + 1
    expected = torch.zeros(size, dtype=torch.float64)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in x.shape]):
        k = int(classes.expand(x.shape)[tuple(index)])
        if k >= 0:
            expected[k] += x[tuple(index)]
    leg = Leg("w", 1.0, classes, size)
    # sums of at most 24 numbers in another order
    torch.testing.assert_close(leg.reduce(x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", ["rows", "columns", "some columns, turned round"])
def test_fold_undoes_unfold(name: str) -> None:
    classes, x = CLASSES[name], tensor(3, 4, 2)
    leg = Leg("w", 1.0, classes, int(classes.max()) + 1)
    taken = (classes.expand(x.shape) >= 0).double()
    assert torch.equal(leg.fold(leg.unfold(x), x), x * taken)


def test_spread_is_the_transpose_of_reduce() -> None:
    classes, x, z = CLASSES["some columns, turned round"], tensor(3, 4, 2), tensor(2)
    leg = Leg("w", 1.0, classes, 2)
    torch.testing.assert_close((leg.spread(z) * x).sum(), (z * leg.reduce(x)).sum(), rtol=1e-14, atol=1e-14)


def pair() -> tuple[Charge, dict[str, torch.Tensor]]:
    legs = (
        Leg("a", 1.0, torch.arange(3).view(3, 1), 3),
        Leg("bias", 1.0, torch.arange(3), 3),
        Leg("b", -1.0, torch.arange(3).view(1, 3), 3),
    )
    params = {"a": tensor(3, 4), "bias": tensor(3), "b": tensor(2, 3)}
    return Charge("rescale/a-b", "rescale", 2, legs, 3, True, "units"), params


def test_value_is_the_difference_of_squared_norms() -> None:
    charge, p = pair()
    expected = (p["a"] ** 2).sum(1) + p["bias"] ** 2 - (p["b"] ** 2).sum(0)
    torch.testing.assert_close(charge.value(p), expected, rtol=1e-14, atol=1e-14)
    assert (charge.scale(p) >= charge.value(p).abs()).all()


def test_bilinear_form_is_symmetric_and_polarises_the_value() -> None:
    charge, p = pair()
    _, q = pair()
    torch.testing.assert_close(charge.bilinear(p, q), charge.bilinear(q, p), rtol=1e-14, atol=1e-14)
    both = {n: p[n] + q[n] for n in p}
    expected = charge.value(both) - charge.value(p) - charge.value(q)
    torch.testing.assert_close(2 * charge.bilinear(p, q), expected, rtol=1e-12, atol=1e-12)


def test_matrix_charge_is_the_difference_of_gram_matrices() -> None:
    charge, p = pair()
    full = Charge("gl/a-b", "gl", 2, charge.legs, 6, True, "linear units", full=True)
    gram = p["a"] @ p["a"].T + torch.outer(p["bias"], p["bias"]) - p["b"].T @ p["b"]
    rows, columns = torch.triu_indices(3, 3)
    torch.testing.assert_close(full.value(p), gram[rows, columns], rtol=1e-13, atol=1e-13)
    assert (full.scale(p) >= full.value(p).abs()).all()


def test_forms_of_the_wrong_degree_are_refused() -> None:
    charge, p = pair()
    linear = Charge("translation/bias", "translation", 1, charge.legs[1:2], 3, True, "biases")
    assert torch.equal(linear.value(p), p["bias"])
    with pytest.raises(ValueError, match="degree 2"):
        charge.linear(p)
    with pytest.raises(ValueError, match="degree 1"):
        linear.bilinear(p, p)
    with pytest.raises(ValueError, match="no legs"):
        Charge("empty", "scale", 2, (), 1, True, "").value(p)
