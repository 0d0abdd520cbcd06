"""Finding models, optimisers and losses without being told."""

import gc
import sys

import pytest
import torch
from torch import nn

from dynascope.training.discovery import PATIENCE, Discovery


def pair(width=3, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model, optimizer, *, scale=1.0):
    optimizer.zero_grad()
    loss = scale * model(torch.ones(4, 2)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def watching():
    finds = []
    return finds, Discovery(finds.append)


def hooks():
    modules, optimizers = nn.modules.module, sys.modules["torch.optim.optimizer"]
    return (
        len(modules._global_forward_pre_hooks),
        len(optimizers._global_optimizer_pre_hooks),
        torch.autograd.backward,
        torch.compile,
    )


def test_a_model_is_found_with_its_inputs_at_the_first_step():
    before = hooks()
    finds, discovery = watching()
    with discovery.watch():
        model, optimizer = pair()
        with torch.no_grad():
            model.eval()(torch.zeros(1, 2))
        model.train()
        for _ in range(3):
            step(model, optimizer)
    assert hooks() == before
    (find,) = finds
    assert find.model is model
    assert find.optimizer is optimizer
    assert find.inputs[0].equal(torch.ones(4, 2))
    assert find.unseen == 0
    assert discovery.summary() == []


def test_everything_is_taken_back_after_an_error():
    before = hooks()
    _, discovery = watching()
    with pytest.raises(RuntimeError), discovery.watch():
        raise RuntimeError
    assert hooks() == before


def test_module_hooks_are_gone_once_the_model_is_known():
    finds, discovery = watching()
    with discovery.watch():
        step(*pair())
        assert len(nn.modules.module._global_forward_pre_hooks) == 0
    assert len(finds) == 1


def test_the_loss_is_the_sum_of_the_roots_since_the_last_step():
    seen = []
    discovery = Discovery(lambda find: None)
    with discovery.watch():
        model, optimizer = pair()
        for _ in range(2):
            optimizer.zero_grad()
            losses = [model(torch.ones(4, 2) * k).square().mean() / 2 for k in (1, 2)]
            for loss in losses:
                loss.backward()
            seen.append((discovery.loss().item(), sum(loss.item() for loss in losses)))
            optimizer.step()
        assert seen[0][0] == pytest.approx(seen[0][1], rel=1e-6)
        assert seen[1][0] == pytest.approx(seen[1][1], rel=1e-6)


def test_two_optimizers_share_the_loss_of_one_backward():
    discovery = Discovery(lambda find: None)
    with discovery.watch():
        model, _ = pair()
        first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2]))
        loss = model(torch.ones(4, 2)).mean()
        loss.backward()
        first.step()
        assert discovery.loss().item() == loss.item()
        second.step()
        assert discovery.loss().item() == loss.item()


def test_a_root_with_several_numbers_has_no_loss():
    discovery = Discovery(lambda find: None)
    with discovery.watch():
        model, _ = pair()
        model(torch.ones(4, 2)).backward(torch.ones(4, 1))
        assert discovery.loss() is None


def test_keyword_arguments_are_found():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x, scale=1.0):
            return self.layer(x) * scale

    finds, discovery = watching()
    with discovery.watch():
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(4, 2), scale=2.0).mean().backward()
        optimizer.step()
    assert sorted(finds[0].inputs) == ["scale", "x"]


def test_the_outermost_module_wins_even_if_a_part_was_called_before():
    finds, discovery = watching()
    with discovery.watch():
        model, optimizer = pair()
        model[0](torch.ones(1, 2))
        step(model, optimizer)
    assert finds[0].model is model


def test_two_models_each_with_its_optimizer():
    finds, discovery = watching()
    with discovery.watch():
        one, two = pair(3), pair(4)
        for _ in range(PATIENCE):
            for each in (one, two):
                step(*each)
    assert [find.model for find in finds] == [one[0], two[0]]
    assert discovery.summary() == []


def test_a_model_that_appears_later_is_found_at_its_second_step():
    finds, discovery = watching()
    with discovery.watch():
        step(*pair())
        late = pair(5)
        for _ in range(2):
            step(*late)
    assert finds[1].model is late[0]


def test_parameters_outside_the_model_are_counted():
    finds, discovery = watching()
    with discovery.watch():
        model, _ = pair()
        extra = nn.Parameter(torch.ones(7))
        optimizer = torch.optim.SGD([*model.parameters(), extra], lr=0.1)
        step(model, optimizer)
    assert finds[0].unseen == 7


def test_bare_parameters_are_missed_and_said():
    _, discovery = watching()
    with discovery.watch():
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        for _ in range(PATIENCE + 1):
            weight.sum().backward()
            optimizer.step()
    assert discovery.summary() == ["SGD moves parameters of no module that was called in training mode"]


def test_updates_written_by_hand_are_said():
    _, discovery = watching()
    with discovery.watch():
        model, _ = pair()
        model(torch.ones(1, 2)).sum().backward()
    assert "updates written by hand" in discovery.summary()[0]


def test_a_script_that_trains_nothing_is_said():
    _, discovery = watching()
    with discovery.watch():
        pass
    assert discovery.summary() == ["nothing was trained with torch"]


def test_an_error_of_ours_is_kept_and_training_goes_on():
    def broken(find):
        raise OSError("no room")

    discovery, (plain, plain_optimizer) = Discovery(broken), pair()
    with discovery.watch():
        model, optimizer = pair()
        losses = [step(model, optimizer) for _ in range(3)]
    assert losses == [step(plain, plain_optimizer) for _ in range(3)]
    assert discovery.summary() == ["SGD (OSError: no room)"]


def test_a_wrapper_put_around_ours_is_left_alone():
    original = torch.autograd.backward
    _, discovery = watching()
    try:
        with discovery.watch():
            inner = torch.autograd.backward

            def theirs(*args, **kwargs):
                return inner(*args, **kwargs)

            torch.autograd.backward = theirs
        assert torch.autograd.backward is theirs
        model, optimizer = pair()
        step(model, optimizer)
        assert discovery.backwards == 0  # what is left of us does nothing
    finally:
        torch.autograd.backward = original


def test_models_are_not_kept_alive():
    finds, discovery = watching()
    with discovery.watch():
        model, _ = pair()
        model(torch.ones(1, 2))
        reference, _ = discovery._roots[0]
        del model, _
        gc.collect()
        assert reference() is None
    assert finds == []


def test_compiled_models_are_found_without_a_hook_in_the_graph():
    finds, discovery = watching()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph

    with discovery.watch():
        model, optimizer = pair()
        compiled = torch.compile(model, backend=backend)
        for _ in range(3):
            step(compiled, optimizer)
    assert finds[0].model is compiled
    assert len(graphs) == 1  # neither broken nor compiled again
