"""Nothing is reported that was not seen to hold: every claim is put to the numbers, in double precision.

Each action is tried at random parameters and inputs in two ways, by the Jacobian-vector product of its tangent and by
its finite group element; the same legs moved at random must change the output, or it would prove nothing. On a large
model all claims are tried in one sum: independent random motions of which one changes the output do not add up to
nothing. What fails is halved until the culprit stands alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynascope.symmetry.kinds import Action
from dynascope.symmetry.verify import Bench, Draw, jacobian_vector

# Rounding of a Jacobian-vector product in float64 is near 1e-14 of its parts; a broken law is off by 1e-4 and more.
EXACT = 1e-9
# Internal casts to float32 leave about 1e-7.
APPROXIMATE = 1e-5
# Legs that move the output less than this share of a random direction of their length are not seen by it at all.
UNSEEN = 1e-3
# Seconds that trying every claim on its own may take; one trial costs about ten evaluations a point.
PATIENCE = 10.0
EVALUATIONS = 10

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Outcome:
    """What verification found.

    Attributes:
        residual: largest relative Jacobian-vector product at epsilon zero.
        violation: the same at the model's own epsilon.
        finite: relative change of the output under a finite group element, at epsilon zero.
        control: size of the product for the legs moved at random; must not be small.
        modes: modes in which the finite element leaves the output unchanged.
    """

    residual: float
    violation: float
    finite: float
    control: float
    modes: tuple[str, ...]


def try_actions(
    bench: Bench, actions: Sequence[Action], *, mode: str, generator: torch.Generator, fragile: Sequence[bool]
) -> list[Outcome]:
    """Put all claims to the numbers, one by one where that is affordable and together where it is not.

    Args:
        bench: the function and its random points.
        actions: the claimed motions.
        mode: mode in which the model was traced.
        generator: source of random elements.
        fragile: claims that a normalisation epsilon is expected to break.

    Returns:
        One outcome per action.
    """
    d = bench.draws[0]
    begun = time.perf_counter()
    bench.function(d.params, d.buffers, d.inputs)
    one = time.perf_counter() - begun
    if one * EVALUATIONS * len(bench.draws) * len(actions) <= PATIENCE:
        return [try_action(bench, a, mode=mode, generator=generator) for a in actions]
    return _try_together(bench, actions, mode=mode, generator=generator, fragile=fragile)


def try_action(bench: Bench, action: Action, *, mode: str, generator: torch.Generator) -> Outcome:
    """Put one motion to the numbers.

    Args:
        bench: the function and its random points.
        action: the motion.
        mode: mode in which the model was traced.
        generator: source of random elements.

    Returns:
        The outcome, worst over the points.
    """
    residual = violation = finite = 0.0
    control = float("inf")
    modes = {"train", "eval"}
    for d in bench.draws:
        element = torch.randn(action.shape, generator=generator, dtype=torch.float64)
        tangent = action.tangent(d.params, d.buffers, element)
        size = _speed(bench, d, _broken(tangent, d, generator))
        floor = max(size, UNSEEN * _norm_of(tangent) * _typical(bench, d, generator), _TINY)
        residual = max(residual, _speed(bench, d, tangent) / floor)
        violation = max(violation, _speed(bench, d, tangent, epsilon_zero=False) / floor)
        control = min(control, size)
        changes = _changes(bench, d, [action], [element])
        finite = max(finite, changes[mode])
        modes &= {m for m, change in changes.items() if change < EXACT}
    return Outcome(residual, violation, finite, control, tuple(sorted(modes, reverse=True)))


def _try_together(
    bench: Bench, actions: Sequence[Action], *, mode: str, generator: torch.Generator, fragile: Sequence[bool]
) -> list[Outcome]:
    d = bench.draws[0]
    elements = [torch.randn(a.shape, generator=generator, dtype=torch.float64) for a in actions]
    tangents = [a.tangent(d.params, d.buffers, e) for a, e in zip(actions, elements, strict=True)]
    tangents = [_scaled(t, 1 / max(_norm_of(t), _TINY)) for t in tangents]
    typical = max(_typical(bench, d, generator), _TINY)
    everyone = list(range(len(actions)))

    def speed(members: Sequence[int], *, epsilon_zero: bool) -> float:
        return _speed(bench, d, _sum([tangents[i] for i in members]), epsilon_zero=epsilon_zero) / typical

    residuals = _halved(everyone, lambda members: speed(members, epsilon_zero=True))
    good = [i for i in everyone if residuals[i] < EXACT]
    shaky = [i for i in good if fragile[i]]
    violations = dict.fromkeys(shaky, speed(shaky, epsilon_zero=False)) if shaky else {}
    violations |= _halved([i for i in good if not fragile[i]], lambda members: speed(members, epsilon_zero=False))
    control = _speed(bench, d, _broken(_sum([tangents[i] for i in good]), d, generator)) if good else 0.0

    def change(members: Sequence[int], where: str) -> float:
        return _changes(bench, d, [actions[i] for i in members], [elements[i] for i in members])[where]

    finite = _halved(good, lambda members: change(members, mode))
    other = "eval" if mode == "train" else "train"
    elsewhere = change([i for i in good if not fragile[i]], other) < EXACT if len(good) > len(shaky) else False
    out = []
    for i in everyone:
        modes = (mode,) if i not in good or fragile[i] or not elsewhere else ("train", "eval")
        worst = Outcome(residuals[i], violations.get(i, residuals[i]), finite.get(i, residuals[i]), control, modes)
        out.append(worst if i in good else replace(worst, modes=()))
    return out


def _halved(members: Sequence[int], measure: Callable[[Sequence[int]], float]) -> dict[int, float]:
    """Measure a group at once; where that is not small, its halves."""
    if not members:
        return {}
    value = measure(members)
    if value < EXACT or len(members) == 1:
        return dict.fromkeys(members, value)
    middle = len(members) // 2
    return _halved(members[:middle], measure) | _halved(members[middle:], measure)


def _changes(bench: Bench, d: Draw, actions: Sequence[Action], elements: Sequence[Tensor]) -> dict[str, float]:
    """Relative change of the output under finite elements, by mode."""
    params, buffers = dict(d.params), dict(d.buffers)
    for action, element in zip(actions, elements, strict=True):
        # Half an element keeps the exponentials of wide families in range.
        params, buffers = action.finite(params, buffers, 0.5 * element)
    out = {}
    for where, statistics in (("train", True), ("eval", False)):
        before = bench.function(d.params, d.buffers, d.inputs, epsilon_zero=True, batch_statistics=statistics)
        after = bench.function(params, buffers, d.inputs, epsilon_zero=True, batch_statistics=statistics)
        out[where] = _norm(after - before) / max(_norm(before), _TINY)
    return out


def _speed(bench: Bench, d: Draw, tangent: Mapping[str, Tensor], *, epsilon_zero: bool = True) -> float:
    def at(p: dict[str, Tensor]) -> Tensor:
        return bench.function(p, d.buffers, d.inputs, epsilon_zero=epsilon_zero)

    return _norm(jacobian_vector(at, d.params, tangent))


def _typical(bench: Bench, d: Draw, generator: torch.Generator) -> float:
    """How fast the output moves along a random direction of length one."""
    anywhere = {n: _noise(p, generator) for n, p in d.params.items()}
    return _speed(bench, d, anywhere) / max(_norm_of(anywhere), _TINY)


def _broken(tangent: Mapping[str, Tensor], d: Draw, generator: torch.Generator) -> dict[str, Tensor]:
    """The same legs, each at a random speed and with noise: no symmetry any more."""
    out = {n: t * (1 + torch.randn((), generator=generator, dtype=torch.float64)) for n, t in tangent.items()}
    return {n: t + 0.3 * t.abs().mean() * _noise(d.params[n], generator) for n, t in out.items()}


def _sum(tangents: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for tangent in tangents:
        for name, t in tangent.items():
            total[name] = total[name] + t if name in total else t
    return total


def _scaled(tangent: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {n: t * factor for n, t in tangent.items()}


def _norm_of(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(t.square().sum()) for t in tensors.values()) ** 0.5


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _norm(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(t))
