"""Tangent and finite motion of every kind of symmetry agree, and the function stays."""

import pytest
import torch
from torch import nn

from dynascope.symmetry.find import inspect_model

CASES = {
    "relu": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
    "linear": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)),
    "layernorm": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
    "rmsnorm": nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)),
    "batchnorm eval": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval(),
}


@pytest.mark.parametrize("name", CASES)
def test_the_tangent_is_the_derivative_of_the_finite_motion(name: str) -> None:
    anatomy = inspect_model(CASES[name], torch.randn(6, 3), output="softmax")
    d = anatomy.bench.draws[0]
    rng = torch.Generator().manual_seed(0)
    step = 1e-5
    for s in anatomy.symmetries:
        element = s.element(rng)
        moved, _ = s.act(d.params, d.buffers, step * element)
        tangent = s.generator(d.params, element, d.buffers)
        for n, p in d.params.items():
            expected = tangent[n].expand(p.shape) if n in tangent else torch.zeros_like(p)
            # one-sided difference: the error is of the order of the step
            torch.testing.assert_close((moved[n] - p) / step, expected, rtol=1e-3, atol=2e-3)


def test_a_change_of_basis_composes_as_a_group() -> None:
    anatomy = inspect_model(CASES["linear"], torch.randn(6, 3))
    d = anatomy.bench.draws[0]
    gl = next(s for s in anatomy.symmetries if s.kind == "gl")
    element = 0.3 * gl.element(torch.Generator().manual_seed(0))
    there, _ = gl.act(d.params, d.buffers, element)
    back, _ = gl.act(there, d.buffers, -element)
    for n, p in d.params.items():
        torch.testing.assert_close(back[n], p, rtol=1e-11, atol=1e-11)  # two matrix exponentials and inverses


def test_nothing_is_written_in_place() -> None:
    anatomy = inspect_model(CASES["layernorm"], torch.randn(6, 3), output="softmax")
    d = anatomy.bench.draws[0]
    before = {n: p.clone() for n, p in d.params.items()}
    for s in anatomy.symmetries:
        s.act(d.params, d.buffers, s.element(torch.Generator().manual_seed(0)))
    assert all(torch.equal(before[n], p) for n, p in d.params.items())
