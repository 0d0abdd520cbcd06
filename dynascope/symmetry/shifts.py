"""Graph rules for shifts: which constants may be added to which tensors.

``ShiftDomain``: the same constant at every position. A bias may shift its output freely, because whatever reaches the
next bias is absorbed there; a normalisation ignores what it subtracts; softmax ignores a common shift of its logits.
``WriteDomain``: a different amount at every position, which only the ignored directions tolerate. There every column of
a weight may write along them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from dynascope.symmetry.graph import Graph, bind, op_name
from dynascope.symmetry.interpreter import AbstractDomain
from dynascope.symmetry.labels import PINNED, Field, Solution, System, scaled
from dynascope.symmetry.operations import Contraction, contraction, shape_of
from dynascope.symmetry.scales import _reduced


@dataclass(frozen=True)
class Site:
    """A place where a constant can enter, or is passed on.

    Attributes:
        node: the operation.
        role: "bias" absorbs what arrives, "offset" is a normalisation's bias, "affine" is running statistics, "table"
            an embedding, "driven" a contraction without bias, "weight" the writes of a weight.
        rows: labels of the shift of its output channels.
        arriving: motion of its input.
        parameter: the parameter that moves, or None.
        contraction: geometry, where the operation is a contraction.
    """

    node: Node
    role: Literal["bias", "offset", "affine", "table", "driven", "weight"]
    rows: Tensor
    arriving: Field = ()
    parameter: str | None = None
    contraction: Contraction | None = None


class ShiftDomain(AbstractDomain):
    """Constant shifts. A solution moves biases, and every bias downstream absorbs what arrives at it."""

    everywhere = True  # the same constant at every position

    def __init__(self, graph: Graph, softmax_axis: int | None, blocked: frozenset[str] = frozenset()) -> None:
        """Prepare an empty system.

        Args:
            graph: the traced module.
            softmax_axis: axis of the output along which a common shift does not matter, or None.
            blocked: names of contractions without bias that must receive no shift.
        """
        super().__init__(graph, softmax_axis)
        self.blocked = blocked
        self.sites: list[Site] = []

    def on_contraction(self, node: Node) -> Field:
        """A bias absorbs what arrives; without one the shift is passed on as W s.

        Args:
            node: a linear map or convolution.

        Returns:
            The output's field.
        """
        c = contraction(node)
        if c is None:
            return self.on_unknown(node)
        arriving = self._arriving(c)
        if self.parameter_name(c.weight) is None:  # a weight made from other tensors: it stays, and nothing may arrive
            self.pin(self.field(c.weight))
            self.pin(arriving)
            arriving = ()
        name = self.parameter_name(c.bias)
        free = name is not None and name not in self.params
        if c.bias is not None and not free:
            self.pin(arriving)
            self.pin(self.field(c.bias))
            return ()
        if c.bias is None and (not arriving or node.name in self.blocked):
            self.pin(arriving)
            return ()
        rows = self.system.fresh((c.out_channels,))
        if name is not None:
            self.params[name] = ((1.0, rows),)
        else:
            self.system.driven.append(rows)
        self.sites.append(Site(node, "bias" if name else "driven", rows, arriving, name, c))
        return ((1.0, c.over_output(rows)),)

    def _arriving(self, c: Contraction) -> Field:
        one = self.field(c.x)
        if c.padded:
            self.pin(one)
            return ()
        return self.system.uniform(one, [a for a in range(len(c.shape)) if a != c.axis])

    def on_product(self, node: Node) -> Field:
        """A product with a parameter matrix on the right is a contraction; any other is not known yet.

        Args:
            node: matmul, mm, addmm or bmm.

        Returns:
            The output's field.
        """
        c = contraction(node)
        known = c is not None and self.parameter_name(c.weight) is not None
        return self.on_contraction(node) if known else self.on_unknown(node)

    def on_embedding(self, node: Node) -> Field:
        """All rows of a table may be shifted alike.

        Args:
            node: an embedding look-up.

        Returns:
            The output's field.
        """
        table = node.args[0]
        name = self.parameter_name(table)
        if name is None or name in self.params:
            self.pin(self.params[name] if name else self.field(table))
            return ()
        rows = self.system.fresh((shape_of(table)[1],))
        self.params[name] = ((1.0, rows.view(1, -1).expand(shape_of(table))),)
        self.sites.append(Site(node, "table", rows, (), name))
        return ((1.0, rows.expand(shape_of(node))),)

    def on_batch_norm(self, node: Node) -> Field:
        """Batch statistics subtract any shift of a channel; running statistics pass it on.

        Args:
            node: a batch normalisation.

        Returns:
            The output's field.
        """
        bound, shape = bind(node), shape_of(node)
        if not bound["training"]:
            return self._running(node, bound, shape)
        arriving = self.system.uniform(self.field(node.args[0]), [a for a in range(len(shape)) if a != 1])
        return self._offset(node, bound, shape, 1, "offset", arriving)

    def _running(self, node: Node, bound: dict, shape: tuple[int, ...]) -> Field:
        """An affine map per channel passes a shift on to its own offset."""
        arriving = self.system.uniform(self.field(node.args[0]), [a for a in range(len(shape)) if a != 1])
        if self.parameter_name(bound.get("bias")) is None:
            self.pin(arriving)
            return ()
        return self._offset(node, bound, shape, 1, "affine", arriving)

    def on_instance_norm(self, node: Node) -> Field:
        """Statistics over the positions subtract a shift of a channel.

        Args:
            node: an instance normalisation.

        Returns:
            The output's field.
        """
        bound, shape = bind(node), shape_of(node)
        if not bound["use_input_stats"]:
            return self._running(node, bound, shape)
        self.system.uniform(self.field(node.args[0]), range(2, len(shape)))
        return self._offset(node, bound, shape, 1, "offset", ())

    def on_group_norm(self, node: Node) -> Field:
        """Statistics over a group subtract one shift, common to its channels and positions.

        Args:
            node: a group normalisation.

        Returns:
            The output's field.
        """
        bound, shape = bind(node), shape_of(node)
        groups = int(bound["num_groups"])
        by_group = (shape[0], groups, shape[1] // groups, *shape[2:])
        one = tuple((c, labels.reshape(by_group)) for c, labels in self.field(node.args[0]))
        self.system.uniform(one, range(2, len(by_group)))
        return self._offset(node, bound, shape, 1, "offset", ())

    def on_layer_norm(self, node: Node) -> Field:
        """A layer normalisation subtracts a shift common to its axes.

        Args:
            node: a layer normalisation.

        Returns:
            The output's field.
        """
        bound, shape = bind(node), shape_of(node)
        depth = len(shape) - len(bound["normalized_shape"])
        self.system.uniform(self.field(node.args[0]), range(depth, len(shape)))
        return self._offset(node, bound, shape, depth, "offset", ())

    def on_rms_norm(self, node: Node) -> Field:
        """Without subtraction of a mean nothing is ignored.

        Args:
            node: a root-mean-square normalisation.

        Returns:
            The empty field.
        """
        self.pin(self.field(node.args[0]))
        return ()

    def _offset(self, node: Node, bound: dict, shape: tuple, depth: int, role, arriving: Field) -> Field:
        bias = bound.get("bias")
        name = self.parameter_name(bias)
        if bias is None or name is None or name in self.params:
            self.pin(self.field(bias))
            return ()
        rows = self.system.fresh(shape_of(bias))
        self.params[name] = ((1.0, rows),)
        self.sites.append(Site(node, role, rows.reshape(-1), arriving, name))
        if depth == 1 and role in {"offset", "affine"} and len(shape_of(bias)) == 1 and shape_of(bias)[0] == shape[1]:
            return (
                ((1.0, rows.view(-1, *[1] * (len(shape) - 2)).expand(shape)),)
                if len(shape) > 2
                else ((1.0, rows.expand(shape)),)
            )
        return ((1.0, rows.expand(shape)),)

    def on_homogeneous(self, node: Node) -> Field:
        """A function that is not linear tolerates no shift; softmax ignores a common one.

        Args:
            node: an elementwise operation or a softmax.

        Returns:
            The empty field.
        """
        if op_name(node) in {"softmax", "log_softmax", "_softmax", "_log_softmax"}:
            axis = int(bind(node)["dim"]) % len(shape_of(node))
            self.system.uniform(self.field(node.args[0]), [axis])
            return ()
        self.pin_all(node)
        return ()

    # A dropout's mask makes a constant different at every element.
    on_pointwise = on_odd = on_power = on_dropout = on_homogeneous

    def on_add(self, node: Node) -> Field:
        """Shifts add, so summands can trade them.

        Args:
            node: an addition or subtraction.

        Returns:
            The sum of the fields.
        """
        shape, name = shape_of(node), op_name(node)
        one, other = (_expanded(self.field(a), shape) for a in node.args[:2])
        alpha = float(bind(node).get("alpha", 1))
        if name == "rsub":
            return scaled(one, -alpha) + other
        return one + scaled(other, -alpha if name == "sub" else alpha)

    def on_multiply(self, node: Node) -> Field:
        """Only a plain number passes a shift on.

        Args:
            node: a product or quotient.

        Returns:
            The scaled field.
        """
        one, factor = node.args[:2]
        if isinstance(factor, (int, float)):
            return scaled(self.field(one), 1.0 / factor if op_name(node) == "div" else float(factor))
        self.pin_all(node)
        return ()

    def on_negate(self, node: Node) -> Field:
        """A minus sign turns the shift around.

        Args:
            node: a negation.

        Returns:
            The negative field.
        """
        return scaled(self.field(node.args[0]), -1.0)

    def on_reduce(self, node: Node) -> Field:
        """A mean or maximum passes a common shift on; a sum multiplies it.

        Args:
            node: a reduction.

        Returns:
            The output's field.
        """
        axes, keep = _reduced(node)
        shape = shape_of(node.args[0])
        out = []
        for c, labels in self.system.uniform(self.field(node.args[0]), axes):
            for axis in sorted(axes, reverse=True):
                labels = labels.narrow(axis, 0, 1) if keep else labels.select(axis, 0)
            out.append((c * (float(np.prod([shape[a] for a in axes])) if op_name(node) == "sum" else 1.0), labels))
        return tuple(out)

    def on_average(self, node: Node) -> Field:
        """Averages pass a common shift on, unless they count zeros at the border.

        Args:
            node: a pooling or resampling operation.

        Returns:
            The output's field.
        """
        bound = bind(node)
        padding = bound.get("padding", 0)
        if np.any(padding) and bound.get("count_include_pad", True):
            self.pin(self.field(node.args[0]))
            return ()
        return self.resized(self.field(node.args[0]), shape_of(node))

    def on_maximum(self, node: Node):
        """A maximum passes a common shift on.

        Args:
            node: a pooling operation; with indices it has two outputs.

        Returns:
            The output's field, or a list of fields.
        """
        if not self.everywhere:
            self.pin(self.field(node.args[0]))
            return ()
        value = node.meta["val"]
        if isinstance(value, (tuple, list)):
            return [self.resized(self.field(node.args[0]), tuple(value[0].shape)), ()]
        return self.resized(self.field(node.args[0]), shape_of(node))

    def on_pad(self, node: Node) -> Field:
        """Padding with the tensor's own values passes a common shift on; padding with a constant does not.

        Args:
            node: a call node.

        Returns:
            The output's field.
        """
        if op_name(node) == "constant_pad_nd" or bind(node).get("mode", "constant") == "constant":
            self.pin(self.field(node.args[0]))
            return ()
        return self.resized(self.field(node.args[0]), shape_of(node))

    def on_output(self, node: Node) -> None:
        """The output stays, or moves along the ignored direction.

        Args:
            node: the output node.
        """
        one = self.field(node)
        if self.softmax_axis is None:
            self.pin(one)
        else:
            self.system.uniform(one, [self.softmax_axis])


def _expanded(one: Field, shape: tuple[int, ...]) -> Field:
    return tuple((c, labels.expand(shape)) for c, labels in one)


class _SeparateSites(System):
    """A system in which every site must satisfy the equations on its own, because the amounts written differ."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[int] = []

    def solve(self) -> Solution:
        """Split every equation by site, then eliminate.

        Returns:
            The solutions, one site at a time.
        """
        site = np.searchsorted(np.array(self.starts), np.arange(self.size), side="right")
        pairs, rows = self._pairs, self._rows
        self._pairs, self._rows = [], []
        for pair in pairs:
            same = (site[pair[:, 0]] == site[pair[:, 1]]) | (pair == PINNED).any(1)
            self._pairs.append(pair[same])
            self._zero.append(pair[~same].reshape(-1))
        for coefficients, labels in rows:
            for row in labels:
                for s in np.unique(site[row]):
                    mine = site[row] == s
                    self._rows.append((coefficients[mine], row[mine][None]))
        return super().solve()


class WriteDomain(ShiftDomain):
    """Shifts of a different amount at every position: the directions that nobody reads."""

    everywhere = False

    def __init__(self, graph: Graph, softmax_axis: int | None) -> None:
        """Prepare an empty system.

        Args:
            graph: the traced module.
            softmax_axis: axis of the output along which a common shift does not matter, or None.
        """
        super().__init__(graph, softmax_axis)
        self.system = _SeparateSites()

    def _site(self, size: int) -> Tensor:
        self.system.starts.append(self.system.size)  # type: ignore[attr-defined]
        return self.system.fresh((size,))

    def _placeholder(self, node: Node, needed: set[Node]) -> Field:
        return ()  # parameters that are added as they are belong to the constant shifts

    def on_contraction(self, node: Node) -> Field:
        """A weight may write; nothing that arrives is tolerated.

        Args:
            node: a linear map or convolution.

        Returns:
            The output's field.
        """
        c = contraction(node)
        if c is None:
            return self.on_unknown(node)
        self.pin(self.field(c.x))
        name = self.parameter_name(c.weight)
        if name is None or name in self.params:
            self._forget(name)
            return ()
        rows = self._site(c.out_channels)
        self.params[name] = ((1.0, rows),)
        self.sites.append(Site(node, "weight", rows, (), name, c))
        return ((1.0, c.over_output(rows)),)

    def _forget(self, name: str | None) -> None:
        if name is not None:  # tied weights write in two places at once: keep them out
            self.pin(self.params[name])

    def on_embedding(self, node: Node) -> Field:
        """Every row of a table may write.

        Args:
            node: an embedding look-up.

        Returns:
            The output's field.
        """
        name = self.parameter_name(node.args[0])
        if name is None or name in self.params:
            self._forget(name)
            return ()
        rows = self._site(shape_of(node.args[0])[1])
        self.params[name] = ((1.0, rows),)
        self.sites.append(Site(node, "table", rows, (), name))
        return ((1.0, rows.expand(shape_of(node))),)

    def on_batch_norm(self, node: Node) -> Field:
        """Statistics over examples or positions do not ignore what differs between them.

        Args:
            node: a normalisation.

        Returns:
            The empty field.
        """
        self.pin(self.field(node.args[0]))
        return ()

    on_instance_norm = on_group_norm = on_rms_norm = on_batch_norm

    def on_layer_norm(self, node: Node) -> Field:
        """A layer normalisation ignores any amount along its axes, position by position.

        Args:
            node: a layer normalisation.

        Returns:
            The empty field.
        """
        shape = shape_of(node)
        depth = len(shape) - len(bind(node)["normalized_shape"])
        self.system.uniform(self.field(node.args[0]), range(depth, len(shape)))
        return ()


def restricted(domain: ShiftDomain, solution: Solution) -> frozenset[str]:
    """Contractions without bias whose output is not free to be driven, so that nothing may arrive at them.

    Args:
        domain: an interpreted domain.
        solution: its solution.

    Returns:
        Names of their nodes.
    """
    blocked, used = set(), {}
    matrix = solution.matrix
    for site in (s for s in domain.sites if s.role == "driven"):
        for label in site.rows.tolist():
            start, end = matrix.indptr[label], matrix.indptr[label + 1]
            free = end - start == 1 and matrix.data[start] == 1.0
            if not free or used.setdefault(int(matrix.indices[start]), label) != label:
                blocked.add(site.node.name)
                break
    return frozenset(blocked)


def driven_coordinates(domain: ShiftDomain, solution: Solution) -> dict[str, Tensor]:
    """Coordinate of each driven output channel.

    Args:
        domain: an interpreted domain without blocked sites left.
        solution: its solution.

    Returns:
        Node name -> coordinates.
    """
    matrix = solution.matrix
    return {
        s.node.name: torch.from_numpy(matrix.indices[matrix.indptr[s.rows.numpy()]].astype(np.int64))
        for s in domain.sites
        if s.role == "driven"
    }
