"""The recorder with instruments of the test's own: what it keeps, and that training never notices."""

import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dynascope.base.errors import AlreadyObserved
from dynascope.runs import RunWriter, load
from dynascope.training import blocks
from dynascope.training.pace import Pace
from dynascope.training.recorder import Recorder, is_reserved, release, reserve, status_of, warn


class Weight:
    """Records a single parameter before and after the step."""

    name = "weight"

    def __init__(self, parameter, *, fails_at=None):
        self.parameter, self.fails_at, self.calls = parameter, fails_at, 0
        self.row, self.notes = torch.zeros(2, parameter.numel()), []

    def before(self):
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("the instrument broke")
        self.row[0] = self.parameter.detach().flatten()

    def after(self):
        self.row[1] = self.parameter.detach().flatten()

    def families(self):
        return {"weight": {"words": "a weight", "columns": {"value": "before", "after": "after"}}}

    def unpack(self, rows):
        yield "weight", {"value": rows[:, 0], "after": rows[:, 1]}


def setup(tmp_path, *, make=torch.optim.SGD, every=1, max_overhead=None, on_error="raise", fails_at=None, **more):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = make(model.parameters(), lr=0.1)
    writer = RunWriter.create(tmp_path / "run", {})
    instrument = Weight(model.weight, fails_at=fails_at)
    recorder = Recorder(
        model, optimizer, writer, prepare=lambda: [instrument], pace=Pace(every, max_overhead),
        on_error=on_error, **more,
    )  # fmt: skip
    return SimpleNamespace(
        model=model, optimizer=optimizer, recorder=recorder, instrument=instrument, path=tmp_path / "run"
    )


def train(s, steps, *, loss=None, seed=0):
    """Plain steps; returns the weight before every step and after the last."""
    generator, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        s.optimizer.zero_grad()
        value = s.model(torch.randn(4, 3, generator=generator)).square().mean()
        value.backward()
        if loss == "before":
            s.recorder.step(loss=value)
        seen.append(s.model.weight.detach().flatten().clone())
        s.optimizer.step()
        if loss == "after":
            s.recorder.step(loss=value)
    return [*seen, s.model.weight.detach().flatten().clone()]


def test_every_step_is_kept_before_and_after(tmp_path):
    s = setup(tmp_path)
    s.recorder.attach()
    weights = train(s, 5)
    s.recorder.close("complete")
    run = load(s.path)
    value, after = run.series("weight", "value"), run.series("weight", "after")
    assert run.status == "complete"
    assert value.steps.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(value.values, torch.stack(weights[:-1]).numpy())
    np.testing.assert_array_equal(after.values, torch.stack(weights[1:]).numpy())
    assert run.meta["steps"] == 5
    assert run.meta["sampled"] is False


def test_every_third_step(tmp_path):
    s = setup(tmp_path, every=3)
    s.recorder.attach()
    weights = train(s, 8)
    s.recorder.close("complete")
    run = load(s.path)
    assert run.series("weight", "value").steps.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(run.series("weight", "after").values, torch.stack([weights[i] for i in (1, 4, 7)]))
    np.testing.assert_allclose(run.scalars["time"].values, [0, 0.3, 0.6], rtol=1e-12)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_loss_reaches_its_own_step_whether_told_before_or_after_it(tmp_path, when):
    s, plain = setup(tmp_path), setup(tmp_path / "plain")
    s.recorder.attach()
    train(s, 4, loss=when)
    s.recorder.close("complete")
    generator, expected = torch.Generator().manual_seed(0), []
    for _ in range(4):
        plain.optimizer.zero_grad()
        loss = plain.model(torch.randn(4, 3, generator=generator)).square().mean()
        loss.backward()
        plain.optimizer.step()
        expected.append(loss.item())
    plain.recorder.close("complete")
    np.testing.assert_array_equal(load(s.path).scalars["loss"].values, expected)


def test_a_loss_changed_in_place_afterwards_is_kept_as_it_was(tmp_path):
    s = setup(tmp_path)
    s.recorder.attach()
    train(s, 1)
    loss = torch.tensor(2.0)
    s.recorder.step(loss=loss)
    loss.mul_(100)
    s.recorder.close("complete")
    assert load(s.path).scalars["loss"].values.tolist() == [2.0]


def test_non_finite_losses_are_recorded_and_said_once(tmp_path):
    s = setup(tmp_path)
    s.recorder.attach()
    for loss in (1.0, float("nan"), float("inf")):
        train(s, 1)
        s.recorder.step(loss=loss)
    s.recorder.close("complete")
    run = load(s.path)
    assert np.isnan(run.scalars["loss"].values[1])
    assert [note["step"] for note in run.meta["notes"] if "the loss is nan" in note["text"]] == [1]
    assert len(run.meta["notes"]) == 1


def test_blocks_are_handed_over_whenever_they_are_full(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_RECORDS", 4)
    s = setup(tmp_path)
    s.recorder.attach()
    weights = train(s, 11, loss="after")
    s.recorder.close("complete")
    run = load(s.path)
    np.testing.assert_array_equal(run.series("weight", "value").values, torch.stack(weights[:-1]))
    assert run.scalars["loss"].steps.tolist() == list(range(11))


def test_old_blocks_are_readable_while_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_SECONDS", 0.0)
    s = setup(tmp_path)
    s.recorder.attach()
    train(s, 5)
    s.recorder._background.close()  # wait for what was handed over
    assert load(s.path).series("weight", "value").steps.tolist() == [0, 1, 2, 3]
    s.recorder.close("interrupted")
    assert load(s.path).status == "interrupted"


def test_schedules_are_recorded_step_by_step(tmp_path):
    s = setup(tmp_path, make=lambda p, lr: torch.optim.SGD([{"params": [q]} for q in p], lr=lr, momentum=0.5))
    s.recorder.attach()
    for step in range(4):
        s.optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        s.optimizer.param_groups[1]["momentum"] = 0.5 if step < 2 else 0.7
        train(s, 1)
    s.recorder.close("complete")
    scalars = load(s.path).scalars
    np.testing.assert_allclose(scalars["learning_rate"].values, [0.1, 0.05, 0.1 / 3, 0.025])
    np.testing.assert_allclose(scalars["learning_rate/1"].values, [0.1] * 4)
    np.testing.assert_allclose(scalars["time"].values, [0, 0.1, 0.15, 0.15 + 0.1 / 3])
    # in the first record, and in all from the first change on
    assert scalars["momentum/1"].steps.tolist() == [0, 2, 3]
    np.testing.assert_allclose(scalars["momentum/1"].values, [0.5, 0.7, 0.7])


def test_a_learning_rate_that_is_a_tensor_changed_in_place(tmp_path):
    s = setup(tmp_path, make=lambda p, lr: torch.optim.SGD(p, lr=torch.tensor(lr), foreach=False))
    s.recorder.attach()
    for _ in range(3):
        train(s, 1)
        s.optimizer.param_groups[0]["lr"].mul_(0.5)
    s.recorder.close("complete")
    np.testing.assert_allclose(load(s.path).scalars["learning_rate"].values, [0.1, 0.05, 0.025], rtol=1e-6)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.LBFGS])
def test_closures_are_measured_when_their_gradients_stand(tmp_path, make, by_name):
    s = setup(tmp_path, make=make)
    seen = []
    s.instrument.before = lambda: seen.append((s.model.weight.detach().clone(), s.model.weight.grad.clone()))
    s.recorder.attach()
    x, weights, losses, calls = torch.ones(4, 3), [], [], []

    def closure():
        s.optimizer.zero_grad()
        loss = s.model(x).square().mean()
        loss.backward()
        calls.append(s.model.weight.grad.clone())
        return loss

    for _ in range(3):
        weights.append(s.model.weight.detach().clone())
        calls.clear()
        loss = s.optimizer.step(closure=closure) if by_name else s.optimizer.step(closure)
        losses.append(loss.item())
        weight, gradient = seen[-1]
        assert torch.equal(weight, weights[-1])  # nothing had moved
        assert torch.equal(gradient, calls[0])
    s.recorder.close("complete")
    run = load(s.path)
    assert len(seen) == 3
    np.testing.assert_allclose(run.scalars["loss"].values, losses, rtol=1e-6)


def test_a_closure_that_is_never_called_leaves_no_record(tmp_path):
    class Deaf(torch.optim.SGD):
        def step(self, closure=None):
            return None

    s = setup(tmp_path, make=Deaf)
    s.recorder.attach()
    s.optimizer.step(lambda: 1.0)
    train(s, 1)
    s.recorder.close("complete")
    assert load(s.path).series("weight", "value").steps.tolist() == [1]


def test_nested_steps_of_a_subclass_count_once(tmp_path):
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    parent = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)  # so that the parent's step has hooks too
    s = setup(tmp_path, make=Own)
    s.recorder.attach()
    train(s, 3)
    s.recorder.close("complete")
    assert load(s.path).series("weight", "value").steps.tolist() == [0, 1, 2]
    assert parent.param_groups


def test_a_step_that_raises_is_not_kept_and_the_next_one_is(tmp_path):
    s = setup(tmp_path)
    s.recorder.attach()
    train(s, 1)
    s.optimizer.param_groups[0]["weight_decay"] = "nonsense"
    with pytest.raises(TypeError):
        train(s, 1)
    s.optimizer.param_groups[0]["weight_decay"] = 0
    train(s, 1)
    s.recorder.close("complete")
    assert load(s.path).series("weight", "value").steps.tolist() == [0, 1]


def test_a_failing_instrument_is_switched_off_with_one_warning_and_what_it_recorded_stays(tmp_path):
    s = setup(tmp_path, on_error="warn", fails_at=3)
    s.recorder.attach()
    with pytest.warns(RuntimeWarning, match="weight was switched off at step 2") as caught:
        train(s, 6, loss="after")
    s.recorder.close("complete")
    run = load(s.path)
    assert len(caught) == 1
    assert run.series("weight", "value").steps.tolist() == [0, 1]
    assert run.scalars["loss"].steps.tolist() == list(range(6))  # the rest of recording goes on
    assert [note["level"] for note in run.meta["notes"]] == ["warning"]


def test_a_failing_instrument_raises_where_that_is_asked_for(tmp_path):
    s = setup(tmp_path, on_error="raise", fails_at=2)
    s.recorder.attach()
    with pytest.raises(RuntimeError, match="the instrument broke"):
        train(s, 3)
    s.recorder.close("failed")


def test_a_failing_archive_ends_the_recording_with_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_RECORDS", 2)
    s, plain = setup(tmp_path, on_error="warn"), setup(tmp_path / "plain")
    monkeypatch.setattr(s.recorder._writer, "block", lambda *a: (_ for _ in ()).throw(OSError("the disk is full")))
    s.recorder.attach()

    def observed():
        weights = train(s, 20)
        s.recorder.close("complete")
        return weights

    with pytest.warns(RuntimeWarning, match="the disk is full") as caught:
        ours = observed()
    theirs = train(plain, 20)
    plain.recorder.close("complete")
    assert len(caught) == 1
    assert torch.equal(torch.stack(ours), torch.stack(theirs))


def test_an_instrument_that_cannot_be_made_leaves_the_scalars(tmp_path):
    s = setup(tmp_path, on_error="warn")
    s.recorder._make = lambda: 1 / 0
    s.recorder.attach()
    with pytest.warns(RuntimeWarning, match="inspection was switched off"):
        train(s, 2, loss="after")
    s.recorder.close("complete")
    assert load(s.path).scalars["loss"].steps.tolist() == [0, 1]


def test_probes_see_a_snapshot_and_are_recorded_as_scalars(tmp_path):
    def norms(snapshot):
        return {
            "gradient": snapshot.gradients["weight"].norm(),
            "rate": snapshot.optimizer.settings("weight")["lr"],
            "batch": 0.0 if snapshot.batch is None else snapshot.batch,
        }

    s = setup(tmp_path, probes={"norms": norms})
    s.recorder.attach()
    for step in range(3):
        train(s, 1, seed=step)
        s.recorder.step(batch=step + 1)
    s.recorder.close("complete")
    scalars = load(s.path).scalars
    assert (scalars["gradient"].values > 0).all()
    np.testing.assert_allclose(scalars["rate"].values, 0.1)
    assert scalars["batch"].values.tolist() == [0, 1, 2]


def test_a_failing_probe_is_switched_off_alone(tmp_path):
    s = setup(tmp_path, on_error="warn", probes={"bad": lambda snapshot: 1 / 0, "good": lambda snapshot: {"one": 1.0}})
    s.recorder.attach()
    with pytest.warns(RuntimeWarning, match="bad was switched off") as caught:
        train(s, 3)
    s.recorder.close("complete")
    assert len(caught) == 1
    assert load(s.path).scalars["one"].values.tolist() == [1, 1, 1]


def test_recording_thins_itself_out_and_says_so(tmp_path):
    s = setup(tmp_path, max_overhead=1e-6)
    s.recorder.attach()
    train(s, 60)
    s.recorder.close("complete")
    run = load(s.path)
    steps = run.series("weight", "value").steps
    assert run.meta["sampled"] is True
    assert run.meta["every"] > 1
    assert len(steps) < 60
    assert any("the record is a sample" in note["text"] for note in run.meta["notes"])


def test_a_forked_child_writes_nothing(tmp_path):
    s = setup(tmp_path)
    s.recorder.attach()
    train(s, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested here
        child = os.fork()
    if child == 0:
        code = 1
        try:
            train(s, 1)
            s.recorder.close("failed")
            code = 0 if s.recorder.steps == 2 else 2  # the child's step was not looked at
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    train(s, 1)
    s.recorder.close("complete")
    run = load(s.path)
    assert run.status == "complete"
    assert run.series("weight", "value").steps.tolist() == [0, 1, 2]


def test_closing_takes_every_hook_away(tmp_path):
    s = setup(tmp_path)
    hooks = s.optimizer._optimizer_step_pre_hooks, s.optimizer._optimizer_step_post_hooks
    s.recorder.attach()
    assert [len(each) for each in hooks] == [1, 1]
    s.recorder.close("complete")
    assert [len(each) for each in hooks] == [0, 0]
    train(s, 1)


def test_what_is_done_before_the_end_may_still_write(tmp_path):
    s = setup(tmp_path)
    s.recorder.attach()
    train(s, 2)

    def more(writer):
        assert load(s.path).series("weight", "value").steps.tolist() == [0, 1]
        writer.block("more", np.array([0]), {"x": np.zeros((1, 1))})

    s.recorder.close("complete", before_finish=[more])
    assert set(load(s.path).families) == {"weight", "more"}


def test_a_model_or_optimizer_is_observed_once():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reserve([model, optimizer], "runs/a")
    with pytest.raises(AlreadyObserved, match=r"Linear.*runs/a"):
        reserve([model], "runs/b")
    other = nn.Linear(1, 1)
    with pytest.raises(AlreadyObserved, match="SGD"):
        reserve([other, optimizer], "runs/b")
    assert not is_reserved(other)
    release([model, optimizer])
    reserve([model, optimizer], "runs/b")
    release([model, optimizer])
    assert not is_reserved(model)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "complete"),
        (SystemExit(0), "complete"),
        (SystemExit(None), "complete"),
        (SystemExit(3), "failed"),
        (ValueError(), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_how_a_run_ended(error, status):
    assert status_of(error) == status


def test_a_warning_cannot_hurt_where_warnings_are_errors(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("something")
    assert capsys.readouterr().err == "dynascope: something\n"
