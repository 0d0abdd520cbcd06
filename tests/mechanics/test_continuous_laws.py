"""The continuous laws against the exact recursion: convergence orders by slope, and laws that must be worse."""

import numpy as np
import pytest

from dynascope.base.errors import Unsupported
from dynascope.base.settings import SGDSettings
from dynascope.mechanics.charge_laws import account
from dynascope.mechanics.continuous_laws import continuous, damping_and_frequency, first_order, naive
from dynascope.mechanics.oscillator import oscillator
from dynascope.mechanics.step_settings import clock, step_settings

MOMENTA = [(0.0, 0.0), (0.5, 0.0), (0.9, 0.0), (0.5, 0.3), (0.9, 0.3)]
DURATION = 2.0


def source_at(times):
    return (1.0 + 0.5 * np.sin(3.0 * times))[:, None]


def errors(law, learning_rates, *, momentum, dampening, degree, schedule=np.ones_like):
    """Errors at the end of the same stretch of time, for each learning rate."""
    found = []
    for rate in learning_rates.tolist():
        per_step = rate * (1.0 - dampening if momentum else 1.0)
        steps = round(DURATION / per_step)
        shape = schedule(np.linspace(0.0, 1.0, steps))
        sgd = SGDSettings(rate, momentum=momentum, dampening=dampening, weight_decay=0.4)
        settings = step_settings(sgd, steps=steps, learning_rate=rate * shape)
        fed = {"source": source_at(clock(settings)[:-1])} if degree == 2 else {}
        exact = account([1.3], settings, degree=degree, **fed).value
        # 10 % of the way past the start-up transient, where the exact steps are on their slow motion
        late = slice(steps // 2, None)
        found.append(np.abs(law([1.3], settings, degree=degree, **fed) - exact)[late].max())
    return np.array(found)


def slope(errors_found, learning_rates):
    return np.polyfit(np.log(learning_rates), np.log(errors_found), 1)[0]


# small enough for the start-up transient (1 - momentum) / 2 time / learning_rate to be over: exp(-50)
SMALL = np.array([1e-3, 5e-4, 2.5e-4])


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize(("momentum", "dampening"), MOMENTA)
def test_continuous_law_is_of_second_order(momentum, dampening, degree):
    found = errors(continuous, SMALL, momentum=momentum, dampening=dampening, degree=degree)
    assert abs(slope(found, SMALL) - 2.0) < 0.2


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize(("momentum", "dampening"), MOMENTA)
def test_continuous_law_is_of_second_order_under_a_schedule(momentum, dampening, degree):
    found = errors(
        continuous,
        SMALL,
        momentum=momentum,
        dampening=dampening,
        degree=degree,
        schedule=lambda x: 1.0 + 0.5 * np.cos(3.0 * x),
    )
    assert abs(slope(found, SMALL) - 2.0) < 0.2


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize(("momentum", "dampening"), MOMENTA)
def test_naive_law_is_of_first_order_and_worse(momentum, dampening, degree):
    def decay(value, settings, *, degree, source=None):
        return naive(value, settings, degree=degree)

    options = {"momentum": momentum, "dampening": dampening, "degree": degree}
    found = errors(decay, SMALL, **options)
    assert abs(slope(found, SMALL) - 1.0) < 0.2
    assert (found > 10.0 * errors(continuous, SMALL, **options)).all()


@pytest.mark.parametrize("degree", [1, 2])
def test_first_order_law_is_of_first_order(degree):
    found = errors(first_order, SMALL, momentum=0.0, dampening=0.0, degree=degree)
    assert abs(slope(found, SMALL) - 1.0) < 0.2


def start_with(speed):
    """The continuous law with another start velocity, -speed times degree times decay times value."""

    def law(value, settings, *, degree):
        rate, mu = settings.learning_rate[0, 0], settings.momentum[0, 0]
        gamma, omega = damping_and_frequency(rate, momentum=mu, weight_decay=0.4, degree=degree)
        return oscillator(value[0], gamma, omega, clock(settings), velocity=-speed * degree * 0.4 * value[0])[:, None]

    return law


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("speed", ["rest", "half step"])
def test_start_at_rest_and_half_step_start_are_of_first_order(momentum, speed):
    # the digest's starts, 0 and 1 / 2, against 1 / (1 + momentum): only the last leaves no error of first order
    options = {"momentum": momentum, "dampening": 0.0, "degree": 1}
    found = errors(start_with({"rest": 0.0, "half step": 0.5}[speed]), SMALL, **options)
    assert abs(slope(found, SMALL) - 1.0) < 0.2
    right = errors(start_with(1.0 / (1.0 + momentum)), SMALL, **options)
    assert abs(slope(right, SMALL) - 2.0) < 0.2
    assert found[-1] > 10.0 * right[-1]


@pytest.mark.parametrize("degree", [1, 2])
def test_under_damped_swings_are_met_to_second_order(degree):
    # gamma = 1 and omega = 4 held fixed: momentum -> 1 and decay -> 0 with the learning rate
    rates, found = np.array([0.02, 0.01, 0.005]), []
    for rate in rates.tolist():
        mu = (1.0 - rate) / (1.0 + rate)
        decay = 16.0 * rate * (1.0 + mu) / (2.0 * degree)
        steps = round(2.0 / rate)
        settings = step_settings(SGDSettings(rate, momentum=mu, weight_decay=decay), steps=steps)
        np.testing.assert_allclose(
            damping_and_frequency(rate, momentum=mu, weight_decay=decay, degree=degree), (1.0, 4.0)
        )
        # the velocity of a step belongs to the middle of the step
        fed = {"source": source_at(clock(settings)[:-1] + rate / 2)} if degree == 2 else {}
        exact = account([1.3], settings, degree=degree, **fed).value
        assert exact.min() < 0
        found.append(np.abs(continuous([1.3], settings, degree=degree, **fed) - exact).max())
    assert abs(slope(np.array(found), rates) - 2.0) < 0.2


def test_without_decay_the_finite_step_alone_drives_the_charge():
    # exact where momentum and decay are 0: the sum of squared steps
    settings = step_settings(SGDSettings(0.1), steps=50)
    source = source_at(np.arange(50.0))
    expected = 1.3 + np.concatenate([[0.0], np.cumsum(0.01 * source[:, 0])])
    np.testing.assert_allclose(first_order([1.3], settings, degree=2, source=source)[:, 0], expected, rtol=1e-14)
    assert (naive([1.3], settings, degree=2) == 1.3).all()
    # control: the naive law misses the whole motion
    assert abs(expected[-1] - 1.3) > 0.4


def test_constant_settings_give_the_oscillator():
    settings = step_settings(SGDSettings(0.1, momentum=0.9, weight_decay=0.05), steps=200)
    gamma, omega = damping_and_frequency(0.1, momentum=0.9, weight_decay=0.05, degree=2)
    assert gamma < omega
    closed = oscillator(2.0, gamma, omega, clock(settings), velocity=-2 * 0.05 * 2.0 / 1.9)
    # 200 exact steps against one formula: rounding only
    np.testing.assert_allclose(continuous([2.0], settings, degree=2)[:, 0], closed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_charges_of_a_network_trained_on_random_batches(systems, run_sgd, momentum):
    sgd = SGDSettings(0.1 * (1 - momentum), momentum=momentum, weight_decay=0.02)
    seen = run_sgd(systems["rescale"], [sgd], steps=400)
    value = np.concatenate([seen["value"][:1, 0], seen["after"][:, 0]])
    settings = step_settings(sgd, steps=400)

    def error(predicted):
        change = np.linalg.norm(value - value[0], axis=1).max()
        return np.linalg.norm(predicted - value, axis=1).max() / change

    found = error(continuous(value[0], settings, degree=2, source=seen["source"][:, 0]))
    # the error is of second order in the learning rate; measured 6e-4 without momentum and 2e-5 with it
    assert found < 2e-3
    assert error(naive(value[0], settings, degree=2)) > 10 * found


@pytest.mark.parametrize("decay", [0.4, 0.4 + 1e-13])
def test_critical_damping_is_no_special_case(decay):
    # omega^2 = 4 decay / (rate (1 + mu)) equals gamma^2 at decay = (1 - mu)^2 / (4 rate (1 + mu))
    rate, mu = 0.1, 0.5
    critical = (1 - mu) ** 2 / (4 * rate * (1 + mu))
    settings = step_settings(SGDSettings(rate, momentum=mu, weight_decay=critical * decay / 0.4), steps=40)
    below = continuous([1.0], settings, degree=2)
    beside = step_settings(SGDSettings(rate, momentum=mu, weight_decay=critical * (1 + 1e-9)), steps=40)
    assert np.isfinite(below).all()
    np.testing.assert_allclose(below, continuous([1.0], beside, degree=2), rtol=0, atol=1e-9)


def test_a_rate_that_a_schedule_takes_to_zero_leaves_the_charge_at_rest():
    rate = [0.1, 0.1, 0.0, 0.0, 0.1]
    settings = step_settings(SGDSettings(0.1, momentum=0.5, weight_decay=0.3), steps=5, learning_rate=rate)
    for law in (continuous, naive):
        value = law([1.0], settings, degree=2)[:, 0]
        assert value[2] == value[3] == value[4] > value[5]


def test_a_window_may_start_with_a_full_buffer():
    found, forgotten = [], []
    for rate in SMALL.tolist():
        sgd = SGDSettings(rate, momentum=0.9, dampening=0.2, weight_decay=0.4)
        settings = step_settings(sgd, steps=round(1.0 / rate), fresh=False)
        fed = {"degree": 2, "source": source_at(clock(settings)[:-1])}
        late = slice(settings.steps // 2, None)
        exact = account([1.3], settings, momentum=[20.0], **fed).value[late]
        found.append(np.abs(continuous([1.3], settings, momentum=[20.0], **fed)[late] - exact).max())
        forgotten.append(np.abs(continuous([1.3], settings, **fed)[late] - exact).max())
    assert abs(slope(np.array(found), SMALL) - 2.0) < 0.2
    assert forgotten[-1] > 10.0 * found[-1]


def test_laws_are_stable_over_a_million_steps():
    steps = 1_000_000
    sgd = SGDSettings(0.1, momentum=0.9, weight_decay=1e-4)
    settings = step_settings(sgd, steps=steps)
    value = continuous([1.0], settings, degree=2, source=np.ones((steps, 1)))[:, 0]
    assert np.isfinite(value).all()
    # at rest: omega^2 Q = 2 S
    assert np.isclose(value[-1], 0.1 * 1.9 / (2 * 1e-4), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: continuous([1.0], s, degree=0), "degree is 0"),
        (lambda s: continuous(1.0, s, degree=1), r"value has shape \(\)"),
        (lambda s: continuous([1.0], s, degree=1, source=[[1.0]] * 4), "linear charges have none"),
        (lambda s: continuous([1.0], s, degree=2, source=[[1.0]] * 3), r"source has shape \(3, 1\)"),
        (lambda s: continuous([1.0], s, degree=2, source=[[np.nan]] * 4), "source is nan"),
        (lambda s: first_order([1.0], s, degree=2), "momentum is 0.5; it must be 0"),
        (lambda s: naive([np.inf], s, degree=2), "value is inf"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(step_settings(SGDSettings(0.1, momentum=0.5), steps=4))


@pytest.mark.parametrize(("degree", "limit"), [(1, 3.0), (2, 1.5)])
def test_unstable_decay_is_refused_with_its_bound(degree, limit):
    def settings(decay):
        return step_settings(SGDSettings(1.0, momentum=0.5, weight_decay=decay), steps=400)

    with pytest.raises(ValueError, match=rf"at step 0; it must be below 2 \(1 \+ momentum\) / degree = {limit}"):
        continuous([1.0], settings(limit), degree=degree)
    # the bound is that of the steps themselves: just below it they stay bounded, just above they do not
    source = np.zeros((400, 1)) if degree == 2 else None
    inside = account([1.0], settings(0.99 * limit), degree=degree, source=source).value
    outside = account([1.0], settings(1.05 * limit), degree=degree, source=source).value
    assert np.abs(inside).max() < 10 < 1e6 < np.abs(outside).max()


def test_dampening_of_one_is_refused():
    settings = step_settings(SGDSettings(0.1, momentum=0.5, dampening=1.0), steps=2)
    with pytest.raises(ValueError, match=r"dampening is 1.0 at index \(0, 0\); it must be in \[0, 1\)"):
        continuous([1.0], settings, degree=1)


@pytest.mark.parametrize("law", [continuous, naive])
def test_nesterov_and_unlike_legs_are_refused(law):
    nesterov = step_settings(SGDSettings(0.1, momentum=0.9, nesterov=True), steps=2)
    with pytest.raises(Unsupported, match="Nesterov"):
        law([1.0], nesterov, degree=1)
    unlike = step_settings([SGDSettings(0.1), SGDSettings(0.2)], steps=2)
    with pytest.raises(Unsupported, match="learning_rate differ"):
        law([1.0], unlike, degree=1)


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"dampening": 1.0},
        {"degree": 3},
    ],
)
def test_bad_rates_are_refused(bad):
    good = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1, "degree": 2}
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        damping_and_frequency(**(good | bad))
