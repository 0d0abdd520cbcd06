"""Save a run in progress, and go on exactly where it stopped."""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.base.errors import DamagedRun

Plain = str | int | float | bool | None


class Stateful(Protocol):
    """Anything that carries its state in and out: modules, optimisers, schedulers."""

    def state_dict(self) -> Any:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take the state over."""
        ...


def save_checkpoint(
    path: str | Path,
    *,
    step: int,
    parts: Mapping[str, Stateful],
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Plain],
    device: torch.device,
) -> None:
    """Write everything that the next step depends on, random state included.

    The file is written aside and renamed, so that a kill at any moment leaves the old checkpoint or the new
    one.

    Args:
        path: the checkpoint file; its folder is made where missing.
        step: number of steps done.
        parts: model, optimiser and scheduler by name.
        tensors: anything else to keep, such as the losses so far.
        settings: what the checkpoint belongs to; a resumed run must agree.
        device: where the model lives; the generators of the CPU and of a CUDA device are saved.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "step": step,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "tensors": dict(tensors),
        "settings": dict(settings),
        "random": {"cpu": torch.get_rng_state()}
        | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}),
    }
    aside = path.with_name(f"{path.name}.part")
    with aside.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # the rename must not reach the disk before the bytes do
    aside.replace(path)


def load_checkpoint(
    path: str | Path, *, parts: Mapping[str, Stateful], settings: Mapping[str, Plain], device: torch.device
) -> tuple[int, dict[str, Tensor]]:
    """Put a saved run back into the given parts and into the global random state.

    Args:
        path: the checkpoint file.
        parts: model, optimiser and scheduler, made as in the run that was saved.
        settings: settings of the run that wants to go on.
        device: where the model lives.

    Returns:
        The number of steps done, and the tensors that were kept (on the CPU).

    Raises:
        DamagedRun: the file is not a checkpoint.
        ValueError: the checkpoint belongs to other settings, or to another kind of device.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved, random = content["settings"], content["random"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise DamagedRun(path, f"it is no checkpoint ({type(error).__name__}: {error})") from error
    differing = [name for name in {**saved, **settings} if saved.get(name) != settings.get(name)]
    if differing:
        words = ", ".join(f"{name}={settings.get(name)!r} (saved: {saved.get(name)!r})" for name in differing)
        raise ValueError(f"{path} belongs to a run with other settings: {words}; give another checkpoint file")
    if device.type == "cuda" and "cuda" not in random:
        raise ValueError(f"{path} was saved on a CPU and cannot go on exactly on {device}; move the model back")
    for name, part in parts.items():
        part.load_state_dict(content["parts"][name])
    torch.set_rng_state(random["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], device)
    return content["step"], content["tensors"]


@dataclass(frozen=True)
class Checkpoints:
    """One run's checkpoint file: resumed from at the start, written every so many steps.

    Args:
        path: the file; None turns both methods into nothing.
        every: steps between two saves.
        parts: model, optimiser and scheduler by name.
        settings: what the checkpoint belongs to.
        device: where the model lives.
    """

    path: str | Path | None
    every: int
    parts: Mapping[str, Stateful]
    settings: Mapping[str, Plain]
    device: torch.device

    def resume(self, losses: Float[Tensor, " steps"]) -> int:
        """Go back to the saved state, if there is one.

        Args:
            losses: filled in place up to the saved step.

        Returns:
            The number of steps done.

        Raises:
            ValueError: the file is ahead of the run that is asked for.
        """
        if self.path is None or not Path(self.path).exists():
            return 0
        step, kept = load_checkpoint(self.path, parts=self.parts, settings=self.settings, device=self.device)
        if step > len(losses):
            raise ValueError(f"steps={len(losses)}: {self.path} is already at step {step}; give at least that many")
        losses[:step] = kept["losses"]
        return step

    def after(self, step: int, losses: Float[Tensor, " steps"]) -> None:
        """Save after a step, if a save is due; the last step always is."""
        done = step + 1
        if self.path is None or (done % self.every and done != len(losses)):
            return
        save_checkpoint(
            self.path,
            step=done,
            parts=self.parts,
            tensors={"losses": losses[:done].clone()},  # a view would save its whole storage
            settings=self.settings,
            device=self.device,
        )
