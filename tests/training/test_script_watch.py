"""One recorder for each optimiser that a script steps."""

import torch
from torch import nn

from dynascope.runs import load
from dynascope.training.script_watch import ScriptWatch


def train(steps=3, closure=False):
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = (torch.optim.LBFGS if closure else torch.optim.SGD)(model.parameters(), lr=0.1)

    def gradients():
        optimizer.zero_grad()
        loss = model(torch.ones(4, 2)).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(gradients) if closure else (gradients(), optimizer.step())
    return model.weight.detach().clone()


def test_runs_are_finished_with_losses_and_settings(tmp_path):
    watch = ScriptWatch(tmp_path / "run", {"output": "identity"}, list, {"script": "train.py"})
    watched = train()
    ended, finished = [], []
    assert watch.close(None, [ended.append], [finished.append]) == []
    run = load(tmp_path / "run")
    assert run.status == "complete"
    assert run.scalars["loss"].steps.tolist() == [0, 1, 2]
    assert run.meta["settings"]["script"] == "train.py"
    assert len(ended) == 1
    assert finished == [tmp_path / "run"]
    assert torch.equal(watched, train())


def test_a_model_first_called_inside_a_closure_has_its_first_step_recorded(tmp_path):
    watch = ScriptWatch(tmp_path / "run", {"output": "identity"}, list, {})
    watched = train(closure=True)
    watch.close(SystemExit(1), [], [])
    run = load(tmp_path / "run")
    assert run.status == "failed"
    assert run.scalars["loss"].steps.tolist() == [0, 1, 2]
    assert torch.equal(watched, train(closure=True))


def test_a_report_that_fails_is_said_at_the_end(tmp_path):
    def report(path):
        raise OSError("no room")

    watch = ScriptWatch(tmp_path / "run", {"output": "identity"}, list, {})
    train()
    assert watch.close(None, [], [report]) == ["report failed (OSError: no room)"]


def test_nothing_is_left_in_torch(tmp_path):
    backward, compile_ = torch.autograd.backward, torch.compile
    ScriptWatch(tmp_path / "run", {}, list, {}).close(None, [], [])
    assert (torch.autograd.backward, torch.compile) == (backward, compile_)
    assert not (tmp_path / "run").exists()
