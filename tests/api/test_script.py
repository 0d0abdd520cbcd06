"""``dynascope run``: the script prints the same, ends the same, and its runs are found afterwards."""

import io
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch

import dynascope as ds
from dynascope.api.script import run_script

CLASSIFIER = """
import argparse
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--optimizer", default="SGD")
options = parser.parse_args()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.hidden(x)))))

def main():
    torch.manual_seed(0)
    net = Net()
    optimizer = getattr(torch.optim, options.optimizer)(net.parameters(), lr=0.1)
    for step in range(options.steps):
        x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        print(step, repr(loss.item()))
    net.eval()
    print(repr(net(torch.ones(1, 5)).tolist()), torch.rand(1).item())

if __name__ == "__main__":
    main()
"""

GPT_LIKE = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(7, 4), nn.Linear(4, 8), nn.Linear(8, 7)

    def forward(self, tokens, targets=None):
        logits = self.down(torch.relu(self.up(self.table(tokens))))
        if targets is None:
            return logits, None
        return logits, nn.functional.cross_entropy(logits.view(-1, 7), targets.view(-1))

torch.manual_seed(1)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(3):
    optimizer.zero_grad(set_to_none=True)
    for _ in range(2):
        tokens = torch.randint(0, 7, (3, 5))
        _, loss = model(tokens, targets=tokens.roll(1, 1))
        (loss / 2).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(repr(loss.item()))
"""

LBFGS = """
import torch
from torch import nn

torch.manual_seed(2)
model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
x = torch.randn(10, 2, dtype=torch.float64)

def closure():
    optimizer.zero_grad()
    loss = (model(x) - x).square().mean()
    loss.backward()
    print(repr(loss.item()))
    return loss

for _ in range(3):
    optimizer.step(closure)
"""

BY_HAND = """
import torch

torch.manual_seed(0)
layer = torch.nn.Linear(2, 1)
for _ in range(3):
    layer.zero_grad()
    loss = layer(torch.randn(4, 2)).square().mean()
    loss.backward()
    with torch.no_grad():
        for p in layer.parameters():
            p -= 0.1 * p.grad
    print(repr(loss.item()))
"""

TWO_MODELS = """
import torch
from torch import nn

torch.manual_seed(0)
nets = [nn.Sequential(nn.Linear(2, n), nn.ReLU(), nn.Linear(n, 2)) for n in (3, 4)]
optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
for _ in range(5):
    for net, optimizer in zip(nets, optimizers):
        optimizer.zero_grad()
        loss = net(torch.randn(8, 2)).square().mean()
        loss.backward()
        optimizer.step()
        print(repr(loss.item()))
"""


def write(folder, source, name="script.py"):
    (folder / name).write_text(source)
    return str(folder / name)


def plainly(script, args=()):
    """What the script prints without us, in this very process."""
    before, sys.argv = sys.argv, [script, *args]
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv = before
    return out.getvalue()


@pytest.fixture(autouse=True)
def state():
    """The scripts share this process: a script that draws without a seed must not depend on the one before."""
    with torch.random.fork_rng(devices=[]):
        yield


def observed(capsys, script, *args, **options):
    code = run_script(script, args, **options)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_classifier_prints_the_same_digits_and_is_recorded(tmp_path, capsys, optimizer):
    script, args = write(tmp_path, CLASSIFIER), ["--steps", "4", "--optimizer", optimizer]
    expected = plainly(script, args)
    assert observed(capsys, script, *args, to=tmp_path / "run") == (0, expected, "")
    run = ds.load(tmp_path / "run")
    losses = [float(line.split()[1]) for line in expected.splitlines()[:4]]
    np.testing.assert_array_equal(run.scalars["loss"].values.astype(np.float32), np.float32(losses))
    assert run.status == "complete"
    assert run.meta["anatomy"]["output"] == "softmax"
    assert run.meta["settings"]["arguments"] == args
    assert "charges:rescale/norm.weight-head.weight" in run.families
    if optimizer == "SGD":
        assert ds.predict(run).balances


def test_a_model_that_returns_logits_and_loss_under_accumulation(tmp_path, capsys):
    script = write(tmp_path, GPT_LIKE)
    expected = plainly(script)
    assert observed(capsys, script, to=tmp_path / "run") == (0, expected, "")
    run = ds.load(tmp_path / "run")
    assert run.scalars["loss"].steps.tolist() == [0, 1, 2]
    assert "charges:rescale/up.weight-down.weight" in run.families
    assert run.meta["anatomy"]["output"] == "softmax"


def test_closures_of_lbfgs(tmp_path, capsys):
    script = write(tmp_path, LBFGS)
    expected = plainly(script)
    assert observed(capsys, script, to=tmp_path / "run") == (0, expected, "")
    run = ds.load(tmp_path / "run")
    assert run.series("charges:rescale/0.weight-2.weight", "value").steps.tolist() == [0, 1, 2]
    assert run.families["charges:rescale/0.weight-2.weight"]["law"] is None
    assert run.scalars["loss"].values[0] == float(expected.split()[0])


def test_two_models_have_a_run_each(tmp_path, capsys):
    script = write(tmp_path, TWO_MODELS)
    expected = plainly(script)
    assert observed(capsys, script, to=tmp_path / "run", output="identity") == (0, expected, "")
    first, second = ds.load(tmp_path / "run"), ds.load(tmp_path / "run-2")
    assert first.families["charges:rescale/0.weight-2.weight"]["size"] == 3
    assert second.families["charges:rescale/0.weight-2.weight"]["size"] == 4
    assert set(np.float32(first.scalars["loss"].values)) <= {np.float32(x) for x in map(float, expected.split()[::2])}


def test_updates_by_hand_are_left_alone_and_said_once(tmp_path, capsys):
    script = write(tmp_path, BY_HAND)
    expected = plainly(script)
    code, out, err = observed(capsys, script, to=tmp_path / "run")
    assert (code, out) == (0, expected)
    assert len(err.splitlines()) == 1
    assert "updates written by hand" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("ending", "code", "status", "last"),
    [
        ("import sys; sys.exit(3)", 3, "failed", ""),
        ("import sys; sys.exit(0)", 0, "complete", ""),
        ("raise ValueError('theirs')", 1, "failed", "ValueError: theirs\n"),
        ("raise KeyboardInterrupt", 130, "interrupted", "KeyboardInterrupt\n"),
    ],
)
def test_the_end_of_a_script_stands_and_the_run_says_it(tmp_path, capsys, monkeypatch, ending, code, status, last):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    script = write(tmp_path, TWO_MODELS.replace("range(5)", "range(2)").replace("(3, 4)", "(3,)") + ending + "\n")
    found, _, err = observed(capsys, script, to=tmp_path / "run", output="identity")
    assert found == code
    assert err.endswith(last)
    assert "dynascope" not in err
    assert ds.load(tmp_path / "run").status == status


def test_errors_from_inside_a_closure_show_no_frame_of_ours(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    script = write(tmp_path, LBFGS.replace("    return loss", "    raise RuntimeError('theirs')"))
    code, _, err = observed(capsys, script, to=tmp_path / "run")
    assert code == 1
    assert "closure" in err
    assert f"{os.sep}dynascope{os.sep}" not in err


def test_an_error_of_ours_changes_nothing(tmp_path, capsys, monkeypatch):
    script = write(tmp_path, TWO_MODELS.replace("(3, 4)", "(3,)"))
    expected = plainly(script)
    monkeypatch.setattr("dynascope.probes.charges.ChargeInstrument.before", lambda self: 1 / 0)
    code, out, err = observed(capsys, script, to=tmp_path / "run", output="identity")
    assert (code, out) == (0, expected)
    assert len(err.splitlines()) == 1
    assert "charges was switched off at step 0 (ZeroDivisionError" in err
    assert len(ds.load(tmp_path / "run").scalars["loss"]) == 5


def test_a_script_that_observes_itself_is_left_to_it(tmp_path, capsys):
    source = f"""
import torch, dynascope as ds
torch.manual_seed(0)
net = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
with ds.observe(net, optimizer, to={str(tmp_path / "own")!r}):
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""
    code, _, _ = observed(capsys, write(tmp_path, source), to=tmp_path / "run")
    assert code == 0
    assert ds.load(tmp_path / "own").status == "complete"
    assert not (tmp_path / "run").exists()


def test_what_follows_is_called_for_every_run(tmp_path, capsys):
    script, seen = write(tmp_path, TWO_MODELS), []
    observed(capsys, script, to=tmp_path / "run", output="identity", on_finish=[seen.append])
    assert seen == [tmp_path / "run", tmp_path / "run-2"]


def test_bad_input_is_one_line_and_two(tmp_path, capsys):
    code, out, err = observed(capsys, str(tmp_path / "missing.py"))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "missing.py" in err
    script = write(tmp_path, "print('never')\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    code, out, err = observed(capsys, script, to=tmp_path / "run")
    assert (code, out) == (2, "")
    assert "already holds a run" in err
    assert len(err.splitlines()) == 1


def test_a_script_without_training_is_said(tmp_path, capsys):
    code, out, err = observed(capsys, write(tmp_path, "print('hello')\n"), to=tmp_path / "run")
    assert (code, out) == (0, "hello\n")
    assert "nothing was trained" in err


@pytest.mark.slow
def test_the_whole_process_is_like_python_s(tmp_path):
    """Environment set before torch is imported, threads, exit code and traceback, in processes of their own."""
    source = "import os\nos.environ['OMP_NUM_THREADS'] = '1'\n" + CLASSIFIER.replace(
        "    main()", "    main()\n    print(torch.get_num_threads())\n    raise ValueError('end')"
    )
    script = write(tmp_path, source)
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    start = "import sys; from dynascope.api.script import run_script; sys.exit(run_script(sys.argv[1], sys.argv[2:]))"
    plain, ours = (
        subprocess.run([sys.executable, *words, script, "--steps", "3"], cwd=tmp_path, env=environment,
                       capture_output=True, text=True, check=False)
        for words in ([], ["-c", start])
    )  # fmt: skip
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert plain.returncode == 1
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"script-\d{8}-\d{6}", run.name)
    assert ds.load(run).status == "failed"
