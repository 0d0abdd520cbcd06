"""Random states and warnings inside `apart`."""

import random
import warnings

import numpy as np
import pytest
import torch

from dynascope.training.apart import apart


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_states_come_back_even_after_an_error():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)

    def work():
        with apart():
            assert draw() == expected
            draw()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert draw() == expected


def test_warnings_are_not_shown_and_the_filters_are_not_touched():
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        warnings.showwarning = lambda *args, **kwargs: shown.append(args[0])
        with apart():
            warnings.warn("ours", UserWarning, stacklevel=1)
        assert warnings.filters == filters
        warnings.warn("theirs", UserWarning, stacklevel=1)
    assert [str(each) for each in shown] == ["theirs"]
