"""Coordinates sorted by where they act."""

import torch

from dynascope.symmetry.families import families
from dynascope.symmetry.labels import System


def test_units_of_one_layer_are_one_family_with_writers_and_readers() -> None:
    system = System()
    hidden, other = system.fresh((3,)), system.fresh((2,))
    places = [
        ("w", 1.0, hidden.view(3, 1).expand(3, 5)),
        ("v", -1.0, hidden.view(1, 3).expand(2, 3)),
        ("v", 1.0, other.view(2, 1).expand(2, 3)),
    ]
    found = families(system.solve(), places)
    assert [f.size for f in found] == [3, 2]
    assert [(p.key, p.coefficient) for p in found[0].parts] == [("w", 1.0), ("v", -1.0)]
    assert found[0].parts[1].classes.tolist() == [[0, 1, 2]]


def test_places_that_cancel_are_dropped_and_coordinates_without_effect_too() -> None:
    system = System()
    scalar = system.fresh(())
    places = [("w", 1.0, scalar.expand(2, 2)), ("w", -1.0, scalar.expand(2, 2))]
    assert families(system.solve(), places) == []


def test_skipped_coordinates_belong_to_no_family() -> None:
    system = System()
    labels = system.fresh((2,))
    found = families(system.solve(), [("b", 1.0, labels)], skip=frozenset({0}))
    assert [f.coordinates.tolist() for f in found] == [[1]]


def test_part_of_an_axis_has_minus_one_elsewhere() -> None:
    system = System()
    labels = torch.cat([system.fresh((2,)), torch.zeros(3, dtype=torch.int64)])
    (found,) = families(system.solve(), [("b", 1.0, labels)])
    assert found.parts[0].classes.tolist() == [0, 1, -1, -1, -1]
