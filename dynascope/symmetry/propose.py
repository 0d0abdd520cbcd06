"""From solved domains to proposed symmetries: each function reads one family of claims off the graph."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

from dynascope.symmetry.actions import (
    Behind,
    MeanFree,
    Write,
    mean_free,
    mixing,
    scaling,
    shift,
    skipped_scaling,
    unused,
    write,
)
from dynascope.symmetry.charges import Charge, Kind, Leg
from dynascope.symmetry.families import Family, Part, families
from dynascope.symmetry.graph import Graph, bind, op_name
from dynascope.symmetry.kinds import Action, Symmetry, SymmetryLeg
from dynascope.symmetry.operations import LINEAR, behaviour, shape_of
from dynascope.symmetry.scales import IndexDomain, Normalisation, ScaleDomain
from dynascope.symmetry.shifts import ShiftDomain, WriteDomain, driven_coordinates, restricted

# A change of basis is tried with a dense random matrix; beyond this size the proof would cost more than the model.
LARGEST_MIXING = 1024


@dataclass(frozen=True)
class Bond:
    """An index space that operations sum over or carry along.

    Attributes:
        name: key such as ``0.weight>2.weight``.
        size: number of indices.
        through: operations that its tensors pass through.
        behaviours: their kinds.
        parts: parameters that run over it, +1 writers and -1 readers.
        group: the group that it tolerates, in words.
    """

    name: str
    size: int
    through: tuple[str, ...]
    behaviours: frozenset[str]
    parts: tuple[Part, ...]
    group: str = ""

    @property
    def writers(self) -> tuple[str, ...]:
        """Parameters whose output runs over the bond."""
        return tuple(dict.fromkeys(p.key for p in self.parts if p.coefficient > 0))

    @property
    def readers(self) -> tuple[str, ...]:
        """Parameters whose input runs over the bond."""
        return tuple(dict.fromkeys(p.key for p in self.parts if p.coefficient < 0))

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The parts as legs."""
        return tuple(Leg(p.key, p.coefficient, p.classes, self.size) for p in self.parts)


def layer(name: str) -> str:
    """Module path of a parameter.

    Args:
        name: such as ``net.0.weight``.

    Returns:
        Such as ``net.0``.
    """
    path = name.rpartition(".")[0] or name
    return f"layer {path}" if path.isdigit() else path


def short(names: Iterable[str]) -> str:
    """A few names in a few words.

    Args:
        names: parameter names.

    Returns:
        At most two layers and the number of the others.
    """
    layers = list(dict.fromkeys(layer(n) for n in names))
    return ", ".join(layers[:2]) + (f" and {len(layers) - 2} more" if len(layers) > 2 else "")


def _key(names: Sequence[str]) -> str:
    matrices = [n for n in names if n.endswith("weight")] or list(names)
    return (matrices or ["?"])[0] + (f"+{len(matrices) - 1}" if len(matrices) > 1 else "")


def slice_words(part: Part) -> str:
    """Which slice of a parameter a leg is.

    Args:
        part: where a family acts.

    Returns:
        Words such as "axis 0" or "axis 1, 16 of 32".
    """
    axes = [a for a, n in enumerate(part.classes.shape) if n > 1]
    if not axes:
        return "all of it"
    where = "rows" if axes == [0] else "columns" if axes == [1] else f"axes {', '.join(map(str, axes))}"
    taken = int((part.classes >= 0).sum())
    return where if taken == part.classes.numel() else f"{where}, {taken} of {part.classes.numel()}"


def symmetry_legs(parts: Sequence[Part], shapes: dict[str, tuple[int, ...]]) -> tuple[SymmetryLeg, ...]:
    """Legs for people.

    Args:
        parts: where a family acts.
        shapes: shapes of the parameters.

    Returns:
        One leg per part.
    """
    return tuple(SymmetryLeg(p.key, p.coefficient, slice_words(p), shapes[p.key]) for p in parts if p.key in shapes)


def count_words(n: int, noun: str) -> str:
    """A number with its noun.

    Args:
        n: the number.
        noun: in the singular.

    Returns:
        Such as "7 channels".
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def scales(graph: Graph, shapes: dict, softmax_axis: int | None) -> tuple[list[Symmetry], ScaleDomain]:
    """Diagonal symmetries: scales and rescales, with their quadratic charges.

    Args:
        graph: traced module.
        shapes: shapes of the parameters.
        softmax_axis: as in ``inspect``.

    Returns:
        The symmetries, and the interpreted domain.
    """
    domain = ScaleDomain(graph, softmax_axis)
    domain.run()
    places = [(n, c, labels) for n, one in domain.params.items() for c, labels in one]
    places += [(f"@norm/{n.node.name}", c, labels) for n in domain.norms for c, labels in n.x]
    out = []
    for family in families(domain.system.solve(), places):
        parts = [p for p in family.parts if not p.key.startswith("@")]
        if not parts:
            continue
        positive = all(p.coefficient > 0 for p in parts)
        kind: Kind = "scale" if positive else "rescale"
        writers = [p.key for p in parts if p.coefficient > 0]
        readers = [p.key for p in parts if p.coefficient < 0]
        name = f"{kind}/{_key(writers)}" + ("" if positive else f"-{_key(readers)}")
        n = count_words(family.size, "channel" if family.size > 1 else "block")
        words = (
            f"scale of {n} of {short(writers)}, removed by the normalisation that follows"
            if positive
            else f"rescale of {n}: {short(writers)} against {short(readers)}"
        )
        action = scaling(family, domain.norms)
        affine = any(p.key.startswith("@") and not _training(domain, p.key) for p in family.parts)
        legs = tuple(Leg(p.key, p.coefficient, p.classes, family.size) for p in parts)
        charge = None if affine else Charge(name, kind, 2, legs, family.size, True, words)
        group = f"positive scale ({family.size})" if positive else f"positive diagonal ({family.size})"
        out.append(Symmetry(name, words, kind, group, symmetry_legs(parts, shapes), None, action, charge))
    return out, domain


def _training(domain: ScaleDomain, key: str) -> bool:
    return next(n.training for n in domain.norms if f"@norm/{n.node.name}" == key)


def skips(graph: Graph, shapes: dict, softmax_axis: int | None) -> list[Symmetry]:
    """Scales on one side of an addition around a single linear map, which that map absorbs.

    Args:
        graph: traced module.
        shapes: shapes of the parameters.
        softmax_axis: as in ``inspect``.

    Returns:
        Proposals; their generators are affine and depend on W + 1, so no charge of the usual form belongs to them.
    """
    domain = ScaleDomain(graph, softmax_axis, absorb_skips=True)
    domain.run()
    places = [(n, c, labels) for n, one in domain.params.items() for c, labels in one]
    places += [(f"@norm/{n.node.name}", c, labels) for n in domain.norms for c, labels in n.x]
    for name, skip in domain.skips.items():
        places += [(f"@skip/{name}", c, labels) for c, labels in skip.direct]
        places += [(f"@kept/{name}", c, labels) for c, labels in skip.branch]
    out = []
    for family in families(domain.system.solve(), places):
        keys = {p.key.partition("/")[0] for p in family.parts if p.key.startswith("@")}
        if keys != {"@skip"}:
            continue
        parts = [p for p in family.parts if not p.key.startswith("@")]
        names = [p.key for p in parts if p.coefficient > 0] or [p.key for p in parts]
        action = skipped_scaling(family, domain.skips)
        n = count_words(family.size, "channel")
        words = f"rescale of {n} of {short(names)} alone, which the linear map around the skip takes back"
        name = f"rescale/{_key(names)}-skip"
        group = f"positive diagonal ({family.size})"
        out.append(Symmetry(name, words, "rescale", group, symmetry_legs(parts, shapes), None, action, None))
    return out


def bonds(graph: Graph, softmax_axis: int | None) -> tuple[list[Bond], IndexDomain]:
    """The index spaces of the model and what they pass through.

    Args:
        graph: traced module.
        softmax_axis: as in ``inspect``.

    Returns:
        The bonds, and the interpreted domain.
    """
    domain = IndexDomain(graph, softmax_axis)
    domain.run()
    solution = domain.system.solve()
    places = [(n, c, labels) for n, one in domain.params.items() for c, labels in one]
    found = families(solution, places)
    owner = torch.full((solution.size + 1,), -1)
    for i, family in enumerate(found):
        owner[family.coordinates] = i
    through: list[dict[str, str]] = [{} for _ in found]
    for kind, name, labels in domain.seen:
        for _, k in solution.slots(torch.unique(labels)):
            for i in torch.unique(owner[k]).tolist():
                if i >= 0:
                    through[i].setdefault(name, kind)
    out = []
    for family, seen in zip(found, through, strict=True):
        bond = Bond("", family.size, tuple(seen), frozenset(seen.values()), family.parts)
        out.append(replace(bond, name=f"{_key(bond.writers)}>{_key(bond.readers)}"))
    return out, domain


def mixings(found: Sequence[Bond], domain: IndexDomain, shapes: dict) -> list[Symmetry]:
    """Changes of basis: all of GL(n) on bonds that only linear maps touch, rotations where a normalisation is passed.

    Args:
        found: the bonds.
        domain: the interpreted index spaces.
        shapes: shapes of the parameters.

    Returns:
        Proposals.
    """
    out = []
    for bond in found:
        turning = bond.behaviours & {"layer_norm", "rms_norm"}
        linear = bond.behaviours <= LINEAR | {"layer_norm", "rms_norm"}
        if not linear or not 2 <= bond.size <= LARGEST_MIXING or any(abs(p.coefficient) != 1 for p in bond.parts):
            continue
        if not _aligned(bond.parts):
            continue
        where = f"{short(bond.writers)} to {short(bond.readers)}"
        legs = symmetry_legs(bond.parts, shapes)
        if not turning:
            name = f"gl/{bond.name}"
            words = f"any change of basis of the {bond.size} linear units from {where}"
            charge = Charge(name, "gl", 2, bond.legs, bond.size * (bond.size + 1) // 2, True, words, full=True)
            action = mixing(bond.legs, (), bond.size, "gl")
            out.append(Symmetry(name, words, "gl", f"GL({bond.size})", legs, bond.name, action, charge))
            continue
        plain, behind = _behind(bond, domain)
        ones = "layer_norm" in turning
        action = mixing(plain, behind, bond.size, "o_ones" if ones else "o")
        if action.dimension == 0:
            continue
        group = f"O({bond.size - 1 if ones else bond.size})"
        words = f"rotation of the {bond.size} units from {where}, which the normalisation turns along with"
        out.append(Symmetry(f"rotation/{bond.name}", words, "rotation", group, legs, bond.name, action, None))
    return out


def _aligned(parts: Sequence[Part]) -> bool:
    """Whether every index has the same number of places in each part, so that rows can be exchanged."""
    for part in parts:
        counts = torch.bincount(part.classes[part.classes >= 0].reshape(-1))
        if len(set(counts.tolist())) != 1:
            return False
    return True


def _behind(bond: Bond, domain: IndexDomain) -> tuple[list[Leg], list[Behind]]:
    norms = {n.node: n for n in domain.norms if behaviour(n.node) in {"layer_norm", "rms_norm"}}
    gains = {n.weight for n in norms.values() if n.weight}
    offsets = {n.bias: n.weight for n in norms.values() if n.bias}
    source = {}
    for c in domain.contractions.values():
        name = domain.parameter_name(c.weight)
        origin, _ = origin_of(c.x)
        if name is not None and origin in norms:
            source[name] = norms[origin]
    plain, behind = [], []
    for leg in bond.legs:
        if leg.parameter in gains:
            continue
        if leg.parameter in offsets:
            behind.append(Behind(leg, offsets[leg.parameter]))
        elif leg.coefficient < 0 and leg.parameter in source:
            behind.append(Behind(leg, source[leg.parameter].weight))
        else:
            plain.append(leg)
    return plain, behind


def origin_of(node: Node) -> tuple[Node, list[Node]]:
    """Follow a tensor back through operations that only move data.

    Args:
        node: where to start.

    Returns:
        The operation that computed the numbers, and the moves from there on, in order.
    """
    chain: list[Node] = []
    while node.op == "call_function" and behaviour(node) in {"move", "identity"}:
        chain.append(node)
        node = node.args[0]  # type: ignore[assignment]
    return node, chain[::-1]


def shifts(
    graph: Graph, shapes: dict, softmax_axis: int | None, norms: Sequence[Normalisation]
) -> tuple[list[Symmetry], ShiftDomain]:
    """Constant shifts: translations (with a linear charge) and shifts that a later bias absorbs (without).

    Args:
        graph: traced module.
        shapes: shapes of the parameters.
        softmax_axis: as in ``inspect``.
        norms: normalisations, for running statistics.

    Returns:
        Proposals, and the interpreted domain.
    """
    blocked: frozenset[str] = frozenset()
    while True:
        domain = ShiftDomain(graph, softmax_axis, blocked)
        domain.run()
        solution = domain.system.solve()
        more = restricted(domain, solution)
        if not more:
            break
        blocked |= more
    places = [(n, c, labels) for n, one in domain.params.items() for c, labels in one]
    for site in domain.sites:
        if site.role in {"bias", "driven", "affine"}:
            places += [(f"@{site.parameter or site.node.name}", c, labels) for c, labels in site.arriving]
    skip = frozenset(k for ks in driven_coordinates(domain, solution).values() for k in ks.tolist())
    out = []
    for family in families(solution, places, skip=skip):
        direct = [p for p in family.parts if not p.key.startswith("@")]
        absorbed = _takers([p.key.removeprefix("@") for p in family.parts if p.key.startswith("@")], domain)
        if not direct:
            continue
        action = shift(domain, solution, family, graph, norms)
        kind: Kind = "shift" if absorbed else "translation"
        names = [p.key for p in direct]
        name = f"{kind}/{'+'.join(dict.fromkeys(names[:2]))}" + (f">{_key(absorbed)}" if absorbed else "")
        n = count_words(family.size, "constant")
        words = (
            f"{n} added by {short(names)} and taken back by {short(absorbed)}"
            if absorbed
            else f"{n} of {short(names)} that nothing after it can see"
        )
        legs = tuple(Leg(p.key, p.coefficient, p.classes, family.size) for p in direct)
        charge = None if absorbed else Charge(name, kind, 1, legs, family.size, True, words)
        out.append(
            Symmetry(
                name, words, kind, f"translations ({family.size})", symmetry_legs(direct, shapes), None, action, charge
            )
        )
    return out, domain


def _takers(names: Sequence[str], domain: ShiftDomain) -> list[str]:
    """The parameters that take a constant back: what a map without bias passes on arrives further down."""
    driven = {s.node.name: set(s.rows.tolist()) for s in domain.sites if s.role == "driven"}
    out: dict[str, None] = {}
    pending = list(names)
    while pending:
        name = pending.pop(0)
        if name not in driven:
            out[name] = None
            continue
        for site in domain.sites:
            arriving = {v for _, labels in site.arriving for v in torch.unique(labels).tolist()}
            if arriving & driven[name]:
                pending.append(site.parameter or site.node.name)
    return list(out)


def writes(graph: Graph, shapes: dict, softmax_axis: int | None) -> list[Symmetry]:
    """Directions of a bond that nobody reads: every input of a writer may write along them.

    Args:
        graph: traced module.
        shapes: shapes of the parameters.
        softmax_axis: as in ``inspect``.

    Returns:
        Proposals.
    """
    domain = WriteDomain(graph, softmax_axis)
    domain.run()
    solution = domain.system.solve()
    out = []
    for site in domain.sites:
        name = site.parameter or ""
        shape = shapes[name]
        rows = site.contraction.rows(site.rows) if site.contraction else site.rows.view(1, -1).expand(shape)
        lines = families(solution, [(name, 1.0, rows)])
        if not lines or any(len(f.parts) != 1 or f.parts[0].coefficient != 1 for f in lines):
            continue
        classes, count = _join(lines)
        classes = classes.expand(shape) if classes.ndim == len(shape) else classes
        axes = [a for a in range(len(shape)) if classes.shape[a] == 1 or not _varies(rows, a)]
        fibre = torch.arange(int(torch.Size([shape[a] for a in axes]).numel())).view(
            *(shape[a] if a in axes else 1 for a in range(len(shape)))
        )
        one = Write(name, _small(classes, axes), count, fibre, fibre.numel(), site.role == "table")
        action = write(one)
        n = action.dimension
        words = (
            f"{count_words(n, 'sum')} over the outputs of {layer(name)}, a common shift that nothing after it can see"
        )
        key = f"translation/{name}"
        leg = Leg(name, 1.0, one.classes, action.shape[0])
        charge = Charge(key, "translation", 1, (leg,), action.shape[0], True, words)
        legs = (SymmetryLeg(name, 1.0, "one common amount per input", shape),)
        out.append(Symmetry(key, words, "translation", f"translations ({n})", legs, None, action, charge))
    return out


def _varies(labels: Tensor, axis: int) -> bool:
    return labels.shape[axis] > 1 and labels.stride(axis) != 0


def _small(classes: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        classes = classes.narrow(axis, 0, 1)
    return classes


def _join(lines: Sequence[Family]) -> tuple[Tensor, int]:
    """One class map for all directions of a site."""
    total, count = torch.full(lines[0].parts[0].classes.shape, -1), 0
    for family in lines:
        k = family.parts[0].classes
        total = torch.where(k >= 0, k + count, total)
        count += family.size
    return total, count


def mean_free_readers(graph: Graph, domain: ScaleDomain, shapes: dict) -> list[Symmetry]:
    """Weights behind a layer normalisation do not see the mean of its output.

    Args:
        graph: traced module.
        domain: the interpreted scales, for the contractions.
        shapes: shapes of the parameters.

    Returns:
        Proposals.
    """
    out = []
    for c in domain.contractions.values():
        norm, chain = origin_of(c.x)
        weight, bias = domain.parameter_name(c.weight), domain.parameter_name(c.bias)
        if norm.op != "call_function" or behaviour(norm) != "layer_norm" or weight is None or c.layout == "transposed":
            continue
        if c.groups != 1:
            continue
        bound = bind(norm)
        gain, offset = domain.parameter_name(bound["weight"]), domain.parameter_name(bound["bias"])
        if offset is not None and (bias is None or c.padded):
            continue
        lay, groups = _layout(norm, chain, c.axis, tuple(bound["normalized_shape"]))
        if not groups:
            continue
        one = MeanFree(c, weight, bias, gain, offset, lay, groups, tuple(bound["normalized_shape"]))
        action = mean_free(one)
        name = f"null/{weight}"
        words = f"{count_words(action.dimension, 'direction')} of {layer(weight)} that its mean-free input never shows"
        legs = tuple(SymmetryLeg(n, 1.0, "one amount per output", shapes[n]) for n in (weight, bias) if n)
        out.append(Symmetry(name, words, "null", f"translations ({action.dimension})", legs, None, action, None))
    return out


def _layout(
    norm: Node, chain: Sequence[Node], axis: int, normalized: tuple[int, ...]
) -> tuple[Callable[[Tensor], Tensor], int]:
    shape = shape_of(norm)
    depth = len(shape) - len(normalized)
    lead = shape[1:depth]
    ids = torch.arange(int(torch.Size(lead).numel())).view(1, *lead, *[1] * len(normalized)).expand(shape)

    def through(t: Tensor) -> Tensor:
        for step in chain:
            if behaviour(step) == "move":
                t = _again(step, t)
        return t

    def line(t: Tensor) -> Tensor:
        t = through(t).movedim(axis, 0)
        return t.reshape(t.shape[0], -1)[:, 0]

    where = line(ids)
    names, counts = torch.unique(where, return_counts=True)
    whole = names[counts == int(torch.Size(normalized).numel())]
    masks = torch.stack([(where == g) for g in whole]) if len(whole) else torch.zeros(0, len(where), dtype=torch.bool)

    def lay(vector: Tensor) -> Tensor:
        return masks.to(vector) * line(vector.reshape(normalized).expand(shape))

    return lay, len(whole)


def _again(node: Node, t: Tensor) -> Tensor:
    if op_name(node) in {"view", "reshape", "flatten", "unflatten", "_unsafe_view"}:
        return t.reshape(shape_of(node))
    bound = bind(node)
    first = next(iter(a.name for a in node.target._schema.arguments))  # type: ignore[union-attr]
    return node.target(**(bound | {first: t}))  # type: ignore[operator]


def unused_parameters(graph: Graph, shapes: dict) -> list[Symmetry]:
    """Parameters that the output does not depend on.

    Args:
        graph: traced module.
        shapes: shapes of all parameters.

    Returns:
        One symmetry per parameter.
    """
    needed = set(graph.operations) | {graph.output}
    used = {
        graph.parameters[n.name]
        for n in graph.nodes
        if n.op == "placeholder" and n.name in graph.parameters and (set(n.users) & needed or n is graph.output)
    }
    out = []
    for name in (n for n in shapes if n not in used):
        action: Action = unused(name, shapes[name])
        words = f"{count_words(action.dimension, 'number')} of {name}, which the output does not depend on"
        legs = (SymmetryLeg(name, 1.0, "all of it", shapes[name]),)
        out.append(Symmetry(f"unused/{name}", words, "unused", f"R^{action.dimension}", legs, None, action, None))
    return out
