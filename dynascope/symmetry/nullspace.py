r"""Engine N: how many parameter directions leave the function unchanged, counted without knowing why.

At a generic point the directions that change no output on any input are the null space of the Jacobian J of
outputs over parameters. Its dimension is what every list of symmetries must add up to.

J is never stored: its rows are folded block by block into the triangular factor R of J = Q R, which has the
same singular values and keeps full precision (the Gram matrix would square the condition number and close the
gap).
Source: symmetry-discovery digest, section 3.5.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dynascope.base.errors import Unsupported
from dynascope.functional.params import Params, flatten
from dynascope.symmetry.draws import PureFunction, Sample, check_deterministic, evaluate, fresh, near

# A dropped singular value must be this small against the largest one: null directions sit at 1e-16 to 1e-13
# in float64, the weakest true directions of small networks at 1e-6 or above.
DROPPED = 1e-8
# Rows of the Jacobian that are differentiated and folded at once; bounds the memory to this many parameter
# vectors.
BLOCK = 256
# Further points that may be drawn when the first ones disagree.
EXTRA_DRAWS = 20
# Points to look at before null directions beyond the known ones are believed: two may share a dead unit by chance.
DOUBTFUL_DRAWS = 16


@dataclass(frozen=True, eq=False)
class Nullity:
    """Size of the null space of the Jacobian at a generic point.

    Attributes:
        dimension: number of independent null directions, the least over the points drawn.
        rank: parameters minus dimension.
        gap: smallest ratio, over the points that agree, of the smallest kept to the largest dropped singular
            value.
        basis: orthonormal basis of the null space at ``point``, in the order of ``flatten(params)``.
        point: the generic parameters at which the basis was taken.
        samples: rows of the Jacobian that were used at that point.
        dimensions: dimension at every point drawn; the first is near the given parameters, the others are
            fresh.
    """

    dimension: int
    rank: int
    gap: float
    basis: Float[Tensor, "params null"]
    point: Params
    samples: int
    dimensions: tuple[int, ...]

    @property
    def dead(self) -> int:
        """Null directions near the given parameters that generic ones lack: suspected dead units."""
        return self.dimensions[0] - self.dimension


@dataclass(frozen=True, eq=False)
class _Measured:
    point: Params
    rows: int
    rank: int
    gap: float
    right: Float[Tensor, "params params"]

    @property
    def dimension(self) -> int:
        return len(self.right) - self.rank


def jacobian_nullity(
    f: PureFunction,
    params: Params,
    sample: Sample,
    *,
    generator: torch.Generator,
    draws: int = 2,
    max_entries: int = 2**24,
    known: Callable[[Params], int] | None = None,
) -> Nullity:
    """Count the parameter directions that change no output, at a generic point near or unlike ``params``.

    Each point is measured with at least 1.5 rows per parameter, and with more until half as many again do not
    change the rank. At least two points must agree on the smallest dimension; points with more null
    directions than that are special (dead units) and are reported in ``dimensions`` and ``dead``.

    Args:
        f: pure function of parameters and inputs in float64, deterministic.
        params: parameters by name, each tied tensor once.
        sample: draws inputs; for BatchNorm in train mode give batches of at least 4.
        generator: source of all randomness.
        draws: points to start with, at least 2: one near ``params``, the others fresh.
        max_entries: largest allowed square of the number of parameters (memory is 8 bytes an entry).
        known: number of independent directions proven to be null at a point, from its verified symmetries.

    Returns:
        Dimension, rank, gap and a basis.

    Raises:
        ValueError: ``params`` is empty or ``draws`` is less than 2.
        Unsupported: too many parameters, f is not deterministic, or no two points agree.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> params = {"a": torch.randn(3, 2).double(), "b": torch.randn(2, 4).double()}
        >>> draw = lambda g: torch.randn(8, 3, generator=g).double()
        >>> found = jacobian_nullity(lambda p, x: x @ p["a"] @ p["b"], params, draw, generator=rng)
        >>> found.dimension  # GL(2) on the hidden space
        4
    """
    _check_arguments(params, draws, max_entries)
    check_deterministic(f, params, sample(generator))
    measured = [_measure(f, near(params, generator), sample, generator)]

    def settled() -> bool:
        least = _agreeing(measured)
        if known is not None and known(least[0].point) >= least[0].dimension:
            return True
        return len(least) > 1 and (known is None or len(measured) >= DOUBTFUL_DRAWS)

    while len(measured) < draws or (not settled() and len(measured) < draws + EXTRA_DRAWS):
        measured.append(_measure(f, fresh(params, generator), sample, generator))
    agreeing = _agreeing(measured)
    if not settled():
        raise Unsupported(
            "counting null directions of this function",
            f"no two points agree on the least dimension; found {[m.dimension for m in measured]}",
            "let sample() draw larger or more varied inputs",
        )
    best = max(agreeing, key=lambda m: m.gap)
    return Nullity(
        dimension=best.dimension,
        rank=best.rank,
        gap=min(m.gap for m in agreeing),
        basis=best.right[best.rank :].T,
        point=best.point,
        samples=best.rows,
        dimensions=tuple(m.dimension for m in measured),
    )


def jacobian_blocks(f: PureFunction, params: Params, inputs: Any) -> Iterator[Float[Tensor, "rows params"]]:
    """Rows of the Jacobian of the flattened output over the flattened parameters, a block at a time.

    Args:
        f: pure function of parameters and inputs.
        params: parameters by name.
        inputs: whatever ``sample`` drew.

    Yields:
        Blocks of at most 256 rows.
    """
    live = {name: p.detach().requires_grad_() for name, p in params.items()}
    output = evaluate(f, live, inputs).reshape(-1)
    for start in range(0, len(output), BLOCK):
        count = min(BLOCK, len(output) - start)
        cotangents = output.new_zeros(count, len(output))
        cotangents[torch.arange(count), start + torch.arange(count)] = 1
        yield _rows(output, list(live.values()), cotangents)


def _rows(output: Tensor, leaves: list[Tensor], cotangents: Float[Tensor, "rows outputs"]) -> Tensor:
    if not output.requires_grad:
        return torch.zeros(len(cotangents), sum(leaf.numel() for leaf in leaves), dtype=output.dtype)
    with warnings.catch_warnings():
        # An operation without a batched derivative is looped over: slower, not wrong.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found = torch.autograd.grad(
            output, leaves, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    parts = [
        leaf.new_zeros(len(cotangents), leaf.numel()) if g is None else g.reshape(len(cotangents), -1)
        for g, leaf in zip(found, leaves, strict=True)
    ]
    return torch.cat(parts, dim=1)


def _check_arguments(params: Params, draws: int, max_entries: int) -> None:
    if draws < 2:
        raise ValueError(f"draws = {draws}; permitted is 2 or more, because one point may be special")
    size = len(flatten(params))
    if size**2 > max_entries:
        raise Unsupported(
            f"counting null directions of {size} parameters",
            f"it needs {size**2} matrix entries, more than max_entries = {max_entries}",
            "give a narrow twin of the model (the same layers, smaller widths), or raise max_entries",
        )


def _agreeing(measured: list[_Measured]) -> list[_Measured]:
    least = min(m.dimension for m in measured)
    return [m for m in measured if m.dimension == least]


def _measure(f: PureFunction, point: Params, sample: Sample, generator: torch.Generator) -> _Measured:
    """Fold rows into R until the rank has stopped growing."""
    size = len(flatten(point))
    factor, rows, rank = torch.zeros(0, size, dtype=torch.float64), 0, -1
    while True:
        more = math.ceil((1.5 if rank < 0 else 0.5) * size) + 32
        for block in _batches(f, point, sample, generator, more):
            factor = torch.linalg.qr(torch.cat([factor, block]), mode="r").R
            rows += len(block)
        _, sigma, right = torch.linalg.svd(factor)
        new_rank, gap = _cut(sigma)
        if new_rank <= rank:
            return _Measured(point, rows, new_rank, gap, right)
        rank = new_rank


def _batches(
    f: PureFunction, point: Params, sample: Sample, generator: torch.Generator, rows: int
) -> Iterator[Float[Tensor, "rows params"]]:
    """At least ``rows`` rows on fresh inputs, in pieces large enough that folding them is worth its cost."""
    pending, size, seen = [], max(BLOCK, len(flatten(point)) // 2), 0
    while seen < rows:
        for block in jacobian_blocks(f, point, sample(generator)):
            pending.append(block)
            seen += len(block)
            if sum(map(len, pending)) >= size:
                yield torch.cat(pending)
                pending = []
    if pending:
        yield torch.cat(pending)


def _cut(sigma: Float[Tensor, " params"]) -> tuple[int, float]:
    """Rank at the widest gap below which every singular value is negligible, and that gap."""
    largest = sigma.max().item() if len(sigma) else 0.0
    if largest == 0.0:
        return 0, math.inf
    rounding = largest * len(sigma) * torch.finfo(sigma.dtype).eps
    # Rounding stands in as an extra last value, so that a full rank competes on equal terms.
    ladder = torch.cat([sigma, sigma.new_zeros(1)]).clamp(min=rounding)
    ratios = torch.where(ladder[1:] < DROPPED * largest, ladder[:-1] / ladder[1:], 0.0)
    rank = int(ratios.argmax()) + 1
    return rank, ratios[rank - 1].item()
