import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynascope.functional.model import Function, as_function, batch_loss
from dynascope.functional.params import Params, buffers_of, parameters_of
from tests.cases import Case, case, names


def fingerprint(model: nn.Module) -> tuple:
    """Everything about a module that a call could change, bit by bit."""
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    flags = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    identities = [id(p) for p in model.parameters()] + [id(b) for b in model.buffers()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [t.numpy().tobytes() for t in tensors], flags, identities, hooks


def random_states() -> tuple:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    before, states = fingerprint(model), random_states()
    yield
    assert fingerprint(model) == before
    assert random_states() == states


def call(it: Case, function: Function) -> Tensor:
    return function(parameters_of(it.model), buffers_of(it.model), it.x)


@pytest.mark.parametrize("mode", [None, "train", "eval"])
@pytest.mark.parametrize("dropout", ["identity", "fixed"])
@pytest.mark.parametrize("name", names())
def test_module_and_random_states_stay_bit_identical(name: str, dropout: str, mode: str | None) -> None:
    it = case(name)
    it.model(it.x).square().mean().backward()
    function = as_function(it.model, mode=mode, dropout=dropout, generator=torch.Generator().manual_seed(0))
    with untouched(it.model):
        call(it, function)


def test_a_plain_call_would_not_pass_that_test() -> None:
    it = case("dropped")
    with pytest.raises(AssertionError), untouched(it.model):
        it.model(it.x)


def test_module_stays_untouched_after_an_exception() -> None:
    it = case("dropped")
    it.model.twin.eval()  # modes that differ between layers come back as they were
    with untouched(it.model), pytest.raises(RuntimeError, match="shapes"):
        as_function(it.model, mode="train")(
            parameters_of(it.model), buffers_of(it.model), torch.ones(2, 99, dtype=torch.float64)
        )


@pytest.mark.parametrize("name", names())
def test_eval_mode_equals_the_module_in_eval_mode(name: str) -> None:
    it = case(name)
    ours = call(it, as_function(it.model, mode="eval"))
    plain = copy.deepcopy(it.model).eval()(it.x)
    # attention takes a fused kernel in the plain call: equal to a few eps
    assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)


def test_train_mode_uses_batch_statistics() -> None:
    it = case("batch_norm")
    ours = call(it, as_function(it.model))
    assert torch.equal(ours, copy.deepcopy(it.model)(it.x))
    assert not torch.allclose(ours, call(it, as_function(it.model, mode="eval")), atol=0.01)


def test_each_layer_keeps_its_own_mode() -> None:
    it = case("batch_norm")
    function = as_function(it.model)
    in_train = call(it, function)
    it.model[1].eval()  # a frozen normalisation layer inside a model that trains
    assert not torch.allclose(call(it, function), in_train, atol=0.01)
    assert torch.equal(call(it, function), copy.deepcopy(it.model).eval()(it.x))
    assert "1" not in dict(function.modules_in_train_mode())


def test_buffers_are_an_argument() -> None:
    it = case("batch_norm")
    function = as_function(it.model, mode="eval")
    shifted = {name: b + 1 if "mean" in name else b for name, b in buffers_of(it.model).items()}
    moved = function(parameters_of(it.model), shifted, it.x)
    assert not torch.allclose(moved, call(it, function), atol=0.01)


def test_buffers_left_out_are_the_modules_own_and_stay_untouched() -> None:
    it = case("batch_norm")
    for mode in ("train", "eval"):
        function = as_function(it.model, mode=mode)
        with untouched(it.model):
            assert torch.equal(function(parameters_of(it.model), {}, it.x), call(it, function))


class Counter(nn.Module):
    """Writes to its buffer at every call, as old spectral normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


def test_buffers_that_a_layer_writes_to_are_copies() -> None:
    model = Counter()
    mine = buffers_of(model)
    assert as_function(model)({}, mine, torch.zeros(())).item() == 1
    assert as_function(model)({}, mine, torch.zeros(())).item() == 1
    assert mine["calls"].item() == model.calls.item() == 0


def test_tied_weights_are_one_argument() -> None:
    it = case("tied")
    params = parameters_of(it.model)
    assert "enter.weight" in params
    assert "twin.weight" not in params
    doubled = params | {"enter.weight": 2 * params["enter.weight"]}
    plain = copy.deepcopy(it.model)
    plain.enter.weight.data *= 2
    assert torch.equal(as_function(it.model)(doubled, {}, it.x), plain(it.x))


class Droppers(nn.Module):
    """Every way to drop: module, function, attention kernel, attention module, recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.planes, self.alpha = nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.lstm = nn.LSTM(4, 4, 2, dropout=0.5, batch_first=True)
        self.gru = nn.GRU(4, 4, 2, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        active = self.training
        x = self.alpha(self.module(x)) + self.planes(x[:, None])[:, 0] + torch.dropout(x, 0.5, active)
        x = F.dropout(input=x, p=0.5, training=active) + F.alpha_dropout(x, 0.5, training=active)
        rate = 0.5 if active else 0.0
        x = F.scaled_dot_product_attention(x, x, x, None, rate) + F.scaled_dot_product_attention(
            x, x, x, dropout_p=rate
        )
        x = self.attention(x, x, x)[0] + self.attention(x, x, x, need_weights=False)[0]
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.gru(self.lstm(x)[0] + padded)[0]


def test_identity_switches_every_dropout_off() -> None:
    torch.manual_seed(0)
    model, x = Droppers().double(), torch.randn(2, 3, 4, dtype=torch.float64)
    params = parameters_of(model)
    evaluated = model.eval()(x)
    ours = as_function(model, mode="train")(params, {}, x)
    assert torch.allclose(ours, evaluated, rtol=1e-12, atol=1e-12)  # fused against plain kernels
    assert not torch.allclose(model.train()(x), evaluated, atol=1e-3)


def test_fixed_dropout_repeats_its_masks_and_depends_on_the_generator() -> None:
    it = case("dropped")
    generator = torch.Generator().manual_seed(3)
    first, second = (as_function(it.model, dropout="fixed", generator=generator) for _ in range(2))
    assert torch.equal(call(it, first), call(it, first))
    assert not torch.equal(call(it, first), call(it, second))
    assert not torch.equal(call(it, first), call(it, as_function(it.model)))
    again = as_function(it.model, dropout="fixed", generator=torch.Generator().manual_seed(3))
    assert torch.equal(call(it, first), call(it, again))


class Noisy(nn.Module):
    """Randomness that is not dropout, from three sources."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(()) * random.random() * np.random.rand()


def test_other_randomness_is_repeatable() -> None:
    function = as_function(Noisy())
    first = function({}, {}, torch.ones(2))
    for draw in (lambda: torch.rand(()), random.random, np.random.rand):  # other states than before
        draw()
    with untouched(function.model):
        assert torch.equal(function({}, {}, torch.ones(2)), first)


def test_works_inside_torch_func_transforms() -> None:
    it = case("dropped")
    function, buffers = as_function(it.model), buffers_of(it.model)

    def total(params: Params) -> Tensor:
        return function(params, buffers, it.x).square().sum()

    with untouched(it.model):
        slope = torch.func.grad(total)(parameters_of(it.model))
    plain = copy.deepcopy(it.model)
    plain.drop.p = 0.0
    with mock.patch.object(F, "dropout", lambda x, *_, **__: x):
        plain(it.x).square().sum().backward()
    for name, parameter in plain.named_parameters():
        assert torch.allclose(slope[name], parameter.grad, rtol=1e-12, atol=1e-12)


def test_inputs_as_tensor_tuple_or_dict() -> None:
    model = nn.Bilinear(2, 2, 1)
    params, a, b = parameters_of(model), torch.ones(3, 2), torch.full((3, 2), 2.0)
    function = as_function(model)
    expected = model(a, b)
    assert torch.equal(function.on(params, {}, (a, b)), expected)
    assert torch.equal(function.on(params, {}, {"input1": a, "input2": b}), expected)
    linear = nn.Linear(2, 1)
    assert torch.equal(as_function(linear).on(parameters_of(linear), {}, a), linear(a))


def test_batch_loss_is_the_loss_of_the_batch() -> None:
    it = case("mlp")
    loss_fn = batch_loss(as_function(it.model), F.cross_entropy, {}, it.x, it.y)
    assert loss_fn(parameters_of(it.model)) == F.cross_entropy(it.model(it.x), it.y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "test"}, "mode='test'"),
        ({"dropout": "off"}, "dropout='off'"),
        ({"dropout": "fixed"}, "generator="),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arguments_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_function(nn.Linear(1, 1), **options)
