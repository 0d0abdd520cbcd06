"""Views against a brute-force enumeration of index factorisations."""

import itertools

import torch

from dynascope.symmetry.views import ViewTable, channel_views, group_views


def signature(classes, shape):
    return tuple(classes.expand(shape).reshape(-1).tolist())


def test_factor_views_of_one_axis_are_all_index_factorisations():
    shape, size = (12,), 4
    found = {signature(v.classes, shape) for v in channel_views({"w": shape}, size)}
    expected = set()
    for a, k, b in itertools.product(range(1, 13), repeat=3):
        if a * k * b == 12 and a * b == size:
            index = torch.arange(12).reshape(a, k, b)
            label = torch.empty_like(index)
            for i, j, m in itertools.product(range(a), range(k), range(b)):
                label[i, j, m] = i * b + m
            expected.add(tuple(label.reshape(-1).tolist()))
    windows = {tuple([-1] * s + [0, 1, 2, 3] + [-1] * (8 - s)) for s in (0, 4, 8)}
    # the sum over three windows replaces the view that adds them up
    assert found == (expected - {tuple([0, 1, 2, 3] * 3)}) | windows


def test_views_of_one_parameter_are_linearly_independent():
    shape = (6, 4, 2)
    for size in (2, 3, 4, 6, 8):
        columns = []
        for view in channel_views({"w": shape}, size):
            classes = view.classes.expand(shape).reshape(-1)
            columns.append((classes[None] == torch.arange(size)[:, None]).double().reshape(-1))
        table = torch.stack(columns, dim=1)
        assert torch.linalg.matrix_rank(table) == table.shape[1], size


def test_grouped_filter_has_its_joint_view():
    groups, inside = 2, 4
    (joint,) = [v for v in channel_views({"w": (6, 4, 3, 3)}, 8) if v.classes.shape[1] == 4]
    for o, i in itertools.product(range(6), range(4)):
        assert joint.classes[o, i, 0, 0] == (o // (6 // groups)) * inside + i


def test_unequal_concatenation_gives_first_and_last_window():
    rows = [v.classes.tolist() for v in channel_views({"b": (5,)}, 3)]
    assert rows == [[0, 1, 2, -1, -1], [-1, -1, 0, 1, 2]]


def test_group_views_run_from_fine_to_coarse_and_sum_neighbours():
    (along_first, along_second) = [list(views) for views in group_views({"w": (4, 3)})]
    assert [view.size for view in along_first] == [6, 3]
    x = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
    assert torch.equal(along_first[0].reduce(x), torch.stack([x[:2].sum(0), x[2:].sum(0)]).reshape(-1))
    assert torch.equal(along_first[1].reduce(x), x.sum(0))
    assert torch.equal(along_second[0].reduce(x), x.sum(1))


def test_scalar_parameter_has_the_total_only():
    assert [v.size for v in channel_views({"s": ()}, 1)] == [1]
    assert channel_views({"s": ()}, 2) == ()


def test_a_table_of_views_sums_like_its_legs_one_by_one():
    shape, size = (6, 4, 2), 4
    legs = channel_views({"w": shape, "b": (4,)}, size)
    generator = torch.Generator().manual_seed(0)
    stacked = {
        "w": torch.randn(3, *shape, generator=generator, dtype=torch.float64),
        "b": torch.randn(3, 4, generator=generator, dtype=torch.float64),
    }
    sums = ViewTable(legs).sums(stacked)
    assert sums.shape == (3, size, len(legs))
    for column, leg in enumerate(legs):
        for quantity in range(3):
            expected = leg.reduce(stacked[leg.parameter][quantity])
            assert torch.allclose(sums[quantity, :, column], expected, rtol=0, atol=1e-14)  # order of addition
