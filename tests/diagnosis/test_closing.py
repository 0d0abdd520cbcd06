"""A run is closed with the laws' words about it."""

from pathlib import Path

import torch
from torch import nn

import dynascope as ds
from dynascope.diagnosis.closing import store_predictions
from dynascope.runs import RunWriter, load


def observed(folder: Path) -> Path:
    """Five steps of a network with a scale, a rescale and a translation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with ds.observe(model, optimizer, example_inputs=x, output="identity", to=folder, report=False):
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    return folder


def test_predictions_verdicts_and_norms_stand_beside_the_measurements(tmp_path: Path) -> None:
    run = load(observed(tmp_path / "r"))
    charges = [n.removeprefix("charges:") for n in run.families if n.startswith("charges:")]
    assert charges
    assert all(f"predicted:{n}" in run.families for n in charges)
    assert {v["kind"] for v in run.meta["verdicts"]} >= {"account", "law"}
    assert [e["family"] for e in run.meta["equilibrium"]] == ["charges:scale/0.weight"]


def test_a_run_without_charges_is_closed_in_peace(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "r", {"name": "empty"}) as writer:
        store_predictions(writer)
    assert load(tmp_path / "r").meta["verdicts"] == []
