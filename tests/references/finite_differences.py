"""Derivatives by central differences: slow and obvious."""

from collections.abc import Callable

import numpy as np


def jacobian(function: Callable[[np.ndarray], np.ndarray], point: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Derivative of each entry of the function (rows) by each entry of the point (columns)."""
    columns = []
    for index in range(point.size):
        shift = np.zeros_like(point)
        shift[index] = step
        columns.append((function(point + shift) - function(point - shift)) / (2 * step))
    return np.stack(columns, axis=-1)
