"""The traced graph computes what the module computes, and what the module cannot."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynascope.base.errors import Unsupported
from dynascope.symmetry.graph import bind, op_name, trace
from dynascope.symmetry.verify import module_tensors


class Mixed(nn.Module):
    """In-place operations, dropout, two norms and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.group, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu_(self.norm(self.conv(x)))
        h = F.dropout(self.group(h), 0.5, self.training).mean((2, 3))
        h += 1
        out = self.head(h)
        return out.sum(), out


@pytest.mark.parametrize("train", [True, False])
def test_the_graph_agrees_with_the_module(train: bool) -> None:
    model = Mixed().train(train)
    x = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    graph = trace(model, (x,))
    params, buffers = module_tensors(model)
    found = graph.evaluate(params, buffers, [x.double()])
    twin = Mixed().double().train(train)
    twin.load_state_dict(model.state_dict())
    if train:  # masks are drawn anew for other inputs, and are the same for the same ones
        assert torch.equal(found, graph.evaluate(params, buffers, [x.double()]))
        return
    torch.testing.assert_close(found, twin(x.double())[1], rtol=1e-12, atol=1e-12)  # float64 rounding of a few layers


def test_the_first_floating_tensor_is_the_output_and_scalars_are_not() -> None:
    graph = trace(Mixed(), (torch.randn(6, 1, 5, 5),))
    assert graph.output.meta["val"].shape == (6, 3)


def test_epsilons_can_be_zero_and_batch_statistics_be_forced() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=0.1)).train()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    graph = trace(model, (x.float(),))
    params, buffers = module_tensors(model)
    zero = graph.evaluate(params, buffers, [x], epsilon_zero=True)
    torch.testing.assert_close(zero.var(0, correction=0), torch.ones(4).double(), rtol=1e-12, atol=1e-12)
    real = graph.evaluate(params, buffers, [x])
    assert float((real - zero).abs().max()) > 1e-3
    running = graph.evaluate(params, buffers, [x], batch_statistics=False)
    assert float((running - real).abs().max()) > 1e-3
    assert torch.equal(buffers["1.running_mean"], torch.zeros(4).double())


def test_a_regulariser_before_a_root_is_an_epsilon_and_a_plain_one_is_not() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) + 1e-6

    graph = trace(Norm(), (torch.randn(3, 4),))
    assert len(graph.epsilons) == 1


def test_tied_weights_have_one_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    graph = trace(model, (torch.randn(2, 4),))
    assert sorted(set(graph.parameters.values())) == ["0.bias", "0.weight", "1.bias"]


def test_what_cannot_be_exported_is_said() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if float(x.sum()) > 0 else x

    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            h[:, 0].add_(1.0)
            return h

    with pytest.raises(Unsupported, match="Branch"):
        trace(Branch(), (torch.randn(2, 2),))
    with pytest.raises(Unsupported, match="through a view"):
        trace(View(), (torch.randn(2, 2),))
    with pytest.raises(Unsupported, match="output"):
        trace(nn.Sequential(nn.Flatten(0), nn.Linear(4, 1), nn.Flatten(0)).append(_Sum()), (torch.randn(2, 2),))


class _Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


def test_operations_have_short_names_and_full_arguments() -> None:
    graph = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)), (torch.randn(2, 2),))
    assert [op_name(n) for n in graph.operations] == ["linear", "relu"]
    assert set(bind(graph.operations[0])) == {"input", "weight", "bias"}
