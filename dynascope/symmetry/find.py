"""Inspection: trace, propose, verify, count."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dynascope.base.errors import Unsupported
from dynascope.symmetry import propose
from dynascope.symmetry.anatomy import Anatomy
from dynascope.symmetry.fallback import module_function, proposals
from dynascope.symmetry.graph import Graph, trace
from dynascope.symmetry.kinds import Symmetry
from dynascope.symmetry.trial import APPROXIMATE, EXACT, Outcome, try_actions
from dynascope.symmetry.verify import Bench, draw, flatten_inputs, graph_function

DRAWS = 3
# Batch statistics of fewer examples than this make outputs almost constant, which would invent symmetries.
SMALLEST_BATCH = 8
# Inputs of more numbers than this are cut down to a few examples.
LARGE_INPUT, LARGE_BATCH, SMALL_BATCH = 1 << 15, 4, 2


def inspect_model(
    model: nn.Module,
    example_inputs: Any,
    *,
    output: str = "identity",
    mode: str | None = None,
    seed: int = 0,
) -> Anatomy:
    """Find and verify the continuous symmetries of a model.

    Args:
        model: any module; it is left untouched.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.
        output: "identity", or "softmax" where the loss ignores a common shift of the logits.
        mode: "train" or "eval"; the model's present mode if None.
        seed: seed of the random points at which claims are tried.

    Returns:
        The anatomy.

    Raises:
        ValueError: an argument is not permitted, or the model has no parameters.
    """
    _check(model, output, mode)
    args, kwargs = as_arguments(example_inputs)
    was_training = [m.training for m in model.modules()]
    mode = mode or ("train" if model.training else "eval")
    try:
        if mode != ("train" if model.training else "eval"):
            model.train(mode == "train")
        with torch.random.fork_rng(devices=[]):
            return _inspect(model, args, kwargs, output, mode, seed)
    finally:
        for module, training in zip(model.modules(), was_training, strict=True):
            module.training = training


def _check(model: nn.Module, output: str, mode: str | None) -> None:
    if output not in {"identity", "softmax"}:
        raise ValueError(f"output is {output!r}; permitted are 'identity' and 'softmax'")
    if mode not in {None, "train", "eval"}:
        raise ValueError(f"mode is {mode!r}; permitted are 'train', 'eval' and None for the model's present mode")
    if not any(True for _ in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has no parameters, so it has no parameter symmetries; pass a model that learns"
        )


def as_arguments(example_inputs: Any) -> tuple[tuple, dict[str, Any]]:
    """Split example inputs into positional and keyword arguments.

    Args:
        example_inputs: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.

    Returns:
        Positional and keyword arguments.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise ValueError(
        f"example_inputs is a {type(example_inputs).__name__}; permitted are a tensor, a tuple of arguments or a "
        "dict of keyword arguments"
    )


def _inspect(model: nn.Module, args: tuple, kwargs: dict, output: str, mode: str, seed: int) -> Anatomy:
    args, kwargs = _enough_examples(model, args, kwargs)
    try:
        graph = trace(model, args, kwargs)
    except Unsupported as error:
        return _without_graph(model, args, kwargs, output, mode, seed, str(error))
    axis = softmax_axis(len(graph.output.meta["val"].shape)) if output == "softmax" else None
    bench, rng = make_bench(model, graph, axis, args, kwargs, seed)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    proposed, bonds, unknown = _propose(graph, shapes, axis)
    return _assemble(model, output, mode, bench, rng, proposed, bonds=bonds, unknown=unknown)


def _assemble(
    model: nn.Module,
    output: str,
    mode: str,
    bench: Bench,
    rng: torch.Generator,
    proposed: Sequence[Symmetry],
    *,
    bonds: Sequence[propose.Bond] = (),
    unknown: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Anatomy:
    """Verify proposals and put what holds together."""
    confirmed, remarks = [], list(notes)
    actions = [s.action for s in proposed]
    # What a normalisation removes, it removes only up to its epsilon.
    fragile = [s.kind in {"scale", "rotation"} for s in proposed]
    outcomes = try_actions(bench, actions, mode=mode, generator=rng, fragile=fragile)
    for symmetry, outcome in zip(proposed, outcomes, strict=True):
        found = judge(symmetry, outcome, mode)
        if isinstance(found, Symmetry):
            confirmed.append(found.confirmed(buffers=bench.draws[0].buffers))
        else:
            remarks.append(found)
    confirmed = _finest(confirmed)
    return Anatomy(
        model=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        mode=mode,
        output=output,
        symmetries=tuple(_unique(confirmed)),
        bonds=tuple(_named_groups(bonds, confirmed)),
        unknown_ops=tuple(sorted(set(unknown))),
        notes=tuple(remarks),
        bench=bench,
    )


def softmax_axis(rank: int) -> int:
    """Class axis of logits: the last one of (batch, class) and (batch, time, class), the channels of an image.

    Args:
        rank: number of axes.

    Returns:
        The axis.
    """
    return rank - 1 if rank <= 3 else 1


def make_bench(
    model: nn.Module, graph: Graph, axis: int | None, args: tuple, kwargs: dict, seed: int
) -> tuple[Bench, torch.Generator]:
    """Random points at which claims about a traced model are tried.

    Args:
        model: the module.
        graph: its graph.
        axis: softmax axis or None.
        args: positional example inputs.
        kwargs: keyword example inputs.
        seed: seed.

    Returns:
        The bench, and the generator to go on with.

    Raises:
        Unsupported: the forward pass is not deterministic.
    """
    rng = torch.Generator().manual_seed(seed)
    inputs = flatten_inputs(args, kwargs)
    bench = Bench(graph_function(graph, axis), tuple(draw(model, inputs, rng) for _ in range(DRAWS)))
    d = bench.draws[0]
    once, twice = (bench.function(d.params, d.buffers, d.inputs) for _ in range(2))
    if not torch.equal(once, twice):
        raise Unsupported(
            f"{type(model).__name__}.forward",
            "two identical calls give different outputs even without dropout",
            "pass the randomness in as an input, or draw it from a fixed buffer",
        )
    return bench, rng


def _propose(
    graph: Graph, shapes: dict[str, tuple[int, ...]], axis: int | None
) -> tuple[list[Symmetry], list[propose.Bond], list[str]]:
    diagonal, domain = propose.scales(graph, shapes, axis)
    found, index = propose.bonds(graph, axis)
    constant, constants = propose.shifts(graph, shapes, axis, domain.norms)
    proposals = [
        *propose.mixings(found, index, shapes),
        *diagonal,
        *propose.skips(graph, shapes, axis),
        *constant,
        *propose.writes(graph, shapes, axis),
        *propose.mean_free_readers(graph, domain, shapes),
        *propose.unused_parameters(graph, shapes),
    ]
    return proposals, found, [*domain.unknown, *constants.unknown]


def judge(symmetry: Symmetry, outcome: Outcome, mode: str) -> Symmetry | str:
    """Confirm a proposal or say why not.

    Args:
        symmetry: the proposal.
        outcome: what verification measured.
        mode: mode of tracing.

    Returns:
        The confirmed symmetry, or a sentence.
    """
    worst = max(outcome.residual, outcome.finite)
    if not worst < APPROXIMATE:
        return f"proposed but not confirmed (off by {worst:.1e}): {symmetry.words}"
    exact = worst < EXACT and outcome.violation < EXACT
    charge = symmetry.charge
    if charge is not None and not exact:
        charge = replace(charge, exact=False)
    modes = outcome.modes or (mode,)
    return symmetry.confirmed(
        residual=outcome.residual, violation=outcome.violation, exact=exact, charge=charge, modes=modes
    )


def _finest(symmetries: Sequence[Symmetry]) -> list[Symmetry]:
    """Drop a diagonal family where a change of basis of the same legs holds too."""
    covered = {
        frozenset((leg.parameter, leg.coefficient, leg.slice) for leg in s.legs) for s in symmetries if s.kind == "gl"
    }
    return [
        s
        for s in symmetries
        if s.kind not in {"rescale", "scale"}
        or frozenset((leg.parameter, leg.coefficient, leg.slice) for leg in s.legs) not in covered
    ]


def _unique(symmetries: Sequence[Symmetry]) -> list[Symmetry]:
    """Give families of the same name a number."""
    count: dict[str, int] = {}
    out = []
    for s in symmetries:
        count[s.name] = count.get(s.name, 0) + 1
        if count[s.name] > 1:
            name = f"{s.name}#{count[s.name]}"
            charge = s.charge
            charge = replace(charge, name=name) if charge is not None else None
            s = s.confirmed(name=name, charge=charge)
        out.append(s)
    return out


def _named_groups(bonds: Sequence[propose.Bond], confirmed: Sequence[Symmetry]) -> list[propose.Bond]:
    """Write the group of each bond from what was confirmed on it."""
    by_bond = {s.bond: s for s in confirmed if s.bond}
    out = []
    for bond in bonds:
        scaled = any(
            s.kind in {"scale", "rescale"} and {leg.parameter for leg in s.legs} & {p.key for p in bond.parts}
            for s in confirmed
        )
        if bond.name in by_bond:
            group = by_bond[bond.name].group + (" x scale" if by_bond[bond.name].kind == "rotation" and scaled else "")
        elif bond.behaviours <= {"contraction", "add", "odd", "average", "embedding"} and "odd" in bond.behaviours:
            group = "signs x permutations"
        else:
            group = (
                "positive diagonal x permutations" if scaled and "homogeneous" in bond.behaviours else "permutations"
            )
        out.append(replace(bond, group=group))
    return out


def _enough_examples(model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Repeat a small batch where batch statistics need more examples."""
    batched = any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) and (m.training or not m.track_running_stats)
        for m in model.modules()
    )
    leaves, spec = pytree.tree_flatten((args, kwargs))
    leaves = _slim(leaves, LARGE_BATCH if batched else SMALL_BATCH)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    sizes = {v.shape[0] for v in leaves if isinstance(v, Tensor) and v.ndim > 1}
    if not batched or len(sizes) != 1 or min(sizes) >= (LARGE_BATCH if _many_positions(leaves) else SMALLEST_BATCH):
        return args, kwargs
    times = -(-SMALLEST_BATCH // min(sizes))
    leaves = [v.repeat(times, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) and v.ndim > 1 else v for v in leaves]
    return pytree.tree_unflatten(leaves, spec)


def _many_positions(leaves: list) -> bool:
    return any(isinstance(v, Tensor) and v.numel() > LARGE_INPUT for v in leaves)


def _slim(leaves: list, keep: int) -> list:
    """A few examples of large inputs say as much as many."""
    sizes = {v.shape[0] for v in leaves if isinstance(v, Tensor) and v.ndim > 1}
    if not _many_positions(leaves) or len(sizes) != 1:
        return leaves
    return [v[:keep] if isinstance(v, Tensor) and v.ndim > 1 else v for v in leaves]


def _without_graph(
    model: nn.Module, args: tuple, kwargs: dict, output: str, mode: str, seed: int, reason: str
) -> Anatomy:
    rng = torch.Generator().manual_seed(seed)
    inputs = flatten_inputs(args, kwargs)
    function = module_function(model, args, kwargs, output)
    bench = Bench(function, tuple(draw(model, inputs, rng) for _ in range(DRAWS)))
    return _assemble(model, output, mode, bench, rng, proposals(bench, rng), notes=[reason])
