"""Accounts against real runs of torch.optim.SGD in float64, and controls that must leak."""

from itertools import product

import numpy as np
import pytest
import torch

from dynascope.base.settings import SGDSettings
from dynascope.mechanics.charge_laws import account, leak, one_step_terms
from dynascope.mechanics.step_settings import step_settings

STEPS = 15
SCHEDULE = 1.0 + 0.5 * np.sin(np.arange(STEPS))
# rounding of 15 steps, relative to the charge's legs; measured worst 1e-15
ROUNDING = 1e-14
# a control must leak at least this much: a hundred million times the rounding that an account may show
BROKEN = 1e8 * ROUNDING

MOMENTA = [
    {},
    {"dampening": 0.3},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
]
COMMON = [
    {"weight_decay": decay, "maximize": climb} | momentum
    for momentum, decay, climb in product(MOMENTA, (0.0, 0.05), (False, True))
]


def clip_norm(params):
    torch.nn.utils.clip_grad_norm_(params, 0.1)


def clip_value(params):
    torch.nn.utils.clip_grad_value_(params, 0.01)


def is_bias(name):
    return int(name.endswith("bias"))


def accounted(seen, settings, degree, **changed):
    fed = {
        "source": seen["source"] if degree == 2 else None,
        "cross": seen["cross"] if degree == 2 else None,
        "gradient": seen["gradient"] if settings.groups > 1 else None,
    }
    return account(seen["value"][0], settings, degree=degree, **(fed | changed))


def leakage(seen, result):
    measured, scale = seen["after"].sum(1), seen["scale"].sum(1)
    return leak(result.value[1:], measured, scale).max()


@pytest.mark.parametrize("clip", [None, clip_norm])
@pytest.mark.parametrize("schedule", [None, SCHEDULE])
@pytest.mark.parametrize("name", ["rescale", "translation", "gram"])
def test_account_balances_for_every_setting_of_sgd(systems, run_sgd, name, schedule, clip):
    system = systems[name]
    for options in COMMON:
        groups = [SGDSettings(0.05, **options)]
        seen = run_sgd(system, groups, schedule=schedule, clip=clip)
        rate = None if schedule is None else 0.05 * schedule
        result = accounted(seen, step_settings(groups, steps=STEPS, learning_rate=rate), system.degree)
        assert leakage(seen, result) < ROUNDING, options
        # the terms are the causes of the whole change
        np.testing.assert_allclose(sum(result.terms.values()), np.diff(result.value, axis=0), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "changed",
    [
        {"weight_decay": 0.0},
        {"learning_rate": 0.02},
        {"momentum": 0.5},
        {"dampening": 0.4},
        {"momentum": 0.0},
        {"maximize": True},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["rescale", "translation", "gram"])
def test_account_balances_where_legs_have_unlike_settings(systems, run_sgd, name, changed):
    system, first = systems[name], {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.05}
    groups = [SGDSettings(**first), SGDSettings(**(first | changed))]
    schedule = np.stack([0.05 * SCHEDULE, groups[1].learning_rate * SCHEDULE], axis=1)
    seen = run_sgd(system, groups, is_bias, schedule=SCHEDULE)
    settings = step_settings(groups, steps=STEPS, learning_rate=schedule)
    result = accounted(seen, settings, system.degree)
    assert leakage(seen, result) < ROUNDING
    if name == "translation":
        return  # weights and bias are separate charges there: nothing couples the groups
    # this step's gradients cancel where all legs weigh them alike; unlike memories are in the momentum term
    alike = set(changed) <= {"weight_decay", "momentum"}
    assert alike == (np.abs(result.terms["kinetic"]).max() < 1e-16)
    # the control: without the gradient forms of the groups the legs' own charges are not known
    blind = accounted(seen, settings, system.degree, gradient=0.0 * seen["gradient"])
    assert leakage(seen, blind) > BROKEN


def test_decay_on_matrices_only_needs_each_group_but_has_no_kinetic_term(systems, run_sgd):
    groups = [SGDSettings(0.05, weight_decay=0.05), SGDSettings(0.05)]
    seen = run_sgd(systems["rescale"], groups, is_bias)
    result = accounted(seen, step_settings(groups, steps=STEPS), 2)
    # the parts of equal learning rates cancel, up to the rounding of numbers of order 1
    np.testing.assert_allclose(result.terms["kinetic"], 0.0, atol=1e-16)
    assert leakage(seen, result) < ROUNDING
    decay = -2 * 0.05 * 0.05 * seen["value"][:, 0]
    np.testing.assert_allclose(result.terms["decay"], decay, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("rescale without its bias", lambda name: 0),
        ("rescale across GELU", lambda name: 0),
        ("rescale across GELU", is_bias),
    ],
)
def test_account_leaks_for_what_is_no_symmetry(systems, run_sgd, name, member):
    groups = [SGDSettings(0.05, momentum=0.9, weight_decay=0.05)] * (1 + member("bias"))
    seen = run_sgd(systems[name], groups, member)
    assert leakage(seen, accounted(seen, step_settings(groups, steps=STEPS), 2)) > BROKEN


def test_account_leaks_under_value_clipping(systems, run_sgd):
    groups = [SGDSettings(0.05, momentum=0.9)]
    seen = run_sgd(systems["rescale"], groups, clip=clip_value)
    assert leakage(seen, accounted(seen, step_settings(groups, steps=STEPS), 2)) > BROKEN


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_decay": 0.0501},
        {"momentum": 0.901},
        {"dampening": 0.301},
        {"learning_rate": 0.0501},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["rescale", "translation", "gram"])
def test_account_leaks_for_wrong_settings(systems, run_sgd, name, wrong):
    system, true = systems[name], {"learning_rate": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05}
    seen = run_sgd(system, [SGDSettings(**true)])
    right = step_settings(SGDSettings(**true), steps=STEPS)
    assert leakage(seen, accounted(seen, right, system.degree)) < ROUNDING
    believed = step_settings(SGDSettings(**(true | wrong)), steps=STEPS)
    assert leakage(seen, accounted(seen, believed, system.degree)) > BROKEN


@pytest.mark.parametrize("name", ["rescale", "translation", "gram"])
def test_account_leaks_if_the_first_step_is_dampened(systems, run_sgd, name):
    system, groups = systems[name], [SGDSettings(0.05, momentum=0.9, dampening=0.3, weight_decay=0.05)]
    seen = run_sgd(system, groups)
    settings = step_settings(groups, steps=STEPS, fresh=False)
    assert leakage(seen, accounted(seen, settings, system.degree)) > BROKEN


@pytest.mark.parametrize("name", ["rescale", "gram"])
def test_account_leaks_if_nesterov_is_taken_for_the_heavy_ball(systems, run_sgd, name):
    nesterov = SGDSettings(0.05, momentum=0.9, weight_decay=0.05, nesterov=True)
    seen = run_sgd(systems[name], [nesterov])
    heavy_ball = step_settings(SGDSettings(0.05, momentum=0.9, weight_decay=0.05), steps=STEPS)
    assert leakage(seen, accounted(seen, heavy_ball, 2)) > BROKEN


@pytest.mark.parametrize("options", [MOMENTA[3], MOMENTA[4]], ids=str)
@pytest.mark.parametrize("name", ["rescale", "translation", "gram"])
def test_account_may_start_in_the_middle_of_a_run(systems, run_sgd, name, options):
    system, groups = systems[name], [SGDSettings(0.05, weight_decay=0.05, **options)]
    seen = {key: rows[7:] for key, rows in run_sgd(system, groups).items()}
    settings = step_settings(groups, steps=STEPS - 7, fresh=False)
    result = accounted(seen, settings, system.degree, momentum=seen["momentum"][0])
    assert leakage(seen, result) < ROUNDING
    forgotten = accounted(seen, settings, system.degree, momentum=0.0)
    assert leakage(seen, forgotten) > BROKEN


@pytest.mark.parametrize("options", MOMENTA, ids=str)
@pytest.mark.parametrize("name", ["rescale", "translation", "gram"])
def test_sampled_steps_are_accounted_one_by_one(systems, run_sgd, name, options):
    system, groups = systems[name], [SGDSettings(0.05, weight_decay=0.05, **options)]
    seen = {key: rows[::4] for key, rows in run_sgd(system, groups).items()}
    settings = step_settings(groups, steps=len(seen["value"]))
    source = seen["source"] if system.degree == 2 else None
    terms = one_step_terms(seen["value"], settings, degree=system.degree, source=source, momentum=seen["momentum"])
    after = seen["value"].sum(1) + sum(terms.values())
    assert leak(after, seen["after"].sum(1), seen["scale"].sum(1)).max() < ROUNDING
    # the control: the same records without their decay
    rest = after - terms["decay"]
    assert leak(rest, seen["after"].sum(1), seen["scale"].sum(1)).max() > BROKEN


def test_one_step_terms_are_those_of_the_whole_account(systems, run_sgd):
    groups = [SGDSettings(0.05, momentum=0.9, weight_decay=0.05), SGDSettings(0.03, momentum=0.5)]
    seen = run_sgd(systems["rescale"], groups, is_bias)
    settings = step_settings(groups, steps=STEPS)
    whole = accounted(seen, settings, 2).terms
    single = one_step_terms(
        seen["value"], settings, degree=2, source=seen["source"], momentum=seen["momentum"], gradient=seen["gradient"]
    )
    assert whole.keys() == single.keys()
    for name in whole:
        np.testing.assert_allclose(whole[name], single[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", MOMENTA, ids=str)
def test_a_declared_epsilon_closes_the_account_under_its_own_name(systems, run_sgd, options):
    # across a GELU the measured B(theta, g) is far from 0; declared, it explains every leak
    groups = [SGDSettings(0.05, weight_decay=0.05, **options)]
    seen = run_sgd(systems["rescale across GELU"], groups)
    settings = step_settings(groups, steps=STEPS)
    result = accounted(seen, settings, 2, epsilon=seen["gradient"].sum(1))
    assert leakage(seen, result) < ROUNDING
    assert np.abs(result.terms["gradient"]).max() > BROKEN


def test_each_leg_group_moves_by_a_linear_law_that_adds_up():
    # two groups with the same settings are one group
    rng = np.random.default_rng(0)
    value, source, gradient = rng.normal(size=(2, 3)), rng.normal(size=(9, 2, 3)), rng.normal(size=(9, 2, 3))
    one = SGDSettings(0.1, momentum=0.7, weight_decay=0.2)
    apart = account(value, step_settings([one, one], steps=9), degree=2, source=source, gradient=gradient)
    together = account(value.sum(0), step_settings(one, steps=9), degree=2, source=source.sum(1))
    np.testing.assert_allclose(apart.value, together.value, rtol=0, atol=1e-14)


def test_account_follows_a_momentum_that_a_schedule_moves(systems, run_sgd):
    # closed form of two steps by hand: B(theta, v') with the momentum of its own step
    settings = step_settings(SGDSettings(0.1, weight_decay=0.5), steps=2, momentum=[0.9, 0.4])
    value = account([2.0], settings, degree=2, source=[[3.0], [5.0]]).value[:, 0]
    first = 0.5 * 2.0
    middle = 2.0 - 0.2 * first + 0.01 * 3.0
    second = 0.4 * (first - 0.1 * 3.0) + 0.5 * middle
    np.testing.assert_allclose(value, [2.0, middle, middle - 0.2 * second + 0.01 * 5.0], rtol=1e-15)


def test_account_of_a_million_steps_keeps_its_digits():
    # decay alone has a closed form; rounding of 1e6 steps at 1e-16 each, in the same direction at worst
    steps = 1_000_000
    settings = step_settings(SGDSettings(1e-3, weight_decay=1e-3), steps=steps)
    result = account([1.0], settings, degree=1)
    assert abs(result.value[-1, 0] / np.exp(steps * np.log1p(-1e-6)) - 1) < 1e-12


def test_account_of_no_steps_is_the_start():
    result = account([1.0, 2.0], step_settings(SGDSettings(0.1), steps=0), degree=1)
    assert result.value.tolist() == [[1.0, 2.0]]


def test_leak_is_the_worst_step_of_each_charge():
    predicted, measured = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[1.5, 0.0], [2.25, 0.0]])
    assert leak(predicted, measured, np.array([[2.0, 0.0], [0.5, 0.0]])).tolist() == [0.5, 0.0]
    assert leak(predicted, measured, np.zeros((2, 2))).tolist() == [np.inf, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: account([1.0], s, degree=3), "degree is 3"),
        (lambda s: account([1.0], s, degree=2), "source is missing"),
        (lambda s: account([1.0], s, degree=1, source=[[1.0]] * 4), "source is given"),
        (
            lambda s: account([1.0], s, degree=2, source=[[1.0]] * 3),
            r"source has shape \(3, 1\); it must be \(4, size\)",
        ),
        (lambda s: account([np.nan], s, degree=1), "value is nan at index 0"),
        (
            lambda s: account([1.0], s, degree=2, source=[[1.0], [np.inf], [1.0], [1.0]]),
            r"source is inf at index \(1, 0\)",
        ),
        (lambda s: account([[1.0], [2.0]], s, degree=1), r"value has shape \(2, 1\)"),
        (lambda s: account([1.0], s, degree=1, epsilon=[1.0]), r"epsilon has shape \(1,\)"),
        (lambda s: leak(np.zeros((2, 1)), np.zeros((3, 1)), np.zeros((2, 1))), "shapes"),
        (lambda s: leak(np.zeros((2, 1)), np.zeros((2, 1)), -np.ones((2, 1))), "scale is -1.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(step_settings(SGDSettings(0.1), steps=4))


def test_missing_forms_are_refused():
    two = step_settings([SGDSettings(0.1), SGDSettings(0.2)], steps=1)
    with pytest.raises(ValueError, match="gradient is missing for 2 leg groups"):
        account([[1.0], [1.0]], two, degree=2, source=[[[1.0], [1.0]]])
    nesterov = step_settings(SGDSettings(0.1, momentum=0.9, nesterov=True), steps=1)
    with pytest.raises(ValueError, match="cross is missing"):
        account([1.0], nesterov, degree=2, source=[[1.0]])
