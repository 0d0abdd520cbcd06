"""What a probe may read at one moment of training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dynascope.base.clock import Clock
from dynascope.base.errors import UnknownName
from dynascope.functional.params import Params


@dataclass(frozen=True)
class Group:
    """One parameter group: the names of the model's parameters in it, and its settings as they are now."""

    names: tuple[str, ...]
    settings: Mapping[str, Any]


class OptimizerView:
    """Reads an optimiser by parameter name and never changes it.

    Always reads the present state: learning-rate schedules and groups added later are seen. Parameters that
    no group holds (frozen ones) have empty settings and an empty state.

    Args:
        optimizer: the optimiser to look at.
        model: the module whose parameter names are used; every name of a tied weight works.

    Example:
        >>> from torch.optim import SGD
        >>> model = nn.Linear(2, 1)
        >>> view = OptimizerView(SGD([model.weight], lr=0.5), model)
        >>> view.settings("weight")["lr"], view.settings("bias")
        (0.5, {})
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module) -> None:
        self._optimizer = optimizer
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._first_names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._placed: dict[int, int] = {}
        self._sizes: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """Name of the optimiser's class, such as ``SGD``."""
        return type(self._optimizer).__name__

    @property
    def groups(self) -> tuple[Group, ...]:
        """The parameter groups in order; parameters of other models in them are left out."""
        return tuple(
            Group(
                tuple(self._first_names[id(p)] for p in group["params"] if id(p) in self._first_names),
                _settings(group),
            )
            for group in self._optimizer.param_groups
        )

    def group_index(self, name: str) -> int | None:
        """Position of the group that holds a parameter.

        Args:
            name: a parameter's name.

        Returns:
            The index into ``groups``, or None for a parameter that no group holds.
        """
        return self._place().get(id(self._parameter(name)))

    def settings(self, name: str) -> dict[str, Any]:
        """Settings of the group that holds a parameter.

        Args:
            name: a parameter's name.

        Returns:
            A copy of the group without its parameters; empty for a parameter that no group holds.
        """
        index = self.group_index(name)
        return {} if index is None else _settings(self._optimizer.param_groups[index])

    def state(self, name: str) -> dict[str, Any]:
        """What the optimiser remembers about a parameter, such as ``momentum_buffer``.

        Args:
            name: a parameter's name.

        Returns:
            A new dictionary of the live tensors, which must not be written to; empty before the first step.
        """
        # .get, because indexing torch's defaultdict would create an entry and so change the optimiser
        return dict(self._optimizer.state.get(self._parameter(name), {}))

    def _parameter(self, name: str) -> nn.Parameter:
        if name not in self._parameters:
            raise UnknownName("parameter", name, self._parameters)
        return self._parameters[name]

    def _place(self) -> dict[int, int]:
        """Which group holds which parameter; counted again only when a group was added or has grown."""
        groups = self._optimizer.param_groups
        sizes = tuple(len(group["params"]) for group in groups)
        if sizes != self._sizes:
            self._placed = {id(p): index for index, group in enumerate(groups) for p in group["params"]}
            self._sizes = sizes
        return self._placed


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A moment of training as a probe sees it. Every tensor is live and must not be written to.

    Args:
        step: number of optimiser updates made so far.
        time: sum of their learning rates.
        params: the parameters.
        buffers: the buffers.
        optimizer: settings and state of the optimiser, by parameter name.
        gradients: the gradient that the coming update uses; None where unknown; names without one
            are missing.
        loss: the loss of the batch, where known.
        batch: whatever the training loop handed over, usually (x, y).
    """

    step: int
    time: float
    params: Params
    buffers: Params = field(default_factory=dict)
    optimizer: OptimizerView | None = None
    gradients: Params | None = None
    loss: float | Tensor | None = None
    batch: Any = None

    @property
    def clock(self) -> Clock:
        """Step and time as one value."""
        return Clock(self.step, self.time)
