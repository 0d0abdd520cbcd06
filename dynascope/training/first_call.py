"""What a model is called with, taken from its first call in training mode without touching the call."""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dynascope.base.errors import Unsupported


def copied(inputs: Any) -> Any:
    """A copy of arguments that neither shares memory nor remembers gradients.

    Args:
        inputs: tensors, nested in tuples, lists and dicts.

    Returns:
        The same structure.
    """
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), inputs)


def as_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Arguments of a call as ``inspect`` takes them: a tuple, or a dict of keyword arguments.

    Args:
        model: the module that was called.
        args: positional arguments.
        kwargs: keyword arguments.

    Returns:
        A detached copy; a call that mixes both kinds becomes a dict by the names of ``forward``.
    """
    if not kwargs:
        return copied(args)
    return copied(dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments) if args else kwargs)


class FirstCall:
    """Waits for a model's first call in training mode and copies its inputs; then the hook is gone.

    Args:
        model: any module.

    Raises:
        Unsupported: the module was compiled in place, where a hook would force it to be compiled again.
    """

    def __init__(self, model: nn.Module) -> None:
        if getattr(model, "_compiled_call_impl", None) is not None:
            raise Unsupported(
                f"finding the inputs of {type(model).__name__}",
                "it was compiled in place (model.compile()), and a hook on it would force a second compilation",
                "pass example_inputs= or anatomy=",
            )
        self._inputs: Any = None
        self._handle = model.register_forward_pre_hook(self._look, with_kwargs=True)

    def inputs(self) -> Any:
        """The inputs of that call.

        Returns:
            A tuple of arguments or a dict of keyword arguments.

        Raises:
            Unsupported: there was no such call.
        """
        if self._inputs is None:
            raise Unsupported(
                "finding the model's inputs",
                "it was not called in training mode before the first optimiser step",
                "pass example_inputs= or anatomy=",
            )
        return self._inputs

    def remove(self) -> None:
        """Take the hook away, whether or not a call came."""
        self._handle.remove()

    def _look(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not model.training:
            return
        self._handle.remove()
        try:
            self._inputs = as_inputs(model, args, kwargs)
        except Exception:  # arguments that cannot be copied count as not found; the call itself goes on
            self._inputs = None
