"""When to look."""

import pytest

from dynascope.training.schedule import at, every, log_spaced


def steps(schedule, last: int) -> list[int]:
    return [step for step in range(last + 1) if schedule(step)]


def test_every():
    assert steps(every(3), 9) == [0, 3, 6, 9]
    assert steps(every(3, start=4), 12) == [4, 7, 10]


def test_at():
    assert steps(at([5, 2, 2]), 9) == [2, 5]


def test_log_spaced():
    assert steps(log_spaced(1000, looks=4), 2000) == [0, 1, 10, 100, 1000]
    assert steps(log_spaced(3, looks=10), 9) == [0, 1, 2, 3]
    assert steps(log_spaced(1, looks=2), 9) == [0, 1]


@pytest.mark.parametrize("make", [lambda: every(0), lambda: log_spaced(0, looks=3), lambda: log_spaced(9, looks=1)])
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match="or more"):
        make()
