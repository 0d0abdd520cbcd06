"""Time of the top Hessian eigenvalue: our Lanczos, SciPy's eigsh and a power iteration on the same products.

Run with ``python bench/curvature.py``. Methods take turns in rounds; medians of CPU time on one thread. A
trained 64-128-128-10 network, batch 256; tolerance 1e-3, relative, on whatever the method itself watches.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from dynascope.functional.hessian import HessianOperator
from dynascope.functional.model import as_function, batch_loss
from dynascope.functional.params import parameters_of
from dynascope.functional.spectra import lanczos

ROUNDS, TOLERANCE = 9, 1e-3
Result = tuple[float, int, float]  # value, products, |A y - value y|


def problem() -> tuple[nn.Module, Callable[[dict[str, Tensor]], Tensor], Callable[[], None]]:
    """A network after 100 steps, its loss as a function, and one plain forward and backward pass."""
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    y = (x @ torch.randn(64, 10)).argmax(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def passes() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()

    for _ in range(100):
        passes()
        optimizer.step()
    return model, batch_loss(as_function(model), F.cross_entropy, {}, x, y), passes


def by_lanczos(hessian: HessianOperator, seed: int, start: Tensor | None = None) -> Result:
    generator = torch.Generator().manual_seed(seed)
    top = lanczos(hessian.matvec, hessian.dim, generator=generator, tolerance=TOLERANCE, start=start)
    return top.values.item(), top.products, top.residuals.item()


def by_eigsh(hessian: HessianOperator, seed: int) -> Result:
    products = 0

    def matvec(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return hessian.matvec(torch.from_numpy(vector.astype(np.float32)).ravel()).numpy()

    start = np.random.default_rng(seed).standard_normal(hessian.dim).astype(np.float32)
    operator = LinearOperator((hessian.dim, hessian.dim), matvec=matvec, dtype=np.float32)
    values, vectors = eigsh(operator, k=1, which="LA", tol=TOLERANCE, v0=start)
    spent = products
    return float(values[0]), spent, float(np.linalg.norm(matvec(vectors[:, 0]) - values[0] * vectors[:, 0]))


def by_power_iteration(hessian: HessianOperator, seed: int) -> Result:
    """Stops when the value changes by less than the tolerance, as PyHessian does."""
    vector = torch.randn(hessian.dim, generator=torch.Generator().manual_seed(seed))
    value, products = 0.0, 0
    while True:
        vector = vector / vector.norm()
        image = hessian.matvec(vector)
        products += 1
        before, value = value, torch.dot(vector, image).item()
        if abs(value - before) <= TOLERANCE * abs(value):
            return value, products, (image - value * vector).norm().item()
        vector = image


def main() -> None:
    torch.set_num_threads(1)
    model, loss_fn, passes = problem()
    params = parameters_of(model)
    warm = lanczos(
        HessianOperator(loss_fn, params).matvec,
        sum(p.numel() for p in params.values()),
        generator=torch.Generator().manual_seed(0),
    ).vectors
    with torch.no_grad():
        for parameter in model.parameters():  # so that the warm start is not the answer itself
            parameter *= 1.001
    methods: dict[str, Callable[[HessianOperator, int], Result]] = {
        "Lanczos (ours)": by_lanczos,
        "Lanczos, warm start": lambda hessian, seed: by_lanczos(hessian, seed, warm),
        "eigsh (SciPy)": by_eigsh,
        "power iteration": by_power_iteration,
    }
    times: dict[str, list[float]] = {name: [] for name in ["forward + backward", *methods]}
    results: dict[str, list[Result]] = {name: [] for name in methods}
    for seed in range(ROUNDS):
        begin = time.process_time()
        for _ in range(10):
            passes()
        times["forward + backward"].append((time.process_time() - begin) / 10)
        for name, method in methods.items():
            begin = time.process_time()
            results[name].append(method(HessianOperator(loss_fn, params, check=False), seed))
            times[name].append(time.process_time() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    unit, ours = medians["forward + backward"], medians["Lanczos (ours)"]
    print(f"one forward + backward: {unit * 1e3:.2f} ms; the rest in units of it, building the graph included")
    print(f"{'method':22}{'time':>7}{'to ours':>9}{'products':>10}{'value':>11}{'residual':>11}")
    for name, runs in results.items():
        value, products, residual = (statistics.median(column) for column in zip(*runs, strict=True))
        time_of = f"{medians[name] / unit:7.1f}{medians[name] / ours:9.2f}"
        print(f"{name:22}{time_of}{products:10.0f}{value:11.6f}{residual:11.1e}")


if __name__ == "__main__":
    main()
