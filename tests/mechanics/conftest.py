"""Real training runs with torch.optim.SGD, and the forms of their charges recorded by the plainest code possible."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynascope.base.settings import SGDSettings

Vectors = Mapping[str, Tensor]
Form = Callable[[Vectors, Vectors], Tensor]


def rescale_form(legs: Sequence[tuple[str, float, int]]) -> Form:
    """Signed sums over each hidden unit; a leg is (parameter, sign, axis of the unit)."""

    def form(x: Vectors, y: Vectors) -> Tensor:
        parts = [
            c * (x[n] * y[n]).movedim(axis, 0).reshape(x[n].shape[axis], -1).sum(1) for n, c, axis in legs if n in x
        ]
        return torch.stack(parts).sum(0)

    return form


def gram_form(x: Vectors, y: Vectors) -> Tensor:
    """W1 W1' + b1 b1' - W2' W2 of a linear pair, symmetrised: the ten entries on and above the diagonal."""
    total = torch.zeros(4, 4, dtype=torch.float64)
    if "0.weight" in x:
        total = total + x["0.weight"] @ y["0.weight"].T - x["1.weight"].T @ y["1.weight"]
    if "0.bias" in x:
        total = total + torch.outer(x["0.bias"], y["0.bias"])
    rows, columns = torch.triu_indices(4, 4)
    return ((total + total.T) / 2)[rows, columns]


def column_sum_form(weight: str, bias: str) -> Form:
    """The sum of each column of the classifier, and of its bias; the second argument is not used."""

    def form(x: Vectors, _: Vectors) -> Tensor:
        columns = x[weight].sum(0) if weight in x else torch.zeros(7, dtype=torch.float64)
        rest = x[bias].sum(0, keepdim=True) if bias in x else torch.zeros(1, dtype=torch.float64)
        return torch.cat([columns, rest])

    return form


def sizes(form: Form) -> Callable[[Vectors], Tensor]:
    """The yardstick of each charge of a quadratic form whose signs are all positive."""
    return lambda theta: form(theta, theta)


def column_sizes(theta: Vectors) -> Tensor:
    """Summed absolute values, the yardstick of each column sum."""
    return column_sum_form("2.weight", "2.bias")({n: p.abs() for n, p in theta.items()}, {})


def gram_sizes(theta: Vectors) -> Tensor:
    """Squared norms of the two units of each entry of the Gram matrix."""
    both = torch.zeros(4, dtype=torch.float64)
    for name, p in theta.items():
        both = both + {"0.weight": (p**2).sum(-1), "0.bias": p**2, "1.weight": (p**2).sum(0)}.get(name, 0.0)
    rows, columns = torch.triu_indices(4, 4)
    return (both[rows] + both[columns]) / 2


@dataclass(frozen=True)
class Charged:
    """A network, its loss, one family of charges and the yardstick of each."""

    build: Callable[[], nn.Module]
    form: Form
    degree: int
    scale: Callable[[Vectors], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy


def mlp(activation: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 3))


def linear_pair() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))


LEGS = [("0.weight", 1, 0), ("0.bias", 1, 0), ("2.weight", -1, 1)]
HIDDEN_UNITS, NO_BIAS = rescale_form(LEGS), rescale_form([LEGS[0], LEGS[2]])
UNIT_SIZES = sizes(rescale_form([(name, 1, axis) for name, _, axis in LEGS]))
SYSTEMS = {
    "rescale": Charged(mlp(nn.ReLU), HIDDEN_UNITS, 2, UNIT_SIZES),
    "translation": Charged(mlp(nn.Tanh), column_sum_form("2.weight", "2.bias"), 1, column_sizes),
    "gram": Charged(linear_pair, gram_form, 2, gram_sizes),
    "rescale without its bias": Charged(mlp(nn.ReLU), NO_BIAS, 2, UNIT_SIZES),
    "rescale across GELU": Charged(mlp(nn.GELU), HIDDEN_UNITS, 2, UNIT_SIZES),
}


@dataclass
class Record:
    """What an observer may see of a run: every form at every step, (steps, groups, size)."""

    value: list = field(default_factory=list)
    momentum: list = field(default_factory=list)
    gradient: list = field(default_factory=list)
    source: list = field(default_factory=list)
    cross: list = field(default_factory=list)
    after: list = field(default_factory=list)
    scale: list = field(default_factory=list)


def train(
    system: Charged,
    groups: Sequence[SGDSettings],
    member: Callable[[str], int] = lambda name: 0,
    *,
    steps: int = 15,
    schedule: Sequence[float] | None = None,
    clip: Callable[[list], object] | None = None,
    seed: int = 0,
    size: float = 1.0,
) -> dict[str, np.ndarray]:
    """Train on random batches; ``member`` gives the parameter group of each parameter."""
    torch.manual_seed(seed)
    model = system.build().double()
    params = dict(model.named_parameters())
    with torch.no_grad():
        for p in params.values():
            p.mul_(size)
    split = [{n: p for n, p in params.items() if member(n) == i} for i in range(len(groups))]
    optimizer = torch.optim.SGD(
        [
            {
                "params": list(part.values()),
                "lr": s.learning_rate,
                "momentum": s.momentum,
                "dampening": s.dampening,
                "weight_decay": s.weight_decay,
                "nesterov": s.nesterov,
                "maximize": s.maximize,
            }
            for part, s in zip(split, groups, strict=True)
        ]
    )
    generator = torch.Generator().manual_seed(seed + 1)
    record = Record()
    for step in range(steps):
        x = torch.randn(16, 5, dtype=torch.float64, generator=generator)
        y = torch.randint(0, 3, (16,), generator=generator)
        for group, s in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = s.learning_rate * (1.0 if schedule is None else schedule[step])
        optimizer.zero_grad()
        system.loss(model(x), y).backward()
        if clip is not None:
            clip(list(params.values()))
        before = {n: p.detach().clone() for n, p in params.items()}
        grads = {n: p.grad.detach().clone() for n, p in params.items()}
        old = {n: _buffer(optimizer, p) for n, p in params.items()}
        optimizer.step()
        new = {n: _buffer(optimizer, p) for n, p in params.items()}
        rows = {k: [] for k in vars(record)}
        for part, s in zip(split, groups, strict=True):
            theta = {n: before[n] for n in part}
            g = {n: grads[n] for n in part}
            d = {n: (-g[n] if s.maximize else g[n]) + s.weight_decay * theta[n] for n in part}
            v = {n: new[n] for n in part} if s.momentum else d
            u = {n: d[n] + s.momentum * v[n] for n in part} if s.nesterov else v
            b = system.form
            rows["value"].append(b(theta, theta))
            rows["momentum"].append(b({n: old[n] for n in part}, theta))
            rows["gradient"].append(b(g, theta))
            rows["source"].append(b(u, u))
            rows["cross"].append(b(u, v))
            rows["after"].append(b({n: params[n].detach() for n in part}, {n: params[n].detach() for n in part}))
            rows["scale"].append(system.scale(theta))
        for name, row in rows.items():
            getattr(record, name).append(torch.stack(row).numpy())
    return {name: np.stack(rows) for name, rows in vars(record).items()}


def _buffer(optimizer: torch.optim.Optimizer, p: Tensor) -> Tensor:
    buffer = optimizer.state[p].get("momentum_buffer")
    return torch.zeros_like(p) if buffer is None else buffer.detach().clone()


@pytest.fixture(scope="session")
def systems() -> dict[str, Charged]:
    return SYSTEMS


@pytest.fixture(scope="session")
def run_sgd() -> Callable[..., dict[str, np.ndarray]]:
    return train
