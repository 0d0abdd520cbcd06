"""Learning-rate schedules by their values."""

import math

import pytest
import torch

from dynascope.training.learning_rate import drops, scaled, warmup_cosine


def rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_scaled():
    assert rates(scaled(lambda step: step), 3) == [0.0, 2.0, 4.0]


def test_warmup_cosine():
    seen = rates(warmup_cosine(6, warmup=2, floor=0.25), 8)
    cosine = [0.25 + 0.75 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert seen == pytest.approx([1.0, 2.0, *(2 * value for value in cosine), 0.5, 0.5], rel=1e-14)


def test_drops():
    assert rates(drops((1, 3), factor=0.5), 5) == [2.0, 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: warmup_cosine(5, warmup=5), "warmup=5"),
        (lambda: warmup_cosine(5, warmup=-1), "warmup=-1"),
        (lambda: warmup_cosine(5, floor=1.5), "floor=1.5"),
        (lambda: drops((1,), factor=0.0), "factor=0.0"),
        (lambda: drops((1,), factor=2.0), "factor=2.0"),
    ],
)
def test_bad_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
