"""Residuals, controls and patterns on gradients whose laws are known exactly."""

import pytest
import torch

from dynascope.symmetry.charges import Charge, Leg
from dynascope.symmetry.evidence import VALID, bound, control, relative, residual, violation, widen


def tensor(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain_draw(seed, middle):
    """Parameters and gradient of <w, b middle(a x)> by hand for a linear middle, else by autograd."""
    theta = {"a": tensor(seed, 4, 3).requires_grad_(), "b": tensor(seed + 100, 2, 4).requires_grad_()}
    out = middle(tensor(seed + 200, 9, 3) @ theta["a"].T) @ theta["b"].T
    grads = torch.autograd.grad((tensor(seed + 300, 9, 2) * out).sum(), list(theta.values()))
    return {k: p.detach() for k, p in theta.items()}, dict(zip(theta, grads, strict=True))


def chain(coefficient=-1.0):
    legs = (
        Leg("a", 1.0, torch.arange(4).reshape(4, 1), 4),
        Leg("b", coefficient, torch.arange(4).reshape(1, 4), 4),
    )
    return Charge("rescale/a-b", "rescale", 2, legs, 4, True, "Σa² - Σb² is conserved for each of 4 channels")


RELU = [chain_draw(k, torch.relu) for k in range(4)]
LINEAR = [chain_draw(k, lambda h: h) for k in range(4)]
GELU = [chain_draw(k, torch.nn.functional.gelu) for k in range(4)]


def test_violation_and_bound_against_loops():
    theta, gradient = GELU[0]
    for i in range(4):
        a, ga = theta["a"][i], gradient["a"][i]
        b, gb = theta["b"][:, i], gradient["b"][:, i]
        value = sum(p * g for p, g in zip(a, ga, strict=True)) - sum(p * g for p, g in zip(b, gb, strict=True))
        limit = a.norm() * ga.norm() + b.norm() * gb.norm()
        assert violation(chain(), theta, gradient)[i] == pytest.approx(value.item(), rel=1e-12)
        assert bound(chain(), theta, gradient)[i] == pytest.approx(limit.item(), rel=1e-12)


def test_a_law_holds_and_its_neighbours_do_not():
    assert residual(chain(), RELU) < 1e-14
    assert control(chain(), RELU) > 1e-2
    assert residual(chain(-1.01), RELU) > 1e-4
    assert residual(chain(), GELU) > 1e-2


def test_a_small_broken_channel_cannot_hide_behind_large_ones():
    theta, gradient = (dict(part) for part in RELU[0])
    gradient["a"] = gradient["a"].clone()
    gradient["a"][2] *= 1e-5
    gradient["b"] = gradient["b"].clone()
    gradient["b"][:, 2] *= 1.1e-5
    assert relative(chain(), theta, gradient)[2] > 1e-3
    assert relative(chain(), theta, gradient)[[0, 1, 3]].max() < 1e-14


def test_a_dead_channel_neither_breaks_the_law_nor_counts_as_evidence():
    theta, gradient = (dict(part) for part in RELU[0])
    gradient = {"a": 1e-18 * tensor(7, 4, 3), "b": 1e-18 * tensor(8, 2, 4)} | {}
    gradient["a"][0], gradient["b"][:, 0] = RELU[0][1]["a"][0], RELU[0][1]["b"][:, 0]
    assert residual(chain(), [(theta, gradient)]) < VALID
    assert control(chain(), [(theta, gradient)]) < 1e-6


def test_pattern_is_full_for_a_linear_middle_and_diagonal_for_relu():
    (matrix,), pattern = widen(chain(), LINEAR)
    assert (pattern, matrix.kind, matrix.size, matrix.full) == ("full", "gl", 10, True)
    assert residual(matrix, LINEAR) < 1e-14
    same, pattern = widen(chain(), RELU)
    assert pattern == "diag"
    assert same[0].name == "rescale/a-b"


def test_pattern_finds_blocks_of_a_block_wise_linear_middle():
    def gated(h):  # channels 0-1 and 2-3 are rescaled by different functions of the input: GL(2) x GL(2)
        return torch.cat([h[:, :2], h[:, 2:] * torch.linspace(0.1, 2, 9, dtype=torch.float64)[:, None]], 1)

    draws = [chain_draw(k, gated) for k in range(4)]
    charges, pattern = widen(chain(), draws)
    assert pattern == "blocks"
    assert [(c.name, c.size) for c in charges] == [("gl/a-b[0]", 3), ("gl/a-b[1]", 3)]
    for charge in charges:
        assert residual(charge, draws) < 1e-14
        assert control(charge, draws) > 1e-2
    assert residual(widen(chain(), LINEAR)[0][0], draws) > 1e-3


def test_a_law_with_a_single_leg_has_a_control_of_its_own():
    def normalised_draw(seed):  # each hidden unit is divided by the norm of its row: a scale law per row
        a = tensor(seed, 4, 3).requires_grad_()
        out = torch.relu(tensor(seed + 200, 9, 3) @ (a / a.norm(dim=1, keepdim=True)).T)
        return {"a": a.detach()}, {"a": torch.autograd.grad((tensor(seed + 300, 9, 4) * out).sum(), a)[0]}

    draws = [normalised_draw(seed) for seed in range(4)]
    law = Charge("scale/a", "scale", 2, (chain().legs[0],), 4, True, "")
    assert residual(law, draws) < 1e-14
    assert control(law, draws) > 1e-2
