"""Finds the models and optimisers of a script that nobody told us about, while it runs.

Three places are watched, and none of them changes for the script: the step of every optimiser (a global
hook of torch), the first training-mode call of every outermost module (likewise), and
``torch.autograd.backward``, whose scalar root is the loss. The model of an optimiser is the module called
from outside that owns most of what it moves.

This file is loaded as soon as the script imports torch; what costs time to import comes with the first
optimiser step.
"""

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dynascope.training.closures import Arguments, closure_of, with_look
from dynascope.training.first_call import as_inputs

# Steps of an optimiser during which its model may still be found: hooks for modules are taken away once all
# optimisers have their model, so that a model of a later one is first seen after that one's first step.
PATIENCE = 3


@contextmanager
def _replaced(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Put a function around another for a while; what somebody else has put around ours stays."""
    original = getattr(owner, name)
    ours = around(original)
    setattr(owner, name, ours)
    try:
        yield
    finally:
        if getattr(owner, name) is ours:
            setattr(owner, name, original)


@dataclass(frozen=True)
class Early:
    """Before the step: gradients stand, or a closure will compute them."""


@dataclass(frozen=True, eq=False)
class Inside:
    """Inside the step's closure, after its first call."""

    loss: Any


@dataclass(frozen=True, eq=False)
class Find:
    """An optimiser and its model, just before its first observed step.

    Attributes:
        model: the outermost module.
        optimizer: the optimiser.
        inputs: copy of what the model was called with.
        loss: gives the loss of the coming step, None where ``backward`` had no scalar root.
        unseen: elements that the optimiser moves and the model does not own.
        moment: where in the step this is.
    """

    model: nn.Module
    optimizer: Optimizer
    inputs: Any
    loss: Callable[[], Tensor | None]
    unseen: int
    moment: Early | Inside = Early()


class Discovery:
    """Watches while a script runs, and reports each optimiser once, with its model.

    Args:
        found: called for each find, inside the optimiser's first observed step. Its errors are kept, not
            raised.
    """

    def __init__(self, found: Callable[[Find], None]) -> None:
        self.missed: list[str] = []
        """What could not be observed, in words."""
        self.finds = 0
        """Optimisers that were found with their model."""
        self.backwards = 0
        """Calls of ``backward``."""
        self._found = found
        self._process = os.getpid()
        self._roots: list[tuple[weakref.ref[nn.Module], Any]] = []
        self._inner: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._settled: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._tries: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._loss: Tensor | None = None
        self._stepped = False
        self._calls: Any = None
        self._compiled = False
        self._own_hooks: list[Any] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch until the block ends; then nothing of this is left in torch.

        Yields:
            Nothing.
        """
        steps = register_optimizer_step_pre_hook(self._on_step)
        self._watch_calls()
        try:
            with (
                _replaced(torch.autograd, "backward", self._listening),
                _replaced(torch, "compile", self._letting_go),
            ):
                yield
        finally:
            steps.remove()
            for handle in (self._calls, *self._own_hooks):
                handle.remove()
            self._process = -1  # whoever still holds a function of ours gets the original's behaviour

    def _letting_go(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around ``torch.compile``: it warns of global hooks, so compiled modules get a hook of their own instead."""

        @wraps(original)
        def compile(*args: Any, **kwargs: Any) -> Any:
            compiled = original(*args, **kwargs)
            if os.getpid() == self._process:
                self._compiled = True
                self._calls.remove()
                if isinstance(compiled, nn.Module):
                    self._own_hooks.append(compiled.register_forward_pre_hook(self._look, with_kwargs=True))
            return compiled

        return compile

    # ------------------------------------------------------------------------------------------------ losses

    def _listening(self, original: Callable[..., None]) -> Callable[..., None]:
        @wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if os.getpid() == self._process:
                self._hear(tensors)
            return original(tensors, *args, **kwargs)

        return backward

    def _hear(self, tensors: Any) -> None:
        """Remember the roots since the last step: accumulated gradients belong to the sum of their losses."""
        try:
            if self._stepped:
                self._loss, self._stepped = None, False
            self.backwards += 1
            for root in (tensors,) if isinstance(tensors, Tensor) else tuple(tensors):
                if root.numel() == 1:
                    value = root.detach().reshape(())
                    self._loss = value.clone() if self._loss is None else self._loss + value
        except Exception as error:  # whatever was passed, backward itself must judge it
            self.miss(f"a loss ({type(error).__name__}: {error})")

    def loss(self) -> Tensor | None:
        """Sum of the scalar roots of ``backward`` since the last optimiser step.

        Returns:
            The loss, None where there was none.
        """
        return self._loss

    # ------------------------------------------------------------------------------------------------ models

    def _watch_calls(self) -> None:
        if not self._compiled:
            self._calls = register_module_forward_pre_hook(self._on_call)

    def _on_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        # torch tells global hooks positions only; the keywords stand in the frame that calls them
        if not torch.compiler.is_compiling():
            self._look(module, args, sys._getframe(1).f_locals.get("kwargs") or {})

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the inputs of the first training-mode call of a module that is called from outside."""
        if not module.training or module in self._inner or os.getpid() != self._process:
            return
        try:
            self._inner.update(module.modules())  # an outer module is called before its inner ones
            if next(module.parameters(), None) is not None:
                self._roots.append((weakref.ref(module), as_inputs(module, args, kwargs)))
        except Exception as error:
            self.miss(f"the inputs of {type(module).__name__} ({type(error).__name__}: {error})")

    def _on_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        self._stepped = True
        if optimizer in self._settled or os.getpid() != self._process:
            return None
        found = self._settle(optimizer, Early())
        if found or closure_of(args, kwargs) is None:
            return None if found else self._wait_for_model(optimizer)
        return with_look(args, kwargs, partial(self._look_in_closure, optimizer))

    def _look_in_closure(self, optimizer: Optimizer, loss: Any) -> None:
        """The model may have been called in the closure for the first time."""
        if not self._settle(optimizer, Inside(loss)):
            self._wait_for_model(optimizer)

    def _settle(self, optimizer: Optimizer, moment: Early | Inside) -> bool:
        """Find the model of an optimiser and tell of it; True if there is no more to be done."""
        try:
            moved = {id(p): p.numel() for group in optimizer.param_groups for p in group["params"]}
            self._roots = [root for root in self._roots if root[0]() is not None]
            best, owned, inputs = None, 0, None
            for reference, called_with in self._roots:
                model = reference()
                mine = sum(moved.get(id(p), 0) for p in model.parameters()) if model is not None else 0
                if mine > owned:
                    best, owned, inputs = model, mine, called_with
            if best is None:
                return False
            self._settled.add(optimizer)
            self.finds += 1
            self._calls.remove()
            self._found(Find(best, optimizer, inputs, self.loss, sum(moved.values()) - owned, moment))
        except Exception as error:  # an observer's fault must never be the training's
            self._settled.add(optimizer)
            self.miss(f"{type(optimizer).__name__} ({type(error).__name__}: {error})")
        return True

    def _wait_for_model(self, optimizer: Optimizer) -> None:
        tries = self._tries[optimizer] = self._tries.get(optimizer, 0) + 1
        self._calls.remove()
        if tries < PATIENCE:
            self._watch_calls()
            return
        self._settled.add(optimizer)
        self.miss(f"{type(optimizer).__name__} moves parameters of no module that was called in training mode")

    def miss(self, text: str) -> None:
        """Keep what went wrong, to be said once at the end.

        Args:
            text: what could not be observed.
        """
        if text not in self.missed:
            self.missed.append(text)

    def summary(self) -> list[str]:
        """What was not observed, for one warning at the end.

        Returns:
            Sentences; none if everything was.
        """
        words = list(self.missed)
        if self.backwards and not self.finds and not self.missed:
            words.append(
                "backward() was called, but no torch optimiser took a step: updates written by hand cannot be observed"
            )
        if not self.backwards and not self.finds and not self.missed:
            words.append("nothing was trained with torch")
        return words
