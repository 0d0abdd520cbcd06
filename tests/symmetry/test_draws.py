"""Generic points and checked evaluations."""

import math

import pytest
import torch

from dynascope.base.errors import Unsupported
from dynascope.symmetry.draws import check_deterministic, cotangent_gradient, evaluate, fresh, near


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


PARAMS = {
    "matrix": torch.linspace(-1, 1, 600, dtype=torch.float64).reshape(6, 100),
    "zeros": torch.zeros(400, dtype=torch.float64),
    "gain": torch.ones(50, dtype=torch.float64),
    "dead": torch.full((50,), -80.0, dtype=torch.float64),
}


def test_near_moves_every_tensor_by_its_own_scale():
    point = near(PARAMS, rng())
    assert (point["matrix"] - PARAMS["matrix"]).std().item() == pytest.approx(0.15, rel=0.15)
    assert point["zeros"].std().item() == pytest.approx(0.1, rel=0.15)
    assert (point["gain"] > 0).all()
    assert point["gain"].std() > 0.1


def test_near_noise_ignores_one_extreme_entry():
    biases = torch.full((9,), 0.1, dtype=torch.float64) * torch.tensor([1.0, -1.0, 1, 1, 1, 1, 1, 1, 1])
    biases[3] = -1000.0
    moved = (near({"b": biases}, rng())["b"] - biases).abs()
    assert moved.max() < 0.3


def test_fresh_forgets_values_but_keeps_common_signs():
    point = fresh(PARAMS, rng())
    assert point["matrix"].std().item() == pytest.approx(0.1, rel=0.15)  # 1 / sqrt(fan_in)
    assert point["gain"].min() > 0
    assert point["dead"].max() < 0
    assert point["dead"].min() > -5


def test_draws_depend_on_the_generator_alone():
    for draw in (near, fresh):
        assert torch.equal(draw(PARAMS, rng(3))["matrix"], draw(PARAMS, rng(3))["matrix"])
        assert not torch.equal(draw(PARAMS, rng(3))["matrix"], draw(PARAMS, rng(4))["matrix"])


def test_cotangent_gradient_is_the_normalised_pullback_of_noise():
    params = {
        "w": torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        "idle": torch.ones(3, dtype=torch.float64),
    }
    x = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    gradient = cotangent_gradient(lambda p, x: x @ p["w"], params, x, rng(1))
    w = torch.randn(2, 2, generator=rng(1), dtype=torch.float64)
    expected = x.T @ w
    assert torch.allclose(gradient["w"], expected / expected.norm(), rtol=0, atol=1e-15)  # rounding
    assert torch.equal(gradient["idle"], torch.zeros(3, dtype=torch.float64))


def test_an_output_that_ignores_all_parameters_has_gradient_zero():
    gradient = cotangent_gradient(lambda p, x: x, {"w": torch.ones(2).double()}, torch.ones(2).double(), rng())
    assert torch.equal(gradient["w"], torch.zeros(2, dtype=torch.float64))


def test_randomness_inside_is_refused():
    with pytest.raises(Unsupported, match="two identical calls differ"):
        check_deterministic(lambda p, x: x + torch.rand(2).double(), {}, torch.ones(2).double())


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.ones(2), "torch.float32"),
        ((torch.ones(2),), "tuple"),
        (torch.ones(0, 3).double(), r"shape \(0, 3\)"),
        (torch.tensor([math.nan]).double(), "finite"),
    ],
)
def test_outputs_that_carry_no_law_are_refused(output, words):
    with pytest.raises(ValueError, match=words):
        evaluate(lambda p, x: output, {}, None)


def test_single_precision_parameters_are_refused_by_name():
    with pytest.raises(ValueError, match=r"parameter w has dtype torch\.float32"):
        evaluate(lambda p, x: p["w"].double(), {"w": torch.ones(1)}, None)
