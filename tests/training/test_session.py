"""Putting anatomy, archive and recorder together."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from dynascope.base.errors import Unsupported
from dynascope.probes.charges import ChargeInstrument
from dynascope.runs import load
from dynascope.training import session
from dynascope.training.recorder import is_reserved
from dynascope.training.session import Wishes, begin, free_path, observed, unwrapped


class Loop(nn.Module):
    """One operation after another, as often as its input is long."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        for _ in range(x.shape[0]):
            x = torch.relu(self.layer(x))
        return x


def pair(model=None):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_calls_that_unroll_without_end_are_not_inspected_in_the_middle_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "LONGEST_CALL", 50)
    model, optimizer = pair(Loop())
    with observed(model, optimizer, tmp_path / "run", Wishes()) as recorder:
        with pytest.warns(RuntimeWarning, match="more than 50 operations"):
            step(model, optimizer, torch.ones(40, 1))
        step(model, optimizer, torch.ones(40, 1))
    assert load(recorder.path).scalars["learning_rate"].steps.tolist() == [0, 1]


def test_counting_operations_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    before, noise = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    session._refuse_long_calls(model, torch.ones(3, 2))
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert torch.equal(noise, torch.get_rng_state())
    with pytest.raises(Unsupported, match="anatomy="):
        session._refuse_long_calls(Loop(), torch.ones(4000, 1))


def test_inspection_happens_apart_from_the_training(tmp_path, monkeypatch):
    inspect_model = session.inspect_model

    def noisy(*args, **kwargs):
        torch.rand(3)
        warnings.warn("inspection grumbles", UserWarning, stacklevel=1)
        return inspect_model(*args, **kwargs)

    monkeypatch.setattr(session, "inspect_model", noisy)
    model, optimizer = pair()
    with observed(model, optimizer, tmp_path / "run", Wishes(on_error="raise")):
        noise = torch.get_rng_state()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda *args, **kwargs: pytest.fail("a warning was shown")
            step(model, optimizer, torch.ones(2, 3))
        assert torch.equal(noise, torch.get_rng_state())


def test_instruments_are_made_from_the_charges_of_the_model(tmp_path):
    model, optimizer = pair()
    wishes = Wishes(instruments=[ChargeInstrument], output="identity", on_error="raise")
    with observed(model, optimizer, tmp_path / "run", wishes) as recorder:
        assert is_reserved(model)
        step(model, optimizer, torch.ones(2, 3))
    assert not is_reserved(model)
    assert list(recorder.families) == ["charges:rescale/0.weight-2.weight"]
    assert load(recorder.path).meta["anatomy"]["output"] == "identity"


def test_a_beginning_that_fails_marks_its_run(tmp_path):
    model, optimizer = pair()
    with pytest.raises(Exception, match=r"."):
        begin(model, optimizer, tmp_path / "run", Wishes(), example_inputs=torch.ones(2, 99))
    assert load(tmp_path / "run").status == "failed"


def test_wrappers_are_taken_off():
    model, _ = pair()
    assert unwrapped(model) is model
    assert unwrapped(torch.compile(model, backend="eager")) is model
    assert unwrapped(nn.DataParallel(model)) is model


def test_free_paths(tmp_path):
    assert free_path(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert free_path(tmp_path / "a") == tmp_path / "a-3"
    assert isinstance(session.default_path("net"), Path)
