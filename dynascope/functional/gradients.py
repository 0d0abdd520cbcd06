"""First derivatives: of a batch's loss, of each example's loss, and products with the Jacobian."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from dynascope.base.errors import Unsupported
from dynascope.functional.model import Function, Inputs
from dynascope.functional.params import Params, norm

Loss = Callable[[Any, Any], Tensor]
LossFunction = Callable[[Params], Tensor]
Method = Literal["vmap", "loop"]


@contextmanager
def differentiable() -> Iterator[None]:
    """Inside, every layer can be differentiated twice.

    Fused attention kernels and cuDNN's recurrent kernels have no second derivative; the plain ones are used
    instead. Gradients are on, also when called from an optimiser hook, which runs without them.

    Yields:
        Nothing.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield


def leaves_of(params: Params) -> Params:
    """Copies by reference that gradients can be taken with respect to.

    Args:
        params: name to tensor.

    Returns:
        The same values as leaves of a new graph; the given tensors stay as they are.
    """
    return {name: tensor.detach().requires_grad_() for name, tensor in params.items()}


def scalar(loss: Tensor) -> Float[Tensor, ""]:
    """Refuse a loss that is not one number.

    Args:
        loss: what a loss function returned.

    Returns:
        The same tensor.

    Raises:
        ValueError: it has more than one entry.
    """
    if loss.numel() != 1:
        raise ValueError(f"the loss has shape {tuple(loss.shape)} and must be one number: write its reduction out")
    return loss.reshape(())


def pull_back(
    outputs: Params, leaves: Params, cotangents: Params | None = None, *, create_graph: bool = False
) -> Params:
    """Derivative of <outputs, cotangents> with respect to leaves. Keeps the graph, so it can be asked again.

    Args:
        outputs: what is differentiated.
        leaves: what it is differentiated by.
        cotangents: weights of the outputs, with their names and shapes; not needed for a scalar.
        create_graph: whether the derivative can be differentiated itself.

    Returns:
        Name of leaf to derivative; zeros where no output depends on it.
    """
    used = [name for name, output in outputs.items() if output.requires_grad]
    if not used:  # autograd refuses constants
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    pulled = torch.autograd.grad(
        [outputs[name] for name in used],
        list(leaves.values()),
        None if cotangents is None else [cotangents[name] for name in used],
        retain_graph=True,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return dict(zip(leaves, pulled, strict=True))


def gradient(loss_fn: LossFunction, params: Params) -> Params:
    """Gradient of a loss.

    Args:
        loss_fn: ``params -> scalar``, such as ``batch_loss(...)``.
        params: where to take it.

    Returns:
        Name to gradient; zeros for parameters that the loss does not use.

    Example:
        >>> gradient(lambda p: (p["a"] ** 2).sum(), {"a": torch.tensor([1.0, 2.0])})
        {'a': tensor([2., 4.])}
    """
    leaves = leaves_of(params)
    with torch.enable_grad():
        return pull_back({"loss": scalar(loss_fn(leaves))}, leaves)


def jacobian_vector_product(
    function: Callable[[Params], Tensor], params: Params, vector: Params
) -> tuple[Tensor, Tensor]:
    """Output and its derivative along a direction: J v.

    Two reverse passes (J^T u is linear in u; its derivative by u is J), because many layers, LSTM,
    GroupNorm and fused attention among them, have no forward derivative.

    Args:
        function: ``params -> output``.
        params: where to take it.
        vector: the direction, with the names and shapes of ``params``.

    Returns:
        The output and J v, of equal shape.
    """
    leaves = leaves_of(params)
    with differentiable():
        output = function(leaves)
        cotangent = torch.zeros_like(output).requires_grad_()
        pulled = pull_back({"output": output}, leaves, {"output": cotangent}, create_graph=True)
        pushed = pull_back(pulled, {"output": cotangent}, vector)
    return output.detach(), pushed["output"]


def vector_jacobian_product(
    function: Callable[[Params], Tensor], params: Params, vector: Tensor
) -> tuple[Tensor, Params]:
    """Output and a pulled-back vector: J^T u.

    Args:
        function: ``params -> output``.
        params: where to take it.
        vector: u, of the output's shape.

    Returns:
        The output and J^T u by parameter name.
    """
    leaves = leaves_of(params)
    with torch.enable_grad():
        output = function(leaves)
        return output.detach(), pull_back({"output": output}, leaves, {"output": vector})


def per_example_gradients(
    function: Function,
    loss: Loss,
    params: Params,
    buffers: Params,
    inputs: Inputs,
    targets: Any,
    *,
    chunk_size: int | None = None,
    method: Method = "vmap",
    verify: bool = True,
) -> Params:
    """Gradient of the loss of each example taken alone.

    Args:
        function: the model, from ``as_function``.
        loss: scalar from (output, targets) of a batch; called here with batches of one.
        params: where to take the gradients.
        buffers: values of the buffers.
        inputs: a batch, examples along the first axis of every tensor.
        targets: the batch's targets, examples along the first axis.
        chunk_size: examples handled at once, None for all; bounds the memory of intermediate values.
        method: "vmap" (fast) or "loop" (one example after the other: slow, works for every module).
        verify: check on the first two examples that the loop finds the same, and that the loss of the pair
            is the mean or the sum of theirs; otherwise the gradient of a single example has no meaning.

    Returns:
        Name to gradients, with a leading axis of examples.

    Raises:
        Unsupported: the examples of a batch depend on one another (BatchNorm in train mode and the like),
        or the
            module cannot be vectorised.

    Example:
        >>> from dynascope.functional.model import as_function
        >>> f = as_function(torch.nn.Linear(1, 1, bias=False))
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
        >>> loss = torch.nn.functional.mse_loss
        >>> per_example_gradients(f, loss, {"weight": torch.ones(1, 1)}, {}, x, y)["weight"].flatten()
        tensor([2., 8.])
    """
    examples = _Examples(function, loss, params, buffers, inputs, targets)
    return _each(examples, lambda gradients: gradients, chunk_size, method, verify)


def per_example_gradient_norms(
    function: Function,
    loss: Loss,
    params: Params,
    buffers: Params,
    inputs: Inputs,
    targets: Any,
    *,
    chunk_size: int | None = None,
    method: Method = "vmap",
    verify: bool = True,
) -> Float[Tensor, " examples"]:
    """Euclidean norm of each example's gradient, without keeping the gradients.

    Args:
        function: the model, from ``as_function``.
        loss: scalar from (output, targets) of a batch; called here with batches of one.
        params: where to take the gradients.
        buffers: values of the buffers.
        inputs: a batch, examples along the first axis of every tensor.
        targets: the batch's targets, examples along the first axis.
        chunk_size: examples handled at once, None for all; the memory is this many gradients.
        method: "vmap" (fast) or "loop" (slow, works for every module).
        verify: as in ``per_example_gradients``.

    Returns:
        One norm for each example.
    """
    examples = _Examples(function, loss, params, buffers, inputs, targets)
    return _each(examples, lambda gradients: {"norm": norm(gradients)}, chunk_size, method, verify)["norm"]


@dataclass(frozen=True, eq=False)
class _Examples:
    """A batch together with the loss of each of its examples."""

    function: Function
    loss: Loss
    params: Params
    buffers: Params
    inputs: Inputs
    targets: Any

    def first(self, count: int) -> "_Examples":
        inputs, targets = tree_map(lambda tensor: tensor[:count], (self.inputs, self.targets))
        return replace(self, inputs=inputs, targets=targets)

    def pairs(self) -> Iterator[tuple[Inputs, Any]]:
        """Each example with its target, both without the axis of examples."""
        for index in range(len(tree_leaves(self.targets)[0])):
            yield tree_map(itemgetter(index), (self.inputs, self.targets))

    def example_loss(self, params: Params, inputs: Inputs, targets: Any) -> Tensor:
        """The loss of a batch of one, from an example without its axis."""
        inputs, targets = tree_map(lambda tensor: tensor.unsqueeze(0), (inputs, targets))
        return self.batch_loss(params, inputs, targets)

    def batch_loss(self, params: Params, inputs: Inputs, targets: Any) -> Tensor:
        return scalar(self.loss(self.function.on(params, self.buffers, inputs), targets))


def _each(
    examples: _Examples,
    reduce: Callable[[Params], Params],
    chunk_size: int | None,
    method: Method,
    verify: bool,
) -> Params:
    """A reduction of each example's gradient, stacked along a new first axis."""
    if method not in ("vmap", "loop"):
        raise ValueError(f"method={method!r} must be 'vmap' or 'loop'")
    _refuse_batch_statistics(examples.function)
    if verify:
        _check_separable(examples.first(2))
    if method == "loop":
        return _loop(examples, reduce)
    if verify:
        _check_same(_vmap(examples.first(2), reduce, None), _loop(examples.first(2), reduce))
    return _vmap(examples, reduce, chunk_size)


def _loop(examples: _Examples, reduce: Callable[[Params], Params]) -> Params:
    rows = [
        reduce(gradient(lambda params, x=x, y=y: examples.example_loss(params, x, y), examples.params))
        for x, y in examples.pairs()
    ]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _vmap(examples: _Examples, reduce: Callable[[Params], Params], chunk_size: int | None) -> Params:
    gradient_of = torch.func.grad(examples.example_loss)

    def one(inputs: Inputs, targets: Any) -> Params:
        return reduce(gradient_of(examples.params, inputs, targets))

    try:
        with differentiable():  # fused kernels have no batching rule either
            return torch.func.vmap(one, chunk_size=chunk_size)(examples.inputs, examples.targets)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise Unsupported(
            f"vectorised gradients of {type(examples.function.model).__name__}",
            str(error).partition("\n")[0],
            "method='loop'",
        ) from error


def _refuse_batch_statistics(function: Function) -> None:
    """Refuse layers that use the statistics of the batch, by name."""
    training = dict(function.modules_in_train_mode())
    for name, module in function.model.named_modules():
        if isinstance(module, _BatchNorm) and (name in training or module.running_mean is None):
            raise Unsupported(
                f"the gradient of a single example with {type(module).__name__} {name!r} in train mode",
                "it normalises by the statistics of the batch, so the loss of one depends on all others",
                "as_function(model, mode='eval') if the layer has running statistics, or GroupNorm instead",
            )


def _check_separable(pair: _Examples) -> None:
    """Refuse a loss in which examples depend on one another: it must be the mean or the sum over examples."""
    with torch.no_grad():
        alone = torch.stack([pair.example_loss(pair.params, x, y) for x, y in pair.pairs()])
        together = pair.batch_loss(pair.params, pair.inputs, pair.targets)
    # Rounding differs between batch sizes by some multiples of eps, coupled examples by more than its root.
    allowed = torch.finfo(alone.dtype).eps ** 0.5 * alone.abs().sum()
    if min((together - alone.mean()).abs(), (together - alone.sum()).abs()) > allowed:
        raise Unsupported(
            f"the gradient of a single example of {type(pair.function.model).__name__}",
            f"two examples have losses {alone.tolist()} alone and {together.item():.6g} together, which is "
            "neither their mean nor their sum: they are coupled, weighted, or not along the first axis",
            "a loss and a module that treat examples independently, with dropout='identity'",
        )


def _check_same(fast: Params, slow: Params) -> None:
    """Refuse a fast path that disagrees with plain automatic differentiation."""
    # Both are sums of the same products in another order: a few hundred eps apart at most. Relative to the
    # whole gradient, because single parameters may have none by symmetry (a bias before a normalisation).
    allowed = norm(slow) * torch.finfo(next(iter(slow.values())).dtype).eps ** 0.5
    for name, truth in slow.items():
        error = torch.linalg.vector_norm(fast[name] - truth)
        if error > allowed:
            raise Unsupported(
                f"the vectorised gradient of {name!r}",
                f"it differs from the plain one by {error:.3g} in two examples",
                "method='loop'",
            )
