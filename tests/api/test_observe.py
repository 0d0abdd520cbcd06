"""Observation as a user meets it: bit-identical training, a balanced account, and nothing left behind."""

import copy
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import dynascope as ds
from dynascope.api.observe import observe
from dynascope.base.errors import AlreadyObserved, UnknownName, Unsupported
from dynascope.symmetry.find import inspect_model


class Net(nn.Module):
    """Convolution, batch statistics, dropout and a skip connection: everything that keeps state or draws numbers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.hidden = nn.Linear(64, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.head(self.drop(torch.relu(self.hidden(x))))


def sgd(p):
    return torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3)


OPTIMIZERS = {
    "SGD with momentum": sgd,
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.fixture(scope="module")
def anatomy():
    """Inspection takes seconds; most tests are about something else."""
    torch.manual_seed(0)
    return inspect_model(Net(), torch.ones(2, 1, 4, 4), output="softmax", mode="train")


def steps(model, optimizer, count, *, clip=False, accumulate=1, fails_at=None, schedule=None):
    """A user's loop; returns its losses."""
    losses = []
    for step in range(count):
        if step == fails_at:
            raise RuntimeError("the user's own mistake")

        def closure():
            optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for _ in range(accumulate):
                x, y = torch.randn(16, 1, 4, 4), torch.randint(0, 3, (16,))
                loss = nn.functional.cross_entropy(model(x), y) / accumulate
                loss.backward()
                total += loss.item()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            return total

        if isinstance(optimizer, torch.optim.LBFGS):
            losses.append(optimizer.step(closure))
        else:
            losses.append(closure())
            optimizer.step()
        if schedule is not None:
            schedule.step()
    return losses


def traces(model, optimizer):
    """Everything that observation must not change."""
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    state = [x for entry in optimizer.state.values() for x in entry.values() if isinstance(x, torch.Tensor)]
    hooks = [
        *(len(each) for m in model.modules() for each in (m._forward_pre_hooks, m._forward_hooks, m._backward_hooks)),
        len(optimizer._optimizer_step_pre_hooks),
        len(optimizer._optimizer_step_post_hooks),
    ]
    modes = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    noise = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    return [t.clone() for t in (*tensors, *state)], (list(model.state_dict()), hooks, modes, noise)


def run(make, path=None, *, count=5, **options):
    """Train from a fixed seed, observed or not."""
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    fails_at, loop = options.pop("fails_at", None), options.pop("loop", {})
    model = Net()
    optimizer = make(model.parameters())
    watched = nullcontext() if path is None else observe(model, optimizer, to=path, **options)
    losses, expected = [], nullcontext() if fails_at is None else pytest.raises(RuntimeError, match="own mistake")
    with expected, watched:
        losses = steps(model, optimizer, count, fails_at=fails_at, **loop)
    return losses, *traces(model, optimizer)


def same(one, other):
    return (
        one[0] == other[0]
        and len(one[1]) == len(other[1])
        and all(map(torch.equal, one[1], other[1]))
        and one[2] == other[2]
    )


WAYS = {
    "every step": {},
    "every third step": {"every": 3},
    "an overhead limit": {"max_overhead": 0.05},
    "after an exception": {"fails_at": 3},
    "clipped and accumulated": {"loop": {"clip": True, "accumulate": 2}},
}


@pytest.mark.usefixtures("unchecked")  # the type checks of `make test` draw from Python's random state
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_training_is_bit_identical_with_and_without(tmp_path, make, way, anatomy):
    plain = {key: value for key, value in way.items() if key in ("fails_at", "loop")}
    assert same(run(make, tmp_path / "run", on_error="raise", anatomy=anatomy, **way), run(make, **plain))


@pytest.mark.usefixtures("unchecked")  # the type checks of `make test` draw from Python's random state
@pytest.mark.parametrize("inputs", [None, torch.ones(2, 1, 4, 4)], ids=["first call", "example inputs"])
def test_training_is_bit_identical_with_and_without_inspection(tmp_path, inputs):
    assert same(run(sgd, tmp_path / "run", on_error="raise", example_inputs=inputs), run(sgd))


def test_the_comparison_would_notice():
    plain = run(sgd)
    drawn = run(sgd)
    torch.manual_seed(0)
    assert same(plain, drawn)
    losses, tensors, rest = drawn
    assert not same(plain, ([*losses[:-1], losses[-1] + 1e-12], tensors, rest))
    tensors[0].view(-1)[0] += 1e-6
    assert not same(plain, (losses, tensors, rest))
    assert not same(plain, (losses, plain[1], (*rest[:-1], "other")))


def test_the_account_of_a_double_precision_run_balances(tmp_path, anatomy):
    torch.manual_seed(0)
    model = Net().double()
    optimizer = sgd(model.parameters())
    with observe(model, optimizer, to=tmp_path / "run", anatomy=anatomy, on_error="raise") as seen:
        for _ in range(30):
            x, y = torch.randn(16, 1, 4, 4, dtype=torch.float64), torch.randint(0, 3, (16,))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            seen.step(loss=loss)
    predictions = ds.predict(seen.path)
    assert len(predictions.families) >= 4
    # the bound of DESIGN.md for double precision
    assert max(family.leak for family in predictions.families) < 1e-9
    wrong = ds.predict(seen.path, assume={"weight_decay": 0.0})
    assert max(family.leak for family in wrong.families) > 1e-6, "the control with a wrong weight decay must leak"


def observed(tmp_path, model, optimizer, *, count=4, **options):
    with observe(model, optimizer, to=tmp_path / "run", on_error="raise", **options):
        steps(model, optimizer, count)
    return ds.load(tmp_path / "run")


def test_the_archive_says_what_was_observed(tmp_path):
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    run = observed(tmp_path, model, optimizer, every=2)
    assert run.status == "complete"
    assert run.meta["anatomy"]["output"] == "identity"  # not decided: only two batches were recorded
    assert run.meta["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert run.meta["optimizer"]["groups"][0]["settings"]["lr"] == 0.05
    assert run.meta["settings"]["every"] == 2
    assert run.meta["seeds"]["torch"] == 3
    family = run.families["charges:rescale/hidden.weight-head.weight"]
    assert family["law"] == "sgd"
    assert run.series("charges:rescale/hidden.weight-head.weight", "value").steps.tolist() == [0, 2]


def test_softmax_is_believed_after_three_batches(tmp_path):
    torch.manual_seed(0)
    model = Net()
    run = observed(tmp_path, model, sgd(model.parameters()))
    assert run.meta["anatomy"]["output"] == "softmax"
    assert run.families["charges:translation/head.bias"]["law"] == "sgd"
    assert any("held on 3 batches" in note["text"] for note in run.meta["notes"])


def test_softmax_is_refuted_by_another_loss(tmp_path):
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model.parameters())
    with observe(model, optimizer, to=tmp_path / "run", on_error="raise"):
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(16, 1, 4, 4)).square().mean().backward()
            optimizer.step()
    run = ds.load(tmp_path / "run")
    assert run.meta["anatomy"]["output"] == "identity"
    family = run.families["charges:translation/head.bias"]
    assert family["law"] is None
    assert "does not ignore a common shift" in family["without_law"]
    assert family["columns"]  # recorded, only without a law
    assert run.families["charges:rescale/hidden.weight-head.weight"]["law"] == "sgd"


def test_an_anatomy_and_an_output_that_are_given_are_taken(tmp_path):
    torch.manual_seed(0)
    model = Net()
    anatomy = inspect_model(model, torch.ones(2, 1, 4, 4), output="identity", mode="train")
    run = observed(tmp_path, model, sgd(model.parameters()), anatomy=anatomy)
    assert "charges:translation/head.bias" not in run.families
    assert run.meta["notes"] == []


def test_parameter_groups_schedules_and_unused_parameters(tmp_path, anatomy):
    torch.manual_seed(0)
    model = Net()
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD([{"params": decay, "weight_decay": 0.01}, {"params": rest}], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    with observe(model, optimizer, to=tmp_path / "run", anatomy=anatomy, on_error="raise") as seen:
        steps(model, optimizer, 6, schedule=schedule)
    run = ds.load(seen.path)
    rates = run.scalars["learning_rate"].values
    assert rates[0] == 0.1
    assert (np.diff(rates) < 0).all()
    family = run.families["charges:rescale/hidden.weight-head.weight"]
    assert family["groups"] == [0, 1]
    leaks = [family.leak for family in ds.predict(seen.path).families if family.leak is not None]
    assert max(leaks) < 1e-5  # single precision, six steps


def test_compiled_models_are_observed_by_the_names_of_the_original(tmp_path):
    torch.manual_seed(0)
    net = Net()
    model = torch.compile(net, backend="eager")
    run = observed(tmp_path, model, sgd(net.parameters()))
    assert "charges:rescale/hidden.weight-head.weight" in run.families
    assert run.meta["model"]["name"] == "Net"


def test_observing_twice_is_refused_and_the_first_goes_on(tmp_path, anatomy):
    torch.manual_seed(0)
    model, other = Net(), Net()
    optimizer = sgd(model.parameters())
    with observe(model, optimizer, to=tmp_path / "a", anatomy=anatomy, on_error="raise") as seen:
        with pytest.raises(AlreadyObserved, match="Net"), observe(model, sgd(model.parameters()), to=tmp_path / "b"):
            pass
        with pytest.raises(AlreadyObserved, match="SGD"), observe(other, optimizer, to=tmp_path / "b"):
            pass
        steps(model, optimizer, 2)
    assert ds.load(seen.path).status == "complete"
    assert not (tmp_path / "b").exists()
    with observe(model, optimizer, to=tmp_path / "b", anatomy=anatomy, on_error="raise"):
        steps(model, optimizer, 1)


@pytest.mark.usefixtures("unchecked")  # the type checks of `make test` draw from Python's random state
def test_a_mistake_at_the_door_leaves_nothing_behind(tmp_path, anatomy):
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model.parameters())
    before = traces(model, optimizer)[1]
    for mistake, error in [
        ({"every": 0}, ValueError),
        ({"max_overhead": -1.0}, ValueError),
        ({"probes": ["chrages"]}, UnknownName),
        ({"example_inputs": torch.ones(2, 7)}, Exception),
    ]:
        with pytest.raises(error), observe(model, optimizer, to=tmp_path / "run", **mistake):
            pass
    compiled = copy.deepcopy(model)
    compiled.compile(backend="eager")
    with pytest.raises(Unsupported), observe(compiled, sgd(compiled.parameters()), to=tmp_path / "other"):
        pass
    assert traces(model, optimizer)[1] == before


def test_without_inputs_training_goes_on_with_one_warning(tmp_path):
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model.parameters())
    with observe(model, optimizer, to=tmp_path / "run") as seen:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with pytest.warns(RuntimeWarning, match="inspection was switched off.*example_inputs"):
            optimizer.step()
        optimizer.step()
    assert ds.load(seen.path).scalars["learning_rate"].steps.tolist() == [0, 1]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_the_run_says_how_it_ended(tmp_path, error, status, anatomy):
    model = Net()
    optimizer = sgd(model.parameters())

    def train():
        with observe(model, optimizer, to=tmp_path / "run", anatomy=anatomy, on_error="raise"):
            steps(model, optimizer, 2)
            raise error

    with pytest.raises(error):
        train()
    run = ds.load(tmp_path / "run")
    assert run.status == status
    assert run.scalars["learning_rate"].steps.tolist() == [0, 1]


def test_a_training_loop_that_leaves_by_exit_zero_is_complete(tmp_path):
    model = Net()
    with pytest.raises(SystemExit), observe(model, sgd(model.parameters()), to=tmp_path / "run"):
        raise SystemExit(0)
    assert ds.load(tmp_path / "run").status == "complete"


def test_what_follows_the_run_is_called_with_it(tmp_path, anatomy):
    torch.manual_seed(0)
    model, seen = Net(), []
    optimizer = sgd(model.parameters())

    def report(path):
        seen.append((path, ds.load(path).status))
        raise OSError("no room for the report")

    with (
        pytest.warns(RuntimeWarning, match="report failed"),
        observe(
            model,
            optimizer,
            to=tmp_path / "run",
            anatomy=anatomy,
            before_finish=[lambda writer: writer.update(extra=1)],
            on_finish=[report],
        ),
    ):
        steps(model, optimizer, 1)
    assert seen == [(tmp_path / "run", "complete")]
    assert ds.load(tmp_path / "run").meta["extra"] == 1


def test_a_model_without_charges_is_observed_all_the_same(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    optimizer = sgd(model.parameters())
    with observe(model, optimizer, to=tmp_path / "run", output="identity", on_error="raise") as seen:
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    run = ds.load(seen.path)
    assert run.families == {}
    assert [note["text"] for note in run.meta["notes"]] == ["no conserved charge was found, so none is recorded"]
    assert run.scalars["learning_rate"].steps.tolist() == [0]


def test_the_default_folder_is_new_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Linear(2, 2)
    for _ in range(2):
        with observe(model, sgd(model.parameters()), example_inputs=torch.ones(1, 2)):
            pass
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all(name.startswith("Linear-") for name in runs)
