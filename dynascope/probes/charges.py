r"""Charges of a model while it trains: measured from the weights, the gradient and the optimiser's own state.

With B(x, y) the bilinear form of a family of charges, theta the parameters, v the momentum buffer before the
step, g the gradient and u the direction that the settings say will be applied, a recorded step holds

    value B(theta, theta),  momentum B(theta, v),  gradient B(theta, g),  source B(u, u),  after B(theta',
    theta')

and for a linear charge the linear form of theta, v, g and theta'. The source is computed from g, v and the
settings before the step, never from the change of the weights: an optimiser that does not do what its
settings say must leave a leak. (Reading the new buffer after the step would be as cheap, but would repeat
whatever the optimiser did wrong.)

``charges`` is the plain form, family by family. ``ChargeInstrument`` is the same in few large operations: it
copies the legs side by side, forms all products at once and keeps one sum per leg; families are put together
later, away from training. The two are compared at the first recorded step of every run.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from dynascope.base.cards import ProbeCard
from dynascope.base.errors import DynascopeError, Unsupported
from dynascope.base.settings import SGDSettings
from dynascope.functional.class_sums import Cell
from dynascope.functional.forms import Bucket, Gram, forms
from dynascope.functional.sgd import Span, follows_sgd, sgd_direction, stand_still, write_sgd_direction
from dynascope.functional.snapshot import OptimizerView, Snapshot
from dynascope.probes import PROBES
from dynascope.symmetry.charges import Charge, Leg

MEANING: Final = {
    "value": "the charge before the step: B(theta, theta), or the linear form of theta",
    "scale": "summed squared norms (degree 2) or absolute values (degree 1) of the legs: the yardstick of a leak",
    "momentum": "the form of theta and the momentum buffer before the step",
    "gradient": "the form of theta and the gradient: 0 by symmetry",
    "source": "B(u, u), u the direction applied according to the settings",
    "cross": "B(u, v'), v' the momentum buffer after the step (Nesterov)",
    "source_velocity": "B(v', v') (Nesterov)",
    "after": "the charge after the step",
}
_PAIRS: Final = {
    "value": ("theta", "theta"),
    "momentum": ("theta", "v"),
    "gradient": ("theta", "g"),
    "source": ("u", "u"),
    "cross": ("u", "w"),
    "source_velocity": ("w", "w"),
}

# Elements worked on at once: enough to hide the cost of a call, few enough to stay in a core's cache. Measured on a
# network of 1.3 million parameters, one thread: 2^14 takes 5.5 ms, 2^15 4.1, 2^16 3.6, 2^17 3.5, 2^18 3.4, 10^6 5.9.
BUCKET: Final = 2**17
# A GPU hides nothing by small pieces; there the bound only limits the memory of the copies.
BUCKET_ACCELERATOR: Final = 2**22
# Matrix-valued families (linear bonds) grow with the square of the width; past this many numbers in all, the
# widest are left out, and the run says so.
LARGEST_MATRICES: Final = 2**17


# ---------------------------------------------------------------------------------------------- the plain for


@PROBES.register(
    ProbeCard(
        name="charges",
        measures="the conserved charges of the model's symmetries and every term of their account",
        equation="B(theta, theta), B(theta, v), B(theta, g), B(u, u)",
        needs={"gradients", "optimizer"},
        cost="about ten passes over the parameters that carry a charge, no backward pass",
        source="neural-mechanics, arXiv 2012.04728",
        fails_when="the optimiser is not SGD: then the charges are recorded without the terms of a law",
    )
)
def charges(snapshot: Snapshot, families: Sequence[Charge]) -> dict[str, dict[str, Tensor]]:
    """Every term of the account of every family, in the obvious form (slow: several operations a leg and a term).

    Args:
        snapshot: the moment just before an optimiser step; its gradients are those that the step will use.
        families: families of charges, usually ``anatomy.charge_families``.

    Returns:
        For each family's name its columns as in ``MEANING``, all but ``after``; the terms of a law only under
        SGD.
    """
    return {family.name: _columns(family, _quantities(family, snapshot)) for family in families}


def _columns(family: Charge, quantities: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    columns = {"scale": family.scale(quantities["theta"])}
    for name, (left, right) in _PAIRS.items():
        if family.degree == 2 and left in quantities and right in quantities:
            columns[name] = family.bilinear(quantities[left], quantities[right])
        elif family.degree == 1 and left == "theta" and right in quantities:
            columns[name] = family.linear(quantities[right])
    return columns


def _quantities(family: Charge, snapshot: Snapshot) -> dict[str, dict[str, Tensor]]:
    """Theta and g of a family's legs by parameter name; under SGD also v and u, under Nesterov w = v'."""
    view = snapshot.optimizer
    theta = {leg.parameter: snapshot.params[leg.parameter].detach() for leg in family.legs}
    settings = {name: view.settings(name) if view else {} for name in theta}
    gradients = {name: (snapshot.gradients or {}).get(name) for name in theta}
    g = {name: torch.zeros_like(theta[name]) if x is None else x for name, x in gradients.items()}
    # SGD alone has a dampening
    if view is None or not any("dampening" in entry for entry in settings.values()):
        return {"theta": theta, "g": g}
    buffers = {name: view.state(name).get("momentum_buffer") for name in theta}
    # With momentum 0 a buffer left over from earlier plays no part in the step.
    used = {name: x is not None and settings[name].get("momentum", 0) > 0 for name, x in buffers.items()}
    v = {name: buffers[name] if used[name] else torch.zeros_like(theta[name]) for name in theta}
    moves = [sgd_direction(theta[name], gradients[name], buffers[name], settings[name]) for name in theta]
    u, w = (dict(zip(theta, tensors, strict=True)) for tensors in zip(*moves, strict=True))
    quantities = {"theta": theta, "v": v, "g": g, "u": u}
    nesterov = any(entry.get("nesterov") for entry in settings.values())
    return quantities | {"w": w} if nesterov else quantities


# ----------------------------------------------------------------------------------------------- the fast for


class _Part(NamedTuple):
    """A leg of a family, the parameter group that moves it, and where its sums stand in the row."""

    leg: Leg
    group: int | None
    place: slice


class _Segment(NamedTuple):
    """Neighbouring pieces that one parameter group moves, together and one by one."""

    group: int | None
    tensors: tuple[int, ...]
    together: Span
    single: tuple[Span, ...]


class ChargeInstrument:
    """Measures families of charges around optimiser steps, fast enough to do so at every step.

    After ``before()`` and ``after()`` the tensor ``row`` (columns, numbers) holds the sums of every leg;
    ``unpack`` turns recorded rows into the columns of each family.

    Args:
        families: families of charges, usually ``anatomy.charge_families``.
        model: the model; parameter names are its.
        optimizer: the optimiser that trains it.
        bucket: elements worked on at once; None for what suits the device.

    Raises:
        ValueError: no family is given, or one names a parameter that the model lacks.
        Unsupported: a leg is complex.
    """

    def __init__(
        self, families: Sequence[Charge], model: nn.Module, optimizer: Optimizer, *, bucket: int | None = None
    ) -> None:
        self.notes: list[tuple[Literal["info", "warning"], str]] = []
        """What should be written down about the recording, as (level, text); whoever reads it empties it."""
        self._optimizer, self._view = optimizer, OptimizerView(optimizer, model)
        self._law = follows_sgd(optimizer)
        self._nesterov = self._law and any(group["nesterov"] for group in optimizer.param_groups)
        self._families = self._affordable(families)
        self._named = self._legs_of(model)
        self._params = list(self._named.values())
        self._groups = [self._view.group_index(name) for name in self._named]
        # rows of working memory: theta, (v,) g, |theta|, then u and v' where there is a law
        copied = ("theta", "v", "g") if self._law else ("theta", "g")
        rows = (*copied, "|theta|", *(("u",) if self._law else ()), *(("w",) if self._nesterov else ()))
        self._names = [name for name, pair in _PAIRS.items() if set(pair) <= set(rows)]
        pairs = [(rows.index(left), rows.index(right)) for left, right in (_PAIRS[n] for n in self._names)]
        self._magnitude = len(copied)
        self._absent: set[str] = set()
        self._checked = False
        self._plan(copied, rows, pairs, bucket)

    @property
    def name(self) -> str:
        """For messages and files."""
        return "charges"

    # ------------------------------------------------------------------------------------------- recording

    @torch.no_grad()
    def before(self) -> None:
        """Measure everything but ``after``; the gradients are those that the coming step will use.

        Raises:
            DynascopeError: on first use, where the fast sums differ from the plain form.
        """
        gradients = [_gradient(parameter) for parameter in self._params]
        self._note_absent(gradients)
        scale = getattr(self._optimizer, "grad_scale", None)
        buffers = self._buffers() if self._law else []
        for bucket, segments in self._before:
            bucket.load(self._params, *([buffers] if self._law else []), gradients)
            if scale is not None:  # a fused step under a gradient scaler divides by the scale itself
                bucket.quantities[self._magnitude - 1].div_(scale)
            for segment in segments:
                self._move(segment, gradients, buffers)
            bucket.run()
        if not self._checked:
            self._check(gradients, scale)
            self._checked = True

    @torch.no_grad()
    def after(self) -> None:
        """Measure the charges after the step, into the last column of the row."""
        for bucket in self._after:
            bucket.load(self._params)
            bucket.run()

    def _buffers(self) -> list[Tensor | None]:
        """The momentum buffers before the step; None where there is none or where it plays no part."""
        state, groups = self._optimizer.state, self._optimizer.param_groups
        return [
            state[parameter].get("momentum_buffer")
            if group is not None and parameter in state and groups[group]["momentum"]
            else None
            for parameter, group in zip(self._params, self._groups, strict=True)
        ]

    def _move(self, segment: _Segment, gradients: list[Tensor | None], buffers: list[Tensor | None]) -> None:
        """Write the direction that the settings, as they are now, will apply."""
        settings = {} if segment.group is None else self._optimizer.param_groups[segment.group]
        fresh = {buffers[tensor] is None for tensor in segment.tensors}
        if len(fresh) == 1 and settings and all(gradients[tensor] is not None for tensor in segment.tensors):
            write_sgd_direction(segment.together, settings, fresh=fresh.pop())
            return
        for tensor, span in zip(segment.tensors, segment.single, strict=True):
            if settings and gradients[tensor] is not None:
                write_sgd_direction(span, settings, fresh=buffers[tensor] is None)
            else:  # SGD leaves a parameter without a gradient alone
                stand_still(span)

    def _note_absent(self, gradients: list[Tensor | None]) -> None:
        for name, group, gradient in zip(self._named, self._groups, gradients, strict=True):
            if gradient is None and group is not None and name not in self._absent:
                self._absent.add(name)
                self.notes.append(
                    (
                        "warning",
                        f"{name} had no gradient at a recorded step: its charges are constraints, not laws",
                    )
                )

    def _check(self, gradients: list[Tensor | None], scale: Tensor | None) -> None:
        """Compare the row with the plain form in double precision; waits for the device, once."""
        measured = dict(self.unpack(self.row.cpu().numpy()[None]))
        given = {name: g.double() for name, g in zip(self._named, gradients, strict=True) if g is not None}
        if scale is not None:
            given = {name: g / scale for name, g in given.items()}
        for family in self._families:
            params = {leg.parameter: self._named[leg.parameter].detach().double() for leg in family.legs}
            snapshot = Snapshot(0, 0.0, params, optimizer=self._view if self._law else None, gradients=given)
            quantities = _quantities(family, snapshot)
            plain = _columns(family, quantities)
            for name in plain.keys() & measured[_key(family)].keys():
                fast = torch.tensor(measured[_key(family)][name][0]).to(plain[name])
                self._compare(family, name, fast, plain[name], quantities)

    def _compare(
        self, family: Charge, name: str, fast: Tensor, plain: Tensor, quantities: dict[str, dict[str, Tensor]]
    ) -> None:
        left, right = (family.scale(quantities[x]) for x in _PAIRS.get(name, ("theta", "theta")))
        yardstick = right if family.degree == 1 else (left * right).sqrt()
        elements = sum(self._named[leg.parameter].numel() for leg in family.legs) / family.size
        # Rounding of a sum grows like the root of its length; a wrong element of the legs shows far above
        # that.
        allowed = torch.finfo(self.row.dtype).eps * (64 + elements**0.5) * yardstick
        wrong = ~((fast - plain).abs() <= allowed) & plain.isfinite()
        if wrong.any():
            raise DynascopeError(
                f"the fast sums of {family.name} differ from the plain form in {name!r} by "
                f"{(fast - plain).abs().max().item():.3g}; recording them would mislead"
            )

    # --------------------------------------------------------------------------------------------- reading

    def families(self) -> dict[str, dict[str, Any]]:
        """What the run's description says about each family: kind, legs, settings, columns, and why a law is missing.

        Returns:
            Family key to a dictionary that JSON can hold.
        """
        return {_key(family): self._describe(family) for family in self._families}

    def unpack(self, rows: Float[np.ndarray, "records columns numbers"]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Put the families together from recorded rows.

        Args:
            rows: recorded rows.

        Yields:
            A family's key and its columns, each (records, size). Where several parameter groups move the
            legs, the signed forms of group 0 alone are the column ``value[0]``, and so on.
        """
        for family in self._families:
            # A run that diverges is recorded as it is, infinities included.
            with np.errstate(invalid="ignore", over="ignore"):
                columns = self._assemble(family, rows)
            yield _key(family), columns

    def _assemble(self, family: Charge, rows: np.ndarray) -> dict[str, np.ndarray]:
        by_group: dict[int | None, np.ndarray] = {}
        for part in self._parts[family.name]:
            signed = part.leg.coefficient * rows[:, :, part.place].astype(np.float64)
            by_group[part.group] = by_group[part.group] + signed if part.group in by_group else signed
        total = np.sum(list(by_group.values()), axis=0)
        place = {name: column for column, name in enumerate(self._names)} | {"after": -1}
        wanted = self._columns_of(family)
        columns = {name: total[:, place[name]] for name in wanted if name in place}
        columns["scale"] = self._scale(family, rows)
        for group in self._split(family):
            columns |= {f"{name}[{group}]": by_group[group][:, place[name]] for name in wanted if name in _PAIRS}
        return {name: values.astype(rows.dtype, copy=False) for name, values in columns.items()}

    def _scale(self, family: Charge, rows: np.ndarray) -> np.ndarray:
        column = self._magnitude if family.degree == 1 else 0
        total = np.zeros((len(rows), family.size))
        for part in self._parts[family.name]:
            total += abs(part.leg.coefficient) * rows[:, column, part.place]
        if family.degree == 1:  # the family's mean, as in Charge.scale
            return np.repeat(total.mean(axis=1, keepdims=True), family.size, axis=1)
        if not family.full:
            return total
        first, second = np.triu_indices(family.legs[0].size)
        norms = total[:, first == second]
        return (norms[:, first] + norms[:, second]) / 2

    def _columns_of(self, family: Charge) -> list[str]:
        """Names of a family's columns, in the order of ``MEANING``."""
        law = {"momentum"} | ({"source", "cross", "source_velocity"} if family.degree == 2 else set())
        kept = {"value", "scale", "after"} | (law if self._reason(family) is None else set())
        kept |= set() if self._frozen(family) else {"gradient"}
        return [name for name in MEANING if name in kept and (name not in _PAIRS or name in self._names)]

    def _split(self, family: Charge) -> list[int]:
        """The parameter groups that share a family's legs, if there are several and a law applies."""
        groups = {part.group for part in self._parts[family.name]}
        return sorted(groups) if len(groups) > 1 and self._reason(family) is None else []  # type: ignore[arg-type]

    def _describe(self, family: Charge) -> dict[str, Any]:
        reason = self._reason(family)
        return {
            "kind": family.kind,
            "degree": family.degree,
            "size": family.size,
            "words": family.words,
            "exact": family.exact,
            "full": family.full,
            "law": None if reason else "sgd",
            "without_law": reason,
            "groups": self._split(family),
            "columns": {name: MEANING[name] for name in self._columns_of(family)},
            "legs": [
                {
                    "parameter": part.leg.parameter,
                    "coefficient": part.leg.coefficient,
                    "group": part.group,
                    "settings": self._settings(part.leg.parameter),
                }
                for part in self._parts[family.name]
            ],
        }

    def _settings(self, name: str) -> dict[str, Any]:
        settings = self._view.settings(name)
        if self._law and settings:
            return SGDSettings.from_group(settings).to_dict()
        return {key: value for key, value in settings.items() if isinstance(value, (bool, int, float, str))}

    def _reason(self, family: Charge) -> str | None:
        """Why no law applies to a family, None where one does."""
        if not self._law:
            return f"{self._view.kind} is not plain SGD: the charges are recorded without the terms of a law"
        frozen = self._frozen(family)
        return f"{', '.join(frozen)} is not trained here: the charge is only a constraint" if frozen else None

    def _frozen(self, family: Charge) -> list[str]:
        names = dict.fromkeys(leg.parameter for leg in family.legs)
        return [n for n in names if self._view.group_index(n) is None or not self._named[n].requires_grad]

    # -------------------------------------------------------------------------------------------- planning

    def _affordable(self, families: Sequence[Charge]) -> list[Charge]:
        """The families without the widest matrices, where these would be too many numbers to keep at every step."""
        room, left_out = LARGEST_MATRICES, set()
        for family in sorted((family for family in families if family.full), key=lambda family: family.size):
            room -= family.size
            if room < 0:
                left_out.add(family.name)
                self.notes.append(("warning", f"{family.name} is not recorded: {family.size} numbers are too many"))
        return [family for family in families if family.name not in left_out]

    def _legs_of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that take part: those of one group next to each other, vectors first.

        Vectors next to each other are copied into the row at once.

        Returns:
            Parameters by name.

        Raises:
            ValueError: a family names a parameter that the model lacks, or there is none.
            Unsupported: a parameter is complex.
        """
        named = dict(model.named_parameters(remove_duplicate=False))
        wanted = dict.fromkeys(leg.parameter for family in self._families for leg in family.legs)
        lacking = [name for name in wanted if name not in named]
        if lacking or not wanted:
            raise ValueError(
                f"families name {lacking or 'no parameter'}; the parameters of this model are {list(named)}"
            )
        for name in wanted:
            if named[name].is_complex():
                raise Unsupported(
                    f"a charge of the complex parameter {name}", "its form is not bilinear", "leave it out"
                )

        def rank(name: str) -> tuple[int, bool]:
            group = self._view.group_index(name)
            return -1 if group is None else group, named[name].ndim > 1

        return {name: named[name] for name in sorted(wanted, key=rank)}

    def _plan(
        self, copied: tuple[str, ...], rows: tuple[str, ...], pairs: list[tuple[int, int]], limit: int | None
    ) -> None:
        """Give every leg its place in the row, then plan the sums."""
        order = {name: index for index, name in enumerate(self._named)}
        places: dict[tuple[Any, ...], slice] = {}  # legs that several families share are summed once
        cells: dict[int, list[Cell]] = {1: [], 2: []}
        grams: list[Gram] = []
        used = [(family, leg) for family in self._families for leg in family.legs]
        width = 0
        for family, leg in sorted(used, key=lambda pair: order[pair[1].parameter]):
            key = _identity(family, leg)
            if key in places:
                continue
            places[key] = slice(width, width + (family.size if family.full else leg.size))
            if family.full:
                grams.append(_gram(order[leg.parameter], leg, width))
            else:
                cells[family.degree].append(_cell(order[leg.parameter], leg, self._named[leg.parameter], width))
            width = places[key].stop
        self._parts = {
            family.name: [
                _Part(leg, self._groups[order[leg.parameter]], places[_identity(family, leg)]) for leg in family.legs
            ]
            for family in self._families
        }
        wide = any(parameter.dtype == torch.float64 for parameter in self._params)
        self.row = torch.zeros(
            max(len(pairs), len(copied) + 1) + 1,
            width,
            dtype=torch.float64 if wide else torch.float32,
            device=self._params[0].device,
        )
        plan = {
            "shapes": [tuple(parameter.shape) for parameter in self._params],
            "quadratic": cells[2],
            "linear": cells[1],
            "grams": grams,
            "limit": limit or (BUCKET if self.row.device.type == "cpu" else BUCKET_ACCELERATOR),
        }
        buckets = forms(**plan, copied=len(copied), pairs=pairs, out=self.row[:-1], magnitude=True)
        self._before = [(bucket, self._segments(bucket, rows)) for bucket in buckets]
        self._after = forms(**plan, copied=1, pairs=[(0, 0)], out=self.row[-1:])

    def _segments(self, bucket: Bucket, rows: tuple[str, ...]) -> list[_Segment]:
        def span(start: int, stop: int) -> Span:
            views = {name: bucket.quantities[row, start:stop] for row, name in enumerate(rows)}
            return Span(*(views.get(name) for name in Span._fields))  # type: ignore[arg-type]

        segments = []
        for group, members in groupby(bucket.pieces, key=lambda piece: self._groups[piece.tensor]):
            pieces = list(members)
            single = tuple(span(piece.start, piece.stop) for piece in pieces)
            together = span(pieces[0].start, pieces[-1].stop)
            segments.append(_Segment(group, tuple(piece.tensor for piece in pieces), together, single))
        return segments if self._law else []


def _gradient(parameter: nn.Parameter) -> Tensor | None:
    gradient = parameter.grad
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


def _key(family: Charge) -> str:
    return f"charges:{family.name}"


def _identity(family: Charge, leg: Leg) -> tuple[Any, ...]:
    """Equal for legs whose sums are equal, whatever their coefficients."""
    classes = leg.classes.cpu().contiguous()
    return leg.parameter, family.degree, family.full, tuple(classes.shape), classes.numpy().tobytes()


def _cell(tensor: int, leg: Leg, parameter: Tensor, start: int) -> Cell:
    """The sums of one leg, as plain sums over axes wherever the classes permit that."""
    classes = leg.classes.cpu()
    for axis in range(classes.ndim):
        if bool((classes == classes.narrow(axis, 0, 1)).all()):
            classes = classes.narrow(axis, 0, 1)
    varying = [axis for axis, length in enumerate(classes.shape) if length > 1]
    summed = tuple(axis for axis in range(classes.ndim) if axis not in varying)
    flat, shape = classes.reshape(-1), tuple(parameter.shape)
    plain, repeats = torch.arange(leg.size), len(flat) // leg.size
    if flat.equal(plain):
        return Cell(tensor, summed, None, leg.size, start)
    if len(varying) == 1 and varying[0] > 0 and len(flat) == repeats * leg.size:
        # Channels flattened into features: each class is a stretch of the axis, or returns every `size` elements.
        axis = varying[0]
        for split, inner in (((leg.size, repeats), axis + 1), ((repeats, leg.size), axis)):
            pattern = plain.repeat_interleave(repeats) if inner > axis else plain.repeat(repeats)
            if flat.equal(pattern):
                others = tuple(other + (other > axis) for other in summed)
                seen = (*shape[:axis], *split, *shape[axis + 1 :])
                return Cell(tensor, tuple(sorted((*others, inner))), None, leg.size, start, seen)
    return Cell(tensor, summed, flat, leg.size, start)


def _gram(tensor: int, leg: Leg, start: int) -> Gram:
    flat = leg.classes.reshape(-1)
    order = torch.argsort(flat, stable=True)[int((flat < 0).sum()) :]
    return Gram(tensor, leg.summed, order, leg.size, start)
