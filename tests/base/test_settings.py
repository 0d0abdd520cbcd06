import math
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynascope.base.settings import SGDSettings, identity
from tests.cases import OPTIMIZERS

PARAMETERS = [torch.nn.Parameter(torch.zeros(1))]


@pytest.mark.parametrize("kind", ["sgd", "momentum", "dampening", "nesterov"])
def test_read_from_torch(kind: str) -> None:
    group = OPTIMIZERS[kind](PARAMETERS).param_groups[0]
    found = SGDSettings.from_group(group)
    assert found.learning_rate == group["lr"]
    assert {key: value for key, value in found.to_dict().items() if key != "learning_rate"} == {
        key: group[key] for key in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
    }


def test_learning_rate_may_be_a_tensor() -> None:
    group = torch.optim.SGD(PARAMETERS, lr=torch.tensor(0.5)).param_groups[0]
    assert SGDSettings.from_group(group) == SGDSettings(0.5)


def test_group_of_another_optimiser_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks \['dampening', 'momentum', 'nesterov'\]"):
        SGDSettings.from_group(OPTIMIZERS["adam"](PARAMETERS).param_groups[0])


@pytest.mark.parametrize("name", ["learning_rate", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} must be finite and >= 0"):
        SGDSettings(**{"learning_rate": 0.1, name: value})


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_has_the_conditions_of_torch(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Nesterov needs"):
        SGDSettings(0.1, nesterov=True, **options)
    with pytest.raises(ValueError, match="Nesterov"):
        torch.optim.SGD(PARAMETERS, lr=0.1, nesterov=True, **options)


@dataclass(frozen=True)
class Other:
    learning_rate: float


@dataclass(frozen=True)
class Twin:
    learning_rate: float


class Colour(Enum):
    RED = 1


DIFFERENT = [
    None, True, 1, 2.5, "1", "a", math.nan, math.inf, [], {}, [1], [[1]], [1, 2], [2, 1],
    {"a": 1}, {"a": [1]}, {"b": 1}, {1, 2}, {"path": "a"}, {"enum": "Colour.RED"}, {"learning_rate": 0.1},
    PurePosixPath("a"), Colour.RED, SGDSettings(0.1), SGDSettings(0.2), Other(0.1), Twin(0.1), [SGDSettings(0.1)],
]  # fmt: skip


def test_different_settings_have_different_names() -> None:
    names = [identity(value) for value in DIFFERENT]
    assert len(set(names)) == len(names)
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in names)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
        ({1, 2}, frozenset([2, 1])),
        (Other(1), Other(1.0)),
        (0.0, -0.0),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
    ],
)
def test_equal_settings_have_equal_names(a: object, b: object) -> None:
    assert identity(a) == identity(b)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_order_of_entries_does_not_count(entries: dict) -> None:
    assert identity(entries) == identity(dict(reversed(entries.items())))


def test_name_is_the_same_in_another_session() -> None:
    settings_there = "{'a': {1, 'x', 2.5}, 'b': SGDSettings(0.1, momentum=0.9)}"
    code = f"from dynascope.base.settings import *; print(identity({settings_there}))"
    here = identity({"b": SGDSettings(0.1, momentum=0.9), "a": {2.5, 1, "x"}})
    for hash_seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == here


@pytest.mark.parametrize("value", [object(), torch.float32, len, Other])
def test_value_without_a_stable_name_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no stable name"):
        identity({"a": [value]})


def test_keys_must_be_strings() -> None:
    with pytest.raises(TypeError, match="keys must be strings"):
        identity({1: 2})
