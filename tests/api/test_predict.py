"""The front door of prediction: a run or its folder in, families by name out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dynascope as ds
from dynascope.api.predict import predict
from dynascope.base.errors import DamagedRun, UnknownName

RESCALE = "rescale/0.weight-2.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    to = tmp_path_factory.mktemp("runs") / "a"
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    x = torch.randn(12, 4, dtype=torch.float64)
    with ds.observe(model, optimizer, example_inputs=x, output="identity", to=to, report=False):
        for _ in range(20):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    return to


def test_a_run_or_its_folder(folder: Path) -> None:
    assert ds.predict is predict
    for run in (folder, str(folder), ds.load(folder)):
        found = predict(run)
        assert found.balances
        assert [f.name for f in found.families] == [RESCALE]
        assert found[RESCALE].balances


def test_until_a_step(folder: Path) -> None:
    """Of a run known only until a step, the account is of those steps, and the same there."""
    known, whole = predict(ds.load(folder).until(9))[RESCALE], predict(folder)[RESCALE]
    assert known.measured.steps.tolist() == list(range(11))
    assert known.balances
    assert known.account is not None
    assert whole.account is not None
    # the recursion is evaluated in blocks, whose rounding depends on their number
    np.testing.assert_allclose(known.account.series.values, whole.account.series.values[:11], rtol=1e-13)


def test_a_wrong_assumption_leaks(folder: Path) -> None:
    assert not predict(folder, assume={"weight_decay": 0.0}).balances
    assert predict(folder, assume={"weight_decay": 1e-2}).balances


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedRun, match="no such folder"):
        predict(tmp_path / "missing")
    with pytest.raises(DamagedRun, match=r"run\.json"):
        predict(tmp_path)
    with pytest.raises(ValueError, match="assume names 'wd'"):
        predict(folder, assume={"wd": 0.0})
    with pytest.raises(UnknownName, match=f"no family of charges is called 'a'. Known: {RESCALE}"):
        predict(folder)["a"]
