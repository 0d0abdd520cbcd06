"""The laws of a recorded family against a plain loop over the optimiser's update, and what they say they were fed."""

import numpy as np
import pytest

from dynascope.base.claims import relative_to_motion
from dynascope.base.series import Series
from dynascope.base.settings import SGDSettings
from dynascope.mechanics import family_laws
from dynascope.mechanics.family_laws import FamilyRecord

STEPS = 60


def descend(optimizer: SGDSettings, *, epsilon: float = 0.0, seed: int = 0) -> FamilyRecord:
    """PyTorch's SGD on two vectors that trade their scales, fed gradients that obey the symmetry up to ``epsilon``."""
    draw = np.random.default_rng(seed)
    theta, v = draw.normal(size=(2, 3, 4)), np.zeros((2, 3, 4))  # writer and reader of three charges
    sign = np.array([1.0, -1.0])[:, None, None]
    rows: dict[str, list[np.ndarray]] = {"value": [], "source": [], "gradient": []}
    for _ in range(STEPS):
        g = draw.normal(size=theta.shape)
        field = sign * theta
        excess = (g * field).sum((0, 2), keepdims=True) / (field**2).sum((0, 2), keepdims=True)
        g = g - (1 - epsilon) * excess * field
        v = optimizer.momentum * v + g + optimizer.weight_decay * theta
        rows["value"].append((sign * theta**2).sum((0, 2)))
        rows["source"].append((sign * v**2).sum((0, 2)))
        rows["gradient"].append((sign * theta * g).sum((0, 2)))
        theta = theta - optimizer.learning_rate * v
    made = {name: Series(np.arange(STEPS), np.array(values), name) for name, values in rows.items()}
    return FamilyRecord(made["value"], optimizer, source=made["source"], gradient=made["gradient"])


def error(predicted, record: FamilyRecord) -> float:
    return relative_to_motion(predicted.series, record.value)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_account_law_and_naive_law_of_a_quadratic_family(momentum: float) -> None:
    record = descend(SGDSettings(0.05, momentum=momentum, weight_decay=0.02))
    assert error(family_laws.account(record), record) < 1e-12  # rounding of 60 steps
    assert error(family_laws.law(record), record) < 0.02  # of first or second order in the learning rate
    assert error(family_laws.naive(record), record) > 0.1


def test_without_momentum_and_decay_the_law_is_exact() -> None:
    record = descend(SGDSettings(0.05))
    assert error(family_laws.law(record), record) < 1e-12


def test_the_gradient_closes_the_account_where_the_symmetry_is_approximate() -> None:
    record = descend(SGDSettings(0.05, momentum=0.5, weight_decay=0.02), epsilon=0.05)
    assert error(family_laws.account_with_gradient(record), record) < 1e-12
    assert error(family_laws.account(record), record) > 1e-3


def test_a_linear_family_decays_by_itself() -> None:
    optimizer = SGDSettings(0.1, momentum=0.9, weight_decay=0.05)
    value, v = np.array([2.0, -1.0]), np.zeros(2)
    rows = []
    for _ in range(STEPS):
        rows.append(value)
        v = 0.9 * v + 0.05 * value
        value = value - 0.1 * v
    record = FamilyRecord(Series(np.arange(STEPS), np.array(rows), "sum"), optimizer)
    assert record.degree == 1
    assert error(family_laws.account(record), record) < 1e-12
    assert error(family_laws.law(record), record) < 1e-3
    assert error(family_laws.law(record, degree=2), record) > 0.1
    assert error(family_laws.naive(record), record) > 10 * error(family_laws.law(record), record)


def test_a_law_says_what_it_was_fed() -> None:
    record = descend(SGDSettings(0.05, momentum=0.9))
    account = family_laws.account_with_gradient(record)
    assert account.inputs == ("value at step 0", "source of value", "gradient of value")
    assert (account.kind, family_laws.law(record).kind) == ("account", "law")
    assert "no momentum" not in family_laws.law(record).assumptions
    assert "no momentum" in family_laws.law(descend(SGDSettings(0.05))).assumptions
    assert family_laws.naive(record).inputs == ("value at step 0",)


def test_settings_may_be_replaced_for_a_control() -> None:
    record = descend(SGDSettings(0.05))
    assert error(family_laws.naive(record), record) == 1.0  # without decay gradient flow says that nothing moves
    moved = family_laws.naive(record, optimizer=SGDSettings(0.05, weight_decay=0.5)).series.values
    np.testing.assert_allclose(moved[-1], moved[0] * np.exp(-2 * 0.5 * 0.05 * STEPS), rtol=1e-12)


def test_incomplete_records_are_refused() -> None:
    optimizer, whole = SGDSettings(0.1), Series(np.arange(3), np.zeros((3, 2)), "whole")
    thinned, empty = (
        Series(np.array([0, 2]), np.zeros((2, 2)), "thinned"),
        Series(np.arange(0), np.zeros((0, 2)), "empty"),
    )
    for value in (thinned, empty):
        with pytest.raises(ValueError, match="at every step from 0 on"):
            FamilyRecord(value, optimizer)
    with pytest.raises(ValueError, match="'thinned' and 'whole' must share"):
        FamilyRecord(whole, optimizer, source=thinned)
    with pytest.raises(ValueError, match="gradient form of 'whole' is missing"):
        family_laws.account_with_gradient(FamilyRecord(whole, optimizer, source=whole))
