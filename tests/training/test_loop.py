"""The loop against one written out by hand, and its promises."""

from functools import partial

import pytest
import torch
from torch import nn
from tqdm import tqdm

from dynascope import tasks
from dynascope.base.cards import TaskCard
from dynascope.base.settings import SGDSettings
from dynascope.functional.task import Data, Task
from dynascope.training import loop
from dynascope.training.batches import Batches
from dynascope.training.learning_rate import scaled
from dynascope.training.loop import fit, sgd

SETTINGS = SGDSettings(0.1, momentum=0.9, weight_decay=1e-3)


def dropout_net(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    from dynascope.tasks.models import seeded

    with seeded(seed):
        layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    return nn.Sequential(*layers).to(dtype)


def toy(dtype: torch.dtype = torch.float32) -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=dtype)
    data = Data(x, x[:, :3].argmax(dim=1))
    return Task(
        name="toy",
        train=data,
        test=data,
        model=partial(dropout_net, dtype=dtype),
        loss=nn.functional.cross_entropy,
        output="softmax",
        metric=lambda output, y: (output.argmax(1) == y).double().mean(),
        card=TaskCard("toy"),
    )


def state(model: nn.Module) -> torch.Tensor:
    """Parameters and buffers, BatchNorm's running statistics included."""
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_equals_heavy_ball_written_out(dtype, clip):
    task = tasks.get("digits-mlp", precision=str(dtype).removeprefix("torch."))
    fitted = fit(task, optimizer=sgd(SETTINGS), steps=7, batch_size=16, seed=3, clip=clip)

    model, batches = task.model(3), Batches(task.train, batch_size=16, seed=3)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    losses = []
    for step in range(7):
        x, y = batches(step)
        loss = -torch.log_softmax(model(x), dim=1)[range(16), y].mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        size = torch.sqrt(sum(g.square().sum() for g in gradients))
        factor = 1.0 if clip is None else min(1.0, clip / size.item())
        losses.append(loss.item())
        with torch.no_grad():
            for p, g, v in zip(model.parameters(), gradients, velocity, strict=True):
                v.mul_(0.9).add_(factor * g + 1e-3 * p)
                p.sub_(0.1 * v)
    # a different order of the same 7 steps' sums; torch's clipping also adds 1e-6 to the norm
    tolerance = 1e-5 if dtype == torch.float32 or clip else 1e-13
    torch.testing.assert_close(state(fitted.model), state(model), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(fitted.losses.tolist(), losses, atol=tolerance, rtol=tolerance)
    unclipped = fit(task, optimizer=sgd(SETTINGS), steps=7, batch_size=16, seed=3)
    assert torch.equal(state(unclipped.model), state(fitted.model)) == (clip is None)  # control: clipping bites


def test_same_seed_same_run_and_the_caller_is_not_disturbed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit(toy(), optimizer=sgd(SETTINGS), steps=20, batch_size=7, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = fit(toy(), optimizer=sgd(SETTINGS), steps=20, batch_size=7, seed=5)
    other = fit(toy(), optimizer=sgd(SETTINGS), steps=20, batch_size=7, seed=6)
    assert torch.equal(state(first.model), state(again.model))
    assert torch.equal(first.losses, again.losses)
    assert not torch.equal(first.losses, other.losses)


class Stopped(Exception):
    pass


def stop_after(step: int):
    def on_step(done: int, *_):
        if done == step:
            raise Stopped

    return on_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [sgd(SETTINGS), torch.optim.Adam])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("stop", [3, 12, 18])
def test_resuming_equals_no_interruption_bit_for_bit(tmp_path, dtype, make, replacement, stop):
    arguments = {
        "optimizer": make,
        "steps": 20,
        "batch_size": 7,
        "seed": 5,
        "replacement": replacement,
        "schedule": scaled(lambda step: 0.9**step),
        "clip": 1.0,
    }
    whole = fit(toy(dtype), **arguments)
    file = tmp_path / "run" / "checkpoint.pt"
    with pytest.raises(Stopped):
        fit(toy(dtype), **arguments, checkpoint=file, checkpoint_every=5, on_step=stop_after(stop))
    torch.rand(7)
    steps_seen = []
    resumed = fit(
        toy(dtype),
        **arguments,
        checkpoint=file,
        checkpoint_every=5,
        on_step=lambda step, *_: steps_seen.append(step),
    )
    assert steps_seen == list(range(stop // 5 * 5, 20))
    assert torch.equal(state(whole.model), state(resumed.model))
    assert torch.equal(whole.losses, resumed.losses)


def test_a_finished_checkpoint_goes_on_to_more_steps(tmp_path):
    arguments = {"optimizer": sgd(SETTINGS), "batch_size": 7, "seed": 5}
    whole = fit(toy(), steps=11, **arguments)
    fit(toy(), steps=8, **arguments, checkpoint=tmp_path / "c")
    again = fit(toy(), steps=8, **arguments, checkpoint=tmp_path / "c", on_step=stop_after(0))  # nothing left to do
    assert torch.equal(again.losses, whole.losses[:8])
    longer = fit(toy(), steps=11, **arguments, checkpoint=tmp_path / "c")
    assert torch.equal(state(whole.model), state(longer.model))
    with pytest.raises(ValueError, match=r"steps=9: .* is already at step 11"):
        fit(toy(), steps=9, **arguments, checkpoint=tmp_path / "c")


def test_on_step_sees_each_step_after_it_happened():
    seen = []
    model = dropout_net(0)
    optimizer = sgd(SETTINGS)(model.parameters())

    def on_step(step, loss, batch):
        seen.append((step, loss.item(), len(batch[0]), batch[1].dtype, loss.requires_grad, len(optimizer.state)))

    fitted = fit(toy(), model=model, optimizer=optimizer, steps=3, batch_size=7, seed=0, on_step=on_step)
    assert [(step, loss) for step, loss, *_ in seen] == list(enumerate(fitted.losses.tolist()))
    assert all(rest == [7, torch.int64, False, 6] for _, _, *rest in seen)
    assert fitted.model is model


def test_a_schedule_scales_the_learning_rate_of_its_step():
    rates = []
    model = dropout_net(0)
    optimizer = sgd(SETTINGS)(model.parameters())
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    schedule = scaled(lambda step: 1 / (1 + step))
    fit(toy(), model=model, optimizer=optimizer, steps=3, batch_size=7, seed=0, schedule=schedule)
    assert rates == [0.1, 0.05, 0.1 * (1 / 3)]


def test_a_diverging_run_is_left_alone():
    fitted = fit(toy(), optimizer=sgd(SGDSettings(1e30)), steps=5, batch_size=None, seed=0)
    assert not fitted.losses.isfinite().all()
    assert len(fitted.losses) == 5


def test_it_learns():
    task = tasks.get("digits-mlp")
    fitted = fit(task, optimizer=sgd(SETTINGS), steps=300, batch_size=64, seed=0)
    assert task.metric(fitted.model(task.test.x), task.test.y) > 0.9


def test_progress_shows_on_long_runs_unless_it_is_switched_off(capfd, monkeypatch):
    def run(progress: bool) -> str:
        fit(toy(), optimizer=sgd(SETTINGS), steps=3, batch_size=7, seed=0, progress=progress)
        return capfd.readouterr().err

    assert run(True) == ""  # shorter than two seconds
    monkeypatch.setattr(loop, "tqdm", lambda *args, **options: tqdm(*args, **options | {"delay": 0}))
    assert "toy" in run(True)
    assert run(False) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"clip": float("nan")}, "clip=nan"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"batch_size": 31}, "batch_size=31"),
        ({"optimizer": torch.optim.SGD(dropout_net(0).parameters(), lr=0.1)}, "model=..."),
    ],
)
def test_bad_arguments_are_refused(change, words):
    arguments = {"optimizer": sgd(SETTINGS), "steps": 3, "batch_size": 7, "seed": 0}
    with pytest.raises(ValueError, match=words):
        fit(toy(), **arguments | change)
