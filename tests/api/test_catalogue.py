"""The catalogue: every member of every registry, each with words for people."""

import importlib
import pkgutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dynascope
from dynascope.api import catalogue as door
from dynascope.api.catalogue import catalogue, citations
from dynascope.base.errors import Unsupported
from dynascope.base.registry import Registry
from dynascope.probes import PROBES
from dynascope.studies import STUDIES
from dynascope.tasks import TASKS


def test_everything_that_is_registered_is_listed_with_words() -> None:
    found = catalogue()
    assert {room: tuple(members) for room, members in found.items()} == {
        "studies": STUDIES.names(), "probes": PROBES.names(), "tasks": TASKS.names(),
    }  # fmt: skip
    for members in found.values():
        assert members
        for name, words in members.items():
            assert len(words) > 10, name
            assert "\n" not in words
            assert not words.startswith("unavailable")
    assert "neural-mechanics" in found["studies"]
    assert "charges" in found["probes"]
    assert "digits-mlp" in found["tasks"]


def test_no_registry_is_forgotten() -> None:
    """A room with a registry of plug-ins of its own must be in the catalogue."""
    rooms = [m.name for m in pkgutil.iter_modules(dynascope.__path__, "dynascope.") if m.ispkg]
    registries = {
        room.rpartition(".")[2]
        for room in rooms
        if any(isinstance(x, Registry) and x.room == room for x in vars(importlib.import_module(room)).values())
    }
    assert registries == catalogue().keys()


def test_a_member_whose_package_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str) -> Any:
        if name == "far":
            raise Unsupported("'far'", "the package 'ray' is missing", "install 'ray'")
        return SimpleNamespace(card=SimpleNamespace(measures="something near"))

    registry = SimpleNamespace(names=lambda: ("far", "near"), get=get)
    monkeypatch.setattr(door, "_ROOMS", {"probes": (registry, ("title", "measures"))})
    found = catalogue()["probes"]
    assert found["near"] == "something near"
    assert found["far"].startswith("unavailable: ")
    assert "'ray'" in found["far"]


def test_the_citation_list_is_up_to_date() -> None:
    """After a new card: make docs."""
    assert (Path(dynascope.__file__).parents[1] / "CITATIONS.md").read_text() == citations()
