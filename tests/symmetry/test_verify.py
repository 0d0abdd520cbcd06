"""The model as a pure function, its random points, and both ways to a Jacobian-vector product."""

import torch
from torch import nn

from dynascope.symmetry.graph import trace
from dynascope.symmetry.verify import Bench, draw, graph_function, jacobian_vector, module_tensors, random_input


def bench_of(model: nn.Module, x: torch.Tensor) -> Bench:
    rng = torch.Generator().manual_seed(0)
    return Bench(graph_function(trace(model, (x,)), None), tuple(draw(model, [x], rng) for _ in range(2)))


MODEL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def test_both_ways_to_a_jacobian_vector_product_agree() -> None:
    bench = bench_of(MODEL, X)
    d = bench.draws[0]
    tangent = {n: torch.randn_like(p) for n, p in d.params.items()}

    def f(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return bench.function(p, d.buffers, d.inputs)

    class Refusing(torch.autograd.Function):
        """No forward mode, so the reverse way is taken."""

        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    forward = jacobian_vector(f, d.params, tangent)
    reverse = jacobian_vector(lambda p: Refusing.apply(f(p)), d.params, tangent)
    step = 1e-6
    numeric = (f({n: p + step * tangent[n] for n, p in d.params.items()}) - f(d.params)) / step
    torch.testing.assert_close(forward, reverse, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(forward, numeric, rtol=1e-3, atol=1e-4)  # one-sided difference with step 1e-6


def test_random_inputs_keep_shape_and_kind() -> None:
    rng = torch.Generator().manual_seed(0)
    tokens = torch.tensor([[1, 5, 2], [7, 1, 1]])
    assert sorted(random_input(tokens, rng).flatten().tolist()) == sorted(tokens.flatten().tolist())
    assert random_input(torch.ones(3, 2), rng).dtype == torch.float64
    assert random_input("text", rng) == "text"
    mask = torch.tensor([True, False])
    assert torch.equal(random_input(mask, rng), mask)


def test_parameters_are_copied_in_double_precision() -> None:
    params, _ = module_tensors(MODEL)
    assert all(p.dtype == torch.float64 and not p.requires_grad for p in params.values())
    params["0.weight"].zero_()
    assert float(MODEL[0].weight.detach().abs().sum()) > 0
