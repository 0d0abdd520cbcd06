"""The plain supervised loop."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from dynascope.base.random import seed_from
from dynascope.base.settings import SGDSettings
from dynascope.functional.task import Data, Task
from dynascope.training.batches import Batches
from dynascope.training.checkpoint import Checkpoints

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]
OnStep = Callable[[int, Tensor, tuple[Tensor, Tensor]], object]


@dataclass(frozen=True, eq=False)
class Fitted:
    """What training gives back.

    Args:
        model: the trained network, in train mode.
        losses: loss of each step's batch, taken before that step, on the CPU.
    """

    model: nn.Module
    losses: Float[Tensor, " steps"]


def sgd(settings: SGDSettings) -> MakeOptimizer:
    """Turn settings into a factory of ``torch.optim.SGD``.

    Args:
        settings: learning rate and the rest.

    Returns:
        What ``fit`` takes as its optimizer.
    """

    def make(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            dampening=settings.dampening,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            maximize=settings.maximize,
        )

    return make


def fit(
    task: Task,
    *,
    optimizer: Optimizer | MakeOptimizer,
    steps: int,
    batch_size: int | None,
    seed: int,
    model: nn.Module | None = None,
    replacement: bool = False,
    schedule: MakeScheduler | None = None,
    clip: float | None = None,
    on_step: OnStep | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> Fitted:
    """Train a network on a task for a fixed number of optimiser steps.

    The same arguments give the same run, bit for bit on a CPU with a fixed number of threads. The caller's
    random state is left as it was.

    Args:
        task: data, loss and the factory of the network.
        optimizer: makes the optimiser from the parameters (``sgd(settings)``, ``torch.optim.Adam``, a
            partial), or an optimiser that already holds the parameters of ``model``.
        steps: number of optimiser steps.
        batch_size: examples in each step; None takes the whole training set, in order.
        seed: fixes the initial weights, the batches and the network's own random draws (dropout).
        model: the network to train in place, on its device; None takes ``task.model(seed)``.
        replacement: draw each batch independently; otherwise go through the training set in a new order each
            epoch and leave out what does not fill a last batch.
        schedule: makes a scheduler from the optimiser, to be stepped once after every optimiser step: one of
            ``training.learning_rate``, or a partial of a class of ``torch.optim.lr_scheduler``.
        clip: largest permitted global norm of the gradient; larger gradients are scaled down to it.
        on_step: called after each step with the step's number, its loss and its batch.
        checkpoint: file to resume from where it exists, and to save to.
        checkpoint_every: steps between two saves; the last step is saved as well.
        progress: show a progress bar once two seconds have passed.

    Returns:
        The network and its losses.

    Raises:
        ValueError: a number is outside its range, an optimiser is given without its model, or the checkpoint
            belongs to other settings or to a later step.
    """
    _check(steps, clip, checkpoint_every)
    model, optimizer = _prepare(task, model, optimizer, seed)
    scheduler = None if schedule is None else schedule(optimizer)
    device = next(model.parameters()).device
    data = Data(task.train.x.to(device), task.train.y.to(device))
    batches = Batches(data, batch_size=batch_size, seed=seed, replacement=replacement)
    losses = torch.full((steps,), torch.nan, dtype=torch.float64, device=device)
    saved = Checkpoints(
        checkpoint,
        every=checkpoint_every,
        parts={"model": model, "optimizer": optimizer} | ({"scheduler": scheduler} if scheduler else {}),
        settings={
            "task": task.name,
            "batch_size": batch_size,
            "seed": seed,
            "replacement": replacement,
            "clip": clip,
        },
        device=device,
    )

    with _own_randomness(device, seed):
        steps_left = range(saved.resume(losses), steps)
        for step in tqdm(steps_left, task.name, steps, initial=steps_left.start, delay=2.0, disable=not progress):
            x, y = batches(step)
            optimizer.zero_grad()
            loss = task.loss(model(x), y)
            loss.backward()
            if clip is not None:
                clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses[step] = loss.detach()
            if on_step is not None:
                on_step(step, loss.detach(), (x, y))
            saved.after(step, losses)
    return Fitted(model, losses.cpu())


def _prepare(
    task: Task, model: nn.Module | None, optimizer: Optimizer | MakeOptimizer, seed: int
) -> tuple[nn.Module, Optimizer]:
    """The network in train mode, and the optimiser of its parameters."""
    if model is None and isinstance(optimizer, Optimizer):
        raise ValueError("optimizer already holds parameters: give the model they belong to as model=...")
    model = (task.model(seed) if model is None else model).train()
    return model, optimizer if isinstance(optimizer, Optimizer) else optimizer(model.parameters())


def _check(steps: int, clip: float | None, checkpoint_every: int) -> None:
    if steps < 0:
        raise ValueError(f"steps={steps}: give 0 or more")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}: give a positive norm, or None for no clipping")
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every={checkpoint_every}: give 1 or more steps")


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Start the global generators that dropout draws from, and put the caller's state back afterwards."""
    own = seed_from("training", seed=seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not torch.manual_seed: it seeds every accelerator, and fork_rng restores only the one in use.
        torch.default_generator.manual_seed(own)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(own)
        yield
