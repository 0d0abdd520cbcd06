import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynascope.base.errors import Unsupported
from dynascope.functional.gradients import (
    gradient,
    jacobian_vector_product,
    per_example_gradient_norms,
    per_example_gradients,
    vector_jacobian_product,
)
from dynascope.functional.model import as_function, batch_loss
from dynascope.functional.params import Params, buffers_of, flatten, inner, parameters_of, unflatten
from tests.cases import CLASSES, LOSSES, Case, case, names
from tests.references.finite_differences import jacobian

SEPARATE = [name for name in names() if not case(name).couples_examples]
COUPLED = [name for name in names() if case(name).couples_examples]
# sums of the same few hundred products in another order, in float64
ROUNDING = 1e-11


def arguments(it: Case, loss: str = "cross_entropy_mean", **options: object) -> tuple:
    function = as_function(it.model, **options)
    return function, LOSSES[loss], parameters_of(it.model), buffers_of(it.model), it.x, it.y


def close(ours: Params, truth: Params) -> bool:
    """Relative to the whole gradient: that of a single parameter may vanish by symmetry."""
    assert ours.keys() == truth.keys()
    difference = torch.linalg.vector_norm(flatten(ours) - flatten(truth))
    return bool(difference <= ROUNDING * torch.linalg.vector_norm(flatten(truth)))


def row(gradients: Params, index: int) -> Params:
    return {name: rows[index] for name, rows in gradients.items()}


def plain_gradients(it: Case, loss: str, rows: slice) -> Params:
    """``.backward()`` on an ordinary copy, all dropout off by hand."""
    model = copy.deepcopy(it.model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.LSTM | nn.MultiheadAttention):
            module.dropout = 0.0
    LOSSES[loss](model(it.x[rows]), it.y[rows]).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("name", [name for name in names() if name != "dropped"])
def test_gradient_equals_backward(name: str, loss: str) -> None:
    it = case(name)
    function, loss_fn, params, buffers, x, y = arguments(it, loss)
    ours = gradient(batch_loss(function, loss_fn, buffers, x, y), params)
    truth = plain_gradients(it, loss, slice(None))
    assert list(ours) == list(truth)
    assert close(ours, truth)
    assert all(p.grad is None for p in it.model.parameters())
    assert not any(tensor.requires_grad for tensor in params.values())


def test_gradient_of_unused_parameter_and_of_constant_loss_is_zero() -> None:
    params = {"a": torch.ones(2), "b": torch.ones(3)}
    assert torch.equal(gradient(lambda p: p["a"].sum(), params)["b"], torch.zeros(3))
    assert torch.equal(gradient(lambda p: torch.tensor(1.0), params)["a"], torch.zeros(2))


def test_gradient_refuses_a_loss_without_reduction() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        gradient(lambda p: p["a"], {"a": torch.ones(2)})


@pytest.mark.parametrize("method", ["vmap", "loop"])
@pytest.mark.parametrize("name", SEPARATE)
def test_per_example_gradients_equal_backward_on_each_example(name: str, method: str) -> None:
    it = case(name)
    if (name, method) == ("lstm", "vmap"):  # torch's plain recurrence writes in place where vmap cannot
        with pytest.raises(Unsupported, match="method='loop'"):
            per_example_gradients(*arguments(it))
        return
    ours = per_example_gradients(*arguments(it), method=method)
    norms = per_example_gradient_norms(*arguments(it), method=method)
    for index in range(len(it.x)):
        truth = plain_gradients(it, "cross_entropy_mean", slice(index, index + 1))
        assert close(row(ours, index), truth)
        assert norms[index].item() == pytest.approx(np.linalg.norm(flatten(truth).numpy()), rel=ROUNDING)


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 100])
def test_chunks_change_nothing_but_memory(chunk_size: int) -> None:
    it = case("residual")
    whole = per_example_gradients(*arguments(it))
    parts = per_example_gradients(*arguments(it), chunk_size=chunk_size)
    assert close(parts, whole)


def test_mean_over_examples_is_the_batch_gradient_and_the_sum_for_a_sum() -> None:
    for loss, reduce in (("cross_entropy_mean", Tensor.mean), ("cross_entropy_sum", Tensor.sum)):
        function, loss_fn, params, buffers, x, y = arguments(case("words"), loss)
        each = per_example_gradients(function, loss_fn, params, buffers, x, y)
        whole = gradient(batch_loss(function, loss_fn, buffers, x, y), params)
        assert close({name: reduce(rows, 0) for name, rows in each.items()}, whole)


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("of", [per_example_gradients, per_example_gradient_norms])
def test_batch_norm_in_train_mode_is_refused_by_name(name: str, of) -> None:
    it = case(name)
    layer = {"batch_norm": "BatchNorm2d '1'", "dropped": "BatchNorm1d 'norm'"}[name]
    with pytest.raises(Unsupported, match=rf"{layer}.*mode='eval'"):
        of(*arguments(it))
    assert of(*arguments(it, mode="eval")) is not None


def test_batch_norm_without_running_statistics_is_refused_in_eval_mode_too() -> None:
    it = case("mlp")
    model = nn.Sequential(nn.Linear(4, CLASSES), nn.BatchNorm1d(CLASSES, track_running_stats=False)).double().eval()
    with pytest.raises(Unsupported, match=r"BatchNorm1d '1'"):
        per_example_gradients(*arguments(Case("own", model, it.x, it.y)))


class Centred(nn.Module):
    """Couples examples without any layer that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


@pytest.mark.parametrize("method", ["vmap", "loop"])
def test_coupled_examples_are_refused(method: str) -> None:
    it = case("mlp")
    with pytest.raises(Unsupported, match="neither their mean nor their sum"):
        per_example_gradients(*arguments(Case("own", Centred(), it.x, it.y)), method=method)


def test_weighted_mean_is_refused() -> None:
    it = case("mlp")
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    function, _, params, buffers, x, y = arguments(it)
    with pytest.raises(Unsupported, match="weighted"):
        per_example_gradients(function, lambda out, t: F.cross_entropy(out, t, weight=weights), params, buffers, x, y)


def test_fixed_dropout_is_refused() -> None:
    it = case("attention")
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(Unsupported, match="dropout='identity'"):
        per_example_gradients(*arguments(it, dropout="fixed", generator=generator))


class Branching(nn.Module):
    """Control flow that depends on the data, which cannot be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(row) if row.sum() > 0 else -self.layer(row) for row in x.split(1)])


def test_module_that_cannot_be_vectorised_is_refused_with_the_way_out() -> None:
    it = case("mlp")
    it = Case("own", Branching(), it.x, it.y)
    with pytest.raises(Unsupported, match=r"Branching.*method='loop'"):
        per_example_gradients(*arguments(it))
    ours = per_example_gradients(*arguments(it), method="loop")
    truth = plain_gradients(it, "cross_entropy_mean", slice(2, 3))
    assert close(row(ours, 2), truth)


class Cheating(torch.autograd.Function):
    """Vectorised, its derivative is another one."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return slope

    @staticmethod
    def vmap(info, in_dims, x: Tensor) -> tuple[Tensor, int]:
        return 2 * x, in_dims[0]


def test_fast_path_that_disagrees_is_refused() -> None:
    it = case("mlp")
    arrange = arguments(it)
    loss = lambda output, y: F.cross_entropy(Cheating.apply(output), y)  # noqa: E731
    with pytest.raises(Unsupported, match="differs from the plain one"):
        per_example_gradients(arrange[0], loss, *arrange[2:])


@pytest.mark.usefixtures("unchecked")
def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="method='fast'"):
        per_example_gradients(*arguments(case("mlp")), method="fast")


@pytest.mark.parametrize("name", names())
def test_jacobian_products_are_adjoint_and_agree_with_differences(name: str) -> None:
    it = case(name)
    function, _, params, buffers, x, _ = arguments(it)

    def output(p: Params) -> Tensor:
        return function(p, buffers, x)

    generator = torch.Generator().manual_seed(1)
    theta = flatten(params)
    direction = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    value, pushed = jacobian_vector_product(output, params, unflatten(direction, params))
    cotangent = torch.randn(pushed.shape, generator=generator, dtype=theta.dtype)
    again, pulled = vector_jacobian_product(output, params, cotangent)
    # the fused attention kernel of the plain pass rounds differently
    assert torch.allclose(value, again, rtol=1e-12, atol=1e-12)
    adjoint = inner(pulled, unflatten(direction, params))
    assert (pushed * cotangent).sum().item() == pytest.approx(adjoint.item(), rel=1e-9)

    def along(distance: np.ndarray) -> np.ndarray:
        return output(unflatten(theta + distance.item() * direction, params)).detach().numpy().ravel()

    truth = jacobian(along, np.zeros(1))[:, 0]
    # central differences: truncation 1e-10 times the third derivative along a direction of length about 8
    assert np.linalg.norm(pushed.numpy().ravel() - truth) < 1e-6 * np.linalg.norm(truth)


def test_jacobian_product_of_an_output_that_uses_no_parameter_is_zero() -> None:
    params = {"a": torch.ones(2)}
    assert torch.equal(jacobian_vector_product(lambda p: torch.ones(3), params, params)[1], torch.zeros(3))
