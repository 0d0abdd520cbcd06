"""Where norms come to rest: against an exact recursion that has been run to its end."""

from pathlib import Path

import numpy as np
import pytest

from dynascope.diagnosis.rest import equilibria
from dynascope.runs import RunWriter, load

SETTINGS = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.05}


def written(folder: Path, *, kind: str = "scale", **settings: float) -> Path:
    """A run whose family has a constant source of 2.0 and a norm that has not arrived yet."""
    legs = [{"parameter": "w", "coefficient": 1.0, "group": 0, "settings": {**SETTINGS, **settings}}]
    about = {
        "kind": kind,
        "degree": 2,
        "size": 2,
        "words": "w",
        "exact": True,
        "law": "sgd",
        "groups": [],
        "legs": legs,
    }
    with RunWriter.create(folder, {"name": "r", "families": {"charges:scale/w": about}}) as writer:
        columns = {"value": np.full((8, 2), 9.0), "source": np.full((8, 2), 2.0)}
        writer.block("charges:scale/w", np.arange(8), columns)
    return folder


def test_the_resting_norm_is_the_end_of_the_exact_recursion(tmp_path: Path) -> None:
    """p = mu (p - eta s) + lambda q; q = q - 2 eta p + eta^2 s, iterated until it stands still."""
    (entry,) = equilibria(load(written(tmp_path / "r")))
    q, p, s = 1.0, 0.0, 2.0
    eta, mu, decay = SETTINGS["learning_rate"], SETTINGS["momentum"], SETTINGS["weight_decay"]
    for _ in range(20_000):
        p = mu * (p - eta * s) + decay * q
        q = q - 2 * eta * p + eta**2 * s
    assert entry["predicted_norm"] == pytest.approx([np.sqrt(q)] * 2, rel=1e-9)  # relaxed over many time constants
    assert entry["measured_norm"] == [3.0, 3.0]
    assert entry["effective_learning_rate"]["now"] == pytest.approx([0.1 / 9.0] * 2)
    assert entry["effective_learning_rate"]["at_rest"] == pytest.approx([0.1 / q] * 2)


@pytest.mark.parametrize("change", [{"weight_decay": 0.0}, {"nesterov": True}, {"kind": "rescale"}])
def test_what_has_no_rest_has_no_entry(tmp_path: Path, change: dict) -> None:
    assert equilibria(load(written(tmp_path / "r", **change))) == []
