"""The geometry of contractions, against the operations themselves."""

import pytest
import torch
from torch import nn

from dynascope.symmetry.graph import trace
from dynascope.symmetry.operations import BEHAVIOUR, apply_without_bias, behaviour, contraction

LAYERS = {
    "linear": (nn.Linear(4, 6), (3, 4)),
    "conv1d": (nn.Conv1d(4, 6, 3), (3, 4, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (3, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (3, 4, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, groups=2), (3, 4, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_and_columns_rescale_output_and_input(name: str) -> None:
    """W' = rows(s) W / columns(r) maps r x to s y: the defining property, by running the operation."""
    layer, shape = LAYERS[name]
    layer = layer.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    (node,) = trace(layer, (x,)).operations
    c = contraction(node)
    scale_in = torch.rand(shape[1], generator=generator, dtype=torch.float64) + 0.5
    scale_out = torch.rand(c.out_channels, generator=generator, dtype=torch.float64) + 0.5
    w = layer.weight.detach()
    moved = c.rows(scale_out) * w / c.columns(scale_in)
    wide = [1, -1] + [1] * (len(shape) - 2)
    found = apply_without_bias(node, c, moved, x * scale_in.view(wide))
    expected = c.over_output(scale_out) * apply_without_bias(node, c, w, x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "padded"), [("linear", False), ("conv1d", False), ("depthwise", True), ("transposed", True)]
)
def test_a_border_that_sees_zeros_is_marked(name: str, padded: bool) -> None:
    layer, shape = LAYERS[name]
    (node,) = trace(layer.float(), (torch.randn(shape),)).operations
    assert contraction(node).padded is padded


def test_every_operation_has_one_behaviour_and_unknown_ones_none() -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 3), nn.Softshrink()), (torch.randn(2, 3),))
    assert [behaviour(n) for n in graph.operations] == ["contraction", "odd"]
    assert "cumsum" not in BEHAVIOUR
