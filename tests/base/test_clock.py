import math

import pytest

from dynascope.base.clock import Clock


def test_time_is_the_sum_of_learning_rates() -> None:
    clock = Clock()
    for learning_rate in (0.5, 0.25, 0.25):
        clock = clock.advance(learning_rate)
    assert clock == Clock(3, 1.0)
    assert Clock() < Clock(1, 0.0) < Clock(1, 0.1)


@pytest.mark.parametrize(("step", "time"), [(-1, 0.0), (0, -0.1), (0, math.nan), (0, math.inf)])
def test_values_out_of_range(step: int, time: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Clock(step, time)
