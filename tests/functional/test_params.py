import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynascope.functional.params import buffers_of, flatten, inner, norm, parameters_of, unflatten
from tests.cases import case

SHAPES = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4)


def numbers(shapes: list[list[int]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"p{i}": torch.randn(s, generator=generator, dtype=torch.float64) for i, s in enumerate(shapes)}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(shapes=SHAPES, seed=st.integers(0, 99))
def test_unflatten_undoes_flatten_and_both_keep_inner_products(shapes: list[list[int]], seed: int) -> None:
    a, b = numbers(shapes, seed), numbers(shapes, seed + 100)
    back = unflatten(flatten(a), a)
    assert list(back) == list(a)
    assert all(torch.equal(back[name], a[name]) for name in a)
    # sums of at most a hundred products in another order
    assert inner(a, b).item() == pytest.approx(torch.dot(flatten(a), flatten(b)).item(), abs=1e-12)
    assert norm(a).item() == pytest.approx(flatten(a).norm().item(), rel=1e-14)


def test_order_is_that_of_the_names() -> None:
    params = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3.0)}
    assert flatten(params).tolist() == [1, 2, 3]


def test_parameters_are_live_detached_and_tied_ones_come_once() -> None:
    it = case("tied")
    params = parameters_of(it.model)
    assert list(params) == ["enter.weight", "enter.bias", "leave.weight", "leave.bias", "twin.bias"]
    assert not params["enter.weight"].requires_grad
    with torch.no_grad():
        it.model.enter.weight.fill_(7)
    assert (params["enter.weight"] == 7).all()


def test_buffers_are_live() -> None:
    model = nn.BatchNorm1d(2)
    buffers = buffers_of(model)
    model(torch.randn(4, 2))
    assert buffers["num_batches_tracked"].item() == 1


def test_unflatten_gives_views_and_precisions_back() -> None:
    like = {"a": torch.zeros(2), "b": torch.zeros(1, dtype=torch.float16)}
    theta = torch.zeros(3)
    parts = unflatten(theta, like)
    theta[0] = 5
    assert parts["a"].tolist() == [5, 0]
    assert parts["b"].dtype == torch.float16


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        flatten({})
    with pytest.raises(ValueError, match=r"theta has 3 entries.*hold 2"):
        unflatten(torch.zeros(3), {"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"only one of them has \['b'\]"):
        inner({"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)})
