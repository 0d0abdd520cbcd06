import numpy as np
import pytest

from dynascope.base.errors import Unsupported
from dynascope.base.settings import SGDSettings
from dynascope.mechanics.step_settings import (
    clock,
    effective_learning_rate,
    sgd_groups,
    step_settings,
    uniform,
)


def test_factors_follow_pytorch_at_an_empty_buffer():
    settings = step_settings(SGDSettings(0.1, momentum=0.9, dampening=0.3), steps=3)
    assert settings.carry[:, 0].tolist() == [0.0, 0.9, 0.9]
    assert settings.gain[:, 0].tolist() == [1.0, 0.7, 0.7]
    later = step_settings(SGDSettings(0.1, momentum=0.9, dampening=0.3), steps=2, fresh=False)
    assert later.carry[:, 0].tolist() == [0.9, 0.9]
    assert later.gain[:, 0].tolist() == [0.7, 0.7]


def test_dampening_counts_only_with_momentum():
    settings = step_settings(SGDSettings(0.1, dampening=0.3), steps=2)
    assert settings.gain[:, 0].tolist() == [1.0, 1.0]
    assert effective_learning_rate(settings)[:, 0].tolist() == [0.1, 0.1]


def test_a_buffer_begins_when_the_momentum_does():
    settings = step_settings(SGDSettings(0.1, dampening=0.5), steps=4, momentum=[0.0, 0.0, 0.9, 0.8])
    assert settings.fresh[:, 0].tolist() == [False, False, True, False]
    assert settings.carry[:, 0].tolist() == [0.0, 0.0, 0.0, 0.8]
    assert settings.gain[:, 0].tolist() == [1.0, 1.0, 1.0, 0.5]


def test_a_stale_buffer_is_refused():
    with pytest.raises(Unsupported, match="then 0, then positive again"):
        step_settings(SGDSettings(0.1), steps=3, momentum=[0.9, 0.0, 0.9])


def test_schedules_are_per_step_or_per_step_and_group():
    two = [SGDSettings(0.1), SGDSettings(0.2)]
    assert step_settings(two, steps=2).learning_rate.tolist() == [[0.1, 0.2], [0.1, 0.2]]
    # as many steps as groups: one number per step all the same
    assert step_settings(two, steps=2, learning_rate=[0.3, 0.4]).learning_rate.tolist() == [[0.3, 0.3], [0.4, 0.4]]
    each = [[0.3, 0.5], [0.4, 0.6]]
    assert step_settings(two, steps=2, learning_rate=each).learning_rate.tolist() == each
    assert step_settings(two, steps=2, weight_decay=0.7).weight_decay.tolist() == [[0.7, 0.7], [0.7, 0.7]]


def test_clock_sums_the_undamped_learning_rates():
    settings = step_settings(SGDSettings(0.1, momentum=0.9, dampening=0.5), steps=3, learning_rate=[0.2, 0.4, 0.6])
    np.testing.assert_allclose(clock(settings), [0.0, 0.1, 0.3, 0.6])
    with pytest.raises(ValueError, match="no common time"):
        clock(step_settings([SGDSettings(0.1), SGDSettings(0.2)], steps=1))


def test_uniform_lets_equal_groups_through_as_one():
    settings = uniform(step_settings([SGDSettings(0.1, momentum=0.5)] * 3, steps=2), "a law")
    assert settings.groups == 1
    assert settings.carry[:, 0].tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (SGDSettings(0.2), "a law for legs whose learning_rate differ"),
        (SGDSettings(0.1, weight_decay=0.1), "weight_decay differ"),
        (SGDSettings(0.1, maximize=True), "maximize differ"),
        (SGDSettings(0.1, momentum=0.9, nesterov=True), "a law under Nesterov momentum.*charge_laws.account"),
    ],
)
def test_uniform_refuses_what_has_no_closed_equation(second, message):
    with pytest.raises(Unsupported, match=message):
        uniform(step_settings([SGDSettings(0.1), second], steps=2), "a law")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: step_settings([], steps=1), "groups is empty"),
        (lambda: step_settings(SGDSettings(0.1), steps=-1), "steps is -1"),
        (lambda: step_settings(SGDSettings(0.1, momentum=1.0), steps=1), r"momentum is 1.0.*in \[0, 1\)"),
        (lambda: step_settings(SGDSettings(0.1), steps=2, learning_rate=[0.1, -0.1]), "learning_rate is -0.1"),
        (lambda: step_settings(SGDSettings(0.1), steps=2, learning_rate=[0.1] * 3), r"learning_rate has shape \(3,\)"),
        (lambda: step_settings(SGDSettings(0.1), steps=1, weight_decay=np.nan), "weight_decay is nan"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_optimisers_without_a_law_are_refused():
    group = {"lr": 0.1, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
    assert sgd_groups("SGD", [group]) == [SGDSettings(0.1)]
    with pytest.raises(Unsupported, match=r"under AdamW.*Instead: train with torch.optim.SGD, or compare"):
        sgd_groups("AdamW", [group])
