"""What observing costs: the time of a training loop with it, divided by that of the bare loop.

All ways of one network run in turns in one process, round after round, so that the machine's mood hits them alike;
the table shows medians over rounds of each round's median step. Run with ``python bench/overhead.py``.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import Tensor, nn

from dynascope.api.inspect import inspect
from dynascope.api.observe import observe
from dynascope.tasks.models import vgg_like

RESULTS = Path(__file__).parent / "results" / "overhead.json"


@dataclass(frozen=True)
class Case:
    """A network and its batches."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    steps: int


def mlp() -> nn.Module:
    """The worst case: 26 122 parameters, and a step that is little more than calls."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )  # fmt: skip


def wide_mlp() -> nn.Module:
    """Few operations for many parameters: the worst case for memory traffic."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


CASES = (
    Case("mlp 64-128-128-10, batch 64", mlp, lambda: torch.randn(64, 64), 3000),
    Case("mlp 256-1024-1024-10, batch 256", wide_mlp, lambda: torch.randn(256, 256), 100),
    Case(
        "conv demo network, batch 64",
        lambda: vgg_like(((8, 8), (16, 16)), seed=0),
        lambda: torch.randn(64, 1, 28, 28),
        25,
    ),
)
WAYS = {"bare": None, "every step": 1, "every 10th step": 10}


@dataclass
class Row:
    """One way of one case."""

    network: str
    parameters: int
    charges: int
    way: str
    step_ms: float
    step_ratio: float
    loop_ratio: float
    processor_ratio: float


def measure(case: Case, rounds: int) -> list[Row]:
    """Race the ways of one case."""
    model, x, y = case.model(), case.inputs(), torch.randint(0, 10, (len(case.inputs()),))
    anatomy = inspect(model, x[:8], output="softmax", mode="train")
    folder = Path(tempfile.mkdtemp())
    medians: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, every in WAYS.items():
            taken = race(case, x, y, anatomy, every, folder / f"{number}-{way}")
            if number:  # the first round warms up
                medians[way].append(taken)
    shutil.rmtree(folder)
    bare = [statistics.median(column) for column in zip(*medians["bare"], strict=True)]
    sizes = sum(p.numel() for p in model.parameters()), sum(charge.size for charge in anatomy.charge_families)
    rows = []
    for way, taken in medians.items():
        step, loop, processor = (statistics.median(column) for column in zip(*taken, strict=True))
        ratios = (round(found / plain, 3) for found, plain in zip((step, loop, processor), bare, strict=True))
        rows.append(Row(case.name, *sizes, way, round(step * 1e3, 4), *ratios))
    return rows


def race(
    case: Case, x: Tensor, y: Tensor, anatomy: object, every: int | None, path: Path
) -> tuple[float, float, float]:
    """One loop: seconds of the median step, of the mean step, and of the processor (all threads) a step."""
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    if every is None:
        return loop(model, optimizer, x, y, case.steps)
    with observe(model, optimizer, anatomy=anatomy, every=every, to=path, on_error="raise"):  # type: ignore[arg-type]
        return loop(model, optimizer, x, y, case.steps)


def loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int
) -> tuple[float, float, float]:
    """The user's loop, timed step by step after ten steps."""
    times, begun, processor = [], 0.0, 0.0
    for step in range(steps + 10):
        if step == 10:
            begun, processor = perf_counter(), process_time()
        start = perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        times.append(perf_counter() - start)
    return statistics.median(times[10:]), (perf_counter() - begun) / steps, (process_time() - processor) / steps


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'network':34} {'way':16} {'step ms':>9} {'median step':>12} {'whole loop':>11} {'processor':>10}")
    for case in CASES:
        for row in measure(case, options.rounds):
            rows.append(row)
            print(
                f"{row.network:34} {row.way:16} {row.step_ms:9.3f} {row.step_ratio:12.3f} {row.loop_ratio:11.3f} "
                f"{row.processor_ratio:10.3f}",
                flush=True,
            )
    machine = {
        "device": "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
