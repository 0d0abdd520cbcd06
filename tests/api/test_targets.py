"""What ``module:factory`` and ``float32[2,3]`` mean, and how what they cannot mean is refused."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dynascope.api.targets import example, model_and_inputs

MODELS = """
import torch
from torch import nn

def plain():
    return nn.Linear(3, 2)

def both():
    return nn.Linear(3, 2), torch.ones(4, 3)

def keywords():
    return nn.Linear(3, 2), {"input": torch.ones(4, 3)}

def several():
    return nn.Bilinear(3, 2, 1), (torch.ones(4, 3), torch.ones(4, 2))

class Nested:
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)

def normalised():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))

def fails():
    raise RuntimeError("no data here")

def needs(width):
    return nn.Linear(width, 2)

made = nn.Linear(3, 2)
number = 3
"""


@pytest.fixture(autouse=True)
def _somebodys_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "targets_of_a_test.py").write_text(MODELS)
    (tmp_path / "typo_of_a_test.py").write_text("def f(:\n")
    (tmp_path / "error_of_a_test.py").write_text("raise KeyError('SETTINGS')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "targets_of_a_test", raising=False)


@pytest.mark.parametrize("name", ["plain", "both", "made", "Nested.Net"])
def test_a_factory_a_class_or_a_model(name: str) -> None:
    model, inputs = model_and_inputs(f"targets_of_a_test:{name}", "float32[5,3]")
    assert isinstance(model, nn.Linear)
    assert inputs.shape == (5, 3)


def test_inputs_of_the_factory_in_three_forms() -> None:
    assert model_and_inputs("targets_of_a_test:both", None)[1].shape == (4, 3)
    assert model_and_inputs("targets_of_a_test:keywords", None)[1]["input"].shape == (4, 3)
    assert [x.shape[1] for x in model_and_inputs("targets_of_a_test:several", None)[1]] == [3, 2]


def test_the_trial_leaves_no_trace() -> None:
    """The call that shows whether inputs fit changes neither running statistics nor random numbers."""
    model_and_inputs("targets_of_a_test:normalised", "float32[4,3]")
    factory = sys.modules["targets_of_a_test"].normalised
    torch.manual_seed(0)
    model, _ = model_and_inputs("targets_of_a_test:normalised", "float32[4,3]")
    next_number = torch.rand(())
    torch.manual_seed(0)
    fresh = factory()
    assert torch.equal(next_number, torch.rand(()))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_trial_is_in_the_mode_asked_for() -> None:
    """One example has no batch statistics: train mode refuses it, evaluation takes it."""
    with pytest.raises(ValueError, match="does not accept these inputs: ValueError: Expected more than 1 value"):
        model_and_inputs("targets_of_a_test:normalised", "float32[1,3]")
    model, _ = model_and_inputs("targets_of_a_test:normalised", "float32[1,3]", mode="eval")
    assert model.training


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("targets_of_a_test", "model is 'targets_of_a_test'; write module:factory"),
        ("targets_of_a_test:", "write module:factory"),
        (":plain", "write module:factory"),
        ("", "write module:factory"),
        ("no_such_module_at_all:plain", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        (".targets_of_a_test:plain", "'.targets_of_a_test:plain' cannot be found"),
        ("targets_of_a_test:plane", "has no attribute 'plane'; the module must be importable from here"),
        ("targets_of_a_test:plain.inner", "has no attribute 'inner'"),
        ("typo_of_a_test:f", "SyntaxError: invalid syntax"),
        ("error_of_a_test:f", "KeyError: 'SETTINGS'"),
        ("targets_of_a_test:fails", "calling 'targets_of_a_test:fails' failed: RuntimeError: no data here"),
        ("targets_of_a_test:needs", "missing 1 required positional argument: 'width'"),
        ("targets_of_a_test:number", "'int' object is not callable"),
        ("builtins:dict", "'builtins:dict' gives dict; it must give a module, or (module, inputs)"),
    ],
)
def test_a_target_that_means_nothing(target: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        model_and_inputs(target, "float32[4,3]")
    assert words in str(refused.value)


def test_inputs_are_needed_and_must_fit() -> None:
    with pytest.raises(ValueError, match="gives no example inputs; add --input"):
        model_and_inputs("targets_of_a_test:plain", None)
    with pytest.raises(ValueError, match="does not accept these inputs: RuntimeError: mat1 and mat2"):
        model_and_inputs("targets_of_a_test:plain", "float32[4,4]")


@pytest.mark.parametrize(
    ("described", "dtype", "shape"),
    [
        ("float32[2,3]", torch.float32, (2, 3)),
        ("  float64[ 2, 3 ] ", torch.float64, (2, 3)),
        ("bfloat16[4]", torch.bfloat16, (4,)),
        ("int64[2,16]", torch.int64, (2, 16)),
        ("bool[5]", torch.bool, (5,)),
        ("float32[]", torch.float32, ()),
        ("float32[2,]", torch.float32, (2,)),
    ],
)
def test_described_inputs(described: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = example(described)
    assert (x.dtype, tuple(x.shape)) == (dtype, shape)
    assert dtype.is_floating_point or set(x.flatten().tolist()) <= {0, 1}
    assert not dtype.is_floating_point or x.unique().numel() == x.numel()


def test_described_numbers_come_from_a_seed() -> None:
    expected = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(example("float32[2,3]"), expected)
    assert torch.equal(example("float64[2,3]"), expected.double())


MALFORMED = ["", "float32", "[2,3]", "float32[2", "float32(2,3)", "float33[2]", "Tensor[2]", "nn[2]"]
MALFORMED += ["float32[2;3]", "float32[-1]", "float32[2.5]", "float32[0,3]", "float32[2]3", "float32[2][3]"]


@pytest.mark.parametrize("described", MALFORMED)
def test_malformed_descriptions(described: str) -> None:
    with pytest.raises(ValueError) as refused:
        example(described)
    assert repr(described) in str(refused.value)
