"""The walk itself: data movement runs on labels, unknown operations keep everything still."""

import pytest
import torch
from torch import Tensor, nn

from dynascope.symmetry import interpreter
from dynascope.symmetry.graph import trace
from dynascope.symmetry.scales import ScaleDomain


class Moves(nn.Module):
    """A parameter pushed through many moves and then made the output."""

    def __init__(self, move) -> None:
        super().__init__()
        self.p, self.move = nn.Parameter(torch.arange(24.0).view(2, 3, 4)), move

    def forward(self, x: Tensor) -> Tensor:
        return self.move(self.p) * x


MOVES = [
    lambda p: p.permute(2, 0, 1), lambda p: p.reshape(6, 4), lambda p: p.flatten(1), lambda p: p[:, 1:, ::2],
    lambda p: p[1], lambda p: p.unsqueeze(1).expand(2, 5, 3, 4), lambda p: p.repeat(1, 2, 1), lambda p: p.flip(0),
    lambda p: p.roll(1, 2), lambda p: p.chunk(2, 2)[1], lambda p: torch.stack([p, p], 1),
    lambda p: p.split([1, 2], 1)[1],
    lambda p: torch.cat([p, p.flip(1)], 2), lambda p: p.repeat_interleave(2, dim=0), lambda p: p.mT.squeeze(),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MOVES)))
def test_labels_move_as_the_numbers_do(number: int) -> None:
    """The parameter holds 0, 1, 2, ...; so do its labels, counted from the first one."""
    model = Moves(MOVES[number])
    domain = ScaleDomain(trace(model, (torch.ones(()),)), None)
    domain.run()
    product = domain.graph.output
    ((_, labels),) = domain.field(product.args[0])
    first = int(domain.params["p"][0][1].min())
    assert torch.equal((labels - first).double(), MOVES[number](model.p.detach()).double())


def test_an_unknown_operation_pins_what_it_touches_and_is_named() -> None:
    model = Moves(lambda p: torch.cumsum(p, 0))
    domain = ScaleDomain(trace(model, (torch.ones(()),)), None)
    domain.run()
    assert domain.unknown == ["cumsum"]
    assert domain.system.solve().size == 0


def test_an_operation_on_inputs_alone_needs_no_rule() -> None:
    class Clock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(torch.cumsum(x, 0))

    domain = ScaleDomain(trace(Clock(), (torch.randn(2, 3),)), None)
    domain.run()
    assert domain.unknown == []


def test_a_parameter_too_large_for_one_unknown_per_element_is_kept_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "LARGEST_JOINT_PARAMETER", 10)
    domain = ScaleDomain(trace(Moves(lambda p: p.flip(0)), (torch.ones(()),)), None)
    domain.run()
    assert domain.params["p"] == ()
