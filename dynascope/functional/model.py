"""A module as a pure function of its parameters and buffers, leaving the module as it was.

Built on ``torch.func.functional_call``. What that leaves open is closed here: normalisation layers in train
mode would update their running statistics, dropout would draw from the global random state, and both would
be refused or mixed up by ``torch.func`` transforms.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynascope.functional.params import Params, buffers_of

Mode = Literal["train", "eval"]
Dropout = Literal["identity", "fixed"]
Inputs = Tensor | tuple[Any, ...] | dict[str, Any]
"""What a model is called with: one tensor, positional arguments or keyword arguments."""


class Function:
    """Pure function ``f(params, buffers, *args, **kwargs) -> output``; made by ``as_function``."""

    def __init__(self, model: nn.Module, *, mode: Mode | None, dropout: Dropout, seed: int) -> None:
        self.model = model
        self.mode: Mode | None = mode
        self.dropout: Dropout = dropout
        self.seed = seed

    def __call__(self, params: Params, buffers: Params, *args: Any, **kwargs: Any) -> Any:
        """The model's output at these parameters and buffers.

        Args:
            params: values of the parameters; names left out have the module's own value.
            buffers: values of the buffers, never written to; names left out have the module's own value.
            args: positional arguments of the module.
            kwargs: keyword arguments of the module.

        Returns:
            Whatever the module returns.
        """
        # Copies, because a layer we do not know may update its buffers in place.
        own = {name: buffer.clone() for name, buffer in (buffers_of(self.model) | buffers).items()}
        with _modes(self.model, self.mode), _random_state(self.seed, params), _Pure(self.dropout):
            return torch.func.functional_call(self.model, own | params, args, kwargs)

    def on(self, params: Params, buffers: Params, inputs: Inputs) -> Any:
        """The output for inputs given as one value.

        Args:
            params: values of the parameters.
            buffers: values of the buffers.
            inputs: a tensor, a tuple of arguments or a dictionary of keyword arguments.

        Returns:
            Whatever the module returns.
        """
        if isinstance(inputs, tuple):
            return self(params, buffers, *inputs)
        if isinstance(inputs, dict):
            return self(params, buffers, **inputs)
        return self(params, buffers, inputs)

    def modules_in_train_mode(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules that this function runs in train mode."""
        for name, module in self.model.named_modules():
            if module.training if self.mode is None else self.mode == "train":
                yield name, module


def as_function(
    model: nn.Module,
    *,
    mode: Mode | None = None,
    dropout: Dropout = "identity",
    generator: torch.Generator | None = None,
) -> Function:
    """Turn a module into a pure function of its parameters and buffers.

    The module is only borrowed during a call: its mode, buffers, parameters, ``.grad`` and the random
    states of torch, numpy and Python are bit-identical before and after. Normalisation layers in train mode
    use the batch's statistics and do not update the running ones. Randomness other than dropout (stochastic
    depth, ``rrelu``) is drawn from a fixed seed, so that equal arguments give equal outputs.

    Args:
        model: any module that ``torch.func.functional_call`` accepts; tied weights are given once.
        mode: "train" or "eval" for all its layers; None keeps each layer's mode at the time of a call.
        dropout: "identity" switches every dropout off, also functional ones and those inside attention and
            recurrent layers; "fixed" keeps them, with the same masks at every call.
        generator: where the seed of the masks is drawn from, once; needed for "fixed" only.

    Returns:
        The function; use it with ``parameters_of(model)`` and ``buffers_of(model)``.

    Raises:
        ValueError: mode or dropout is not one of the permitted words, or "fixed" comes without a generator.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        >>> f = as_function(model)
        >>> zero = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        >>> f(zero, {}, torch.ones(1, 2))
        tensor([[0., 0.]])
    """
    if mode is not None and mode not in ("train", "eval"):
        raise ValueError(f"mode={mode!r} must be 'train', 'eval' or None (each layer as it is)")
    if dropout not in ("identity", "fixed"):
        raise ValueError(f"dropout={dropout!r} must be 'identity' or 'fixed'")
    if dropout == "fixed" and generator is None:
        raise ValueError("dropout='fixed' needs generator=torch.Generator().manual_seed(...) to draw its masks from")
    seed = 0
    if generator is not None:
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    return Function(model, mode=mode, dropout=dropout, seed=seed)


def batch_loss(
    function: Function,
    loss: Callable[[Any, Any], Tensor],
    buffers: Params,
    inputs: Inputs,
    targets: Any,
) -> Callable[[Params], Tensor]:
    """The loss of one batch as a function of the parameters alone.

    Args:
        function: the model, from ``as_function``.
        loss: scalar from (output, targets).
        buffers: values of the buffers.
        inputs: a tensor, a tuple of arguments or a dictionary of keyword arguments.
        targets: what the loss compares with.

    Returns:
        ``params -> scalar``, the form that gradients and Hessian products take.
    """
    return lambda params: loss(function.on(params, buffers, inputs), targets)


@contextmanager
def _modes(model: nn.Module, mode: Mode | None) -> Iterator[None]:
    """The layers' modes for one call."""
    before = {module: module.training for module in model.modules()}
    try:
        if mode is not None:
            for module in before:
                module.training = mode == "train"
        yield
    finally:
        for module, training in before.items():
            if module.training != training:
                module.training = training


@contextmanager
def _random_state(seed: int, params: Mapping[str, Tensor]) -> Iterator[None]:
    """Global random states set from a seed for one call and put back afterwards.

    ``torch.manual_seed`` would also reseed devices that are not in use here, hence one generator at a time.
    """
    devices = {tensor.device for tensor in params.values() if tensor.device.type == "cuda"}
    generators = [torch.default_generator, *(torch.cuda.default_generators[d.index or 0] for d in devices)]
    states = [generator.get_state() for generator in generators]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        for generator in generators:
            generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        random.setstate(python)
        np.random.set_state(numpy)


_NORMALISATIONS = {F.batch_norm: "training", F.instance_norm: "use_input_stats"}
_DROPOUTS = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
        torch.dropout,
        torch.dropout_,
        torch.alpha_dropout,
        torch.alpha_dropout_,
        torch.feature_dropout,
        torch.feature_dropout_,
        torch.feature_alpha_dropout,
        torch.feature_alpha_dropout_,
    }
)
_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})


class _Pure(TorchFunctionMode):
    """Rewrites calls that are not functions of their inputs, whoever makes them."""

    def __init__(self, dropout: Dropout) -> None:
        super().__init__()
        self.dropout: Dropout = dropout

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NORMALISATIONS:
            args, kwargs = _without_running_statistics(func, args, kwargs)
        elif self.dropout == "identity":
            if func in _DROPOUTS:
                return args[0] if args else kwargs["input"]
            args, kwargs = _without_dropout(func, args, kwargs)
        return func(*args, **kwargs)


def _without_running_statistics(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Normalisation by the batch does not need the running statistics, it only updates them."""
    call = signature(func).bind(*args, **kwargs)
    call.apply_defaults()
    if call.arguments[_NORMALISATIONS[func]]:
        call.arguments |= {"running_mean": None, "running_var": None}
    return call.args, call.kwargs


def _without_dropout(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Dropout that is an argument of a larger operation, set to 0."""
    if func is F.multi_head_attention_forward:
        return args, kwargs | {"training": False}  # governs nothing but the dropout of the attention weights
    if func is F.scaled_dot_product_attention:  # (query, key, value, mask, dropout, ...)
        kwargs = {name: value for name, value in kwargs.items() if name != "dropout_p"}
        return (*args[:4], 0.0, *args[5:])[: len(args)], kwargs
    if func in _RECURRENT:  # (..., has_biases, num_layers, dropout, train, ...); has_biases is the first bool
        place = next(index for index, value in enumerate(args) if isinstance(value, bool)) + 2
        return (*args[:place], 0.0, *args[place + 1 :]), kwargs
    return args, kwargs
