"""Walk the graph once with labels in place of values; what an operation does to them is a domain's business."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from dynascope.symmetry.graph import Graph, bind, op_name
from dynascope.symmetry.labels import PINNED, Field, System, tighten
from dynascope.symmetry.operations import behaviour, parameter_axes_only, shape_of

# A parameter that is not used as a plain weight gets one unknown per element; beyond this many it is kept fixed.
LARGEST_JOINT_PARAMETER = 1 << 22

Handler = Callable[[Node], Any]


class AbstractDomain:
    """An abstract interpretation of the graph over fields of labels.

    A subclass says what each behaviour of :mod:`operations` does, in methods named ``on_<behaviour>``. A behaviour that
    it does not know keeps everything it touches fixed, which is always sound, and is named in ``unknown``.
    """

    def __init__(self, graph: Graph, softmax_axis: int | None) -> None:
        """Prepare an empty system.

        Args:
            graph: the traced module.
            softmax_axis: axis of the output along which a common shift does not matter, or None.
        """
        self.graph = graph
        self.softmax_axis = softmax_axis
        self.system = System()
        self.fields: dict[Node, Any] = {}
        self.params: dict[str, Field] = {}
        self.unknown: list[str] = []
        self.seen: list[tuple[str, str, Tensor]] = []  # behaviour, operation, labels: what a bond passes through

    def run(self) -> None:
        """Interpret every operation that the output depends on, then close the output."""
        operations = self.graph.operations
        needed = set(operations)
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.fields[node] = self._placeholder(node, needed)
            elif node.op == "get_attr":
                self.fields[node] = ()
        for node in operations:
            kind = behaviour(node)
            if node.name in self.graph.epsilons:
                kind = "identity"
            handler: Handler | None = getattr(self, f"on_{kind}", None)
            self.fields[node] = handler(node) if handler else self.on_unknown(node)
            if kind not in {"move", "identity", "select_output", "join", "unknown"}:
                self.note(kind, node)
        self.on_output(self.graph.output)

    def _placeholder(self, node: Node, needed: set[Node]) -> Field:
        if node.name not in self.graph.parameters:
            return ()
        name = self.graph.parameters[node.name]
        users = [u for u in node.users if u in needed]
        if name in self.params:  # a tied weight, met under its second name
            return self.params[name]
        if not users or all(parameter_axes_only(u, node) for u in users):
            return ()
        shape = shape_of(node)
        if torch.Size(shape).numel() > LARGEST_JOINT_PARAMETER:
            self.params[name] = ()
            return ()
        self.params[name] = ((1.0, self.system.fresh(shape)),)
        return self.params[name]

    # --- helpers for subclasses -------------------------------------------------------------------------------------

    def field(self, value: Any) -> Field:
        """Field of an argument; numbers and untouched tensors do not move.

        Args:
            value: a node or anything else.

        Returns:
            The field.
        """
        found = self.fields.get(value, ()) if isinstance(value, Node) else ()
        return found if isinstance(found, tuple) else ()

    def parameter_name(self, value: Any) -> str | None:
        """Name of the parameter that a node directly is, if any.

        Args:
            value: a node or None.

        Returns:
            The name.
        """
        return self.graph.parameters.get(value.name) if isinstance(value, Node) else None

    def assign(self, value: Any, motion: Field) -> None:
        """Let a parameter move as given; if its motion is already known, or it is a derived tensor, demand equality.

        Args:
            value: node of the parameter or of a tensor made from parameters; None is ignored.
            motion: the motion that the operation asks for.
        """
        if value is None:
            return
        name = self.parameter_name(value)
        if name is not None and name not in self.params:
            self.params[name] = motion
        else:
            self.system.same(self.params[name] if name is not None else self.field(value), motion)

    def along(self, one: Field, axis: int) -> tuple[Field, Field]:
        """Split a field into a part along one axis, given per index of it, and a part that does not change along it.

        Args:
            one: a field.
            axis: the axis.

        Returns:
            Vectors over the axis, and the rest as a field of the same shape.
        """
        vectors: list = []
        rest: list = []
        for c, raw in one:
            labels = tighten(raw)
            other = [a for a in range(labels.ndim) if a != axis]
            changes = labels.shape[axis] > 1 and labels.stride(axis) != 0
            elsewhere = any(labels.shape[a] > 1 and labels.stride(a) != 0 for a in other)
            if changes and elsewhere:
                line, plane = self.system.fresh(labels.shape, [axis]), self.system.fresh(labels.shape, other)
                self.system.same(((1.0, labels),), ((1.0, line), (1.0, plane)))
                vectors.append((c, _line(line, axis)))
                rest.append((c, plane))
            elif elsewhere:
                rest.append((c, labels))
            else:
                vectors.append((c, _line(labels, axis)))
        return tuple(vectors), tuple(rest)

    def pin(self, one: Field) -> None:
        """Demand that a field does not move.

        Args:
            one: a field.
        """
        if one:
            self.system.require(one)

    def pin_all(self, node: Node) -> None:
        """Demand that no argument of an operation moves.

        Args:
            node: a call node.
        """
        for argument in node.all_input_nodes:
            found = self.fields.get(argument, ())
            for one in found if isinstance(found, list) else [found]:
                self.pin(one)
            name = self.parameter_name(argument)
            if name is not None and name not in self.params:
                self.params[name] = ()
            elif name is not None:
                self.pin(self.params[name])

    def note(self, kind: str, node: Node) -> None:
        """Remember that the bonds of this operation's tensors pass through it.

        Args:
            kind: its behaviour.
            node: a call node.
        """
        values = [self.fields.get(node)] + [self.fields.get(a) for a in node.all_input_nodes]
        for value in values:
            for _, labels in value if isinstance(value, tuple) else ():
                self.seen.append((kind, op_name(node), tighten(labels)))

    # --- behaviours that are the same in every domain ---------------------------------------------------------------

    def on_unknown(self, node: Node) -> Field:
        """Keep everything that an unknown operation touches fixed, and name it.

        Args:
            node: a call node.

        Returns:
            The empty field.
        """
        if any(self.fields.get(a) or self.parameter_name(a) for a in node.all_input_nodes):
            self.unknown.append(op_name(node))
        self.pin_all(node)
        return ()

    def on_identity(self, node: Node) -> Field:
        """Return the argument's field.

        Args:
            node: a call node.

        Returns:
            The field of its first argument.
        """
        return self.field(node.args[0])

    on_dropout = on_identity
    """A mask is a number at every element, which any scale passes."""

    def on_select_output(self, node: Node) -> Any:
        """Pick one of several outputs.

        Args:
            node: a getitem node.

        Returns:
            Its field.
        """
        found = self.fields.get(node.args[0], ())  # type: ignore[arg-type]
        return found[node.args[1]] if isinstance(found, list) else found  # type: ignore[index]

    def on_move(self, node: Node) -> Any:
        """Run a data movement on the labels.

        Args:
            node: a call node whose only tensor argument is its first.

        Returns:
            The moved field, or a list of fields for an operation with several outputs.
        """
        source = node.args[0]
        one = self.field(source)
        others = [a for a in node.all_input_nodes if a is not source]
        if others and op_name(node) not in {"expand_as", "view_as"}:
            return self.on_unknown(node)
        results = [(c, _move(node, labels)) for c, labels in one]
        value = node.meta.get("val")
        if isinstance(value, (list, tuple)):
            return [tuple((c, tighten(r[i])) for c, r in results) for i in range(len(value))]
        return tuple((c, tighten(r)) for c, r in results)

    def on_join(self, node: Node) -> Field:
        """Concatenate or stack labels.

        Args:
            node: a call node whose first argument is a list of tensors.

        Returns:
            The joined field.
        """
        parts = list(node.args[0])  # type: ignore[arg-type]
        singles = [self.system.single(self.field(p)) for p in parts]
        if not any(singles):
            return ()
        zeros = [torch.full((), PINNED, dtype=torch.int64).expand(shape_of(p)) for p in parts]
        labels = [one[0][1] if one else zero for one, zero in zip(singles, zeros, strict=True)]
        axis = bind(node).get("dim", 0)
        joined = torch.stack(labels, axis) if op_name(node) == "stack" else torch.cat(labels, axis)
        return ((1.0, tighten(joined)),)

    def on_pad(self, node: Node) -> Field:
        """Pad with zeros, which do not notice a scale.

        Args:
            node: a call node.

        Returns:
            The field, constant along the padded axes.
        """
        one, shape = self.field(node.args[0]), shape_of(node)
        bound = bind(node)
        if bound.get("mode", "constant") != "constant" or (bound.get("value") or 0) != 0:
            self.pin(one)
            return ()
        return self.resized(one, shape)

    def resized(self, one: Field, shape: tuple[int, ...]) -> Field:
        """Let a field continue through an operation that changes the length of some axes.

        Args:
            one: the input's field.
            shape: the output's shape, of the same number of axes.

        Returns:
            The field, demanded constant along the axes whose length changes, in the new shape.
        """
        if not one:
            return ()
        changed = [a for a, n in enumerate(one[0][1].shape) if n != shape[a]]
        out = []
        for c, labels in self.system.uniform(one, changed):
            for axis in changed:
                labels = labels.narrow(axis, 0, 1)
            out.append((c, labels.expand(shape)))
        return tuple(out)

    def on_output(self, node: Node) -> None:
        """Close the output.

        Args:
            node: the output node.
        """
        self.pin(self.field(node))


def _line(labels: Tensor, axis: int) -> Tensor:
    for other in range(labels.ndim):
        if other != axis:
            labels = labels.narrow(other, 0, 1)
    return labels.reshape(-1)


def _move(node: Node, labels: Tensor) -> Any:
    name = op_name(node)
    if name in {"view", "reshape", "_unsafe_view", "_reshape_alias", "view_as", "flatten", "unflatten"}:
        return labels.reshape(shape_of(node))
    if name == "expand_as":
        return labels.expand(shape_of(node))
    bound = bind(node)
    first = next(iter(a.name for a in node.target._schema.arguments))  # type: ignore[union-attr]
    return node.target(**(bound | {first: labels}))  # type: ignore[operator]
