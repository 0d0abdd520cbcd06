"""Work done in the middle of somebody's training, without a trace in what the training can see."""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def apart() -> Iterator[None]:
    """Leave every global random state as it was, and show no warning.

    Covers the generators of Python, numpy and torch (all devices in use). Warnings are kept from being shown,
    not filtered: touching the filters would make Python forget which of the user's warnings it has shown
    once.

    Yields:
        Nothing.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    shown, warnings.showwarning = warnings.showwarning, _hide
    try:
        yield
    finally:
        warnings.showwarning = shown
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _hide(*_: Any, **__: Any) -> None:
    """Show no warning."""
