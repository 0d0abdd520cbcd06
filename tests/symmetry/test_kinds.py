"""A symmetry as people use it: generators on their own parameters, in their own precision."""

import torch
from torch import nn

from dynascope.symmetry.find import inspect_model

MODEL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_generators_are_orthogonal_to_every_gradient() -> None:
    anatomy = inspect_model(MODEL, torch.randn(6, 3), output="softmax")
    live = dict(MODEL.named_parameters())
    params = {n: p.detach() for n, p in live.items()}
    x, y = torch.randn(16, 3), torch.randint(2, (16,))
    nn.functional.cross_entropy(MODEL(x), y).backward()
    for s in anatomy.symmetries:
        field = s.generator(params)
        paired = sum(float((field[n] * live[n].grad).sum()) for n in field)
        size = sum(float((field[n] * live[n].grad).abs().sum()) for n in field)
        assert abs(paired) < 1e-5 * size  # float32 sums
    live["0.bias"].grad += 0.1  # the control: a gradient that is none
    field = anatomy.symmetries[0].generator(params)
    assert abs(sum(float((field[n] * live[n].grad).sum()) for n in field)) > 1e-3
    MODEL.zero_grad()


def test_acting_on_the_model_leaves_its_function() -> None:
    anatomy = inspect_model(MODEL, torch.randn(6, 3))
    params = {n: p.detach() for n, p in MODEL.named_parameters()}
    (rescale,) = anatomy.symmetries
    moved, _ = rescale.act(params, {}, torch.tensor([1.0, -1.0, 0.5, 0.0]))
    x = torch.randn(5, 3)
    assert moved["0.weight"].dtype == torch.float32
    assert float((moved["0.weight"] - params["0.weight"]).abs().max()) > 0.1
    torch.testing.assert_close(torch.func.functional_call(MODEL, moved, (x,)), MODEL(x))


def test_legs_say_which_slices_take_part() -> None:
    (rescale,) = inspect_model(MODEL, torch.randn(6, 3)).symmetries
    assert [(leg.parameter, leg.coefficient, leg.slice) for leg in rescale.legs] == [
        ("0.weight", 1.0, "rows"), ("0.bias", 1.0, "rows"), ("2.weight", -1.0, "columns"),
    ]  # fmt: skip
    assert rescale.confirmed(exact=False).exact is False
