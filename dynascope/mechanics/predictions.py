"""Numbers from a law, wrapped together with what the law assumes and what it was fed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynascope.base.claims import Kind, Prediction
from dynascope.base.errors import UnknownName
from dynascope.base.series import Series
from dynascope.mechanics.inputs import Numbers


@dataclass(frozen=True)
class Law:
    """What is to be said about a law whenever its numbers are shown.

    Attributes:
        kind: what sort of statement it makes.
        assumptions: when it holds, in words.
        source: where it comes from.
    """

    kind: Kind
    assumptions: tuple[str, ...]
    source: str


_SYMMETRY = "the symmetry holds: B(theta, g) = 0 on every batch"
_SGD = "PyTorch's SGD with coupled weight decay; clipping, if any, by the global norm"
_ALIKE = "all legs share their settings"
_HEAVY_BALL = "momentum, if any, is the heavy ball's"
_PAPER = "Kunin et al., arXiv 2012.04728"

LAWS: dict[str, Law] = {
    "account": Law("account", (_SYMMETRY, _SGD), f"{_PAPER}; discrete form in mechanics.charge_laws"),
    "continuous": Law(
        "law",
        (_SYMMETRY, _SGD, _ALIKE, _HEAVY_BALL, "error of second order in the learning rate"),
        f"{_PAPER}, charges as driven oscillators; start velocity in mechanics.continuous_laws",
    ),
    "first_order": Law(
        "law",
        (_SYMMETRY, _SGD, _ALIKE, "no momentum", "error of first order in the learning rate where there is decay"),
        f"{_PAPER}, charges under modified gradient flow",
    ),
    "naive": Law(
        "law",
        (_SYMMETRY, _SGD, _ALIKE, _HEAVY_BALL, "infinitely small steps"),
        f"{_PAPER}, charges under gradient flow",
    ),
}


def prediction(
    law: str,
    values: Float[np.ndarray, "records ..."],
    *,
    steps: Numbers,
    quantity: str,
    inputs: Sequence[str],
    unit: str = "",
) -> Prediction:
    """The values of a law as a ``Prediction``, with its assumptions and source.

    Args:
        law: name of the law that gave the values, a key of ``LAWS``.
        values: what it predicts, one record per step.
        steps: the steps, increasing.
        quantity: name of what is predicted.
        inputs: names of every measured number and series that the law was fed, the first value included.
        unit: unit of the values.

    Returns:
        The prediction.

    Raises:
        UnknownName: there is no such law.
    """
    if law not in LAWS:
        raise UnknownName("law", law, LAWS)
    card = LAWS[law]
    series = Series(np.asarray(steps, dtype=np.int64), values, name=quantity, unit=unit)
    return Prediction(
        series=series, inputs=tuple(inputs), kind=card.kind, assumptions=card.assumptions, source=card.source
    )
