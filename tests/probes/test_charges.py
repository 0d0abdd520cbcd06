"""The fast recording of charges against the plain form, and the exact law against PyTorch's own steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dynascope.base.errors import DynascopeError, Unsupported
from dynascope.functional.snapshot import OptimizerView, Snapshot
from dynascope.probes import PROBES
from dynascope.probes import charges as room
from dynascope.probes.charges import ChargeInstrument, charges
from dynascope.symmetry.charges import Charge, Leg


def leg(name, parameter, axis, coefficient=1.0, classes=None):
    """The leg that keeps one axis of a parameter."""
    shape = [1] * parameter.ndim
    shape[axis] = parameter.shape[axis]
    index = torch.arange(parameter.shape[axis]) if classes is None else classes
    return Leg(name, coefficient, index.view(shape), int(index.max()) + 1)


def family(name, legs, *, degree=2, full=False):
    size = legs[0].size * (legs[0].size + 1) // 2 if full else legs[0].size
    return Charge(name, "rescale", degree, tuple(legs), size, True, "words", full)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)


def families_of(model):
    """Rescale charges of both hidden layers, the softmax translation, and families that use every path."""
    p = dict(model.named_parameters())
    pairs = torch.tensor([0, 0, 1, 1, -1, 2])  # classes of several members, and one element that takes no part
    return [
        family("first", [leg("0.weight", p["0.weight"], 0), leg("0.bias", p["0.bias"], 0),
                         leg("2.weight", p["2.weight"], 1, -1.0)]),
        family("second", [leg("2.weight", p["2.weight"], 0), leg("2.bias", p["2.bias"], 0),
                          leg("4.weight", p["4.weight"], 1, -1.0)]),
        family("shift", [leg("4.weight", p["4.weight"], 1)], degree=1),
        family("shift of biases", [leg("4.bias", p["4.bias"], 0, classes=torch.zeros(3, dtype=torch.int64))], degree=1),
        family("pairs", [leg("2.weight", p["2.weight"], 0, 2.0, pairs), leg("2.bias", p["2.bias"], 0, -0.5, pairs)]),
        family("matrix", [leg("0.weight", p["0.weight"], 0), leg("2.weight", p["2.weight"], 1, -1.0)], full=True),
    ]  # fmt: skip


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    x, y = torch.randn(7, 5, generator=generator, dtype=dtype), torch.randint(0, 3, (7,), generator=generator)
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()


def snapshot(model, optimizer):
    named = dict(model.named_parameters())
    given = {name: p.grad for name, p in named.items() if p.grad is not None}
    return Snapshot(0, 0.0, dict(named), optimizer=OptimizerView(optimizer, model), gradients=given)


def record(instrument, step):
    """One optimiser step, measured; the columns by family."""
    instrument.before()
    step()
    instrument.after()
    rows = instrument.row.cpu().numpy()[None].copy()
    return {name: {key: values[0] for key, values in columns.items()} for name, columns in instrument.unpack(rows)}


SETTINGS = {
    "plain": {"lr": 0.1},
    "decay": {"lr": 0.1, "weight_decay": 0.01},
    "heavy ball": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "dampened": {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "maximize": {"lr": 0.1, "momentum": 0.9, "maximize": True, "weight_decay": 0.01},
}


@pytest.mark.parametrize("bucket", [None, 4, 13], ids=["one bucket", "rows of 4", "buckets of 13"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_fast_columns_equal_the_plain_form(settings, bucket):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer, bucket=bucket)
    for seed in range(3):
        gradients(model, seed)
        plain = charges(snapshot(model, optimizer), families)
        fast = record(instrument, optimizer.step)
        after = {each.name: each.value(dict(model.named_parameters())) for each in families}
        for each in families:
            columns = fast[f"charges:{each.name}"]
            assert set(columns) == {*plain[each.name], "after"}
            for name, expected in (plain[each.name] | {"after": after[each.name]}).items():
                # sums of at most 36 numbers of order 1 in double precision
                np.testing.assert_allclose(columns[name], expected.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_recorded_terms_close_the_account_of_one_step(settings):
    """B(theta', theta') = B - 2 eta B(theta, u) + eta^2 B(u, u), every term from the record alone."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    first = families_of(model)[:2]
    instrument = ChargeInstrument(first, model, optimizer)
    eta, mu, decay = settings["lr"], settings.get("momentum", 0.0), settings.get("weight_decay", 0.0)
    for seed in range(3):
        gradients(model, seed)
        gain = 1.0 if seed == 0 or mu == 0 else 1.0 - settings.get("dampening", 0.0)
        for columns in record(instrument, optimizer.step).values():
            velocity = mu * columns["momentum"] + gain * decay * columns["value"]
            form = decay * columns["value"] + mu * velocity if settings.get("nesterov") else velocity
            predicted = columns["value"] - 2 * eta * form + eta**2 * columns["source"]
            leak = np.abs(predicted - columns["after"]) / columns["scale"]
            assert leak.max() < 1e-14  # rounding of a few operations in double precision
            unscaled = np.abs(columns["value"] - 2 * eta * form - columns["after"]) / columns["scale"]
            assert unscaled.max() > 1e-6, "the control without the source must leak"


def test_an_optimizer_that_does_not_do_what_it_says_leaks():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def wrong_step():
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(0.1 * parameter.grad.clamp(-0.01, 0.01))  # clips values behind our back

    instrument = ChargeInstrument(families_of(model)[:1], model, optimizer)
    gradients(model, 0)
    columns = record(instrument, wrong_step)["charges:first"]
    predicted = columns["value"] + 0.1**2 * columns["source"]
    assert (np.abs(predicted - columns["after"]) / columns["scale"]).max() > 1e-4


def test_parameter_groups_are_recorded_on_their_own_where_they_share_a_family():
    model = network()
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": biases}], lr=0.1, momentum=0.9)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    for seed in range(2):
        gradients(model, seed)
        plain = charges(snapshot(model, optimizer), families)
        columns = record(instrument, optimizer.step)
    first = columns["charges:first"]
    biases_alone = first["value[1]"]
    for name in ("value", "momentum", "gradient", "source"):
        np.testing.assert_allclose(first[name], plain["first"][name].detach(), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(first[f"{name}[0]"] + first[f"{name}[1]"], first[name], rtol=1e-12, atol=1e-14)
    assert instrument.families()["charges:first"]["groups"] == [0, 1]
    assert instrument.families()["charges:shift"]["groups"] == []
    assert "value[0]" not in columns["charges:shift"]
    assert biases_alone.min() > 0


def test_group_columns_are_the_signed_forms_of_their_own_legs():
    model = network()
    named = dict(model.named_parameters())
    weights = [p for name, p in named.items() if name.endswith("weight")]
    biases = [p for name, p in named.items() if name.endswith("bias")]
    optimizer = torch.optim.SGD([{"params": biases}, {"params": weights}], lr=0.1)
    instrument = ChargeInstrument(families_of(model)[:1], model, optimizer)
    gradients(model, 0)
    expected = named["0.bias"].detach().square().numpy().copy()
    columns = record(instrument, optimizer.step)["charges:first"]
    np.testing.assert_allclose(columns["value[0]"], expected, rtol=1e-13)


def test_settings_are_read_at_every_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    for seed, (momentum, decay) in enumerate([(0.9, 0.0), (0.5, 0.1), (0.0, 0.2), (0.7, 0.0)]):
        optimizer.param_groups[0].update(momentum=momentum, weight_decay=decay)
        gradients(model, seed)
        plain = charges(snapshot(model, optimizer), families)
        columns = record(instrument, optimizer.step)
        for name in ("momentum", "source"):
            np.testing.assert_allclose(
                columns["charges:first"][name], plain["first"][name].detach(), rtol=1e-12, atol=1e-14
            )


def test_loading_the_optimizer_state_in_the_middle_is_followed():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    for seed in range(3):
        gradients(model, seed)
        if seed == 2:
            optimizer.load_state_dict(optimizer.state_dict())
        plain = charges(snapshot(model, optimizer), families)
        columns = record(instrument, optimizer.step)
    np.testing.assert_allclose(columns["charges:first"]["momentum"], plain["first"]["momentum"].detach(), rtol=1e-12)


def test_a_parameter_whose_storage_is_replaced_is_followed():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    gradients(model, 0)
    record(instrument, optimizer.step)
    model[0].weight.data = 2 * model[0].weight.data.clone()
    gradients(model, 1)
    plain = charges(snapshot(model, optimizer), families)
    columns = record(instrument, optimizer.step)
    np.testing.assert_allclose(columns["charges:first"]["value"], plain["first"]["value"].detach(), rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_parameter_without_a_gradient_is_left_alone_and_said(nesterov):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    for seed in range(3):
        gradients(model, seed)
        if seed > 0:
            model[2].weight.grad = None
        plain = charges(snapshot(model, optimizer), families)
        columns = record(instrument, optimizer.step)
        for name, expected in plain["first"].items():
            np.testing.assert_allclose(columns["charges:first"][name], expected.detach(), rtol=1e-12, atol=1e-14)
    assert [text for _, text in instrument.notes] == [
        "2.weight had no gradient at a recorded step: its charges are constraints, not laws"
    ]


def test_a_buffer_that_is_empty_for_one_parameter_only():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    for seed in range(2):
        gradients(model, seed)
        if seed == 0:
            model[2].weight.grad = None  # its first step, undamped, is the second
        plain = charges(snapshot(model, optimizer), families)
        columns = record(instrument, optimizer.step)
    for name, expected in plain["second"].items():
        np.testing.assert_allclose(columns["charges:second"][name], expected.detach(), rtol=1e-12, atol=1e-14)


def test_a_frozen_leg_leaves_a_constraint_without_a_law():
    model = network()
    model[2].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    instrument = ChargeInstrument(families_of(model), model, optimizer)
    gradients(model, 0)
    columns = record(instrument, optimizer.step)
    described = instrument.families()
    assert set(columns["charges:first"]) == {"value", "scale", "after"} == set(described["charges:first"]["columns"])
    assert described["charges:first"]["law"] is None
    assert "2.weight" in described["charges:first"]["without_law"]
    assert described["charges:shift"]["law"] == "sgd"
    assert instrument.notes == []  # frozen on purpose is not news


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.RMSprop], ids=["AdamW", "RMSprop"])
def test_other_optimizers_have_an_account_without_a_law(make):
    model = network()
    optimizer = make(model.parameters(), lr=0.01)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    gradients(model, 0)
    plain = charges(snapshot(model, optimizer), families)
    columns = record(instrument, optimizer.step)
    for each in families:
        assert set(columns[f"charges:{each.name}"]) == {"value", "scale", "gradient", "after"}
        for name in ("value", "scale", "gradient"):
            expected = plain[each.name][name].detach()
            np.testing.assert_allclose(columns[f"charges:{each.name}"][name], expected, rtol=1e-12, atol=1e-14)
    assert make.__name__ in instrument.families()["charges:first"]["without_law"]


def test_a_subclass_with_a_step_of_its_own_has_no_law():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    class Same(torch.optim.SGD):
        pass

    model = network()
    assert ChargeInstrument(families_of(model), model, Same(model.parameters(), lr=0.1))._law
    assert not ChargeInstrument(families_of(model), model, Own(model.parameters(), lr=0.1))._law


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_weights_are_summed_in_single_precision(dtype):
    model = network(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    families = families_of(model)
    instrument = ChargeInstrument(families, model, optimizer)
    gradients(model, 0)
    exact = families[0].value({name: p.detach().double() for name, p in model.named_parameters()})
    columns = record(instrument, optimizer.step)
    assert columns["charges:first"]["value"].dtype == np.float32
    np.testing.assert_allclose(columns["charges:first"]["value"], exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bucket", [None, 7])
def test_classes_that_are_written_out_in_full_or_in_stretches(bucket):
    torch.manual_seed(0)
    model = nn.Linear(6, 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    columns = torch.arange(6)
    forms = {
        "full": columns.expand(4, 6).contiguous(),
        "stretches": (columns // 2).view(1, 6),
        "every third": (columns % 3).view(1, 6),
        "odd": torch.tensor([0, 0, 1, 2, 2, 2]).view(1, 6),
        "one": torch.zeros(4, 6, dtype=torch.int64),
        "rows in pairs": (torch.arange(4) // 2).view(4, 1),
        "permuted": columns.flip(0).view(1, 6),
    }
    families = [
        Charge(name, "rescale", degree, (Leg("weight", 1.5, classes, int(classes.max()) + 1),), int(classes.max()) + 1,
               True, "words")
        for degree in (1, 2)
        for name, classes in forms.items()
    ]  # fmt: skip
    families = [replace(family, name=f"{family.name} {family.degree}") for family in families]
    instrument = ChargeInstrument(families, model, optimizer, bucket=bucket)
    model(torch.randn(3, 6, dtype=torch.float64)).square().mean().backward()
    plain = charges(snapshot(model, optimizer), families)
    recorded = record(instrument, optimizer.step)
    for each in families:
        for name, expected in plain[each.name].items():
            np.testing.assert_allclose(
                recorded[f"charges:{each.name}"][name], expected.detach(), rtol=1e-12, atol=1e-14
            )


def test_convolutions_in_channels_last_and_sparse_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)
    table = nn.Embedding(6, 4, sparse=True)
    model.add_module("table", table)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    p = dict(model.named_parameters())
    families = [
        family("channels", [leg("0.weight", p["0.weight"], 0), leg("0.bias", p["0.bias"], 0),
                            leg("2.weight", p["2.weight"], 1, -1.0)]),
        family("rows", [leg("table.weight", p["table.weight"], 1)]),
    ]  # fmt: skip
    instrument = ChargeInstrument(families, model, optimizer, bucket=40)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    loss = model[2](model[1](model[0](x))).square().mean() + table(torch.tensor([1, 1, 4])).square().sum()
    loss.backward()
    dense = {name: g.grad.to_dense() if g.grad.is_sparse else g.grad for name, g in p.items()}
    plain = charges(Snapshot(0, 0.0, p, optimizer=OptimizerView(optimizer, model), gradients=dense), families)
    columns = record(instrument, optimizer.step)
    for each in families:
        for name, expected in plain[each.name].items():
            # float32 sums of at most 45 terms of order 1
            np.testing.assert_allclose(columns[f"charges:{each.name}"][name], expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_layout_that_sums_the_wrong_elements_is_refused_at_the_first_step(monkeypatch):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cell = room.Cell
    monkeypatch.setattr(room, "Cell", lambda tensor, *rest: cell(tensor, *rest[:-1], max(0, rest[-1] - 1)))
    instrument = ChargeInstrument(families_of(model)[:2], model, optimizer)
    gradients(model, 0)
    with pytest.raises(DynascopeError, match="differ from the plain form"):
        instrument.before()


def test_non_finite_weights_are_recorded_as_they_are():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    instrument = ChargeInstrument(families_of(model)[:1], model, optimizer)
    gradients(model, 0)
    with torch.no_grad():
        model[0].weight[2, 1] = float("nan")
    columns = record(instrument, optimizer.step)["charges:first"]
    assert np.isnan(columns["value"]).tolist() == [False, False, True, False, False, False]


def test_fused_steps_under_a_gradient_scaler_use_the_unscaled_gradient():
    model = network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    families = families_of(model)[:1]
    instrument = ChargeInstrument(families, model, optimizer)
    gradients(model, 0)
    expected = charges(snapshot(model, optimizer), families)["first"]["source"]
    for parameter in model.parameters():
        parameter.grad.mul_(1024.0)
    optimizer.grad_scale = torch.tensor(1024.0)  # what torch.amp.GradScaler hands to a fused optimiser
    instrument.before()
    columns = dict(instrument.unpack(instrument.row.numpy()[None]))["charges:first"]
    np.testing.assert_allclose(columns["source"][0], expected.detach(), rtol=1e-5)


def test_matrices_beyond_the_limit_are_left_out_and_said(monkeypatch):
    monkeypatch.setattr(room, "LARGEST_MATRICES", 20)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    instrument = ChargeInstrument(families_of(model), model, optimizer)
    assert "charges:matrix" not in instrument.families()
    assert instrument.notes == [("warning", "matrix is not recorded: 21 numbers are too many")]


def test_recording_leaves_no_trace():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    instrument = ChargeInstrument(families_of(model), model, optimizer)
    gradients(model, 0)
    before = [p.detach().clone() for p in model.parameters()], [p.grad.clone() for p in model.parameters()]
    state, random = len(optimizer.state), torch.get_rng_state()
    instrument.before()
    instrument.after()
    assert all(map(torch.equal, before[0], model.parameters()))
    assert all(map(torch.equal, before[1], [p.grad for p in model.parameters()]))
    assert len(optimizer.state) == state == 0  # a look at the state must not create entries
    assert torch.equal(torch.get_rng_state(), random)


def test_bad_families_are_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no parameter"):
        ChargeInstrument([], model, optimizer)
    with pytest.raises(ValueError, match=r"9\.weight"):
        ChargeInstrument([family("x", [leg("9.weight", torch.zeros(2, 2), 0)])], model, optimizer)
    odd = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(Unsupported, match="complex"):
        ChargeInstrument([family("x", [leg("weight", odd.weight, 0)])], odd, torch.optim.SGD(odd.parameters(), lr=0.1))


def test_the_card_is_found_by_name():
    assert PROBES.get("charges").value is charges
    assert "skeleton" not in PROBES.names()
