"""Nullities against known group dimensions and against a dense singular value decomposition."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynascope.base.errors import Unsupported
from dynascope.functional.params import flatten, unflatten
from dynascope.symmetry import nullspace
from dynascope.symmetry.nullspace import jacobian_blocks, jacobian_nullity


def layers(*widths: int, **extra: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    params = {}
    for k, (a, b) in enumerate(pairwise(widths)):
        params[f"w{k}"] = torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5
        params[f"b{k}"] = torch.randn(b, generator=generator, dtype=torch.float64) / 2
    return params | extra


def two_layers(middle):
    return lambda p, x: middle(x @ p["w0"].T + p["b0"]) @ p["w1"].T + p["b1"]


def inputs(width, batch=8):
    return lambda generator: torch.randn(batch, width, generator=generator, dtype=torch.float64)


def gained_layer_norm(p, x):
    hidden = F.layer_norm(x @ p["w0"].T + p["b0"], (6,), p["gain"], p["shift"], eps=0.0)
    return hidden @ p["w1"].T + p["b1"]


def conv_batch_norm(p, x):
    hidden = F.conv2d(x, p["filter"], p["bias"])
    mean, variance = hidden.mean((0, 2, 3), keepdim=True), hidden.var((0, 2, 3), keepdim=True, correction=0)
    hidden = (hidden - mean) / variance.sqrt() * p["gain"][:, None, None] + p["shift"][:, None, None]
    return hidden.relu().mean((2, 3)) @ p["head"].T


CONV = {
    "filter": torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 3,
    "bias": torch.zeros(4, dtype=torch.float64),
    "gain": torch.ones(4, dtype=torch.float64),
    "shift": torch.zeros(4, dtype=torch.float64),
    "head": torch.randn(3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 2,
}
AFFINE = {"gain": torch.ones(6, dtype=torch.float64), "shift": torch.zeros(6, dtype=torch.float64)}
CASES = {
    "relu 5-7-3": (two_layers(torch.relu), layers(5, 7, 3), inputs(5), 7),
    "tanh 5-7-3": (two_layers(torch.tanh), layers(5, 7, 3), inputs(5), 0),
    # GL(4) 16, bias shifts 4, one fibre direction of the rank-deficient product
    "linear 5-4-3": (two_layers(lambda h: h), layers(5, 4, 3), inputs(5), 21),
    # 7 rescalings, and the common shift of the logits by any affine function of the 7 hidden units
    "relu 5-7-3, softmax": (
        lambda p, x: two_layers(torch.relu)(p, x).log_softmax(-1),
        layers(5, 7, 3),
        inputs(5),
        7 + 8,
    ),
    # gain and shift into the head 12, ones direction of the input 5 + 1, its scale 1, rotations so(5) 10,
    # directions of the head that mean-free inputs never see 8
    "LayerNorm": (gained_layer_norm, layers(5, 6, 8, **AFFINE), inputs(5), 12 + 6 + 1 + 10 + 8),
    # filter scales 4, biases before the norm 4, rescale of gain and shift against the head 4
    "BatchNorm, train mode": (
        conv_batch_norm,
        CONV,
        lambda g: torch.randn(12, 3, 4, 4, generator=g, dtype=torch.float64),
        12,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nullity_equals_the_known_dimension(case):
    f, params, sample, expected = CASES[case]
    found = jacobian_nullity(f, params, sample, generator=torch.Generator().manual_seed(0))
    assert found.dimension == expected
    assert found.rank == len(flatten(params)) - expected
    # at least six orders of magnitude between the directions that count and those that do not
    assert found.gap > 1e6
    assert found.dead == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_count_does_not_depend_on_the_seed(seed):
    for case in ("relu 5-7-3", "linear 5-4-3", "LayerNorm"):
        f, params, sample, expected = CASES[case]
        found = jacobian_nullity(f, params, sample, generator=torch.Generator().manual_seed(seed))
        assert found.dimension == expected, case


def test_basis_is_orthonormal_and_moves_no_output():
    f, params, sample, _ = CASES["LayerNorm"]
    found = jacobian_nullity(f, params, sample, generator=torch.Generator().manual_seed(0))
    gram = found.basis.T @ found.basis
    assert torch.allclose(gram, torch.eye(found.dimension, dtype=torch.float64), rtol=0, atol=1e-12)  # rounding
    x = sample(torch.Generator().manual_seed(99))

    def motion(vector):
        tangent = unflatten(vector, found.point)
        return torch.func.jvp(lambda p: f(p, x), (found.point,), (tangent,))[1].norm().item()

    generic = torch.randn(len(flatten(params)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert max(motion(vector) for vector in found.basis.T) < 1e-11
    assert motion(generic / generic.norm()) > 1e-2


def test_rank_equals_that_of_the_dense_jacobian():
    f, params, sample, _ = CASES["relu 5-7-3"]
    found = jacobian_nullity(f, params, sample, generator=torch.Generator().manual_seed(0))
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    dense = torch.autograd.functional.jacobian(lambda v: f(unflatten(v, params), x), flatten(found.point))
    assert torch.linalg.matrix_rank(dense.reshape(300, -1), rtol=1e-9) == found.rank


def test_dead_unit_is_told_apart_from_a_symmetry():
    params = layers(5, 7, 3)
    params["b0"][2] = -50.0
    found = jacobian_nullity(two_layers(torch.relu), params, inputs(5), generator=torch.Generator().manual_seed(0))
    assert found.dimension == 7
    # its 5 + 1 + 3 parameters are all free, one of which the rescaling had counted already
    assert found.dead == 8
    assert found.dimensions[0] == 15


def test_points_that_never_agree_are_refused(monkeypatch):
    ranks = iter(range(10, 60))
    right = torch.eye(66, dtype=torch.float64)
    monkeypatch.setattr(
        nullspace, "_measure", lambda f, point, *_: nullspace._Measured(point, 1, next(ranks), 1e9, right)
    )
    with pytest.raises(Unsupported, match=r"no two points agree on the least dimension; found \[56, 55, 54"):
        jacobian_nullity(two_layers(torch.relu), layers(5, 7, 3), inputs(5), generator=torch.Generator().manual_seed(0))


def test_a_constant_function_is_all_null():
    found = jacobian_nullity(
        lambda p, x: x, {"w": torch.ones(3).double()}, inputs(2), generator=torch.Generator().manual_seed(0)
    )
    assert (found.dimension, found.rank) == (3, 0)


def test_large_models_are_refused_with_a_way_out():
    with pytest.raises(Unsupported, match=r"66 parameters.*4356 matrix entries.*narrow twin"):
        jacobian_nullity(
            two_layers(torch.relu),
            layers(5, 7, 3),
            inputs(5),
            generator=torch.Generator().manual_seed(0),
            max_entries=1000,
        )


def test_one_point_is_not_enough():
    with pytest.raises(ValueError, match="draws = 1"):
        jacobian_nullity(lambda p, x: x, layers(1, 1), inputs(1), generator=torch.Generator().manual_seed(0), draws=1)


def test_blocks_are_the_rows_of_the_dense_jacobian_beyond_the_first_block():
    f, params = two_layers(torch.tanh), layers(5, 7, 3)
    x = inputs(5, batch=100)(torch.Generator().manual_seed(4))  # 300 outputs, more than one block of 256
    dense = torch.autograd.functional.jacobian(lambda v: f(unflatten(v, params), x), flatten(params))
    blocks = list(jacobian_blocks(f, params, x))
    assert [len(block) for block in blocks] == [256, 44]
    assert torch.allclose(torch.cat(blocks), dense.reshape(300, -1), rtol=0, atol=1e-13)  # order of addition


def test_known_symmetries_settle_the_count_without_further_points():
    params = layers(5, 7, 3)
    params["b0"][2] = -50.0
    found = jacobian_nullity(
        two_layers(torch.relu),
        params,
        inputs(5),
        generator=torch.Generator().manual_seed(0),
        known=lambda point: 7,
    )
    assert found.dimensions == (15, 7)
