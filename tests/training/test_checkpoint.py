"""Checkpoints: whole or absent, plain, and only for the run they belong to."""

import pickle

import pytest
import torch
from torch import nn

from dynascope.base.errors import DamagedRun
from dynascope.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def parts():
    model = nn.Linear(2, 2)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)}


def save(path, parts, step=3, **settings):
    save_checkpoint(path, step=step, parts=parts, tensors={"a": torch.ones(2)}, settings=settings, device=CPU)


def test_everything_comes_back(tmp_path):
    saved, other = parts(), parts()
    saved["model"](torch.ones(1, 2)).sum().backward()
    saved["optimizer"].step()
    save(tmp_path / "deep" / "c", saved, seed=1)
    drawn = torch.rand(3)
    step, tensors = load_checkpoint(tmp_path / "deep" / "c", parts=other, settings={"seed": 1}, device=CPU)
    assert torch.equal(torch.rand(3), drawn)
    assert step == 3
    assert tensors["a"].tolist() == [1, 1]
    assert torch.equal(saved["model"].weight, other["model"].weight)
    buffers = [next(iter(p["optimizer"].state.values()))["momentum_buffer"] for p in (saved, other)]
    assert torch.equal(*buffers)


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "c"
    save(file, parts())

    def killed(content, target):
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save(file, parts(), step=4)
    assert load_checkpoint(file, parts=parts(), settings={}, device=CPU)[0] == 3


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no checkpoint",
        pickle.dumps({"settings": Hostile()}, protocol=2),
        pickle.dumps([1], protocol=2),
        pickle.dumps({"a": 1}, protocol=2),
    ],
)
def test_a_foreign_file_is_named_and_not_executed(tmp_path, raw, capfd):
    (tmp_path / "c").write_bytes(raw)
    with pytest.raises(DamagedRun, match=f"{tmp_path / 'c'} .* no checkpoint"):
        load_checkpoint(tmp_path / "c", parts=parts(), settings={}, device=CPU)
    assert "executed" not in capfd.readouterr().out


def test_a_truncated_checkpoint_is_named(tmp_path):
    save(tmp_path / "c", parts())
    raw = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DamagedRun):
        load_checkpoint(tmp_path / "c", parts=parts(), settings={}, device=CPU)


def test_another_run_s_checkpoint_is_refused_before_anything_changes(tmp_path):
    save(tmp_path / "c", parts(), seed=1, clip=None)
    mine = parts()
    before = mine["model"].weight.clone()
    with pytest.raises(ValueError, match=r"seed=2 \(saved: 1\), batch=5 \(saved: None\)"):
        load_checkpoint(tmp_path / "c", parts=mine, settings={"seed": 2, "clip": None, "batch": 5}, device=CPU)
    assert torch.equal(mine["model"].weight, before)


def test_saves_are_due_every_so_often_and_at_the_end(tmp_path):
    file = tmp_path / "c"
    saver = Checkpoints(file, every=4, parts=parts(), settings={}, device=CPU)
    losses, written = torch.arange(10.0), []
    for step in range(10):
        saver.after(step, losses)
        if file.exists():
            written.append(step + 1)
            kept = torch.load(file, weights_only=True)
            assert kept["step"] == step + 1
            assert kept["tensors"]["losses"].tolist() == list(range(step + 1))
            assert kept["tensors"]["losses"].untyped_storage().nbytes() == 4 * (step + 1)
            file.unlink()
    assert written == [4, 8, 10]


def test_no_path_means_no_checkpoint():
    saver = Checkpoints(None, every=1, parts=parts(), settings={}, device=CPU)
    losses = torch.zeros(2)
    saver.after(0, losses)
    assert saver.resume(losses) == 0
