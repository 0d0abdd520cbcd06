"""What each operation is, as data: one table from operator names to behaviours, and the geometry of contractions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from dynascope.symmetry.graph import DROPOUTS, bind, drops, op_name

_TABLE = {
    # Only move data: interpreted by running them on the labels.
    "move": "view reshape flatten unflatten permute transpose t numpy_T mT squeeze unsqueeze expand expand_as "
    "slice select narrow split split_with_sizes chunk unbind flip roll repeat repeat_interleave pixel_shuffle "
    "pixel_unshuffle channel_shuffle movedim swapaxes _unsafe_view _reshape_alias view_as diagonal",
    # Return their argument.
    "identity": "contiguous clone alias to _to_copy type_as lift_fresh_copy positive "
    "double float " + " ".join(sorted(DROPOUTS)),
    "join": "cat concat stack concatenate",
    # f(a x) = a f(x) for a > 0.
    "homogeneous": "relu leaky_relu abs prelu rrelu threshold",
    # f(-x) = -f(x).
    "odd": "tanh sin hardtanh erf asinh atan sinh softsign tan asin atanh erfinv hardshrink softshrink sign clamp",
    # Anything else that acts element by element, or keeps the index spaces as they are.
    "pointwise": "gelu silu sigmoid softplus elu selu celu mish hardswish hardsigmoid relu6 exp expm1 log log1p "
    "log_sigmoid cos softmax log_softmax _softmax _log_softmax pow_scalar clamp_min clamp_max cosh logit floor round",
    "power": "pow square sqrt rsqrt reciprocal",
    "add": "add sub rsub",
    "multiply": "mul div",
    "negate": "neg",
    "contraction": "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution",
    "product": "matmul mm bmm addmm",
    "embedding": "embedding",
    "average": "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "_adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_linear1d",
    "maximum": "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d max_pool2d_with_indices",
    "reduce": "mean sum amax amin logsumexp",
    "batch_norm": "batch_norm",
    "instance_norm": "instance_norm",
    "group_norm": "group_norm",
    "layer_norm": "layer_norm",
    "rms_norm": "rms_norm",
    "pad": "constant_pad_nd pad",
    "select_output": "getitem",
}
BEHAVIOUR = {name: behaviour for behaviour, names in _TABLE.items() for name in names.split()}
DEGREE = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}
# Behaviours that a general linear change of basis on the bond passes through.
LINEAR = frozenset({"contraction", "add", "average", "embedding"})
NORMS = frozenset({"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"})


def behaviour(node: Node) -> str:
    """What kind of operation a call node is.

    Args:
        node: a call node.

    Returns:
        A key of the table, "dropout" for one that really drops, or "unknown".
    """
    return "dropout" if drops(node) else BEHAVIOUR.get(op_name(node), "unknown")


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of the value of a node at tracing time.

    Args:
        node: a node that yields one tensor.

    Returns:
        The shape.
    """
    return tuple(int(n) for n in node.meta["val"].shape)


def parameter_axes_only(user: Node, parameter: Node) -> bool:
    """Whether this use of a parameter is one whose motion the rules give in closed form.

    Args:
        user: the operation.
        parameter: placeholder of the parameter.

    Returns:
        True for weights and biases of contractions, norms and embeddings.
    """
    kind = behaviour(user)
    if kind in {"contraction", *NORMS} or op_name(user) == "prelu":
        return user.args[0] is not parameter and bind(user).get("input") is not parameter
    if kind == "product":
        return op_name(user) in {"matmul", "mm"} and user.args[1] is parameter and len(shape_of(parameter)) == 2
    return kind == "embedding" and user.args[0] is parameter


@dataclass(frozen=True)
class Contraction:
    """A linear map with parameters: y = W x + b over one channel axis.

    Attributes:
        x: input node.
        weight: weight node.
        bias: bias node or None.
        axis: channel axis of input and output.
        groups: number of channel groups.
        layout: "linear" W[out, in], "matmul" W[in, out], "conv" W[out, in/groups, ...], "transposed"
            W[in, out/groups, ...].
        padded: True if the border sees zeros, so that a constant input does not give a constant output.
        shape: shape of the output.
        weight_shape: shape of the weight.
    """

    x: Node
    weight: Node
    bias: Node | None
    axis: int
    groups: int
    layout: str
    padded: bool
    shape: tuple[int, ...]
    weight_shape: tuple[int, ...]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Axes after the channel axis."""
        return tuple(range(self.axis + 1, len(self.shape)))

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.shape[self.axis]

    def columns(self, channels: Tensor) -> Tensor:
        """Lay a vector over input channels out over the weight.

        Args:
            channels: one entry per input channel.

        Returns:
            A tensor of the weight's shape, broadcast where it does not change.
        """
        w, rest = self.weight_shape, (1,) * (len(self.weight_shape) - 2)
        if self.layout == "linear":
            return channels.view(1, -1).expand(w)
        if self.layout == "matmul":
            return channels.view(-1, 1).expand(w)
        if self.layout == "transposed":
            return channels.view(-1, 1, *rest).expand(w)
        by_group = channels.view(self.groups, 1, -1).expand(self.groups, w[0] // self.groups, w[1])
        small = channels.view(1, -1) if self.groups == 1 else by_group.reshape(w[0], w[1])
        return small.view(*small.shape, *rest).expand(w)

    def rows(self, channels: Tensor) -> Tensor:
        """Lay a vector over output channels out over the weight.

        Args:
            channels: one entry per output channel.

        Returns:
            A tensor of the weight's shape, broadcast where it does not change.
        """
        w, rest = self.weight_shape, (1,) * (len(self.weight_shape) - 2)
        if self.layout in {"linear", "conv"}:
            return channels.view(-1, 1, *rest).expand(w)
        if self.layout == "matmul":
            return channels.view(1, -1).expand(w)
        by_group = channels.view(self.groups, 1, -1).expand(self.groups, w[0] // self.groups, w[1])
        small = channels.view(1, -1) if self.groups == 1 else by_group.reshape(w[0], w[1])
        return small.view(*small.shape, *rest).expand(w)

    def over_output(self, channels: Tensor) -> Tensor:
        """Lay a vector over output channels out over the output.

        Args:
            channels: one entry per output channel.

        Returns:
            A tensor of the output's shape, broadcast where it does not change.
        """
        return channels.view(*(-1 if a == self.axis else 1 for a in range(len(self.shape)))).expand(self.shape)


def contraction(node: Node) -> Contraction | None:
    """Read a contraction off a call node.

    Args:
        node: a call node with behaviour "contraction" or "product".

    Returns:
        The contraction, or None where neither factor is a matrix that stands on the right.
    """
    name, shape = op_name(node), shape_of(node)
    if name in {"matmul", "mm"}:
        x, weight = node.args[0], node.args[1]
        if not (isinstance(x, Node) and isinstance(weight, Node)) or len(shape_of(weight)) != 2 or len(shape) < 2:
            return None
        return Contraction(x, weight, None, len(shape) - 1, 1, "matmul", False, shape, shape_of(weight))
    if name == "addmm":
        bias, x, weight = node.args[:3]
        if not (isinstance(bias, Node) and len(shape_of(bias)) == 1):
            return None
        return Contraction(x, weight, bias, 1, 1, "matmul", False, shape, shape_of(weight))  # type: ignore[arg-type]
    if behaviour(node) != "contraction":
        return None
    bound = bind(node)
    x, weight, bias = bound["input"], bound["weight"], bound.get("bias")
    if name == "linear":
        return Contraction(x, weight, bias, len(shape) - 1, 1, "linear", False, shape, shape_of(weight))
    transposed = bool(bound.get("transposed", "transpose" in name))
    padding = bound.get("padding", 0)
    padded = padding == "same" or (not isinstance(padding, str) and any(_numbers(padding)))
    # A transposed convolution gives a constant from a constant only where an output sees all taps.
    border = padded or (transposed and any(n > 1 for n in shape_of(weight)[2:]))
    layout = "transposed" if transposed else "conv"
    axis = len(shape) - len(shape_of(weight)) + 1
    return Contraction(x, weight, bias, axis, int(bound.get("groups", 1)), layout, border, shape, shape_of(weight))


def _numbers(padding: Any) -> list[int]:
    return [padding] if isinstance(padding, int) else list(padding)


def apply_without_bias(node: Node, c: Contraction, weight: Tensor, x: Tensor) -> Tensor:
    """Run the linear part of a contraction on another input.

    Args:
        node: the call node.
        c: its contraction.
        weight: value of the weight.
        x: value of the input, batch of any size.

    Returns:
        W x.
    """
    if c.layout == "matmul":
        return torch.matmul(x, weight)
    bound = bind(node) | {"input": x, "weight": weight, "bias": None}
    return node.target(**bound)  # type: ignore[operator]
