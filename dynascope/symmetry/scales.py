"""Graph rules for scales: by how much may each index of each tensor be multiplied, and which tensors share an index.

Two readings of one walk. ``ScaleDomain`` asks for positive scales: the unknowns are log-scales, products add
them, a ReLU passes them, a GELU pins them. ``IndexDomain`` asks which axes run over the same index space (a *bond*),
whatever the elementwise functions on it are; it finds the legs for permutations, signs and changes of basis.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from dynascope.symmetry.graph import Graph, bind, op_name
from dynascope.symmetry.interpreter import AbstractDomain
from dynascope.symmetry.labels import Field, scaled, varying
from dynascope.symmetry.operations import DEGREE, Contraction, contraction, shape_of


@dataclass(frozen=True)
class Normalisation:
    """A normalisation met on the way, for running statistics, offsets and rotations.

    Attributes:
        node: the call node.
        x: field of its input, per index of the channel axis.
        weight: name of its gain, or None.
        bias: name of its offset, or None.
        mean: name of the running mean, or None.
        variance: name of the running variance, or None.
        epsilon: its regulariser.
        training: True if it uses the batch's own statistics.
    """

    node: Node
    x: Field
    weight: str | None
    bias: str | None
    mean: str | None = None
    variance: str | None = None
    epsilon: float = 0.0
    training: bool = True


@dataclass(frozen=True)
class Skip:
    """An addition h + (W h + b) around one linear map.

    Attributes:
        contraction: the map.
        weight: its weight.
        direct: field of h, per channel.
        branch: field of W h, per channel.
    """

    contraction: Contraction
    weight: str
    direct: Field
    branch: Field


class _AbstractScales(AbstractDomain, ABC):
    """What both readings share: contractions, embeddings, pooling, and the parameters of normalisations."""

    index: bool

    def __init__(self, graph: Graph, softmax_axis: int | None) -> None:
        super().__init__(graph, softmax_axis)
        self.norms: list[Normalisation] = []
        self.contractions: dict[Node, Contraction] = {}

    def on_contraction(self, node: Node) -> Field:
        """W absorbs any scale of its input; its output gets a scale of its own.

        Args:
            node: a linear map or convolution.

        Returns:
            The output's field.
        """
        c = contraction(node)
        if c is None or (not self.field(c.weight) and self.parameter_name(c.weight) is None):
            return self.on_unknown(node)
        self.contractions[node] = c
        inputs, rest = self.along(self.system.uniform(self.field(c.x), c.spatial if c.layout in _CONVS else ()), c.axis)
        rows = self.system.fresh((c.out_channels,))
        reads = tuple((k, c.columns(labels)) for k, labels in inputs)
        self.assign(c.weight, ((1.0, c.rows(rows)), *scaled(reads, -1.0)))
        self.assign(c.bias, ((1.0, rows),))
        if c.bias is not None:
            self.pin(rest)
            rest = ()
        # What does not change along the channels has length >= 1 there: stretch it over the output's channels.
        carried = tuple((k, labels.narrow(c.axis, 0, 1).expand(c.shape)) for k, labels in rest)
        return ((1.0, c.over_output(rows)), *carried)

    def on_product(self, node: Node) -> Field:
        """A product with a parameter matrix on the right is a contraction; any other is not known yet.

        Args:
            node: matmul, mm, addmm or bmm.

        Returns:
            The output's field.
        """
        c = contraction(node)
        known = c is not None and (self.parameter_name(c.weight) is not None or bool(self.field(c.weight)))
        return self.on_contraction(node) if known else self.on_unknown(node)

    def on_embedding(self, node: Node) -> Field:
        """Every row of the table is written on the same bond.

        Args:
            node: an embedding look-up.

        Returns:
            The output's field.
        """
        table = node.args[0]
        features = self.system.fresh((shape_of(table)[1],))
        self.assign(table, ((1.0, features.view(1, -1).expand(shape_of(table))),))
        return ((1.0, features.expand(shape_of(node))),)

    def on_average(self, node: Node) -> Field:
        """Pooling passes a scale that is the same over its window.

        Args:
            node: a pooling or resampling operation.

        Returns:
            The output's field.
        """
        return self.resized(self.field(node.args[0]), shape_of(node))

    def on_maximum(self, node: Node):
        """Max-pooling passes a positive scale that is the same over its window.

        Args:
            node: a pooling operation; with indices it has two outputs.

        Returns:
            The output's field, or a list of fields.
        """
        value = node.meta["val"]
        if isinstance(value, (tuple, list)):
            return [self.resized(self.field(node.args[0]), tuple(value[0].shape)), ()]
        return self.resized(self.field(node.args[0]), shape_of(node))

    def on_homogeneous(self, node: Node) -> Field:
        """A positively homogeneous function of degree one passes every positive scale.

        Args:
            node: an elementwise operation.

        Returns:
            Its input's field.
        """
        name = op_name(node)
        if name == "threshold" and any(float(a) != 0 for a in node.args[1:3]):  # type: ignore[arg-type]
            return self.on_pointwise(node)
        if name == "prelu":
            self._slope(node)
        return self.field(node.args[0])

    def _slope(self, node: Node) -> None:
        if self.index and shape_of(node.args[1]) != (1,):
            inputs, _ = self.along(self.field(node.args[0]), 1)
            self.assign(node.args[1], inputs)
        else:
            self.assign(node.args[1], ())

    @abstractmethod
    def on_pointwise(self, node: Node) -> Field:
        """What any other function of one element does to a field."""

    def on_odd(self, node: Node) -> Field:
        """An odd function passes signs, which are discrete, but no scale.

        Args:
            node: an elementwise operation.

        Returns:
            The output's field.
        """
        return self.on_pointwise(node)

    def on_negate(self, node: Node) -> Field:
        """A minus sign changes no scale.

        Args:
            node: a negation.

        Returns:
            Its input's field.
        """
        return self.field(node.args[0])

    def _gain(self, node: Node, weight: Node | None, bias: Node | None, rows: Tensor) -> None:
        self.assign(weight, ((1.0, rows),))
        self.assign(bias, ((1.0, rows),))

    def _record(self, node: Node, bound: dict, x: Field, training: bool) -> None:
        def buffer(key: str) -> str | None:
            value = bound.get(key)
            found = self.graph.constants.get(value.name) if isinstance(value, Node) else None
            return found if isinstance(found, str) else None

        self.norms.append(
            Normalisation(
                node,
                x,
                self.parameter_name(bound.get("weight")),
                self.parameter_name(bound.get("bias")),
                buffer("running_mean"),
                buffer("running_var"),
                float(bound.get("eps") or 0.0),
                training,
            )
        )


_CONVS = {"conv", "transposed"}


class ScaleDomain(_AbstractScales):
    """Log-scales. A solution is a diagonal symmetry: every element is multiplied by the exponential of its field."""

    index = False

    def __init__(self, graph: Graph, softmax_axis: int | None, *, absorb_skips: bool = False) -> None:
        """Prepare an empty system.

        Args:
            graph: the traced module.
            softmax_axis: axis of the output along which a common shift does not matter, or None.
            absorb_skips: let the two sides of h + (W h + b) scale apart, because W + 1 can take the difference.
        """
        super().__init__(graph, softmax_axis)
        self.absorb_skips = absorb_skips
        self.skips: dict[str, Skip] = {}

    def on_pointwise(self, node: Node) -> Field:
        """Any other function of one element tolerates no scale.

        Args:
            node: an elementwise operation.

        Returns:
            The empty field.
        """
        self.pin_all(node)
        return ()

    def on_add(self, node: Node) -> Field:
        """Summands share one scale.

        Args:
            node: an addition or subtraction.

        Returns:
            The common field.
        """
        shape = shape_of(node)
        if self.absorb_skips and (skip := self._skip(node)) is not None:
            self.skips[node.name] = skip
            return tuple((1.0, skip.contraction.over_output(labels)) for _, labels in skip.branch)
        operands = [a for a in node.args[:2] if not (isinstance(a, (int, float)) and a == 0)]
        one, *others = [_to_shape(self.field(a), shape) for a in operands]
        for other in others:
            self.system.same(one, other)
        return one

    def _skip(self, node: Node) -> "Skip | None":
        """The skip h + W h of an addition, where W has a tap that reads the same place."""
        if op_name(node) != "add" or node.kwargs.get("alpha", 1) != 1:
            return None
        for branch, direct in (node.args[:2], node.args[1::-1]):
            c = self.contractions.get(branch)  # type: ignore[arg-type]
            if c is None or not isinstance(direct, Node) or c.x is not direct or shape_of(direct) != c.shape:
                continue
            name = self.parameter_name(c.weight)
            taps = c.weight_shape[2:] if c.layout == "conv" else ()
            if name is None or c.groups != 1 or c.layout == "transposed" or any(t % 2 == 0 for t in taps):
                continue
            side, rest = self.along(self.field(direct), c.axis)
            out, more = self.along(self.field(branch), c.axis)
            if not rest and not more and len(side) == len(out) == 1:
                return Skip(c, name, side, out)
        return None

    def on_multiply(self, node: Node) -> Field:
        """Factors add their log-scales.

        Args:
            node: a product or quotient.

        Returns:
            Sum or difference of the fields.
        """
        shape = shape_of(node)
        one, other = (_to_shape(self.field(a), shape) for a in node.args[:2])
        return one + scaled(other, -1.0 if op_name(node) == "div" else 1.0)

    def on_power(self, node: Node) -> Field:
        """A power multiplies the log-scale by its degree.

        Args:
            node: a power with a fixed exponent.

        Returns:
            The scaled field.
        """
        exponent = DEGREE.get(op_name(node)) or bind(node).get("exponent")
        if not isinstance(exponent, (int, float)):
            return self.on_pointwise(node)
        return scaled(self.field(node.args[0]), float(exponent))

    def on_reduce(self, node: Node) -> Field:
        """A sum or mean passes a scale that is the same for all summands.

        Args:
            node: a reduction.

        Returns:
            The output's field.
        """
        if op_name(node) == "logsumexp":
            return self.on_pointwise(node)
        axes, keep = _reduced(node)
        out = []
        for c, labels in self.system.uniform(self.field(node.args[0]), axes):
            for axis in sorted(axes, reverse=True):
                labels = labels.narrow(axis, 0, 1) if keep else labels.select(axis, 0)
            out.append((c, labels))
        return tuple(out)

    def on_batch_norm(self, node: Node) -> Field:
        """Batch statistics remove a scale per channel; running statistics are an affine map per channel.

        Args:
            node: a batch normalisation.

        Returns:
            The output's field.
        """
        bound, shape = bind(node), shape_of(node)
        others = [a for a in range(len(shape)) if a != 1]
        inputs, _ = self.along(self.system.uniform(self.field(node.args[0]), others), 1)
        if not bound["training"]:
            return self._running(node, bound, shape, inputs)
        self._record(node, bound, inputs, True)
        return self._scaled_output(node, bound, shape, 1)

    def _running(self, node: Node, bound: dict, shape: tuple[int, ...], inputs: Field) -> Field:
        if bound.get("weight") is None or self.parameter_name(bound.get("bias")) is None:
            self.pin(inputs)
            return ()
        rows = self.system.fresh((shape[1],))
        self.assign(bound["weight"], ((1.0, rows), *scaled(inputs, -1.0)))
        self.assign(bound["bias"], ((1.0, rows),))
        self._record(node, bound, inputs, False)
        return ((1.0, rows.view(-1, *[1] * (len(shape) - 2)).expand(shape)),)

    def on_instance_norm(self, node: Node) -> Field:
        """Statistics over the positions of each example remove a scale per channel.

        Args:
            node: an instance normalisation.

        Returns:
            The output's field.
        """
        bound, shape = bind(node), shape_of(node)
        others = [a for a in range(len(shape)) if a != 1]
        one = self.system.uniform(self.field(node.args[0]), others)
        if not bound["use_input_stats"]:
            return self._running(node, bound, shape, self.along(one, 1)[0])
        return self._scaled_output(node, bound, shape, 1)

    def on_group_norm(self, node: Node) -> Field:
        """Statistics over a group of channels and all positions remove one scale per group.

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
        return self._scaled_output(node, bound, shape, 1)

    def on_layer_norm(self, node: Node) -> Field:
        """Statistics over the last axes remove one scale, common to all of them.

        Args:
            node: a layer normalisation.

        Returns:
            The output's field.
        """
        bound, shape = bind(node), shape_of(node)
        axes = list(range(len(shape) - len(bound["normalized_shape"]), len(shape)))
        self.system.uniform(self.field(node.args[0]), axes)
        weight = bound.get("weight")
        if weight is None:
            return ()
        rows = self.system.fresh(shape_of(weight))
        self._gain(node, weight, bound.get("bias"), rows)
        return ((1.0, rows.expand(shape)),)

    on_rms_norm = on_layer_norm

    def _scaled_output(self, node: Node, bound: dict, shape: tuple[int, ...], axis: int) -> Field:
        weight = bound.get("weight")
        if weight is None:
            self.assign(bound.get("bias"), ())
            return ()
        rows = self.system.fresh((shape[axis],))
        self._gain(node, weight, bound.get("bias"), rows)
        return ((1.0, rows.view(-1, *[1] * (len(shape) - axis - 1)).expand(shape)),)


class IndexDomain(_AbstractScales):
    """Index spaces. Fields name the bond that each axis runs over; functions on it are only noted."""

    index = True

    def on_pointwise(self, node: Node) -> Field:
        """A function of one element keeps the index space.

        Args:
            node: an elementwise operation.

        Returns:
            Its input's field.
        """
        return self.field(node.args[0])

    on_power = on_pointwise

    def on_add(self, node: Node) -> Field:
        """Operands of an elementwise operation run over the same index spaces.

        Args:
            node: a binary operation.

        Returns:
            The common field.
        """
        shape = shape_of(node)
        operands = [a for a in node.args[:2] if isinstance(a, Node) and "val" in a.meta]
        fields = [(_to_shape(self.field(a), shape), _present(shape_of(a), shape)) for a in operands]
        out = fields[0][0]
        for i, (one, _) in enumerate(fields):
            for term in one:
                for j, (other, axes) in enumerate(fields):
                    if j != i and varying(term[1]) & axes:
                        self.system.same((term,), other)
            out = out or one
        return out

    on_multiply = on_add

    def on_reduce(self, node: Node) -> Field:
        """A sum over an index space ends it; what runs over other axes goes on.

        Args:
            node: a reduction.

        Returns:
            The output's field.
        """
        axes, keep = _reduced(node)
        out = []
        for c, labels in self.field(node.args[0]):
            if not varying(labels) & set(axes):
                for axis in sorted(axes, reverse=True):
                    labels = labels.narrow(axis, 0, 1) if keep else labels.select(axis, 0)
                out.append((c, labels))
        return tuple(out)

    def on_batch_norm(self, node: Node) -> Field:
        """Normalisations keep the index space; their gains and offsets run over it.

        Args:
            node: a normalisation over the channel axis.

        Returns:
            Its input's field.
        """
        bound, shape = bind(node), shape_of(node)
        inputs, _ = self.along(self.field(node.args[0]), 1)
        if len(inputs) > 1:
            inputs = self.system.single(inputs)
        self._record(node, bound, inputs, bool(bound.get("training", True)))
        for key in ("weight", "bias"):
            self.assign(bound.get(key), tuple((1.0, labels) for _, labels in inputs))
        trailing = [1] * (len(shape) - 2)
        return tuple((c, labels.view(-1, *trailing).expand(shape)) for c, labels in inputs)

    on_instance_norm = on_group_norm = on_batch_norm

    def on_layer_norm(self, node: Node) -> Field:
        """Gain and offset run over the normalised axes.

        Args:
            node: a layer or root-mean-square normalisation.

        Returns:
            Its input's field.
        """
        bound, shape = bind(node), shape_of(node)
        one = self.system.single(self.field(node.args[0]))
        depth = len(shape) - len(bound["normalized_shape"])
        inner = self.system.uniform(one, range(depth))
        over = tuple((c, labels[(0,) * depth]) for c, labels in inner)
        self._record(node, bound, over, True)
        for key in ("weight", "bias"):
            self.assign(bound.get(key), over)
        return one

    on_rms_norm = on_layer_norm


def _to_shape(one: Field, shape: tuple[int, ...]) -> Field:
    return tuple((c, labels.expand(shape)) for c, labels in one)


def _present(small: tuple[int, ...], shape: tuple[int, ...]) -> frozenset[int]:
    """Axes of the broadcast shape along which an operand really has several entries."""
    offset = len(shape) - len(small)
    return frozenset(a for a in range(len(shape)) if a >= offset and small[a - offset] > 1)


def _reduced(node: Node) -> tuple[list[int], bool]:
    bound, rank = bind(node), len(shape_of(node.args[0]))
    axes = bound.get("dim")
    if axes is None or axes == []:
        return list(range(rank)), False
    axes = [axes] if isinstance(axes, int) else list(axes)
    return [a % rank for a in axes], bool(bound.get("keepdim", False))
