r"""Products with the Hessian and the Gauss-Newton matrix of a loss.

Both operators build the graph of first derivatives once and keep it, so that each further product costs one
backward pass through that graph and no forward pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.base.errors import Unsupported
from dynascope.functional.gradients import LossFunction, differentiable, leaves_of, pull_back, scalar
from dynascope.functional.params import Params, flatten, unflatten


class AbstractCurvature(ABC):
    """A symmetric matrix over all parameters, known by its products with vectors."""

    leaves: Params

    @property
    def dim(self) -> int:
        """Number of parameters: the matrix is dim x dim."""
        return sum(leaf.numel() for leaf in self.leaves.values())

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the products."""
        return next(iter(self.leaves.values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the products are computed."""
        return next(iter(self.leaves.values())).device

    @abstractmethod
    def product(self, vector: Params) -> Params:
        """The matrix times a vector given by parameter names.

        Args:
            vector: the direction, with the names and shapes of the parameters.

        Returns:
            The product, with the same names and shapes.
        """

    def matvec(self, vector: Float[Tensor, " params"]) -> Float[Tensor, " params"]:
        """The matrix times a vector.

        Args:
            vector: the direction, in the order of ``functional.params.flatten``.

        Returns:
            The product.
        """
        return flatten(self.product(unflatten(vector, self.leaves)))

    def __matmul__(self, vector: Float[Tensor, " params *columns"]) -> Float[Tensor, " params *columns"]:
        if vector.ndim == 1:
            return self.matvec(vector)
        return torch.stack([self.matvec(column) for column in vector.unbind(1)], dim=1)


class HessianOperator(AbstractCurvature):
    r"""Hessian of a loss: H v = d/dtheta <grad L(theta), v>, by differentiating the kept gradient.

    Layers whose fused kernels have no second derivative (attention, cuDNN recurrence) run on plain ones.
    Memory: the graph of the gradient, about twice that of a training step, until the operator is dropped.

    Args:
        loss_fn: ``params -> scalar``, such as ``functional.model.batch_loss(...)``.
        params: where to take the Hessian; float64 parameters give float64 products.
        check: evaluate loss and product twice and refuse a loss that differs from itself.

    Raises:
        Unsupported: two evaluations differ by more than rounding.

    Example:
        >>> H = HessianOperator(lambda p: (p["a"] ** 3).sum(), {"a": torch.tensor([1.0, 2.0])})
        >>> H @ torch.tensor([1.0, 1.0])
        tensor([ 6., 12.])
    """

    def __init__(self, loss_fn: LossFunction, params: Params, *, check: bool = True) -> None:
        self.leaves = leaves_of(params)
        with differentiable():
            loss = scalar(loss_fn(self.leaves))
            self._gradients = pull_back({"loss": loss}, self.leaves, create_graph=True)
        self.loss: Float[Tensor, ""] = loss.detach()
        """Value of the loss, known anyway."""
        if check:
            self._check(loss_fn)

    @property
    def gradient(self) -> Params:
        """Gradient of the loss, known anyway."""
        return {name: gradient.detach() for name, gradient in self._gradients.items()}

    def product(self, vector: Params) -> Params:
        """The Hessian times a vector given by parameter names.

        Args:
            vector: the direction, with the names and shapes of the parameters.

        Returns:
            H v, with the same names and shapes; zeros where the gradient does not depend on a parameter.
        """
        with differentiable():
            return pull_back(self._gradients, self.leaves, vector)

    def _check(self, loss_fn: LossFunction) -> None:
        with torch.no_grad():
            again = scalar(loss_fn(self.leaves))
        _require_equal("loss", self.loss.reshape(1), again.reshape(1))
        direction = flatten(self.gradient)
        _require_equal("Hessian product", self.matvec(direction), self.matvec(direction))


class GaussNewtonOperator(AbstractCurvature):
    r"""Gauss-Newton matrix of a loss: G v = J^T (d^2 loss / d output^2) J v.

    Positive semidefinite whenever the loss is convex in the output.

    Args:
        function: ``params -> output``.
        loss: ``output -> scalar``.
        params: where to take the matrix.

    Example:
        >>> square, total = lambda p: p["a"] ** 2, lambda output: (output**2).sum()
        >>> GaussNewtonOperator(square, total, {"a": torch.tensor([3.0])}) @ torch.tensor([1.0])
        tensor([72.])
    """

    def __init__(self, function: Callable[[Params], Tensor], loss: Callable[[Tensor], Tensor], params: Params) -> None:
        self.leaves = leaves_of(params)
        with differentiable():
            self._output = {"output": function(self.leaves)}
            # J^T u is linear in u, and its derivative by u is J: two backward passes push forward
            self._cotangent = leaves_of({"output": torch.zeros_like(self._output["output"])})
            self._pulled = pull_back(self._output, self.leaves, self._cotangent, create_graph=True)
            self._free = leaves_of(self._output)
            value = scalar(loss(self._free["output"]))
            self._slope = pull_back({"loss": value}, self._free, create_graph=True)

    def product(self, vector: Params) -> Params:
        """The Gauss-Newton matrix times a vector given by parameter names.

        Args:
            vector: the direction, with the names and shapes of the parameters.

        Returns:
            G v, with the same names and shapes.
        """
        with differentiable():
            pushed = pull_back(self._pulled, self._cotangent, vector)
            curved = pull_back(self._slope, self._free, pushed)
            return pull_back(self._output, self.leaves, curved)


def hessian_vector_product(loss_fn: LossFunction, params: Params, vector: Params) -> Params:
    """One product with the Hessian of a loss; for several, keep a ``HessianOperator``.

    Args:
        loss_fn: ``params -> scalar``.
        params: where to take the Hessian.
        vector: the direction, with the names and shapes of ``params``.

    Returns:
        H v, with the same names and shapes.

    Example:
        >>> params = {"a": torch.tensor([1.0, 2.0])}
        >>> hessian_vector_product(lambda p: (p["a"] ** 3).sum(), params, {"a": torch.tensor([1.0, 0.0])})
        {'a': tensor([6., 0.])}
    """
    return HessianOperator(loss_fn, params, check=False).product(vector)


def _require_equal(what: str, first: Tensor, second: Tensor) -> None:
    """Refuse two evaluations that differ by more than the order of summation explains."""
    difference = torch.linalg.vector_norm(first - second)
    # Parallel sums on a GPU may differ by a few hundred eps; dropout and noise by far more than the root of
    # eps.
    if difference > torch.finfo(first.dtype).eps ** 0.5 * torch.linalg.vector_norm(first):
        raise Unsupported(
            f"curvature of a random loss: the {what}",
            f"two evaluations at the same parameters differ by {difference:.3g}",
            "make the loss a pure function, for example by as_function(model, dropout='identity')",
        )
