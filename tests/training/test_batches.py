"""Which examples each step sees."""

import pytest
import torch

from dynascope.functional.task import Data
from dynascope.training.batches import Batches

DATA = Data(torch.arange(10.0)[:, None], torch.arange(10))


def labels(batches: Batches, steps: range) -> list[list[int]]:
    return [batches(step)[1].tolist() for step in steps]


def test_an_epoch_is_a_permutation_without_its_remainder():
    batches = Batches(DATA, batch_size=3, seed=0)
    epochs = [torch.cat([batches(3 * epoch + k)[1] for k in range(3)]).tolist() for epoch in range(3)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    x, y = batches(4)
    assert torch.equal(x[:, 0], y.to(x.dtype))


def test_any_order_of_steps_gives_the_same_batches():
    forward = labels(Batches(DATA, batch_size=3, seed=1), range(12))
    batches = Batches(DATA, batch_size=3, seed=1)
    assert [batches(step)[1].tolist() for step in reversed(range(12))] == forward[::-1]
    assert labels(Batches(DATA, batch_size=3, seed=2), range(12)) != forward


def test_with_replacement_every_example_is_equally_likely():
    batches = Batches(DATA, batch_size=5, seed=0, replacement=True)
    drawn = torch.cat([batches(step)[1] for step in range(2000)])
    counts = drawn.bincount(minlength=10).double()
    # chi squared with 9 degrees of freedom exceeds 27.9 with probability 0.001
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9
    assert any(len(set(row)) < 5 for row in labels(batches, range(10)))


def test_the_whole_data_in_order():
    batches = Batches(DATA, batch_size=None, seed=0)
    assert torch.equal(batches(7)[0], DATA.x)


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_an_impossible_batch_size_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: give a number from 1 to 10"):
        Batches(DATA, batch_size=batch_size, seed=0)


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    Batches(DATA, batch_size=3, seed=0)(0)
    assert torch.equal(torch.get_rng_state(), state)
