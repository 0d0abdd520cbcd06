"""A symmetry as a value: what moves, how far, and what is known about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dynascope.symmetry.charges import Charge, Kind

Params = Mapping[str, Tensor]
Moved = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Action:
    """A family of motions of the parameters, linear in its element.

    Attributes:
        shape: shape of an element; an element is a vector of the Lie algebra, one entry per coordinate.
        dimension: number of independent coordinates, where it differs from the number of entries.
        tangent: (params, buffers, element) -> change of each parameter that moves, to first order.
        finite: (params, buffers, element) -> all parameters and buffers after the full motion.
    """

    shape: tuple[int, ...]
    dimension: int
    tangent: Callable[[Params, Params, Tensor], dict[str, Tensor]] = field(repr=False)
    finite: Callable[[Params, Params, Tensor], Moved] = field(repr=False)


@dataclass(frozen=True)
class SymmetryLeg:
    """For people: which slice of which parameter takes part.

    Attributes:
        parameter: name.
        coefficient: +1 writes on the bond, -1 reads from it.
        slice: words such as "rows" or "columns 0 to 15".
        shape: the parameter's shape.
    """

    parameter: str
    coefficient: float
    slice: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A continuous symmetry of a model: a family of generators of one kind, on one bond.

    Attributes:
        name: unique key such as ``rescale/0.weight-2.weight``.
        words: one line for people.
        kind: translation, scale, rescale, rotation, gl, shift, null or unused.
        group: the group, such as "positive diagonal (7)".
        legs: the parameters that take part.
        bond: the bond it acts on, or None.
        modes: modes in which the function stays the same ("train", "eval"), running statistics moved along.
        exact: False where it holds only with every normalisation epsilon at zero.
        residual: size of the Jacobian-vector product at epsilon zero, relative to the same legs moved at random.
        violation: the same at the model's own epsilon.
        charge: what gradient flow conserves because of it, or None.
        action: the motion itself.
        buffers: the model's buffers at inspection, used where the motion depends on running statistics.
    """

    name: str
    words: str
    kind: Kind
    group: str
    legs: tuple[SymmetryLeg, ...]
    bond: str | None
    action: Action = field(repr=False)
    charge: Charge | None = field(default=None, repr=False)
    modes: tuple[str, ...] = ()
    exact: bool = True
    residual: float = float("nan")
    violation: float = float("nan")
    buffers: Params = field(default_factory=dict, repr=False)

    @property
    def dimension(self) -> int:
        """Number of independent generators."""
        return self.action.dimension

    def element(self, generator: torch.Generator) -> Tensor:
        """A random element of the Lie algebra.

        Args:
            generator: source of randomness.

        Returns:
            Standard normal entries, float64.
        """
        return torch.randn(self.action.shape, generator=generator, dtype=torch.float64)

    def generator(
        self, params: Params, element: Tensor | None = None, buffers: Params | None = None
    ) -> dict[str, Tensor]:
        """The vector field xi(theta); <grad L, xi> = 0 on every batch.

        Args:
            params: parameters by name.
            element: coordinates, all ones if not given.
            buffers: running statistics, those at inspection if not given.

        Returns:
            The change of every parameter that moves.
        """
        element = torch.ones(self.action.shape, dtype=torch.float64) if element is None else element
        return self.action.tangent(params, self.buffers if buffers is None else buffers, _like(element, params))

    def act(self, params: Params, buffers: Params, element: Tensor) -> Moved:
        """A finite group element, the exponential of ``element``.

        Args:
            params: parameters by name.
            buffers: buffers by name; running statistics move along.
            element: coordinates.

        Returns:
            New parameters and buffers; nothing is written in place.
        """
        return self.action.finite(params, buffers, _like(element, params))

    def confirmed(self, **measured: object) -> "Symmetry":
        """The same symmetry with what verification found.

        Args:
            **measured: fields to replace.

        Returns:
            A new value.
        """
        return replace(self, **measured)  # type: ignore[arg-type]


def _like(element: Tensor, params: Params) -> Tensor:
    first = next(iter(params.values()))
    return element.to(device=first.device, dtype=first.dtype)
