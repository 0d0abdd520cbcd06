import numpy as np
import torch

from dynascope.base.random import seed_from


def test_value_is_the_same_on_every_machine() -> None:
    # printf "%s" "(0, 'digits', 'model')" | sha256sum, the first eight digits
    assert seed_from("digits", "model") == 2203963864


def test_every_word_its_order_its_type_and_the_seed_count() -> None:
    seeds = [
        seed_from(*words, seed=seed)
        for words in [("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc",), (1,), ("1",), ()]
        for seed in (0, 1)
    ]
    assert len(set(seeds)) == len(seeds)


def test_every_generator_accepts_it() -> None:
    for word in range(50):
        seed = seed_from(word)
        torch.Generator().manual_seed(seed)
        np.random.RandomState(seed)
