"""Predicted against measured norms: one dot a charge, numbers with their sources."""

import numpy as np

from dynascope.report.equilibrium import DOTS, equilibrium
from tests.report.conftest import HOSTILE
from tests.report.test_markup import Seen


def elements(markup: str, name: str) -> list[dict[str, str | None]]:
    return [attributes for found, attributes in Seen(markup).elements if found == name]


def test_one_dot_a_charge_and_equal_norms_lie_on_the_line():
    norms = [1.0, 2.0, 4.0]
    dots = elements(equilibrium(0, {"family": "f", "predicted_norm": norms, "measured_norm": norms}), "circle")
    assert len(dots) == 3
    # x grows by as much as y falls: the dots lie on the diagonal
    sums = [float(dot["cx"] or 0) + float(dot["cy"] or 0) for dot in dots]
    np.testing.assert_allclose(sums, sums[0], atol=0.11)  # coordinates are written with one decimal


def test_dots_are_limited_and_non_finite_ones_left_out():
    many = np.linspace(1, 2, 5 * DOTS).tolist()
    assert len(elements(equilibrium(0, {"predicted_norm": many, "measured_norm": many}), "circle")) == DOTS
    some = {"predicted_norm": [1.0, "nan", 2.0], "measured_norm": [1.0, 1.0, "inf"]}
    assert len(elements(equilibrium(0, some), "circle")) == 1
    assert "No finite norms" in equilibrium(0, {"predicted_norm": ["nan"] * 2, "measured_norm": [1.0, 1.0]})


def test_numbers_name_their_entry():
    entry = {"family": "f", "predicted_norm": [2.0], "effective_learning_rate": {"measured": [1.0, 2.0, 9.0]}}
    shown = {data["data-source"]: data["value"] for data in elements(equilibrium(3, entry), "data")}
    assert shown["run.json#/equilibrium/3/predicted_norm"] == "2.0"
    assert shown["run.json#/equilibrium/3/effective_learning_rate/measured@median"] == "2.0"
    assert shown["run.json#/equilibrium/3/effective_learning_rate/measured@max"] == "9.0"


def test_everything_but_the_family_is_optional_and_escaped():
    seen = Seen(equilibrium(0, {"family": HOSTILE, "words": HOSTILE, "effective_learning_rate": None}))
    assert "script" not in [name for name, _ in seen.elements]
    assert seen.text.count(HOSTILE) == 2
