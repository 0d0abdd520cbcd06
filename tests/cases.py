"""Models x losses x optimisers, shared by the tests of all rooms.

The models are the ordinary modules on which public tools give wrong numbers or fail: shared, tied and bare
parameters, grouped convolutions, normalisation in train mode, fused attention, recurrence. Each is small
enough for a dense Hessian.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
CLASSES = 3
BATCH = 6


class Residual(nn.Module):
    """A block with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        return self.leave(hidden + F.gelu(self.inner(hidden)))


class Reused(nn.Module):
    """One module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.shared, self.leave = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.tanh(self.shared(torch.tanh(self.shared(self.enter(x))))))


class Tied(nn.Module):
    """One parameter under two names, and used a third time outside its module."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.twin = nn.Linear(4, 4)
        self.twin.weight = self.enter.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.twin(torch.tanh(self.enter(x))))
        return self.leave(hidden @ self.enter.weight)


class Bare(nn.Module):
    """Parameters that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,ij,jk->nk", x, self.a, self.b) ** 2


class Words(nn.Module):
    """Embedding and LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.leave = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.leave(self.norm(self.embed(tokens)).mean(1))


class Attention(nn.Module):
    """Torch's own transformer block with its dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True)
        self.leave = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.block(x).mean(1))


class Recurrent(nn.Module):
    """Two LSTM layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 2, num_layers=2, dropout=0.3, batch_first=True)
        self.leave = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.lstm(x)[0][:, -1])


class Dropped(nn.Module):
    """BatchNorm, dropout as module and as function, and a tied weight in one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.twin = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.twin.weight = self.enter.weight
        self.drop, self.leave = nn.Dropout(0.4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(torch.relu(self.norm(self.enter(x))))
        return self.leave(F.dropout(torch.tanh(self.twin(hidden)), 0.3, self.training))


def _convolutions(norm: nn.Module | None = None, groups: int = 1, stride: int = 1) -> nn.Module:
    layers = [nn.Conv2d(2, 4, 2, stride=stride, groups=groups), norm or nn.Identity(), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


_VECTORS, _IMAGES, _SEQUENCES = (4,), (2, 4, 4), (3, 4)

_MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, CLASSES)), _VECTORS),
    "residual": (Residual, _VECTORS),
    "reused": (Reused, _VECTORS),
    "tied": (Tied, _VECTORS),
    "bare": (Bare, _VECTORS),
    "strided_conv": (lambda: _convolutions(stride=2), _IMAGES),
    "grouped_conv": (lambda: _convolutions(groups=2), _IMAGES),
    "batch_norm": (lambda: _convolutions(nn.BatchNorm2d(4)), _IMAGES),
    "group_norm": (lambda: _convolutions(nn.GroupNorm(2, 4)), _IMAGES),
    "instance_norm": (
        lambda: _convolutions(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        _IMAGES,
    ),
    "words": (Words, (5,)),
    "attention": (Attention, _SEQUENCES),
    "lstm": (Recurrent, (3, 2)),
    "dropped": (Dropped, _VECTORS),
}

LOSSES: dict[str, Loss] = {
    "cross_entropy_mean": lambda output, y: F.cross_entropy(output, y, reduction="mean"),
    "cross_entropy_sum": lambda output, y: F.cross_entropy(output, y, reduction="sum"),
    "squared_error_mean": lambda output, y: F.mse_loss(
        output, F.one_hot(y, CLASSES).to(output.dtype), reduction="mean"
    ),
}

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "dampening": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A model in train mode with one batch for it."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def couples_examples(self) -> bool:
        """Whether the loss of one example depends on the others: BatchNorm in train mode."""
        return any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in self.model.modules())


def names() -> list[str]:
    """The names of all models."""
    return list(_MODELS)


def case(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """A freshly made case; leaves the global random state as it was."""
    make, shape = _MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().to(dtype).train()
        for parameter in model.parameters():  # biases and gains too: zeros and ones hide mistakes
            parameter.data += 0.3 * torch.randn_like(parameter)
        x: Any = torch.randint(7, (BATCH, *shape)) if name == "words" else torch.randn(BATCH, *shape, dtype=dtype)
        return Case(name, model, x, torch.arange(BATCH) % CLASSES)
