"""Algebras read off the motion of activations, on networks whose groups are known."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynascope.functional.params import unflatten
from dynascope.symmetry.motion import explain, moves_only
from dynascope.symmetry.nullspace import jacobian_nullity


def layers(*widths: int, **extra: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    params = {}
    for k, (a, b) in enumerate(pairwise(widths)):
        params[f"w{k}"] = torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5
        params[f"b{k}"] = torch.randn(b, generator=generator, dtype=torch.float64) / 2
    return params | extra


def linear(p, x):
    hidden = x @ p["w0"].T + p["b0"]
    return {"hidden": hidden, "out": hidden @ p["w1"].T + p["b1"]}


def relu(p, x):
    hidden = x @ p["w0"].T + p["b0"]
    return {"before": hidden, "after": hidden.relu(), "out": hidden.relu() @ p["w1"].T + p["b1"]}


def tanh_last(p, x):
    hidden = (x @ p["w0"].T + p["b0"]).tanh()
    return {"hidden": hidden, "out": hidden @ p["w1"].T + p["b1"]}


def rms_norm(p, x):
    hidden = x @ p["w0"].T + p["b0"]
    unit = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
    return {"hidden": hidden, "unit": unit, "out": unit @ p["w1"].T + p["b1"]}


def layer_norm(p, x):
    hidden = x @ p["w0"].T + p["b0"]
    unit = F.layer_norm(hidden, (6,), eps=0.0)
    gained = unit * p["gain"] + p["shift"]
    return {"hidden": hidden, "unit": unit, "gained": gained, "out": gained @ p["w1"].T + p["b1"]}


def conv(p, x):
    hidden = F.conv2d(x, p["filter"]).relu()
    return {"hidden": hidden, "out": hidden.mean((2, 3)) @ p["head"].T}


AFFINE = {"gain": torch.ones(6, dtype=torch.float64), "shift": torch.zeros(6, dtype=torch.float64)}
NORMED = layers(8, 6, 8, **AFFINE)


def setting(tensors, params, *shape, seed=3):
    """Null space at a generic point, and a fresh batch to look at the motion with."""
    generator = torch.Generator().manual_seed(seed)

    def sample(g):
        return torch.randn(40, *shape, generator=g, dtype=torch.float64)

    found = jacobian_nullity(lambda p, x: tensors(p, x)["out"], params, sample, generator=generator)
    return found, (tensors, found.point, sample(generator), found.basis)


def records(arguments, **options):
    return {motion.tensor: motion for motion in explain(*arguments, **options)}


def test_linear_hidden_layer_carries_gl_shifts_and_one_fibre_direction():
    found, arguments = setting(linear, layers(5, 4, 3), 5)
    hidden = records(arguments)["hidden"]
    assert (found.dimension, hidden.moved, hidden.affine) == (21, 21, 20)
    assert (hidden.algebra, hidden.linear, hidden.shifts, hidden.unexplained) == ("gl", 16, 4, 1)
    # the fit is exact where it holds and hopeless where it does not
    assert hidden.residual < 1e-12
    assert hidden.misfit > 0.1
    assert moves_only(*arguments).only == {"hidden": 21, "out": 0}


def test_the_unexplained_direction_lies_in_the_kernel_of_the_next_map():
    found, arguments = setting(linear, layers(5, 4, 3), 5)
    tensors, point, x, basis = arguments
    kernel = torch.linalg.svd(point["w1"])[2][3]

    def hidden_motion(vector):
        return torch.func.jvp(lambda p: tensors(p, x)["hidden"], (point,), (unflatten(vector, point),))[1]

    moves = torch.stack([hidden_motion(vector) for vector in basis.T])
    hidden = tensors(point, x)["hidden"]
    design = torch.cat([hidden, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    rest = moves - design @ (torch.linalg.pinv(design) @ moves)
    across = rest - (rest @ kernel)[..., None] * kernel
    assert rest.norm() > 0.1
    assert across.norm() < 1e-10 * rest.norm()
    assert found.dimension == len(moves)


def test_relu_hidden_layer_is_diagonal_before_and_after():
    _, arguments = setting(relu, layers(5, 7, 3), 5)
    found = records(arguments)
    for name in ("before", "after"):
        assert (found[name].algebra, found[name].linear, found[name].shifts) == ("diagonal", 7, 0)
        assert found[name].unexplained == 0
    assert (found["out"].moved, found["out"].algebra) == (0, "none")
    owners = moves_only(*arguments)
    assert (owners.nothing, owners.shared, set(owners.only.values())) == (0, 7, {0})


@pytest.mark.parametrize("width", [5, 8])  # fewer and more inputs than hidden features
def test_rms_norm_gives_rotations_and_a_scale_before_it_and_rotations_after(width):
    _, arguments = setting(rms_norm, layers(width, 6, 7), width)
    found = records(arguments)
    assert (found["hidden"].algebra, found["hidden"].linear) == ("antisymmetric+scalar", 15 + 1)
    assert (found["unit"].algebra, found["unit"].linear) == ("antisymmetric", 15)
    assert moves_only(*arguments).only == {"hidden": 1, "unit": 0, "out": 0}


def test_layer_norm_needs_the_motion_modulo_what_its_reader_ignores():
    found, arguments = setting(layer_norm, NORMED, 8)
    plain = records(arguments)["hidden"]
    # nine shifts along ones (one per input and one more), of which the activation itself spans seven
    assert (plain.moved, plain.unexplained, plain.algebra) == (11 + 9, 2, "other")
    ones = torch.ones(6, 1, dtype=torch.float64)
    modulo = records(arguments, ignored={"hidden": ones})["hidden"]
    assert (modulo.size, modulo.algebra, modulo.linear, modulo.unexplained) == (
        5,
        "antisymmetric+scalar",
        11,
        0,
    )
    owners = moves_only(*arguments)
    # directions of the head that mean-free inputs never see; ones and scale; gain and shift; rotations
    assert owners.nothing == 8
    assert owners.only == {"hidden": 9 + 1, "unit": 0, "gained": 12, "out": 0}
    assert owners.shared == 10
    assert found.dimension == 8 + 10 + 12 + 10


def test_feature_axis_of_a_convolution():
    generator = torch.Generator().manual_seed(6)
    params = {
        "filter": torch.randn(4, 2, 2, 2, generator=generator, dtype=torch.float64) / 2,
        "head": torch.randn(3, 4, generator=generator, dtype=torch.float64) / 2,
    }
    _, arguments = setting(conv, params, 2, 4, 4)
    hidden = records(arguments, axes={"hidden": 1})["hidden"]
    assert (hidden.size, hidden.algebra, hidden.linear) == (4, "diagonal", 4)


def test_directions_that_are_not_null_are_not_explained():
    # the control: random directions move a tanh layer, but by no affine map of it
    params = layers(5, 4, 3)
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    random = torch.randn(39, 4, generator=generator, dtype=torch.float64)
    hidden = explain(tanh_last, params, x, random)[0]
    assert (hidden.moved, hidden.affine, hidden.algebra) == (4, 0, "none")
    assert hidden.misfit > 0.1


def test_a_pure_shift_and_a_common_scale_have_their_own_names():
    params = layers(5, 4)
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def forward(p, x):
        return {"out": x @ p["w0"].T + p["b0"]}

    still, unit = torch.zeros_like(params["w0"]), torch.eye(4, dtype=torch.float64)
    (shifted,) = explain(forward, params, x, [{"w0": still, "b0": unit[k]} for k in (0, 2)])
    assert (shifted.algebra, shifted.linear, shifted.shifts) == ("shift", 0, 2)
    (scaled,) = explain(forward, params, x, [params])
    assert (scaled.algebra, scaled.linear) == ("scalar", 1)
    assert scaled.relative.item() == pytest.approx(1.0, rel=1e-12)  # everything doubles per doubling


def test_dicts_and_columns_give_the_same_record():
    _, arguments = setting(relu, layers(5, 7, 3), 5)
    tensors, point, x, basis = arguments
    dicts = [unflatten(vector, point) for vector in basis.T]
    for a, b in zip(explain(tensors, point, x, basis), explain(tensors, point, x, dicts), strict=True):
        assert (a.tensor, a.moved, a.affine, a.algebra, a.linear) == (
            b.tensor,
            b.moved,
            b.affine,
            b.algebra,
            b.linear,
        )
        assert torch.equal(a.relative, b.relative)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"null_vectors": torch.ones(3, 1).double()}, r"shape \(3, 1\); permitted is \(39, k\)"),
        ({"axes": {"hiden": 1}}, r"axes names \['hiden'\]"),
        ({"ignored": {"hiden": torch.ones(4, 1)}}, r"ignored names \['hiden'\]"),
        ({"inputs": torch.ones(9, 5).double()}, "9 positions for 4 features; permitted are at least 10"),
    ],
)
def test_bad_arguments_are_named(change, words):
    arguments = {
        "tensors": linear,
        "params": layers(5, 4, 3),
        "inputs": torch.ones(20, 5).double(),
        "null_vectors": torch.eye(39, 2, dtype=torch.float64),
    }
    with pytest.raises(ValueError, match=words):
        explain(**(arguments | change))
