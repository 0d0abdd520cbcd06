"""The module as a graph of operations, from ``torch.export``, evaluated as a pure function of its parameters.

The graph is only ever read. It is evaluated node by node by :meth:`Graph.evaluate`, which can do what the module itself
cannot: run in double precision through internal casts, set every normalisation epsilon to zero, and use batch
statistics without touching a buffer.
"""

import operator
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from dynascope.base.errors import Unsupported

_HALF_AND_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
# Numbers up to this size, added just before a square root, regularise a normalisation.
_LARGEST_EPSILON = 1e-3
_ROOTS = {"rsqrt", "sqrt", "pow"}
DROPOUTS = {"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "native_dropout"}
_VIEWS = {
    "view",
    "reshape",
    "slice",
    "select",
    "transpose",
    "permute",
    "expand",
    "narrow",
    "squeeze",
    "unsqueeze",
    "flatten",
    "unflatten",
    "split",
    "chunk",
    "unbind",
    "t",
    "alias",
    "detach",
}


def op_name(node: Node) -> str:
    """Short name of the operation: ``relu`` for ``aten.relu_.default``.

    Args:
        node: a call node.

    Returns:
        The name without namespace, overload and in-place underscore.
    """
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].removesuffix("_")
    return getattr(target, "__name__", str(target))


def bind(node: Node) -> dict[str, Any]:
    """Arguments of a call node by the names of the operator's schema.

    Args:
        node: a call node with an ATen target.

    Returns:
        Every schema argument, defaults filled in.
    """
    names = node.target._schema.arguments  # type: ignore[union-attr]
    bound = {a.name: a.default_value for a in names if a.has_default_value()}
    bound.update(zip((a.name for a in names), node.args, strict=False))
    bound.update(node.kwargs)
    return bound


@dataclass(frozen=True)
class Graph:
    """An exported module.

    Attributes:
        nodes: operations in order of execution.
        parameters: placeholder name -> parameter name (tied weights under their first name).
        constants: placeholder name -> buffer name or tensor.
        inputs: placeholder names of the user's inputs, in flattened order.
        output: the node whose value is the model's output (first floating non-scalar).
        attributes: tensors and submodules that nodes fetch by name.
        epsilons: nodes that only add a regulariser.
    """

    nodes: tuple[Node, ...]
    parameters: Mapping[str, str]
    constants: Mapping[str, str | Tensor]
    inputs: tuple[str, ...]
    output: Node
    attributes: Mapping[str, Any] = field(repr=False)
    epsilons: frozenset[str] = frozenset()

    @property
    def operations(self) -> tuple[Node, ...]:
        """Call nodes that the output depends on, in order of execution."""
        needed, stack = set(), [self.output]
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend(node.all_input_nodes)
                # A node mutated in place is also needed by everything that reads it afterwards.
                stack.extend(user for user in node.users if _mutates(user) and user.args[0] is node)
        return tuple(node for node in self.nodes if node in needed and node.op == "call_function")

    def evaluate(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Sequence[Any],
        *,
        epsilon_zero: bool = False,
        batch_statistics: bool | None = None,
        taps: Mapping[str, Any] | None = None,
    ) -> Tensor | dict[str, Any]:
        """Run the graph as a pure function.

        Args:
            params: parameters by name.
            buffers: buffers by name; never written.
            inputs: flattened inputs, as at tracing time.
            epsilon_zero: replace every normalisation epsilon by zero.
            batch_statistics: True or False overrides the mode of every batch normalisation; None keeps it.
            taps: node names whose values are wanted instead of the output.

        Returns:
            The output tensor, or a dict of the tapped values.
        """
        env: dict[Node, Any] = {}
        given = dict(zip(self.inputs, inputs, strict=True))
        wide = any(p.dtype == torch.float64 for p in params.values())
        masks = torch.Generator().manual_seed(_seed(inputs))
        keep = {} if taps is not None else None
        for node in self.nodes:
            if node.op == "placeholder":
                env[node] = self._placeholder(node, params, buffers, given)
            elif node.op == "get_attr":
                env[node] = _widen(_fetch(self.attributes, str(node.target)), wide)
            elif node.op == "call_function":
                # Tensors made inside forward have the module's precision; here all are double.
                env[node] = _widen(self._call(node, env, epsilon_zero, batch_statistics, wide, masks), wide)
                if _mutates(node):
                    env[node.args[0]] = env[node]  # type: ignore[index]
            if keep is not None and taps is not None and node.name in taps:
                keep[node.name] = env[node]
            if node is self.output and keep is None:
                return env[node]
        return keep if keep is not None else env[self.output]

    def _placeholder(self, node: Node, params: Any, buffers: Any, given: Mapping[str, Any]) -> Any:
        if node.name in self.parameters:
            return params[self.parameters[node.name]]
        if node.name in self.constants:
            constant = self.constants[node.name]
            wide = any(p.dtype == torch.float64 for p in params.values())
            return buffers[constant] if isinstance(constant, str) else _widen(constant, wide)
        return given.get(node.name)

    def _call(
        self,
        node: Node,
        env: Any,
        epsilon_zero: bool,
        batch_statistics: bool | None,
        wide: bool,
        masks: torch.Generator,
    ) -> Any:
        def value(a: Any) -> Any:
            return env[a] if isinstance(a, Node) else a

        if not isinstance(node.target, torch._ops.OpOverload):
            args = map_arg(node.args, lambda n: env[n])
            return node.target(*args, **map_arg(node.kwargs, lambda n: env[n]))  # type: ignore[operator]
        name = op_name(node)
        if drops(node):
            return _dropped(value(node.args[0]), float(bind(node)["p"]), masks)
        if name in DROPOUTS or (epsilon_zero and node.name in self.epsilons):
            return value(node.args[0])
        if name == "view" and isinstance(bind(node).get("size"), (list, tuple)):
            # Strides may differ from those at tracing time, where another kernel ran.
            return value(node.args[0]).reshape(map_arg(bind(node)["size"], lambda n: env[n]))
        bound = dict(map_arg(bind(node), lambda n: env[n]))
        if (
            "eps" in bound and bound.get("use_input_stats") is not False
        ):  # with running statistics, see batch_norm below
            bound["eps"] = 0.0 if epsilon_zero else _epsilon(node, bound["eps"])
        if "dropout_p" in bound:
            bound["dropout_p"] = 0.0
        if wide and bound.get("dtype") in _HALF_AND_SINGLE:
            bound["dtype"] = torch.float64
        if name == "batch_norm":
            training = bound["training"] if batch_statistics is None else batch_statistics
            bound["training"] = training
            if not training:  # an affine map, in which epsilon is part of the variance and breaks nothing
                bound["eps"] = bind(node)["eps"]
            else:
                bound["running_mean"] = bound["running_var"] = None
        return _functional(node.target)(**_positional(node.target, bound))


def _positional(target: Any, bound: dict[str, Any]) -> dict[str, Any]:
    # Schemas may call an argument `self`, which cannot clash here because operators take keywords.
    return {a.name: bound[a.name] for a in target._schema.arguments if a.name in bound}


def _epsilon(node: Node, given: float | None) -> float:
    # torch's default for a missing epsilon is that of the precision in which the model really runs.
    return torch.finfo(node.meta["val"].dtype).eps if given is None else given


def _functional(target: Any) -> Any:
    """The out-of-place twin of an in-place operator."""
    name = target._schema.name
    if not name.endswith("_") or name.endswith("__"):
        return target
    namespace, short = name.split("::")
    packet = getattr(getattr(torch.ops, namespace), short.removesuffix("_"))
    return getattr(packet, target._overloadname or "default")


def _mutates(node: Node) -> bool:
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and target._schema.name.endswith("_")
        and not target._schema.name.endswith("__")
        and bool(node.args)
        and isinstance(node.args[0], Node)
    )


def drops(node: Node) -> bool:
    """Whether a node is a dropout that really drops.

    Args:
        node: a call node.

    Returns:
        True for a dropout in training mode with a positive rate.
    """
    if op_name(node) not in DROPOUTS:
        return False
    bound = bind(node)
    return bool(bound.get("train")) and float(bound.get("p") or 0.0) > 0.0


def _dropped(x: Tensor, rate: float, masks: torch.Generator) -> Tensor:
    kept = torch.rand(x.shape, generator=masks) >= rate
    return x * kept.to(x) / (1.0 - rate) if rate < 1.0 else torch.zeros_like(x)


def _seed(inputs: Sequence[Any]) -> int:
    """The same masks for the same inputs, other masks for others."""
    total = sum(float(x.double().sum()) for x in inputs if isinstance(x, Tensor) and not x.is_complex())
    return int.from_bytes(struct.pack("d", total), "little") % (2**63)


def _widen(value: Any, wide: bool) -> Any:
    return value.double() if wide and isinstance(value, Tensor) and value.dtype in _HALF_AND_SINGLE else value


def _fetch(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = root[part] if isinstance(root, Mapping) else getattr(root, part)
    return root


def _epsilon_nodes(nodes: Sequence[Node]) -> frozenset[str]:
    """Nodes that add a tiny number just before a root, or clamp a norm away from zero."""
    found = set()
    for node in nodes:
        if node.op != "call_function" or len(node.args) < 2 or not isinstance(node.args[1], float):
            continue
        tiny = 0 < node.args[1] <= _LARGEST_EPSILON
        name = op_name(node)
        rooted = all(u.op == "call_function" and op_name(u) in _ROOTS for u in node.users)
        if tiny and ((name == "add" and rooted) or name in {"clamp_min", "clamp"}):
            found.add(node.name)
    return frozenset(found)


def first_output(nodes: Sequence[Node]) -> Node:
    """The node that carries the model's output: its first floating, non-scalar tensor.

    Args:
        nodes: all nodes of the graph, the output node last.

    Returns:
        The node.

    Raises:
        Unsupported: no output is a floating tensor with at least one axis.
    """
    flat, _ = pytree.tree_flatten(nodes[-1].args)
    for node in flat:
        value = node.meta.get("val") if isinstance(node, Node) else None
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0:
            return node
    raise Unsupported(
        "the model's output",
        "none of its outputs is a floating-point tensor with at least one axis",
        "return the logits or predictions themselves, not only the loss",
    )


def trace(model: nn.Module, args: tuple, kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Export a module and index its graph.

    Args:
        model: any module; it is traced in its present mode and left untouched.
        args: positional example inputs.
        kwargs: keyword example inputs.

    Returns:
        The graph.

    Raises:
        Unsupported: the module cannot be exported, or writes through a view in place.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(model, args, dict(kwargs or {}), strict=False)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise Unsupported(
                f"{type(model).__name__}.forward",
                f"torch.export cannot trace it ({type(error).__name__}: {reason[:200]})",
                "regression alone is used; remove data-dependent control flow to get names and groups",
            ) from error
    nodes = tuple(exported.graph.nodes)
    first = {id(p): name for name, p in reversed(list(model.named_parameters(remove_duplicate=False)))}
    canonical = {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
    parameters, constants, inputs = {}, {}, []
    for spec in exported.graph_signature.input_specs:
        if spec.kind == InputKind.PARAMETER:
            parameters[spec.arg.name] = canonical.get(str(spec.target), str(spec.target))
        elif spec.kind == InputKind.BUFFER:
            constants[spec.arg.name] = str(spec.target)
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            constants[spec.arg.name] = exported.constants[str(spec.target)]
        else:
            inputs.append(spec.arg.name)
    for node in nodes:
        if _mutates(node) and isinstance(node.args[0], Node) and node.args[0].op == "call_function":
            source = node.args[0]
            if op_name(source) in _VIEWS:
                raise Unsupported(
                    f"{type(model).__name__}.forward",
                    f"it writes in place through a view ({source.name})",
                    "write out of place (torch.cat, torch.where) to get names and groups; regression alone is used",
                )
    return Graph(
        nodes=nodes,
        parameters=parameters,
        constants=constants,
        inputs=tuple(inputs),
        output=first_output(nodes),
        attributes=dict(exported.graph_module.named_modules())
        | {k: v for k, v in vars(exported.graph_module).items() if isinstance(v, Tensor)},
        epsilons=_epsilon_nodes(nodes),
    )


def module_path(node: Node) -> str:
    """Dotted path of the innermost submodule that ran this operation, for names in words.

    Args:
        node: a call node.

    Returns:
        The path, or an empty string for the top module.
    """
    stack = node.meta.get("nn_module_stack") or {}
    last = list(stack.values())[-1] if stack else ("", None)
    return str(last[0]).removeprefix("L['self'].").removeprefix("L['self']")


GETITEM = operator.getitem
