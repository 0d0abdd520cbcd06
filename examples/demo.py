"""Train a VGG-like network under observation, predict its charges, and show that broken laws leak.

Run with ``make demo``. The loop in ``train`` is what a user's own script looks like; only the ``with`` line is ours.
"""

import argparse
import copy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import dynascope as ds
from dynascope import tasks
from dynascope.diagnosis.accounts import TOLERANCE, Predictions
from dynascope.functional.task import Task
from dynascope.symmetry.anatomy import Anatomy
from dynascope.tasks.datasets import available

SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
CONTROL_STEPS = 40


def train(
    task: Task,
    model: nn.Module,
    to: Path,
    *,
    steps: int,
    anatomy: Anatomy | None = None,
    clip: Callable[[list[Tensor]], object] | None = None,
    show: bool = False,
) -> Predictions:
    """An ordinary training loop, observed; then the laws applied to what was recorded."""
    optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
    order = torch.Generator().manual_seed(0)
    with ds.observe(
        model, optimizer, anatomy=anatomy, example_inputs=task.train.x[:8], output=task.output, to=to, report=show
    ) as seen:
        for _ in tqdm(range(steps), desc="training", unit="step", disable=not show):
            batch = torch.randint(len(task.train), (128,), generator=order)
            optimizer.zero_grad()
            loss = task.loss(model(task.train.x[batch]), task.train.y[batch])
            loss.backward()
            if clip is not None:
                clip(list(model.parameters()))
            optimizer.step()
            seen.step(loss=loss)
    return ds.predict(to)


def without_biases(anatomy: Anatomy) -> Anatomy:
    """The same charges with every bias left out of the rescale laws: they must leak."""
    changed = []
    for s in anatomy.symmetries:
        if s.kind == "rescale" and s.charge is not None:
            legs = tuple(leg for leg in s.charge.legs if not leg.parameter.endswith("bias"))
            changed.append(replace(s, charge=replace(s.charge, legs=legs)))
    return replace(anatomy, symmetries=tuple(changed))


def with_gelu(model: nn.Module) -> nn.Module:
    """A copy whose ReLUs are GELUs."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, nn.ReLU):
            parent = twin.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.GELU())
    return twin


def worst(found: Predictions, *kinds: str) -> float:
    """Largest leak among the families of some kinds."""
    return max(f.leak for f in found.families if f.leak is not None and f.name.split("/")[0] in kinds)


def controls(folder: Path) -> list[tuple[str, float, bool]]:
    """Laws as they are, and broken ones that must leak, on a small network."""
    task = tasks.get("digits-vgg", precision="float64")
    anatomy = ds.inspect(task.model(0), task.train.x[:8], task.output)

    def run(name: str, model: nn.Module, known: Anatomy, clip: Callable | None = None) -> Predictions:
        return train(task, model, folder / name, steps=CONTROL_STEPS, anatomy=known, clip=clip)

    laws = ("rescale", "scale", "translation")
    healthy = run("healthy", task.model(0), anatomy)
    single = tasks.get("digits-vgg")
    plain = train(single, single.model(0), folder / "float32", steps=CONTROL_STEPS)
    return [
        ("all laws as they are, float64", worst(healthy, *laws), True),
        ("all laws as they are, float32", worst(plain, *laws), True),
        (
            "a bias dropped from the charge",
            worst(run("bias", task.model(0), without_biases(anatomy)), "rescale"),
            False,
        ),
        ("GELU in place of ReLU", worst(run("gelu", with_gelu(task.model(0)), anatomy), "rescale"), False),
        (
            "gradients clipped by value",
            worst(run("clip", task.model(0), anatomy, lambda p: nn.utils.clip_grad_value_(p, 1e-3)), "rescale"),
            False,
        ),
        (
            "a wrong weight decay assumed",
            worst(ds.predict(folder / "healthy", assume={"weight_decay": 5e-3}), "rescale"),
            False,
        ),
    ]


def main() -> int:
    """Run the demonstration; the exit code is 0 if every verdict is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("runs/demo"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=None, help="optimiser steps of the main run")
    options = parser.parse_args()
    shutil.rmtree(options.to, ignore_errors=True)

    name = "fashion-vgg" if available()["fashion_mnist"] else "digits-vgg"
    task = tasks.get(name, bias=False)  # no biases before batch normalisation, as is usual
    model = task.model(0)
    print(ds.inspect(model, task.train.x[:8], task.output), end="\n\n")
    found = train(task, model, options.to / "main", steps=options.steps or _steps(name), show=True)
    print(f"\n{found}\n")
    model.eval()
    with torch.no_grad():
        print(f"accuracy on {len(task.test)} test images: {task.metric(model(task.test.x), task.test.y):.1%}\n")

    print("controls (a law that is broken on purpose must leak)")
    good = found.balances
    for words, leak, balances in controls(options.to):
        permitted = TOLERANCE["float32" if words.endswith("float32") else "float64"]
        verdict = "balances" if leak <= permitted else "leaks"
        as_it_must = (leak <= permitted) == balances
        good &= as_it_must
        print(f"  {words:<34} leak {leak:8.1e}  {verdict}{'' if as_it_must else '  <- NOT AS IT MUST BE'}")
    print(f"\nreport: {options.to / 'main' / 'report.html'}")
    return 0 if good else 1


def _steps(name: str) -> int:
    return 1404 if name.startswith("fashion") else 1500


if __name__ == "__main__":
    sys.exit(main())
