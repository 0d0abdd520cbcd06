"""Exactly specified problems: data, model, loss and metric, by name."""

from typing import Any

from dynascope.base.registry import Registry
from dynascope.functional.task import Task

TASKS = Registry("dynascope.tasks", "dynascope.tasks")
"""All task factories; packages add theirs under the entry-point group of the same name."""


def names() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    return TASKS.names()


def get(name: str, **settings: Any) -> Task:
    """Build a task by name, which loads its data.

    Args:
        name: one of ``names()``; hyphens and underscores are equal.
        settings: what to change against the defaults of the task's factory, such as ``precision="float64"``,
            ``hidden=(64,)`` or ``path="data/cifar"``.

    Returns:
        The task.

    Raises:
        UnknownName: no task is called so.

    Example:
        >>> task = get("digits-mlp", hidden=(16,))
        >>> task.model(0)(task.test.x).shape
        torch.Size([360, 10])
    """
    return TASKS.get(name)(**settings)
