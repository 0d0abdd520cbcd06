"""Linear recurrences over the steps of a run, in blocks: a million steps cost two thousand turns of a Python loop."""

from math import isqrt

import numpy as np
from jaxtyping import Float


def accumulate(
    initial: Float[np.ndarray, "*groups state size"],
    change: Float[np.ndarray, "steps *groups state state"],
    drive: Float[np.ndarray, "steps *groups state size"],
) -> Float[np.ndarray, "steps1 *groups state size"]:
    """Every state of x(k+1) = x(k) + change(k) x(k) + drive(k), the initial one first.

    The recurrence is written with the *change* of the state, not with the matrix 1 + change: per step the settings
    of an optimiser change a charge by a relative amount as small as 1e-8, and stored as 1 - 1e-8 that number would
    have lost half its digits, with the same error at every one of a million steps.

    The steps are cut into about sqrt(steps) blocks: all blocks are condensed to one step each, side by side; the
    blocks' first states follow one after another; then all blocks are filled in, again side by side.

    Args:
        initial: the state before the first step.
        change: for each step, the matrix that acts on the state.
        drive: for each step, what is added whatever the state.

    Returns:
        The states, one more than there are steps.

    Example:
        >>> half = np.full((3, 1, 1), -0.5)
        >>> accumulate(np.array([[8.0]]), half, np.zeros((3, 1, 1))).ravel().tolist()
        [8.0, 4.0, 2.0, 1.0]
    """
    steps = len(change)
    length = max(1, isqrt(steps))
    matrices, pushes = _blocks(change, length), _blocks(drive, length)
    whole, push = np.zeros_like(matrices[0]), np.zeros_like(pushes[0])
    for matrix, extra in zip(matrices, pushes, strict=True):
        # (1 + matrix)(1 + whole) - 1, without ever adding the 1
        whole, push = whole + matrix + matrix @ whole, push + matrix @ push + extra
    starts = [initial]
    for matrix, extra in zip(whole[:-1], push[:-1], strict=True):
        starts.append(starts[-1] + matrix @ starts[-1] + extra)
    states = np.empty_like(pushes)
    state = np.stack(starts)[: pushes.shape[1]]
    for step, (matrix, extra) in enumerate(zip(matrices, pushes, strict=True)):
        state = state + matrix @ state + extra
        states[step] = state
    return np.concatenate([initial[None], states.swapaxes(0, 1).reshape(-1, *initial.shape)[:steps]])


def _blocks(series: Float[np.ndarray, "steps ..."], length: int) -> Float[np.ndarray, "length blocks ..."]:
    """The series cut into blocks of ``length`` steps, the last one filled up with zeros, step by step."""
    blocks = -(-len(series) // length)
    padded = np.zeros((blocks * length, *series.shape[1:]))
    padded[: len(series)] = series
    return np.ascontiguousarray(padded.reshape(blocks, length, *series.shape[1:]).swapaxes(0, 1))
