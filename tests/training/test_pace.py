"""When to record, and thinning out, with times given by hand."""

import pytest

from dynascope.training.pace import RECORDS, Pace


def spend(pace, *, recording, other, steps):
    """Walk through steps whose records take `recording` seconds; the overheads that were reported."""
    now, found = 0.0, []
    for step in range(steps):
        now += other
        if pace.due(step):
            now += recording
            pace.spend(recording)
            found.append(pace.review(now))
    return [overhead for overhead in found if overhead is not None]


def test_without_a_limit_nothing_is_thinned():
    pace = Pace(3)
    assert spend(pace, recording=9.0, other=1.0, steps=100) == []
    assert (pace.every, pace.thinned) == (3, False)


def test_recording_that_fits_stays():
    pace = Pace(1, max_overhead=0.05)
    assert spend(pace, recording=0.004, other=0.1, steps=200) == []
    assert (pace.every, pace.thinned) == (1, False)


def test_recording_that_does_not_fit_is_thinned_by_a_power_of_two():
    pace = Pace(1, max_overhead=0.05)
    reports = spend(pace, recording=0.03, other=0.1, steps=400)
    assert reports == [pytest.approx(0.3, rel=0.06)]  # one record of the window falls outside it
    assert pace.every == 8  # 0.3 / 8 is the first below 0.05
    assert pace.thinned


def test_what_is_done_once_does_not_count():
    pace = Pace(1, max_overhead=0.05)
    pace.spend(100.0)
    assert pace.review(100.0) is None
    now = 100.0
    for _ in range(RECORDS):
        now += 1.0
        pace.spend(0.01)
        assert pace.review(now) is None


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_bad_every(every):
    with pytest.raises(ValueError, match="every="):
        Pace(every)


@pytest.mark.parametrize("limit", [0, -0.1, float("nan")])
def test_bad_limit(limit):
    with pytest.raises(ValueError, match="max_overhead="):
        Pace(1, max_overhead=limit)
