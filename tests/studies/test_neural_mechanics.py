"""The quick scale gives the stated verdicts, and a sabotaged law changes them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dynascope.base.claims import Comparison, overall
from dynascope.base.errors import UnknownName
from dynascope.base.series import Series
from dynascope.base.settings import SGDSettings
from dynascope.mechanics import charge_laws, continuous_laws
from dynascope.studies import _execute
from dynascope.studies import neural_mechanics as study
from dynascope.tasks.catalog import VGG16
from dynascope.tasks.models import vgg_like

Laws = dict[str, Callable[..., Any]]


def judged(comparisons: Any) -> dict[str, Comparison]:
    return {comparison.claim_id: comparison for comparison in comparisons}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("neural-mechanics")
    return _execute.execute(study.neural_mechanics("quick").runs, folder, progress=False)


def rows(runs: Any) -> dict[str, Comparison]:
    return judged(study._judge_rows([r for r in study.ROWS if r.name in runs], study.CLAIMS, study.FAMILIES, runs))


# ------------------------------------------------------------------------------------ with the study's own runs


@pytest.mark.slow
def test_quick_supports_every_claim_it_tests(runs: Any) -> None:
    found = judged(study.neural_mechanics("quick").evaluate(runs))
    assert {claim: c.verdict for claim, c in found.items()} == dict.fromkeys(found, "supported")
    assert len(found) == 2 * 6 + 3 + 2
    # Facts of the digest, within the spread that another draw of weights and batches leaves.
    assert found["momentum/translation/linear-law"].error < 1e-4
    assert found["decay/scale/law"].error < 0.01 < 0.05 < found["decay/scale/law"].control_error
    assert found["decay/scale/epsilon"].control_error > 1e-4
    assert 0.9 < found["flow/gradient-flow"].measured < 1.1
    assert 1.9 < found["flow/modified-flow"].measured < 2.1
    assert found["decay/scale/law"].inputs == ("decay/scale/value at step 0", "source of decay/scale/value")


@pytest.mark.slow
def test_a_sabotaged_law_changes_the_verdict(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for law in ("first_order", "continuous"):
        monkeypatch.setattr(continuous_laws, law, half_the_source(getattr(continuous_laws, law)))
    found = rows(runs)
    changed = {claim for claim, c in found.items() if c.verdict != "supported"}
    assert changed == {f"{row}/{family}/law" for row in ("decay", "momentum") for family in ("scale", "rescale")}
    assert overall([c.verdict for c in found.values()]) == "refuted"


@pytest.mark.slow
def test_a_sabotaged_modified_flow_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    true = study.modified_flow

    def wrong(*args: Any, learning_rate: float, order: int, **kwargs: Any) -> Any:
        rate = learning_rate / 2 if order == 1 else learning_rate  # half the correction
        return true(*args, learning_rate=rate, order=order, **kwargs)

    monkeypatch.setattr(study, "modified_flow", wrong)
    found = judged(study._judge_flow())
    assert found["flow/modified-flow"].verdict == "refuted"
    # and the order of the other flow no longer stands out against its control
    assert found["flow/gradient-flow"].verdict == "inconclusive"


@pytest.mark.slow
def test_a_sabotaged_geometry_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    true = study._charge

    def wrong(*args: Any) -> Any:  # writers only: what the controls are made of
        charge = true(*args)
        return replace(charge, legs=charge.legs[:1]) if charge.kind == "rescale" else charge

    monkeypatch.setattr(study, "_charge", wrong)
    found = judged(study._judge_geometry())
    assert found["geometry/rescale"].verdict == "refuted"
    assert found["geometry/translation"].verdict == found["geometry/scale"].verdict == "supported"


# -------------------------------------------------------------------------------------------- without training


STEPS = 200


class Synthetic:
    """A run whose charges follow SGD exactly: a rescale and a scale family, and two translation families."""

    def __init__(self, row: study.Row, *, epsilon: float = 1e-3, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.families: dict[str, Any] = {}
        self._columns: dict[str, dict[str, list[np.ndarray]]] = {}
        for kind, sign, leg in (("rescale", -1.0, "5.weight"), ("scale", 1.0, "0.weight")):
            self._quadratic(row.optimizer, kind, sign, leg, draw, epsilon if kind == "scale" else 0.0)
        for leg in ("10.weight", "10.bias"):
            self._linear(row.optimizer, leg, draw)

    def series(self, family: str, column: str) -> Series:
        values = np.array(self._columns[family][column])
        return Series(np.arange(len(values)), values, f"{family}/{column}")

    def _open(self, kind: str, degree: int, leg: str) -> dict[str, list[np.ndarray]]:
        name = f"charges:{kind}/{leg}"
        self.families[name] = {"kind": kind, "degree": degree, "legs": [{"parameter": leg}]}
        return self._columns.setdefault(name, {"value": [], "source": [], "gradient": []})

    def _quadratic(
        self, optimizer: SGDSettings, kind: str, sign: float, leg: str, draw: np.random.Generator, epsilon: float
    ) -> None:
        rows, signs = self._open(kind, 2, leg), np.array([1.0, sign])[:, None, None]
        theta, v = 2 * draw.normal(size=(2, 4, 5)), np.zeros((2, 4, 5))
        for _ in range(STEPS):
            g, field = draw.normal(size=theta.shape), signs * theta
            excess = (g * field).sum((0, 2), keepdims=True) / (field**2).sum((0, 2), keepdims=True)
            g = 1.5 * (g - (1 - epsilon) * excess * field)
            v = optimizer.momentum * v + g + optimizer.weight_decay * theta
            for name, term in (("value", theta * theta), ("source", v * v), ("gradient", theta * g)):
                rows[name].append((signs * term).sum((0, 2)))
            theta = theta - optimizer.learning_rate * v

    def _linear(self, optimizer: SGDSettings, leg: str, draw: np.random.Generator) -> None:
        rows, value, v = self._open("translation", 1, leg), draw.normal(size=3), np.zeros(3)
        for _ in range(STEPS):
            rows["value"].append(value)
            rows["gradient"].append(np.zeros(3))
            v = optimizer.momentum * v + optimizer.weight_decay * value
            value = value - optimizer.learning_rate * v


@pytest.fixture(scope="module")
def synthetic() -> dict[str, Any]:
    return {row.name: Synthetic(row) for row in study.ROWS}


def test_exact_dynamics_support_every_claim_about_charges(synthetic: dict[str, Any]) -> None:
    found = rows(synthetic)
    assert {claim: c.verdict for claim, c in found.items()} == dict.fromkeys(study_claims(), "supported")
    assert found["plain/translation/conserved"].error == 0.0


def study_claims() -> list[str]:
    return [claim for of_row in study.CLAIMS.values() for claim in of_row]


def half_the_source(solve: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any, source: Any = None, **kwargs: Any) -> Any:
        return solve(*args, source=None if source is None else source / 2, **kwargs)

    return wrong


def twice_the_degree(solve: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any, degree: int, **kwargs: Any) -> Any:
        return solve(*args, degree=2 if degree == 1 else degree, **kwargs)

    return wrong


@pytest.mark.parametrize(
    ("law", "sabotage", "row", "families"),
    [
        ("first_order", half_the_source, "decay", ("scale", "rescale")),
        ("continuous", half_the_source, "momentum", ("scale", "rescale")),
        ("first_order", twice_the_degree, "decay", ("translation",)),
        ("continuous", twice_the_degree, "momentum", ("translation",)),
    ],
)
def test_a_sabotaged_law_is_refuted(
    synthetic: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    law: str,
    sabotage: Any,
    row: str,
    families: tuple[str, ...],
) -> None:
    monkeypatch.setattr(continuous_laws, law, sabotage(getattr(continuous_laws, law)))
    found = rows({row: synthetic[row]})
    refuted = {claim for claim, c in found.items() if c.verdict == "refuted"}
    assert refuted == {f"{row}/{family}/{'linear-' * (family == 'translation')}law" for family in families}
    assert {c.verdict for claim, c in found.items() if claim not in refuted} == {"supported"}


def test_a_sabotaged_account_is_refuted(synthetic: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    true = charge_laws.account

    def wrong(value: Any, settings: Any, **kwargs: Any) -> Any:  # a millionth too much decay
        return true(value, replace(settings, weight_decay=settings.weight_decay * (1 + 1e-6)), **kwargs)

    monkeypatch.setattr(charge_laws, "account", wrong)
    found = rows({row: synthetic[row] for row in ("decay", "momentum", "small-steps")})
    assert {c.verdict for claim, c in found.items() if claim.endswith(("account", "epsilon"))} == {"refuted"}
    assert {c.verdict for claim, c in found.items() if claim.endswith("law")} == {"supported"}


def test_wrong_settings_are_refuted(synthetic: dict[str, Any]) -> None:
    lying = {**synthetic, "decay": Synthetic(replace(study.ROWS[1], optimizer=SGDSettings(0.1, weight_decay=0.012)))}
    found = rows(lying)
    assert {c.verdict for claim, c in found.items() if claim.startswith("decay/") and "account" in claim} == {"refuted"}
    assert found["decay/translation/linear-law"].verdict == "refuted"
    assert {c.verdict for claim, c in found.items() if not claim.startswith("decay/")} == {"supported"}


def test_an_exact_scale_law_leaves_the_epsilon_claim_open(synthetic: dict[str, Any]) -> None:
    without = {**synthetic, "decay": Synthetic(study.ROWS[1], epsilon=0.0)}
    # the control, an account without the epsilon's term, is then as good: nothing was shown
    assert rows(without)["decay/scale/epsilon"].verdict == "inconclusive"


def test_a_missing_family_is_named(synthetic: dict[str, Any]) -> None:
    run = SimpleNamespace(families={"charges:other": {"kind": "gl", "legs": [], "degree": 2}}, series=None)
    with pytest.raises(UnknownName, match=r"translation of 10\.bias, 10\.weight"):
        rows({**synthetic, "plain": run})


def test_scales_plan_what_they_say() -> None:
    quick, default, full = (study.neural_mechanics(scale) for scale in ("quick", "default", "full"))
    assert list(quick.runs) == ["decay", "momentum"]
    assert list(default.runs) == ["plain", "decay", "momentum", "small-steps", "small-eps"]
    assert {spec.steps for spec in quick.runs.values()} == {150}
    assert {spec.steps for spec in default.runs.values()} == {600}
    assert len(default.claims) == 30
    assert len(full.runs) == 12
    assert list(full.files) == [Path("data/tiny-imagenet-200")]
    assert len({spec.name for made in (quick, default, full) for spec in made.runs.values()}) == 2 + 5 + 12


def test_the_full_network_has_the_parameters_that_the_study_names() -> None:
    model = vgg_like(VGG16, seed=0, channels=3, image=64, hidden=512, classes=200)
    parameters = dict(model.named_parameters())
    assert all(name in parameters for _, legs in study.FULL_FAMILIES.values() for name in legs)
    kinds = [type(model[index]) for index in (0, 1, 45, 47)]
    assert kinds == [torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear, torch.nn.Linear]
    assert len(model) == 48
