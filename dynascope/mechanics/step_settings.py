r"""The settings of SGD, step by step and leg group by leg group, as the laws of charges need them.

A *leg group* is the set of a charge's legs that share one optimiser setting: one group in most runs, two where
matrices decay and vectors do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dynascope.base.errors import Unsupported
from dynascope.base.settings import SGDSettings
from dynascope.mechanics.inputs import Numbers, at_least_zero, finite, fraction_below_one


@dataclass(frozen=True)
class StepSettings:
    """What PyTorch's SGD did at each step, for each leg group of a charge. Made by ``step_settings``.

    The direction applied at a step is u, with g the gradient after any global-norm clipping:
    d = sign g + weight_decay theta;  v' = carry v + gain d;  u = d + lookahead v' (Nesterov) or v';
    theta' = theta - learning_rate u.

    Attributes:
        learning_rate: eta.
        momentum: mu.
        dampening: tau, as set (not zeroed at the first step).
        weight_decay: lambda, coupled: it enters the buffer.
        fresh: the momentum buffer is empty before this step.
        nesterov: the look-ahead form.
        sign: +1, or -1 where the loss is maximised.
    """

    learning_rate: Float[np.ndarray, "steps groups"]
    momentum: Float[np.ndarray, "steps groups"]
    dampening: Float[np.ndarray, "steps groups"]
    weight_decay: Float[np.ndarray, "steps groups"]
    fresh: Bool[np.ndarray, "steps groups"]
    nesterov: Bool[np.ndarray, " groups"]
    sign: Float[np.ndarray, " groups"]

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.learning_rate.shape[0]

    @property
    def groups(self) -> int:
        """Number of leg groups."""
        return self.learning_rate.shape[1]

    @property
    def carry(self) -> Float[np.ndarray, "steps groups"]:
        """The factor that the buffer meets: the momentum, and 0 where the buffer is empty."""
        return np.where(self.fresh, 0.0, self.momentum)

    @property
    def gain(self) -> Float[np.ndarray, "steps groups"]:
        """The factor of the gradient in the buffer: 1 - dampening, and 1 where PyTorch does not dampen.

        PyTorch copies the gradient into an empty buffer undamped, and keeps no buffer when the momentum is 0.
        """
        return np.where(self.fresh | (self.momentum == 0), 1.0, 1.0 - self.dampening)

    @property
    def lookahead(self) -> Float[np.ndarray, "steps groups"]:
        """The factor of the new buffer in Nesterov's direction, 0 for the other groups."""
        return np.where(self.nesterov, self.momentum, 0.0)


def sgd_groups(optimizer: str, groups: Sequence[Mapping[str, Any]]) -> list[SGDSettings]:
    """The settings of an optimiser's parameter groups, refused where no law of charges is known.

    Args:
        optimizer: class name of the optimiser.
        groups: its ``param_groups``, or what was stored of them.

    Returns:
        One value per group.

    Raises:
        ValueError: a setting is outside its range.
        Unsupported: the optimiser is not ``torch.optim.SGD``.
    """
    if optimizer != "SGD":
        raise Unsupported(
            what=f"the law of a charge under {optimizer}",
            reason="its steps are not linear in gradient and parameters, so B(theta, update) is not 0 by symmetry",
            way_out="train with torch.optim.SGD, or compare the recorded values of the charge before and after "
            "each step, which needs no law",
        )
    return [SGDSettings.from_group(group) for group in groups]


def step_settings(
    groups: SGDSettings | Sequence[SGDSettings],
    *,
    steps: int,
    learning_rate: Numbers | None = None,
    momentum: Numbers | None = None,
    weight_decay: Numbers | None = None,
    fresh: bool = True,
) -> StepSettings:
    """Settings for every step from the optimiser's groups and what a schedule changed.

    Args:
        groups: one ``SGDSettings`` per leg group (or just one).
        steps: number of optimiser steps.
        learning_rate: replaces that of the groups: one number, one per step, or one per step and group.
        momentum: the same for the momentum (cyclic schedules move it).
        weight_decay: the same for the weight decay.
        fresh: the momentum buffers are empty before the first of these steps. False for a window that starts
            later in a run.

    Returns:
        The settings, each of shape (steps, groups).

    Raises:
        ValueError: a number is outside its range, or a schedule has another length than ``steps``.
        Unsupported: the momentum returns from 0 to a positive value after it was positive: PyTorch then resumes
            from a stale buffer that nobody recorded.

    Example:
        >>> settings = step_settings(SGDSettings(learning_rate=0.1, momentum=0.9, dampening=0.5), steps=3)
        >>> settings.gain[:, 0].tolist(), settings.carry[:, 0].tolist()
        ([1.0, 0.5, 0.5], [0.0, 0.9, 0.9])
    """
    legs = [groups] if isinstance(groups, SGDSettings) else list(groups)
    if not legs:
        raise ValueError("groups is empty; give the SGDSettings of at least one leg group")
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must be 0 or more")
    shape = (steps, len(legs))

    def series(name: str, schedule: Numbers | None) -> Float[np.ndarray, "steps groups"]:
        constant = [[getattr(leg, name) for leg in legs]]
        return _per_step(name, constant if schedule is None else schedule, shape)

    mu = fraction_below_one("momentum", series("momentum", momentum))
    return StepSettings(
        learning_rate=at_least_zero("learning_rate", series("learning_rate", learning_rate)),
        momentum=mu,
        dampening=finite("dampening", series("dampening", None)),
        weight_decay=at_least_zero("weight_decay", series("weight_decay", weight_decay)),
        fresh=_empty_buffer(mu, fresh),
        nesterov=np.array([leg.nesterov for leg in legs], dtype=bool),
        sign=np.array([-1.0 if leg.maximize else 1.0 for leg in legs]),
    )


def uniform(settings: StepSettings, law: str) -> StepSettings:
    """The settings, refused where leg groups differ or a law for the heavy ball does not apply.

    With unequal groups B(theta, g) = 0 no longer removes the gradient, so no closed equation is left.

    Args:
        settings: the settings of all leg groups.
        law: what asks, for the message.

    Returns:
        The settings of one leg group, which is what all of them share.

    Raises:
        Unsupported: the groups differ, or Nesterov's direction is in use.
    """
    if settings.nesterov.any() and settings.momentum.any():
        raise Unsupported(
            what=f"{law} under Nesterov momentum",
            reason="the equation describes the heavy ball",
            way_out="use charge_laws.account, which is exact for Nesterov",
        )
    names = ("learning_rate", "momentum", "dampening", "weight_decay", "fresh")
    unequal = [name for name in names if np.any(getattr(settings, name) != getattr(settings, name)[:, :1])]
    unequal += ["maximize"] if np.any(settings.sign != settings.sign[:1]) else []
    if unequal:
        raise Unsupported(
            what=f"{law} for legs whose {', '.join(unequal)} differ",
            reason="their gradients no longer cancel, so the charge obeys no closed equation",
            way_out="use charge_laws.account with the gradient form of each leg group",
        )
    series = {name: getattr(settings, name)[:, :1] for name in names}
    return StepSettings(**series, nesterov=settings.nesterov[:1], sign=settings.sign[:1])


def clock(settings: StepSettings) -> Float[np.ndarray, " steps1"]:
    r"""Time before each step and after the last: the running sum of learning_rate (1 - dampening).

    The first step counts with its dampening too: the clock is that of the equation of motion, and what PyTorch
    does differently at an empty buffer is part of the start.

    Args:
        settings: settings with one leg group, or with groups that keep the same time.

    Returns:
        Times, starting with 0.

    Raises:
        ValueError: the leg groups keep different times.
    """
    rate = effective_learning_rate(settings)
    if np.any(rate != rate[:, :1]):
        raise ValueError("the leg groups differ in learning_rate (1 - dampening) and keep no common time")
    return np.concatenate([[0.0], np.cumsum(rate[:, 0])])


def effective_learning_rate(settings: StepSettings) -> Float[np.ndarray, "steps groups"]:
    """The learning rate of the undamped heavy ball that moves alike: learning_rate (1 - dampening).

    Args:
        settings: settings of any number of groups; dampening counts only where there is momentum.

    Returns:
        One value per step and group.
    """
    return settings.learning_rate * np.where(settings.momentum == 0, 1.0, 1.0 - settings.dampening)


def _per_step(name: str, values: Numbers, shape: tuple[int, int]) -> Float[np.ndarray, "steps groups"]:
    array = np.asarray(values, dtype=np.float64)
    by_step = array[:, None] if array.ndim == 1 else array
    try:
        return np.broadcast_to(by_step, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}; it must be one number, one per step ({shape[0]}), "
            f"or one per step and leg group {shape}"
        ) from None


def _empty_buffer(momentum: Float[np.ndarray, "steps groups"], fresh: bool) -> Bool[np.ndarray, "steps groups"]:
    positive = momentum > 0
    begun = np.logical_or.accumulate(positive, axis=0)
    if np.any(positive[1:] & ~positive[:-1] & begun[:-1]):
        raise Unsupported(
            what="a momentum that was positive, then 0, then positive again",
            reason="PyTorch resumes from the buffer it kept meanwhile, which no charge law describes",
            way_out="use a small positive momentum instead of 0, or account for each window on its own",
        )
    first = begun.copy()
    first[1:] &= ~begun[:-1]
    first[:1] &= fresh
    return first
