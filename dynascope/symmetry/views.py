"""Views: the ways in which a parameter's elements can be sorted into channels.

Charge regression knows no layers. It only knows that a channel index of size n may hide in a parameter as a
whole axis, as a factor of an axis (A, K, B) with n = A B (flattened feature maps, heads, rotary pairs), as a
window of an axis (concatenation, packed projections) or as a factor of one axis joined with another axis
(grouped convolutions). Each possibility is a :class:`~dynascope.symmetry.charges.Leg` with coefficient 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.symmetry.charges import Leg

Shapes = Mapping[str, tuple[int, ...]]


def channel_views(shapes: Shapes, size: int) -> tuple[Leg, ...]:
    """All views of all parameters with ``size`` channels.

    Args:
        shapes: shape of each parameter by name.
        size: number of channels, at least 1. Size 1 means the whole parameter.

    Returns:
        The views in the order of the parameters; no two of one parameter are alike.

    Example:
        >>> [view.classes.tolist() for view in channel_views({"w": (2, 4)}, 2)]
        [[[0], [1]], [[0, 0, 1, 1]], [[0, 1, -1, -1]], [[-1, -1, 0, 1]]]
    """
    return tuple(view for name, shape in shapes.items() for view in _views(name, shape, size))


def group_views(shapes: Shapes) -> Iterator[Iterator[Leg]]:
    """Views for sums along one axis: for every axis, one view per group length that divides it.

    A class is one run of K neighbours along the axis at a fixed position of all other axes, so that the law
    "the gradient sums to zero along this axis" has as many charges as there are such runs.

    Args:
        shapes: shape of each parameter by name.

    Yields:
        Per parameter and axis, its views, the finest (most charges) first; a law of one implies that of its
        multiples.
    """
    for name, shape in shapes.items():
        for axis, length in enumerate(shape):
            yield (_grouped(name, shape, axis, group) for group in _divisors(length) if group > 1)


class ViewTable:
    """Sums by class under many views of one size at once, which is what charge regression spends its time on.

    Args:
        views: views of equal size, at least one.
    """

    def __init__(self, views: Sequence[Leg]) -> None:
        self.views = tuple(views)
        self.size = views[0].size
        # Views that sum over the same axes share that sum; one index then sorts what is left for all of them.
        same_axes = groupby(self.views, key=lambda view: (view.parameter, view.classes.shape))
        self._banks = [_Bank(tuple(bank)) for _, bank in same_axes]

    def sums(self, stacked: Mapping[str, Tensor]) -> Float[Tensor, "quantities size views"]:
        """Sum the elements of several tensors by class.

        Args:
            stacked: per parameter, tensors of its shape stacked along a first axis.

        Returns:
            The sums; the last axis is in the order of ``views``.
        """
        return torch.cat([bank.sums(stacked) for bank in self._banks], dim=2)


class _Bank:
    """Views of one parameter whose classes vary along the same axes."""

    def __init__(self, views: tuple[Leg, ...]) -> None:
        self._parameter, self._summed, self._size = views[0].parameter, views[0].summed, views[0].size
        classes = torch.stack([view.classes.reshape(-1) for view in views])
        # Class -1 is collected in one extra cell per view, which is then dropped.
        cells = torch.where(classes < 0, self._size, classes)
        self._count, self._elements = classes.shape
        self._index = (cells + torch.arange(self._count)[:, None] * (self._size + 1)).reshape(-1)

    def sums(self, stacked: Mapping[str, Tensor]) -> Tensor:
        x = stacked[self._parameter]
        quantities = len(x)
        x = x.sum([axis + 1 for axis in self._summed]) if self._summed else x
        x = x.reshape(quantities, 1, self._elements).expand(-1, self._count, -1).reshape(quantities, -1)
        out = x.new_zeros(quantities, self._count * (self._size + 1))
        out = out.index_add(1, self._index.to(x.device), x)
        return out.reshape(quantities, self._count, self._size + 1)[..., :-1].mT


def _views(name: str, shape: tuple[int, ...], size: int) -> Iterator[Leg]:
    if size == 1:
        yield Leg(name, 1.0, torch.zeros([1] * len(shape), dtype=torch.int64), 1)
        return
    for axis, length in enumerate(shape):
        for classes in _axis_classes(length, size):
            yield Leg(name, 1.0, _along(classes, axis, len(shape)), size)
    if len(shape) > 2:  # only filters and stacks of matrices are grouped
        for first in range(len(shape)):
            for second in range(first + 1, len(shape)):
                yield from _pair(name, shape, (first, second), size)


def _axis_classes(length: int, size: int) -> Iterator[Tensor]:
    index = torch.arange(length)
    if length == size:
        yield index
        return
    repeats = length // size
    if length % size == 0:
        for inner in _divisors(size):  # (A, K, B) with B = inner
            # (1, K, size) is the sum of the K windows below where those are listed: one of the two suffices.
            if inner < size or repeats > 3:
                yield index // (repeats * inner) * inner + index % inner
    if length > size:
        starts = [0, length - size] if length % size else [k * size for k in range(repeats)] if repeats <= 3 else []
        for start in starts:
            inside = (index >= start) & (index < start + size)
            yield torch.where(inside, index - start, -1)


def _pair(name: str, shape: tuple[int, ...], axes: tuple[int, int], size: int) -> Iterator[Leg]:
    first, second = axes
    groups, remainder = divmod(size, shape[second])
    if remainder or groups < 2 or shape[first] % groups or shape[second] == 1:
        return
    outer = _along(torch.arange(shape[first]) // (shape[first] // groups), first, len(shape))
    yield Leg(name, 1.0, outer * shape[second] + _along(torch.arange(shape[second]), second, len(shape)), size)


def _grouped(name: str, shape: tuple[int, ...], axis: int, group: int) -> Leg:
    runs = list(shape)
    runs[axis] //= group
    size = 1
    for length in runs:
        size *= length
    classes = torch.arange(size).reshape(runs)
    whole = group == shape[axis]
    return Leg(name, 1.0, classes if whole else classes.repeat_interleave(group, axis), size)


def _along(classes: Tensor, axis: int, ndim: int) -> Tensor:
    return classes.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]
