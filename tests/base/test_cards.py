from dataclasses import FrozenInstanceError

import pytest

from dynascope.base.cards import ProbeCard, StudyCard, TaskCard


def probe(name: str = "gradient_norm", **facts: object) -> ProbeCard:
    return ProbeCard(name, measures="norm of the gradient", equation="|g|", **facts)


def test_needs_become_a_frozen_set() -> None:
    assert probe(needs={"gradients", "loss"}).needs == frozenset({"gradients", "loss"})
    assert hash(probe(needs={"gradients"})) == hash(probe(needs={"gradients"}))
    assert probe().needs == frozenset()


def test_cards_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        probe().name = "other"


@pytest.mark.parametrize("name", ["neural-mechanics", "gradient_norm", "el2n", "mnist-1d"])
def test_permitted_names(name: str) -> None:
    assert probe(name).name == TaskCard(name).name == name


@pytest.mark.parametrize("name", ["", "Probe", "two words", "-x", "x-", "a--b", "../x", "1d"])
@pytest.mark.parametrize("make", [probe, TaskCard, lambda name: StudyCard(name, "t", "p", "a", "v", 2020, "s")])
def test_refused_names(make, name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        make(name)
