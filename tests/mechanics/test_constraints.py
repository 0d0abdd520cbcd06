"""The two constraints of a symmetry, against dense derivatives by hand, with combinations that are no symmetry."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dynascope.base.errors import NotASymmetry, Unsupported
from dynascope.functional.model import as_function, batch_loss
from dynascope.functional.params import parameters_of
from dynascope.mechanics.constraints import constraint_residuals
from dynascope.symmetry.charges import Charge, Leg

ROWS, COLUMNS = torch.arange(7).view(7, 1), torch.arange(7).view(1, 7)
WRITER = Leg("0.weight", 1.0, ROWS, 7)
BIAS = Leg("0.bias", 1.0, torch.arange(7), 7)
READER = Leg("2.weight", -1.0, COLUMNS, 7)
RESCALE = Charge("rescale", "rescale", 2, (WRITER, BIAS, READER), 7, True, "")
TRANSLATION = Charge("translation", "translation", 1, (Leg("2.weight", 1.0, COLUMNS, 7),), 7, True, "")
# Rounding of a gradient and a Hessian product of sixty numbers, with a factor of a thousand to spare.
ROUNDING = 1e-12


def problem(activation: torch.nn.Module):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), activation, torch.nn.Linear(7, 3)).double()
        x, y = torch.randn(20, 5, dtype=torch.float64), torch.randint(0, 3, (20,))
    return batch_loss(as_function(model), torch.nn.functional.cross_entropy, {}, x, y), parameters_of(model)


@pytest.mark.parametrize("charge", [RESCALE, TRANSLATION], ids=lambda c: c.kind)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_symmetry_leaves_rounding(charge: Charge, seed: int) -> None:
    loss, params = problem(torch.nn.ReLU())
    found = constraint_residuals(loss, params, charge, seed=seed)
    assert found.largest < ROUNDING
    found.require(ROUNDING)


@pytest.mark.parametrize(
    ("activation", "charge"),
    [
        (torch.nn.ReLU(), replace(RESCALE, legs=(WRITER, READER))),
        (torch.nn.ReLU(), replace(RESCALE, legs=(WRITER, BIAS, replace(READER, coefficient=1.0)))),
        (torch.nn.ReLU(), replace(RESCALE, legs=(WRITER, BIAS))),
        (torch.nn.ReLU(), replace(TRANSLATION, degree=2)),
        (torch.nn.ReLU(), replace(TRANSLATION, legs=(WRITER,))),
        (torch.nn.GELU(), RESCALE),
    ],
    ids=["bias left out", "sign flipped", "reader left out", "squared", "another layer", "GELU"],
)
def test_another_combination_does_not(activation: torch.nn.Module, charge: Charge) -> None:
    loss, params = problem(activation)
    found = constraint_residuals(loss, params, charge)
    assert found.largest > 0.01
    assert found.typical > 1e-3
    with pytest.raises(NotASymmetry, match="is not a symmetry"):
        found.require(ROUNDING)


def test_residuals_agree_with_dense_derivatives() -> None:
    loss, params = problem(torch.nn.GELU())  # no symmetry: both sides have to be computed rightly to agree
    names = list(params)
    sizes = [params[name].numel() for name in names]

    def of_vector(theta: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(names, theta.split(sizes), strict=True))
        return loss({name: part.view(params[name].shape) for name, part in parts.items()})

    theta = torch.cat([params[name].reshape(-1) for name in names])
    g = torch.func.grad(of_vector)(theta).numpy()
    hessian = torch.func.hessian(of_vector)(theta).numpy()

    def diagonal(weights: np.ndarray) -> np.ndarray:
        sign = {
            "0.weight": np.repeat(weights, 5),
            "0.bias": weights,
            "2.weight": -np.tile(weights, 3),
            "2.bias": np.zeros(3),
        }
        return np.concatenate([sign[name] for name in names])

    found = constraint_residuals(loss, params, RESCALE, seed=5)
    unit, point = np.eye(7), theta.numpy()
    fields = [diagonal(unit[i]) * point for i in range(7)]
    lengths = [np.linalg.norm(f) * np.linalg.norm(g[diagonal(unit[i]) != 0]) for i, f in enumerate(fields)]
    expected = np.array([abs(f @ g) / length for f, length in zip(fields, lengths, strict=True)])
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-9)

    generator = torch.Generator().manual_seed(5)
    draw = diagonal(torch.randn(7, generator=generator, dtype=torch.float64).numpy())
    other = np.concatenate(
        [torch.randn(params[n].shape, generator=generator, dtype=torch.float64).reshape(-1).numpy() for n in names]
    )
    other *= draw != 0
    other *= np.linalg.norm(draw * point) / np.linalg.norm(other)
    rest = np.linalg.norm(hessian @ (draw * point) + draw * g)
    yardstick = np.linalg.norm(hessian @ other) + np.linalg.norm(draw * g)
    assert found.hessian == pytest.approx(rest / yardstick, rel=1e-9)


def test_what_cannot_be_checked_is_refused() -> None:
    loss, params = problem(torch.nn.ReLU())
    with pytest.raises(Unsupported, match="matrix-valued"):
        constraint_residuals(loss, params, replace(RESCALE, full=True))
    with pytest.raises(ValueError, match="must be float64"):
        constraint_residuals(loss, {name: p.float() for name, p in params.items()}, RESCALE)


def test_a_residual_that_is_no_number_is_no_symmetry() -> None:
    found = constraint_residuals(*problem(torch.nn.ReLU()), RESCALE)
    with pytest.raises(NotASymmetry):
        replace(found, hessian=float("nan")).require(1.0)
