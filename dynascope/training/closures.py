"""The closure that a user hands to ``optimizer.step``: found, and wrapped so that somebody may look once inside it."""

from collections.abc import Callable
from typing import Any

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def closure_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
    """The closure among the arguments of an optimiser's step.

    Args:
        args: positional arguments, the optimiser first.
        kwargs: keyword arguments.

    Returns:
        The closure, None if there is none.
    """
    return args[1] if len(args) > 1 else kwargs.get("closure")


def with_look(args: tuple[Any, ...], kwargs: dict[str, Any], look: Callable[[Any], None]) -> Arguments:
    """The arguments with a closure that lets somebody look after its first call of a step.

    Then gradients and loss stand, and the weights have not moved yet.

    Args:
        args: positional arguments, the optimiser first.
        kwargs: keyword arguments.
        look: called with what the closure returned; it must not raise.

    Returns:
        Arguments for the step.
    """
    closure = closure_of(args, kwargs)
    waiting = [look]

    def looked_at() -> Any:
        loss = closure() if closure is not None else None
        if waiting:
            waiting.pop()(loss)
        return loss

    if len(args) > 1:
        return (args[0], looked_at, *args[2:]), kwargs
    return args, {**kwargs, "closure": looked_at}
