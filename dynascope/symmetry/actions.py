"""Closed forms of the motions: each constructor turns one family into tangent and finite group element."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynascope.symmetry.charges import Leg
from dynascope.symmetry.families import Family, Part
from dynascope.symmetry.graph import Graph, bind
from dynascope.symmetry.kinds import Action, Moved, Params
from dynascope.symmetry.labels import Field, Solution
from dynascope.symmetry.operations import Contraction, apply_without_bias, shape_of
from dynascope.symmetry.scales import Normalisation, Skip
from dynascope.symmetry.shifts import ShiftDomain, Site, driven_coordinates


def spread(values: Tensor, classes: Tensor) -> Tensor:
    """Value of its class at every element, 0 where an element takes no part.

    Args:
        values: one number per class.
        classes: classes, -1 where none.

    Returns:
        A tensor of the shape of ``classes``.
    """
    return torch.cat([values, values.new_zeros(1)])[classes.to(values.device)]


def _added(params: Params, change: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p + change[name] if name in change else p for name, p in params.items()}


def scaling(family: Family, norms: Sequence[Normalisation]) -> Action:
    """Multiply every element by the exponential of its log-scale.

    Behind running statistics y = gamma (x - mu) / sigma + beta the mean does not scale, so the offset has to follow:
    beta' = c beta - c gamma mu / sigma (1 - 1 / a) when x is scaled by a and y by c. With batch statistics the running
    ones move along instead: mu' = a mu, var' = a^2 var.

    Args:
        family: coordinates with parameter names and ``@norm/<node>`` as keys.
        norms: the normalisations behind those keys.

    Returns:
        The motion; its element is one log-scale per coordinate.
    """
    legs = [p for p in family.parts if not p.key.startswith("@")]
    arriving = {p.key.removeprefix("@norm/"): [] for p in family.parts if p.key.startswith("@")}
    for p in family.parts:
        if p.key.startswith("@"):
            arriving[p.key.removeprefix("@norm/")].append(p)
    touched = [n for n in norms if n.node.name in arriving]

    def log_scale(parts: Sequence[Part], element: Tensor) -> Tensor:
        return sum((p.coefficient * spread(element, p.classes) for p in parts), element.new_zeros(()))

    def by_name(element: Tensor) -> dict[str, Tensor]:
        names = dict.fromkeys(p.key for p in legs)
        return {n: log_scale([p for p in legs if p.key == n], element) for n in names}

    def correction(norm: Normalisation, params: Params, buffers: Params) -> Tensor:
        sigma = (buffers[norm.variance] + norm.epsilon).sqrt()  # type: ignore[index]
        return params[norm.weight] * buffers[norm.mean] / sigma  # type: ignore[index]

    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        change = {n: params[n] * e for n, e in by_name(element).items()}
        for norm in (n for n in touched if not n.training):
            moved = -log_scale(arriving[norm.node.name], element) * correction(norm, params, buffers)
            change[norm.bias] = change.get(norm.bias, 0) + moved  # type: ignore[index, arg-type]
        return change

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        scales = by_name(element)
        new = {n: p * scales[n].exp() if n in scales else p for n, p in params.items()}
        statistics = dict(buffers)
        for norm in touched:
            a = log_scale(arriving[norm.node.name], element).exp()
            if not norm.training:
                c = scales[norm.bias].exp() if norm.bias in scales else 1.0
                new[norm.bias] = new[norm.bias] - c * correction(norm, params, buffers) * (1 - 1 / a)  # type: ignore[index]
            elif norm.mean is not None and norm.variance is not None:
                statistics[norm.mean] = buffers[norm.mean] * a
                statistics[norm.variance] = buffers[norm.variance] * a.square()
        return new, statistics

    return Action((family.size,), family.size, tangent, finite)


def skipped_scaling(family: Family, skips: Mapping[str, Skip]) -> Action:
    """Scale one side of h + (W h + b): W + 1 takes the difference, W' = c W / a + (c - a) / a on the diagonal.

    Args:
        family: coordinates with parameter names and ``@skip/<node>`` as keys.
        skips: the additions behind those keys.

    Returns:
        The action; its element is one log-scale a per coordinate, the other side keeps c = 1.
    """
    plain = scaling(Family(family.coordinates, tuple(p for p in family.parts if not p.key.startswith("@"))), ())
    touched = [(skips[p.key.removeprefix("@skip/")], p) for p in family.parts if p.key.startswith("@skip/")]

    def centred(skip: Skip, values: Tensor, like: Tensor) -> Tensor:
        middle = torch.zeros_like(like)
        taps = tuple(n // 2 for n in skip.contraction.weight_shape[2:]) if skip.contraction.layout == "conv" else ()
        middle[(slice(None), slice(None), *taps)] = torch.diag(values)
        return middle

    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        change = plain.tangent(params, buffers, element)
        for skip, part in touched:
            moved = -centred(skip, part.coefficient * spread(element, part.classes), params[skip.weight])
            change[skip.weight] = change[skip.weight] + moved if skip.weight in change else moved
        return change

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        new, statistics = plain.finite(params, buffers, element)
        for skip, part in touched:
            away = (-part.coefficient * spread(element, part.classes)).expm1()
            new[skip.weight] = new[skip.weight] + centred(skip, away, params[skip.weight])
        return new, statistics

    return Action((family.size,), family.size, tangent, finite)


def shift(
    domain: ShiftDomain, solution: Solution, family: Family, graph: Graph, norms: Sequence[Normalisation]
) -> Action:
    """Add constants where they may enter and absorb them at the next biases: delta b = t - W s.

    Args:
        domain: the interpreted shifts.
        solution: its solution.
        family: free coordinates.
        graph: the traced module.
        norms: normalisations, for running statistics.

    Returns:
        The motion; its element is one constant per coordinate. It is linear, so tangent and finite motion agree.
    """
    driven = driven_coordinates(domain, solution)
    eval_norms = {n.node: n for n in norms if not n.training}
    train_norms = {n.node: n for n in norms if n.training and n.mean is not None}
    bare = {n: f for n, f in domain.params.items() if f and n not in {s.parameter for s in domain.sites}}

    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        coordinates = torch.zeros(solution.size, dtype=torch.float64)
        coordinates[family.coordinates] = element.detach().cpu().double()
        for site in domain.sites:
            if site.role == "driven" and site.arriving:
                at = arrives(site, solution.values(coordinates), params)
                coordinates[driven[site.node.name]] = at.cpu().double()
        values = solution.values(coordinates)
        change: dict[str, Tensor] = {}
        for site in domain.sites:
            moved = _site_change(site, values, params, buffers, eval_norms, arrives)
            if moved is not None and bool(moved.any()):
                change[site.parameter] = moved.to(params[site.parameter])  # type: ignore[index]
        for name, one in bare.items():
            moved = _constant(one, values)
            if bool(moved.any()):
                change[name] = moved.to(params[name])
        return change

    def arrives(site: Site, values: Tensor, params: Params) -> Tensor:
        c: Contraction = site.contraction  # type: ignore[assignment]
        weight = params[graph.parameters[c.weight.name]]
        x = _constant(site.arriving, values).to(weight)
        y = apply_without_bias(site.node, c, weight, x[:1].contiguous())
        return y.movedim(c.axis, 0).reshape(c.out_channels, -1)[:, 0]

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        new = _added(params, tangent(params, buffers, element))
        statistics = dict(buffers)
        coordinates = torch.zeros(solution.size, dtype=torch.float64)
        coordinates[family.coordinates] = element.detach().cpu().double()
        values = solution.values(coordinates)
        for site in domain.sites:  # running means follow what their normalisation will subtract
            if site.node in train_norms and site.arriving:
                mean = train_norms[site.node].mean
                moved = _constant(site.arriving, values).movedim(1, 0).reshape(site.rows.numel(), -1)[:, 0]
                statistics[mean] = buffers[mean] + moved.to(buffers[mean])  # type: ignore[index]
        return new, statistics

    return Action((family.size,), family.size, tangent, finite)


def _constant(one: Field, values: Tensor) -> Tensor:
    return sum((c * values[labels] for c, labels in one), values.new_zeros(one[0][1].shape if one else ()))


def _site_change(
    site: Site, values: Tensor, params: Params, buffers: Params, eval_norms: dict, arrives: Callable
) -> Tensor | None:
    own = values[site.rows]
    if site.role == "driven" or site.parameter is None:
        return None
    if site.role == "table":
        return own.view(1, -1).expand(params[site.parameter].shape)
    if site.role == "bias":
        return own - arrives(site, values, params).cpu() if site.arriving else own
    own = own.view(params[site.parameter].shape)
    if site.role == "affine" and site.arriving:
        norm = eval_norms[site.node]
        x = _constant(site.arriving, values).movedim(1, 0).reshape(len(own), -1)[:, 0]
        gain = params[norm.weight] / (buffers[norm.variance] + norm.epsilon).sqrt()
        return own - gain.cpu() * x
    return own


@dataclass(frozen=True)
class Write:
    """Writes of one weight along directions that nobody reads.

    Attributes:
        parameter: the weight.
        directions: class of the direction for every element, -1 where none, in the weight's shape.
        count: number of directions.
        fibre: index of the remaining position (input column, tap) of every element, in the weight's shape.
        positions: number of remaining positions.
        table: True for an embedding, where equal writes of all rows are already a constant shift.
    """

    parameter: str
    directions: Tensor
    count: int
    fibre: Tensor
    positions: int
    table: bool = False

    @property
    def classes(self) -> Tensor:
        """Index of the charge of every element: one per direction and position."""
        joint = self.directions * self.positions + self.fibre
        return torch.where(self.directions < 0, -1, joint)


def write(one: Write) -> Action:
    """Add to a weight, for every input, the same amount along an unread direction.

    Args:
        one: the directions.

    Returns:
        The motion; its element is one amount per direction and position.
    """
    size = one.count * one.positions

    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        return {one.parameter: spread(element, one.classes).expand(params[one.parameter].shape)}

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        return _added(params, tangent(params, buffers, element)), dict(buffers)

    return Action((size,), size - one.count * one.table, tangent, finite)


@dataclass(frozen=True)
class MeanFree:
    """A reader of normalised activations that have no mean, so that part of its weight never sees anything.

    Attributes:
        reader: contraction behind the normalisation.
        weight: its weight.
        bias: its bias, or None.
        gain: gain of the normalisation, or None.
        offset: offset of the normalisation, or None.
        lay: puts a vector over the normalised axes on the reader's input channels, one row per normalised group.
        groups: number of normalised groups in the input channels.
    """

    reader: Contraction
    weight: str
    bias: str | None
    gain: str | None
    offset: str | None
    lay: Callable[[Tensor], Tensor]
    groups: int
    normalized_shape: tuple[int, ...]


def mean_free(one: MeanFree) -> Action:
    r"""Move a reader where its input has no mean: delta W_oi = a_o / gamma_i, delta b_o = -a_o sum_i beta_i / gamma_i.

    The normalised z sums to zero, so with y = gamma z + beta the combination sum_i y_i / gamma_i is a constant.

    Args:
        one: the reader.

    Returns:
        The motion; its element is one amount per group, output channel and tap.
    """
    c = one.reader
    taps = tuple(c.weight_shape[2:]) if c.layout == "conv" else ()
    rows = c.out_channels
    shape = (one.groups, rows, *taps)

    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        weight = params[one.weight]
        gain = params[one.gain] if one.gain else weight.new_ones(one.normalized_shape)
        along = one.lay(1 / gain)  # groups x in
        if taps:
            delta = torch.einsum("gi,go...->oi...", along, element)
        else:
            delta = torch.einsum("gi,go->oi", along, element)
        change = {one.weight: delta.T if c.layout == "matmul" else delta}
        if one.offset is not None:
            level = (params[one.offset] / gain).sum()
            summed = element.sum(0)
            summed = summed.flatten(1).sum(1) if taps else summed
            change[one.bias] = -level * summed  # type: ignore[index]
        return change

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        return _added(params, tangent(params, buffers, element)), dict(buffers)

    size = int(torch.Size(shape).numel())
    return Action(shape, size, tangent, finite)


@dataclass(frozen=True)
class Behind:
    """A leg that sees the bond through the gain of a normalisation.

    Attributes:
        leg: the leg.
        gain: name of the gain, or None.
    """

    leg: Leg
    gain: str | None


def mixing(plain: Sequence[Leg], behind: Sequence[Behind], size: int, group: str) -> Action:
    """Change the basis of a bond: writers by g, readers by its inverse transpose.

    Behind a normalisation with gain Gamma a reader sees Gamma z, so it turns as Gamma^-1 g Gamma and the offset as
    Gamma g Gamma^-1; only rotations pass the normalisation itself.

    Args:
        plain: legs on the bond itself.
        behind: readers and offsets behind normalisations.
        size: size of the bond.
        group: "gl", "o", or "o_ones" for the rotations that keep the direction (1, ..., 1).

    Returns:
        The motion; its element is a square matrix, projected on the algebra.
    """

    def algebra(element: Tensor) -> Tensor:
        if group == "gl":
            return element
        turn = (element - element.T) / 2
        if group == "o_ones":
            centre = torch.eye(size).to(element) - 1.0 / size
            turn = centre @ turn @ centre
        return turn

    def moved(leg: Leg, matrix: Tensor, p: Tensor) -> Tensor:
        return leg.fold(matrix @ leg.unfold(p), p)

    def conjugate(b: Behind, matrix: Tensor, params: Params) -> Tensor:
        if b.gain is None:
            return matrix
        gain = params[b.gain].reshape(-1)
        return gain[:, None] * matrix / gain if b.leg.coefficient > 0 else matrix * gain / gain[:, None]

    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        m = algebra(element)
        change: dict[str, Tensor] = {}
        for leg in plain:
            part = moved(leg, m if leg.coefficient > 0 else -m.T, params[leg.parameter])
            change[leg.parameter] = change.get(leg.parameter, 0) + part  # type: ignore[arg-type]
        for b in behind:
            part = moved(b.leg, conjugate(b, m, params), params[b.leg.parameter])
            change[b.leg.parameter] = change.get(b.leg.parameter, 0) + part  # type: ignore[arg-type]
        return change

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        g = torch.linalg.matrix_exp(algebra(element))
        new = dict(params)
        for leg in plain:
            matrix = g if leg.coefficient > 0 else torch.linalg.inv(g).T
            new[leg.parameter] = _replace(leg, matrix, new[leg.parameter])
        for b in behind:
            new[b.leg.parameter] = _replace(b.leg, conjugate(b, g, params), new[b.leg.parameter])
        return new, dict(buffers)

    dimension = {"gl": size * size, "o": size * (size - 1) // 2, "o_ones": (size - 1) * (size - 2) // 2}[group]
    return Action((size, size), dimension, tangent, finite)


def _replace(leg: Leg, matrix: Tensor, p: Tensor) -> Tensor:
    rows = leg.unfold(p)
    return p + leg.fold(matrix @ rows - rows, p)


def unused(name: str, shape: tuple[int, ...]) -> Action:
    """Any motion of a parameter that the output does not depend on.

    Args:
        name: the parameter.
        shape: its shape.

    Returns:
        The motion; its element has the parameter's shape.
    """

    def tangent(params: Params, buffers: Params, element: Tensor) -> dict[str, Tensor]:
        return {name: element}

    def finite(params: Params, buffers: Params, element: Tensor) -> Moved:
        return _added(params, {name: element}), dict(buffers)

    return Action(shape, int(torch.Size(shape).numel()), tangent, finite)


def normalisation_axes(graph_node) -> tuple[int, ...]:
    """Normalised shape of a layer or root-mean-square normalisation.

    Args:
        graph_node: its call node.

    Returns:
        The shape.
    """
    return (
        tuple(bind(graph_node)["normalized_shape"])
        if "normalized_shape" in bind(graph_node)
        else shape_of(graph_node)[1:2]
    )
