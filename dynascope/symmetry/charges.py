"""Charges: the numbers that a symmetry conserves under gradient flow, as data.

A family of charges is a list of *legs*. A leg says which elements of one parameter belong to which charge of the family
(``classes``) and with which coefficient. Everything a law needs is then one contraction: the bilinear form
``B(x, y) = sum_legs coefficient * sum_class x * y``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["translation", "scale", "rescale", "rotation", "gl", "shift", "null", "unused"]


@dataclass(frozen=True, eq=False)
class Leg:
    """One parameter's part in a family of charges.

    Attributes:
        parameter: name as in ``model.named_parameters()``.
        coefficient: weight of this leg, +1 for a writer and -1 for a reader of a bond; other rationals occur.
        classes: int64, broadcastable to the parameter's shape; the index of the charge inside its family, -1 where an
            element takes no part.
        size: number of charges in the family.
    """

    parameter: str
    coefficient: float
    classes: Tensor
    size: int

    @cached_property
    def summed(self) -> tuple[int, ...]:
        """Axes along which the class does not change, hence summed at once."""
        return tuple(axis for axis, length in enumerate(self.classes.shape) if length == 1)

    @cached_property
    def index(self) -> Tensor | None:
        """Class of each remaining element, or None where that is simply 0, 1, 2, ..."""
        flat = self.classes.reshape(-1)
        plain = flat.numel() == self.size and bool((flat == torch.arange(self.size)).all())
        return None if plain else flat

    def reduce(self, x: Float[Tensor, "..."]) -> Float[Tensor, " size"]:
        """Sum the elements of x by class.

        Args:
            x: a tensor of the parameter's shape.

        Returns:
            One sum per charge, without the coefficient.
        """
        if self.summed and x.ndim:
            x = x.sum(self.summed)
        if self.index is None:
            return x.reshape(-1)
        index = self.index.to(x.device)
        # Class -1 is collected in one extra cell, which is then dropped.
        out = x.new_zeros(self.size + 1)
        return out.index_add(0, torch.where(index < 0, self.size, index), x.reshape(-1))[:-1]

    def unfold(self, x: Float[Tensor, "..."]) -> Float[Tensor, "size rest"]:
        """Put the elements of each class into one row, in the order in which they stand in the parameter.

        Args:
            x: a tensor of the parameter's shape.

        Returns:
            A matrix with one row per charge index; rows are aligned, as a matrix-valued charge needs.
        """
        kept = [axis for axis in range(x.ndim) if axis not in self.summed]
        matrix = x.permute(*kept, *self.summed).reshape(self.classes.numel(), -1)
        flat = self.classes.reshape(-1)
        order = torch.argsort(flat, stable=True)[int((flat < 0).sum()) :].to(x.device)
        return matrix[order].reshape(self.size, -1)

    def fold(self, rows: Float[Tensor, "size rest"], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Inverse of :meth:`unfold`: write rows back into a tensor shaped like the parameter, zero elsewhere.

        Args:
            rows: matrix with one row per charge index.
            like: the parameter.

        Returns:
            A tensor of the parameter's shape.
        """
        kept = [axis for axis in range(like.ndim) if axis not in self.summed]
        flat = self.classes.reshape(-1)
        order = torch.argsort(flat, stable=True)[int((flat < 0).sum()) :].to(like.device)
        shape = [like.shape[axis] for axis in (*kept, *self.summed)]
        matrix = rows.new_zeros(flat.numel(), like.numel() // max(flat.numel(), 1))
        matrix = matrix.index_copy(0, order, rows.reshape(order.numel(), -1))
        inverse = torch.argsort(torch.tensor([*kept, *self.summed])).tolist()
        return matrix.reshape(shape).permute(*inverse) if like.ndim else matrix.reshape(())

    def spread(self, values: Float[Tensor, " size"]) -> Float[Tensor, "..."]:
        """Value of its class for every element, 0 where an element takes no part.

        Args:
            values: one number per charge of the family.

        Returns:
            A tensor broadcastable to the parameter.
        """
        classes = self.classes.to(values.device)
        padded = torch.cat([values, values.new_zeros(1)])
        return padded[classes]


@dataclass(frozen=True, eq=False)
class Charge:
    """A family of conserved numbers of one kind.

    Degree 1: ``Q_i = sum_legs c * sum_(class i) theta``. Degree 2: ``Q_i = sum_legs c * sum_(class i) theta^2``. With
    ``full`` the family is the symmetric matrix ``Q_ij = sum_legs c * <theta_i, theta_j>`` of a linear bond, upper
    triangle row by row.

    Attributes:
        name: unique key such as ``rescale/0.weight-2.weight``.
        kind: the symmetry it belongs to.
        degree: 1 or 2.
        legs: the parameters that take part.
        size: number of conserved numbers.
        exact: False where the law holds only at normalisation epsilon 0.
        words: one line for people.
        full: True for a matrix-valued charge.
    """

    name: str
    kind: Kind
    degree: int
    legs: tuple[Leg, ...]
    size: int
    exact: bool
    words: str
    full: bool = False

    def bilinear(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Float[Tensor, " size"]:
        """The form B(x, y) whose diagonal is the charge (degree 2).

        Args:
            x: tensors by parameter name; only this family's legs are read.
            y: the same.

        Returns:
            B(x, y) for each charge.

        Raises:
            ValueError: the charge has degree 1.
        """
        if self.degree != 2:
            raise ValueError(f"{self.name} has degree {self.degree}; a bilinear form needs degree 2, use linear()")
        if self.full:
            grams = [
                leg.coefficient * leg.unfold(x[leg.parameter]) @ leg.unfold(y[leg.parameter]).T for leg in self.legs
            ]
            total = torch.stack(grams).sum(0)
            return _upper((total + total.T) / 2)
        return self._sum(lambda leg: leg.reduce(x[leg.parameter] * y[leg.parameter]))

    def linear(self, x: Mapping[str, Tensor]) -> Float[Tensor, " size"]:
        """The linear form of a degree-1 charge.

        Args:
            x: tensors by parameter name.

        Returns:
            The form's value for each charge.

        Raises:
            ValueError: the charge has degree 2.
        """
        if self.degree != 1:
            raise ValueError(f"{self.name} has degree {self.degree}; a linear form needs degree 1, use bilinear()")
        return self._sum(lambda leg: leg.reduce(x[leg.parameter]))

    def value(self, params: Mapping[str, Tensor]) -> Float[Tensor, " size"]:
        """The charges themselves.

        Args:
            params: parameters by name.

        Returns:
            One number per charge.
        """
        return self.linear(params) if self.degree == 1 else self.bilinear(params, params)

    def scale(self, params: Mapping[str, Tensor]) -> Float[Tensor, " size"]:
        """The yardstick of a leak: summed squared norms of the legs (degree 2), or their absolute values (degree 1).

        A linear charge may pass through zero (a single bias does), where a relative error says nothing; its yardstick
        is therefore the mean over the family.

        Args:
            params: parameters by name.

        Returns:
            One number per charge.
        """
        if self.full:
            rows = [abs(leg.coefficient) * leg.unfold(params[leg.parameter]).square().sum(1) for leg in self.legs]
            norms = torch.stack(rows).sum(0)
            return _upper((norms[:, None] + norms) / 2)
        power = torch.abs if self.degree == 1 else torch.square
        sizes = self._sum(lambda leg: leg.reduce(power(params[leg.parameter])), absolute=True)
        return sizes.mean().expand(self.size) if self.degree == 1 else sizes

    def _sum(self, term: Any, *, absolute: bool = False) -> Tensor:
        total = None
        for leg in self.legs:
            coefficient = abs(leg.coefficient) if absolute else leg.coefficient
            part = term(leg) * coefficient if coefficient != 1 else term(leg)
            total = part if total is None else total + part
        if total is None:
            raise ValueError(f"{self.name} has no legs")
        return total


def _upper(symmetric: Float[Tensor, "n n"]) -> Float[Tensor, " entries"]:
    """Upper triangle, row by row."""
    rows, columns = torch.triu_indices(len(symmetric), len(symmetric), device=symmetric.device)
    return symmetric[rows, columns]
