"""Sort the coordinates of a solution into families: one family per bond, with the parameters it touches as legs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynascope.symmetry.labels import Solution, compact, tighten


@dataclass(frozen=True)
class Part:
    """One place where a family acts.

    Attributes:
        key: what it acts on, usually a parameter name.
        coefficient: weight.
        classes: index inside the family for every element, -1 where none; length 1 on axes without change.
    """

    key: str
    coefficient: float
    classes: Tensor


@dataclass(frozen=True)
class Family:
    """Coordinates that act on the same places in the same way.

    Attributes:
        coordinates: their numbers in the solution.
        parts: where they act.
    """

    coordinates: Tensor
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return len(self.coordinates)


def families(
    solution: Solution, places: Sequence[tuple[str, float, Tensor]], *, skip: frozenset[int] = frozenset()
) -> list[Family]:
    """Group coordinates by the set of places where they act.

    Args:
        solution: solved system.
        places: (key, coefficient, labels) of everything that may move.
        skip: coordinates that are not free.

    Returns:
        Families in the order of their first coordinate; coordinates that move nothing are left out.
    """
    slots: list[tuple[str, float, Tensor]] = []
    for key, coefficient, labels in places:
        small = compact([tighten(labels)])[0]
        slots += [(key, coefficient * w, compact([tighten(k)])[0]) for w, k in solution.slots(small)]
    slots = _cancel(slots)
    count = solution.size
    member = np.zeros((count + 1, len(slots)), dtype=bool)
    for i, (_, _, k) in enumerate(slots):
        member[np.unique(k.numpy()), i] = True
    member = member[:count]
    member[sorted(skip)] = False
    groups: dict[bytes, list[int]] = {}
    for k in np.flatnonzero(member.any(1)):
        groups.setdefault(member[k].tobytes(), []).append(int(k))
    out = []
    for signature, ks in groups.items():
        position = np.full(count + 1, -1)
        position[ks] = np.arange(len(ks))
        used = np.flatnonzero(np.frombuffer(signature, dtype=bool))
        parts = tuple(Part(slots[i][0], slots[i][1], torch.from_numpy(position[slots[i][2].numpy()])) for i in used)
        out.append(Family(torch.tensor(ks), parts))
    return sorted(out, key=lambda f: int(f.coordinates[0]))


def _cancel(slots: list[tuple[str, float, Tensor]]) -> list[tuple[str, float, Tensor]]:
    """Add up places that coincide element by element, and drop those that add up to nothing."""
    out: list[tuple[str, float, Tensor]] = []
    for key, c, k in slots:
        for i, (other, d, j) in enumerate(out):
            if other == key and j.shape == k.shape and torch.equal(j, k):
                out[i] = (key, c + d, k)
                break
        else:
            out.append((key, c, k))
    return [(key, c, k) for key, c, k in out if abs(c) > 1e-9]  # coefficients are small rationals
