import copy
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dynascope.base.errors import Unsupported
from dynascope.functional.hessian import GaussNewtonOperator, HessianOperator, hessian_vector_product
from dynascope.functional.model import as_function, batch_loss
from dynascope.functional.params import buffers_of, flatten, parameters_of, unflatten
from tests.cases import LOSSES, case, names
from tests.references.finite_differences import jacobian

# Central differences with step 1e-5 in float64: truncation 1e-10 times the third derivative, rounding 1e-11.
DIFFERENCES = 1e-7


def operator(name: str, loss: str = "cross_entropy_mean", **options: bool) -> HessianOperator:
    it = case(name)
    loss_fn = batch_loss(as_function(it.model), LOSSES[loss], buffers_of(it.model), it.x, it.y)
    return HessianOperator(loss_fn, parameters_of(it.model), **options)


def dense(matrix: HessianOperator | GaussNewtonOperator) -> Tensor:
    return matrix @ torch.eye(matrix.dim, dtype=matrix.dtype)


def without_dropout(model: nn.Module) -> nn.Module:
    """A copy with every dropout off and all else in train mode, by hand."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.LSTM | nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def hessian_by_differences(name: str, loss: str) -> np.ndarray:
    """Differences of plain ``.backward()`` gradients of an ordinary copy of the module."""
    it = case(name)
    model = without_dropout(it.model)

    def gradient(theta: np.ndarray) -> np.ndarray:
        vector_to_parameters(torch.from_numpy(theta), model.parameters())
        model.zero_grad()
        LOSSES[loss](model(it.x), it.y).backward()
        return parameters_to_vector([p.grad for p in model.parameters()]).numpy()

    with mock.patch.object(F, "dropout", lambda x, *_, **__: x):
        return jacobian(gradient, parameters_to_vector(model.parameters()).detach().numpy().copy())


@pytest.mark.parametrize("loss", ["cross_entropy_mean", "squared_error_mean"])
@pytest.mark.parametrize("name", names())
def test_hessian_agrees_with_differences_of_plain_gradients(name: str, loss: str) -> None:
    truth = hessian_by_differences(name, loss)
    ours = dense(operator(name, loss)).numpy()
    assert np.linalg.norm(truth) > 1e-2  # a vanishing matrix would prove nothing
    assert np.linalg.norm(ours - truth) < DIFFERENCES * np.linalg.norm(truth)


def test_eval_mode_would_fail_the_comparison() -> None:
    """The control: for BatchNorm the Hessian in eval mode is another matrix."""
    it = case("batch_norm")
    function = as_function(it.model, mode="eval")
    loss_fn = batch_loss(function, LOSSES["cross_entropy_mean"], buffers_of(it.model), it.x, it.y)
    ours = dense(HessianOperator(loss_fn, parameters_of(it.model))).numpy()
    truth = hessian_by_differences("batch_norm", "cross_entropy_mean")
    assert np.linalg.norm(ours - truth) > 1e-2 * np.linalg.norm(truth)


@pytest.mark.parametrize("name", names())
def test_hessian_is_symmetric(name: str) -> None:
    matrix = dense(operator(name))
    # both halves are sums of the same products in another order
    assert torch.allclose(matrix, matrix.T, atol=1e-12 * matrix.abs().max().item(), rtol=0)


def test_many_products_from_one_graph_equal_single_products() -> None:
    it = case("attention")
    loss_fn = batch_loss(as_function(it.model), LOSSES["cross_entropy_sum"], buffers_of(it.model), it.x, it.y)
    params = parameters_of(it.model)
    kept = HessianOperator(loss_fn, params)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        vector = torch.randn(kept.dim, generator=generator, dtype=torch.float64)
        once = hessian_vector_product(loss_fn, params, unflatten(vector, params))
        assert torch.equal(kept @ vector, flatten(once))


def test_loss_and_gradient_come_along() -> None:
    it = case("mlp")
    matrix = operator("mlp")
    loss = F.cross_entropy(it.model(it.x), it.y)
    loss.backward()
    assert matrix.loss == loss
    assert all(torch.equal(matrix.gradient[name], p.grad) for name, p in it.model.named_parameters())


def test_model_and_its_gradients_stay_untouched() -> None:
    it = case("dropped")
    before = copy.deepcopy(it.model.state_dict())
    loss_fn = batch_loss(as_function(it.model), LOSSES["cross_entropy_mean"], buffers_of(it.model), it.x, it.y)
    matrix = HessianOperator(loss_fn, parameters_of(it.model))
    matrix @ torch.ones(matrix.dim, dtype=matrix.dtype)
    after = it.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in it.model.parameters())


def test_random_loss_is_refused() -> None:
    with pytest.raises(Unsupported, match="dropout='identity'"):
        HessianOperator(lambda p: (p["a"] * torch.rand(2)).sum() ** 2, {"a": torch.ones(2)})


def test_loss_that_is_linear_or_ignores_a_parameter_has_zero_products() -> None:
    params = {"a": torch.ones(2), "b": torch.ones(3)}
    assert torch.equal(HessianOperator(lambda p: p["a"].sum(), params) @ torch.ones(5), torch.zeros(5))
    half = HessianOperator(lambda p: (p["a"] ** 2).sum(), params) @ torch.ones(5)
    assert half.tolist() == [2, 2, 0, 0, 0]


def test_loss_without_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        HessianOperator(lambda p: p["a"], {"a": torch.ones(2)})


def test_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        matrix = HessianOperator(lambda p: (p["a"] ** 3).sum(), {"a": torch.tensor([1.0, 2.0])})
        assert (matrix @ torch.ones(2)).tolist() == [6, 12]


@pytest.mark.parametrize("name", ["mlp", "reused", "grouped_conv", "batch_norm", "attention", "lstm"])
def test_gauss_newton_agrees_with_its_definition(name: str) -> None:
    it = case(name)
    function, params, buffers = as_function(it.model), parameters_of(it.model), buffers_of(it.model)

    def output(p: dict[str, Tensor]) -> Tensor:
        return function(p, buffers, it.x)

    ours = dense(GaussNewtonOperator(output, lambda out: F.cross_entropy(out, it.y), params))
    plain = without_dropout(it.model)

    def outputs(theta: np.ndarray) -> np.ndarray:
        vector_to_parameters(torch.from_numpy(theta), plain.parameters())
        with torch.no_grad():
            return plain(it.x).flatten().numpy().copy()

    slope = jacobian(outputs, flatten(params).numpy())
    chance = torch.softmax(output(params), 1).detach().numpy()
    blocks = [np.diag(p) - np.outer(p, p) for p in chance]
    middle = np.zeros((chance.size, chance.size))
    for index, block in enumerate(blocks):
        rows = slice(index * len(block), (index + 1) * len(block))
        middle[rows, rows] = block / len(blocks)
    truth = slope.T @ middle @ slope
    assert np.linalg.norm(ours.numpy() - truth) < DIFFERENCES * np.linalg.norm(truth)
    assert torch.linalg.eigvalsh(ours).min() > -1e-12  # rounding of a semidefinite matrix of norm about 1
