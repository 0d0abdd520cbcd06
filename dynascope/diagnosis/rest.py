"""Where scale-invariant groups will come to rest, and how far they still are from there."""

from typing import Any

import numpy as np

from dynascope.base.errors import Unsupported
from dynascope.base.series import mean, tail
from dynascope.base.settings import SGDSettings
from dynascope.mechanics.equilibrium import stationary_charge
from dynascope.runs import Run

PREFIX = "charges:"
# The part of a run whose updates stand for what is to come.
LATE = 0.25


def equilibria(run: Run) -> list[dict[str, Any]]:
    """Norms at which source and decay balance, for every family of scale charges under SGD with weight decay.

    Q = eta (1 + mu) S / (2 lambda (1 - tau)) with the mean source S of the last quarter of the run; the effective
    learning rate is eta (1 - tau) / Q, the learning rate of the group's direction.

    Args:
        run: a run with recorded charges.

    Returns:
        JSON-able entries: predicted and measured norms, and effective learning rates now and at rest.
    """
    out = []
    for name, about in run.families.items():
        if not name.startswith(PREFIX) or about.get("kind") != "scale" or about.get("law") is None:
            continue
        entry = _rest(run, name, SGDSettings(**about["legs"][0]["settings"])) if not about.get("groups") else None
        if entry is not None:
            out.append(entry)
    return out


def _rest(run: Run, name: str, settings: SGDSettings) -> dict[str, Any] | None:
    source, value = run.series(name, "source"), run.series(name, "value")
    if settings.weight_decay <= 0 or not len(source):
        return None
    try:
        rest = stationary_charge(settings, mean(tail(source, fraction=LATE)))
    except (Unsupported, ValueError):
        return None
    now = value.values[-1]
    # PyTorch does not dampen where there is no momentum.
    rate = settings.learning_rate * (1 - (settings.dampening if settings.momentum else 0.0))
    return {
        "family": name,
        "words": f"norms of {name.partition('/')[2]}: at the end of the run against where they would come to rest",
        "predicted_norm": np.sqrt(rest).tolist(),
        "measured_norm": np.sqrt(now).tolist(),
        "effective_learning_rate": {"now": (rate / now).tolist(), "at_rest": (rate / rest).tolist()},
    }
