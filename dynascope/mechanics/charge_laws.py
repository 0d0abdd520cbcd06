r"""The exact account of a charge under PyTorch's SGD: every change of it, each from its own cause.

A symmetry makes B(theta, g) = 0 for the gradient g of *every* batch, where B(x, y) = <x, A y> is the charge's
bilinear form. Then the whole trajectory of the charge Q = B(theta, theta) follows, without approximation, from its
first value and the size of the applied directions u in the charge's own metric:

    B(theta, v')  = carry B(theta, v) + gain (B(theta, sign g) + lambda Q)
    Q'            = Q - 2 eta B(theta, u) + eta^2 B(u, u)
    B(theta', v') = B(theta, v') - eta B(u, v')

with u = v' (heavy ball) or u = sign g + lambda theta + mu v' (Nesterov); ``StepSettings`` says what the factors are.
A linear charge Q = <a, theta> obeys the same lines with B(theta, .) replaced by <a, .>, the 2 by 1, and no last term.
Global-norm clipping only rescales g and changes nothing here.

Legs with equal settings form a group, and the lines hold group by group. Decay, learning rate or momentum that
differ between groups leave a part of the gradient that does not cancel: the kinetic term, fed by each group's
B(theta, g). Only the part of these forms that sums to zero over the groups is used, so that a broken symmetry is
not excused by its own gradient: it leaks.

Source: Kunin et al., arXiv 2012.04728; Tanaka and Kunin, arXiv 2105.02716; the discrete form is derived here.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynascope.mechanics.inputs import Numbers, at_least_zero, finite, one_of
from dynascope.mechanics.recurrence import accumulate
from dynascope.mechanics.step_settings import StepSettings


@dataclass(frozen=True)
class Account:
    """The accounted trajectory of a family of charges.

    Attributes:
        value: the charge before each step and after the last.
        terms: its change at each step by cause: "decay", "momentum" (what the buffer remembers, past kinetic terms
            included), "finite step" (the squared step), "kinetic" (this step's gradient, where unequal settings of
            the legs keep it from cancelling) and "gradient" (0 by symmetry; a normalisation epsilon, where one was
            declared). They sum to the differences of ``value``.
    """

    value: Float[np.ndarray, "steps1 size"]
    terms: dict[str, Float[np.ndarray, "steps size"]]


@dataclass(frozen=True)
class _Weights:
    """How the state (Q, B(theta, v)) of each leg group enters B(theta, u) and B(theta, v')."""

    decay: Float[np.ndarray, "steps groups"]
    momentum: Float[np.ndarray, "steps groups"]
    gradient: Float[np.ndarray, "steps groups"]
    buffer_decay: Float[np.ndarray, "steps groups"]
    buffer_gradient: Float[np.ndarray, "steps groups"]


def account(
    value: Numbers,
    settings: StepSettings,
    *,
    degree: int,
    source: Numbers | None = None,
    cross: Numbers | None = None,
    momentum: Numbers = 0.0,
    gradient: Numbers | None = None,
    epsilon: Numbers = 0.0,
) -> Account:
    """The whole trajectory of a family of charges, from its first value and the run's squared updates.

    Arrays have the shape (steps, size); with several leg groups (steps, groups, size), each group's signed forms
    on their own.

    Args:
        value: the charge before the first step: (size,), or (groups, size).
        settings: the optimiser's settings at each step.
        degree: 2 for quadratic charges, 1 for linear ones.
        source: B(u, u) at each step; none for a linear charge.
        cross: B(u, v') at each step, needed under Nesterov momentum only (it equals ``source`` otherwise).
        momentum: B(theta, v) before the first step, 0 for an empty buffer.
        gradient: B(theta, g) of each leg group, needed when there are several.
        epsilon: B(theta, g) of the whole charge, (steps, size), where it is not 0 because of a normalisation
            epsilon. It enters as the term "gradient"; declare it only for charges that hold at epsilon 0.

    Returns:
        The trajectory and its terms, summed over leg groups.

    Raises:
        ValueError: an input is missing, has the wrong shape, or is not finite.

    Example:
        A rescale charge under plain SGD without decay moves by the squared steps alone.

        >>> from dynascope.base.settings import SGDSettings
        >>> from dynascope.mechanics.step_settings import step_settings
        >>> settings = step_settings(SGDSettings(learning_rate=0.1), steps=2)
        >>> account([3.0], settings, degree=2, source=[[1.0], [2.0]]).value[:, 0].round(12).tolist()
        [3.0, 3.01, 3.03]
    """
    forms = _forms(settings, degree, source=source, cross=cross, gradient=gradient, epsilon=epsilon)
    start, memory = _state("value", value, settings), _state("momentum", momentum, settings)
    initial = np.stack(np.broadcast_arrays(start, memory), axis=-2)
    weights, rate = _weights(settings), settings.learning_rate
    matrix = np.stack(
        [
            np.stack([-degree * rate * weights.decay, -degree * rate * weights.momentum], axis=-1),
            np.stack([weights.buffer_decay, settings.carry - 1.0], axis=-1),
        ],
        axis=-2,
    )
    eta, push = rate[..., None], forms["kinetic"] + forms["gradient"]
    drive = np.stack(
        np.broadcast_arrays(
            -degree * eta * weights.gradient[..., None] * push + eta**2 * forms["source"],
            weights.buffer_gradient[..., None] * push - eta * forms["cross"],
            np.zeros((settings.steps, *initial[..., 0, :].shape)),
        )[:2],
        axis=-2,
    )
    states = accumulate(initial, matrix, drive)
    terms = _terms(states[:-1, :, 0], states[:-1, :, 1], forms, settings, degree)
    return Account(value=states[:, :, 0].sum(axis=1), terms=terms)


def one_step_terms(
    value: Numbers,
    settings: StepSettings,
    *,
    degree: int,
    source: Numbers | None = None,
    momentum: Numbers = 0.0,
    gradient: Numbers | None = None,
    epsilon: Numbers = 0.0,
) -> dict[str, Float[np.ndarray, "steps size"]]:
    """The change of a family of charges at each sampled step, by cause, from the records of that step alone.

    For runs recorded at every k-th step: each sample is complete by itself, and nothing is said about the steps in
    between. ``value + sum(terms)`` is the charge after each sampled step.

    Args:
        value: the charge before each sampled step, (steps, size) or (steps, groups, size).
        settings: the settings *at the sampled steps*; ``fresh`` only where the buffer was empty.
        degree: 2 for quadratic charges, 1 for linear ones.
        source: B(u, u); none for a linear charge.
        momentum: B(theta, v), or <a, v> for a linear charge, with the buffer v before the step.
        gradient: B(theta, g) of each leg group, needed when there are several.
        epsilon: as in ``account``.

    Returns:
        One array (steps, size) per cause, summed over leg groups; the causes are those of ``Account.terms``.

    Raises:
        ValueError: an input is missing, has the wrong shape, or is not finite.
    """
    forms = _forms(settings, degree, source=source, cross=source, gradient=gradient, epsilon=epsilon)
    before, memory = np.broadcast_arrays(_series("value", value, settings), _series("momentum", momentum, settings))
    return _terms(before, memory, forms, settings, degree)


def leak(predicted: Numbers, measured: Numbers, scale: Numbers) -> Float[np.ndarray, " size"]:
    """How far an account is from balancing: max over steps of |predicted - measured| / scale, for each charge.

    Args:
        predicted: the accounted charge, (steps, size).
        measured: the charge itself at the same steps.
        scale: the summed squared norms of the charge's legs (summed absolute values for a linear charge).

    Returns:
        One number per charge; 0 where a charge, its prediction and its legs are all 0 (a dead unit), infinite where
        legs of no size are said to carry a charge.

    Raises:
        ValueError: the shapes differ, a number is not finite, or a scale is negative.

    Example:
        >>> leak(np.array([[1.0], [2.5]]), np.array([[1.0], [2.0]]), np.array([[2.0], [5.0]])).tolist()
        [0.1]
    """
    shapes = np.shape(predicted), np.shape(measured), np.shape(scale)
    if len(set(shapes)) > 1:
        raise ValueError(f"predicted, measured and scale have shapes {shapes}; they must be equal")
    difference = np.abs(finite("predicted", predicted) - finite("measured", measured))
    yardstick = at_least_zero("scale", scale)
    ratio = np.where(difference == 0, 0.0, np.inf)
    np.divide(difference, yardstick, out=ratio, where=yardstick > 0)
    return ratio.max(axis=0, initial=0.0)


def _weights(settings: StepSettings) -> _Weights:
    gain, decay, sign = settings.gain, settings.weight_decay, settings.sign
    direct = settings.nesterov.astype(np.float64)
    # Nesterov: u = d + mu v'; heavy ball: u = v'.
    through = np.where(settings.nesterov, settings.lookahead, 1.0)
    fraction = direct + through * gain
    return _Weights(
        decay=fraction * decay,
        momentum=through * settings.carry,
        gradient=fraction * sign,
        buffer_decay=gain * decay,
        buffer_gradient=gain * sign,
    )


def _terms(
    value: Float[np.ndarray, "steps groups size"],
    momentum: Float[np.ndarray, "steps groups size"],
    forms: dict[str, np.ndarray],
    settings: StepSettings,
    degree: int,
) -> dict[str, Float[np.ndarray, "steps size"]]:
    weights = _weights(settings)
    rate = settings.learning_rate[..., None]
    by_group = {
        "decay": -degree * rate * weights.decay[..., None] * value,
        "momentum": -degree * rate * weights.momentum[..., None] * momentum,
        "finite step": rate**2 * forms["source"],
        "kinetic": -degree * rate * weights.gradient[..., None] * forms["kinetic"],
        "gradient": -degree * rate * weights.gradient[..., None] * forms["gradient"],
    }
    shape = (settings.steps, value.shape[-1])
    return {name: np.broadcast_to(term.sum(axis=1), shape) for name, term in by_group.items()}


def _forms(
    settings: StepSettings,
    degree: int,
    *,
    source: Numbers | None,
    cross: Numbers | None,
    gradient: Numbers | None,
    epsilon: Numbers,
) -> dict[str, Float[np.ndarray, "steps groups #size"]]:
    one_of("degree", degree, (1, 2))
    if (source is None) == (degree == 2):
        raise ValueError(
            f"source is {'missing' if source is None else 'given'} for a charge of degree {degree}; "
            "quadratic charges need B(u, u) at each step, linear ones have none"
        )
    if gradient is None and settings.groups > 1:
        raise ValueError(f"gradient is missing for {settings.groups} leg groups; give B(theta, g) of each group")
    if degree == 2 and cross is None and settings.lookahead.any():
        raise ValueError("cross is missing under Nesterov momentum; give B(u, v') at each step")
    squared = _series("source", 0.0 if source is None else source, settings)
    mixed = _series("cross", 0.0 if cross is None else cross, settings)
    by_group = _series("gradient", 0.0 if gradient is None else gradient, settings)
    whole = _total("epsilon", epsilon, settings)
    return {
        "source": squared,
        "cross": np.where(settings.nesterov[:, None], mixed, squared),
        # Orthogonal to the whole charge's B(theta, g): what a broken symmetry adds is left out, and leaks.
        "kinetic": by_group - by_group.mean(axis=1, keepdims=True),
        "gradient": np.repeat(whole[:, None] / settings.groups, settings.groups, axis=1),
    }


def _series(name: str, values: Numbers, settings: StepSettings) -> Float[np.ndarray, "steps groups #size"]:
    """A form per step and leg group, with the axis of leg groups that one group may leave out."""
    array = finite(name, values)
    if array.ndim == 0:
        return np.full((settings.steps, settings.groups, 1), array)
    grouped = array[:, None] if array.ndim == 2 and settings.groups == 1 else array
    if grouped.ndim != 3 or grouped.shape[:2] != (settings.steps, settings.groups):
        wanted = f"({settings.steps}, size)" if settings.groups == 1 else f"({settings.steps}, {settings.groups}, size)"
        raise ValueError(f"{name} has shape {array.shape}; it must be {wanted}, as the settings have it")
    return grouped


def _total(name: str, values: Numbers, settings: StepSettings) -> Float[np.ndarray, "steps ..."]:
    """A form per step of the whole charge."""
    array = finite(name, values)
    if array.ndim == 0:
        return np.full((settings.steps, 1), array)
    if array.ndim != 2 or array.shape[0] != settings.steps:
        raise ValueError(f"{name} has shape {array.shape}; it must be ({settings.steps}, size), for the whole charge")
    return array


def _state(name: str, values: Numbers, settings: StepSettings) -> Float[np.ndarray, "groups ..."]:
    """A form of one moment, per leg group."""
    array = finite(name, values)
    if array.ndim == 0:
        return np.full((settings.groups, 1), array)
    grouped = array[None] if array.ndim == 1 and settings.groups == 1 else array
    if grouped.ndim != 2 or grouped.shape[0] != settings.groups:
        wanted = "(size,)" if settings.groups == 1 else f"({settings.groups}, size)"
        raise ValueError(f"{name} has shape {array.shape}; it must be {wanted}, as the settings have it")
    return grouped
