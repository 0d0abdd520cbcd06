"""The conformance checks accept the studies we ship and notice each way of being wrong."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dynascope.base.errors import UnknownName
from dynascope.base.registry import Member
from dynascope.studies import STUDIES, Study
from dynascope.studies import neural_mechanics as study
from dynascope.testing import studies as testing
from dynascope.testing.studies import CHECKS, check_study


def test_every_study_passes_every_check() -> None:
    assert STUDIES.names()
    for name in STUDIES.names():
        assert check_study(name) == tuple(CHECKS)
    assert len(CHECKS) == 8  # a check that vanishes must be missed


def test_unknown_study() -> None:
    with pytest.raises(UnknownName, match="did you mean 'neural-mechanics'"):
        check_study("neural-mechanic")


def broken(change: Callable[[Study, str], Study]) -> Member[Any]:
    def make(scale: Any) -> Study:
        return change(study.neural_mechanics(scale), scale)

    make.__module__ = study.__name__
    return Member(study.CARD, make)


def _unrepeatable() -> Callable[[Study, str], Study]:
    calls = iter(range(100))
    return lambda made, scale: replace(
        made, runs={name: replace(spec, seed=next(calls)) for name, spec in made.runs.items()}
    )


WRONG: dict[str, Member[Any]] = {
    "the card is filled": Member(replace(study.CARD, venue=""), study.neural_mechanics),
    "the claims are decidable": broken(lambda made, scale: replace(made, claims=made.claims + made.claims[:1])),
    "quick states the same claims": broken(
        lambda made, scale: replace(made, claims=made.claims[1:]) if scale == "quick" else made
    ),
    "plans are repeatable": broken(_unrepeatable()),
    "runs are possible": broken(
        lambda made, scale: replace(made, runs={"a": replace(next(iter(made.runs.values())), task="nothing")})
    ),
    "quick is quick": broken(
        lambda made, scale: (
            replace(made, runs={"a": replace(next(iter(made.runs.values())), steps=10**6)})
            if scale == "quick"
            else made
        )
    ),
    "files are explained": broken(lambda made, scale: replace(made, files={Path("somewhere"): ""})),
}


@pytest.mark.parametrize("check", WRONG)
def test_each_check_notices_its_fault(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = CHECKS[check](WRONG[check])
    assert complaint
    assert not CHECKS[check](STUDIES.get("neural-mechanics"))
    monkeypatch.setattr(testing.STUDIES, "get", lambda name: WRONG[check])
    with pytest.raises(AssertionError, match="neural-mechanics"):
        check_study("neural-mechanics")


def test_another_file_name_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member(replace(study.CARD, name="another"), study.neural_mechanics)
    assert "differs from the file's, 'neural_mechanics'" in CHECKS["the card is filled"](member)


def test_a_claim_without_control_is_noticed() -> None:
    member = broken(lambda made, scale: replace(made, claims=(replace(made.claims[0], control=" "),)))
    assert "lacks a statement or a control" in CHECKS["the claims are decidable"](member)


@pytest.mark.parametrize("line", ["import torch.nn as nn", "from numpy import mean", "import os, scipy"])
def test_mathematics_is_noticed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "computing_study.py").write_text(f"{line}\n\n\ndef make(scale):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "computing_study", raising=False)
    module: ModuleType = __import__("computing_study")
    assert "push the formula down" in CHECKS["no mathematics"](Member(study.CARD, module.make))
