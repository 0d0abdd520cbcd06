"""The front door of the studies: verdicts as a table and as JSON, and refusals in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from dynascope.api import reproduce as door
from dynascope.api.reproduce import reproduce
from dynascope.base.cards import StudyCard
from dynascope.base.claims import Claim, conclude
from dynascope.base.errors import UnknownName, Unsupported
from dynascope.base.registry import Member
from dynascope.studies import Study

GOOD = Claim("good", "a law holds", tolerance=0.1, reason="by hand", control="no law", factor=2.0)
BAD = Claim(
    "a-claim-with-a-name-that-is-much-too-long-for-any-table/of/a-hundred-columns", "it does not", 0.1, "r", "c"
)
LATER = Claim("later", "needs more steps", tolerance=0.1, reason="by hand", control="no law")
ERRORS = {GOOD: (0.05, 1.0), BAD: (float("inf"), 5.0)}


def toy(*claims: Claim, files: dict[Path, str] | None = None, judged: list[Claim] | None = None) -> Any:
    def evaluate(runs: Any) -> Any:
        assert runs == {}
        for claim in judged if judged is not None else [c for c in claims if c in ERRORS]:
            error, control = ERRORS[claim]
            yield conclude(claim, predicted=1.0, measured=[1.0, error], error=error, control_error=control)

    return lambda scale: Study(claims=claims, runs={}, evaluate=evaluate, files=files or {})


class Studies:
    def __init__(self, **members: Any) -> None:
        cards = {n: StudyCard(n, "T", "1234.5678", "A", "V", 2026, "S") for n in members}
        self.members = {n: Member(cards[n], make) for n, make in members.items()}

    def names(self) -> tuple[str, ...]:
        return tuple(self.members)

    def get(self, name: str) -> Member[Any]:
        return self.members[name]


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(**members: Any) -> None:
        monkeypatch.setattr(door, "STUDIES", Studies(**members))

    return install


def test_verdicts_of_a_study(studies: Any, tmp_path: Path) -> None:
    studies(toy=toy(GOOD, BAD, LATER))
    result = reproduce("toy", folder=tmp_path, progress=False)
    assert [c.verdict for c in result.claims] == ["supported", "refuted", "not_run"]
    assert [c.claim_id for c in result.claims] == [GOOD.id, BAD.id, LATER.id]
    assert result.verdict == "refuted"
    assert result.claims[2].note == "this scale leaves the claim out"


def test_json_is_strict_complete_and_stored(studies: Any, tmp_path: Path) -> None:
    studies(toy=toy(GOOD, BAD, LATER))
    result = reproduce("toy", scale="default", folder=tmp_path, progress=False)
    said = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"study", "paper", "scale", "verdict", "seconds", "claims"} == said.keys()
    assert (said["study"], said["paper"], said["scale"]) == ("toy", "1234.5678", "default")
    keys = {"id", "statement", "predicted", "measured", "error", "tolerance", "reason"}
    keys |= {"control", "control_error", "control_factor", "verdict"}
    assert all(keys <= claim.keys() for claim in said["claims"])
    assert said["claims"][1]["measured"] == [1.0, "inf"]
    assert json.loads((tmp_path / "toy" / "default" / "result.json").read_text()) == said
    assert not list((tmp_path / "toy" / "default").glob("*.part"))


def test_the_table_fits_a_hundred_columns(studies: Any, tmp_path: Path) -> None:
    studies(toy=toy(GOOD, BAD, LATER))
    lines = str(reproduce("toy", folder=tmp_path, progress=False)).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "toy (arXiv 1234.5678), scale quick: refuted"
    assert any(line.split() == ["good", "5.0e-02", "1.0e-01", "1.0e+00", "supported"] for line in lines)
    assert any(line.startswith("a-claim-with") and line.endswith("refuted") for line in lines)
    assert "1 more need a larger scale" in lines[-1]
    assert not any(line.startswith("later") for line in lines)


def test_all_runs_all_studies(studies: Any, tmp_path: Path) -> None:
    studies(first=toy(GOOD), second=toy(GOOD, LATER))
    result = reproduce("all", folder=tmp_path, progress=False)
    assert [c.claim_id for c in result.claims] == ["first: good", "second: good", "second: later"]
    assert (result.study, result.verdict, result.to_dict()["study"]) == ("all", "supported", "all")
    assert (tmp_path / "first" / "quick" / "result.json").exists()


def test_nothing_executed_is_no_support(studies: Any, tmp_path: Path) -> None:
    studies(toy=toy(LATER))
    assert reproduce("toy", folder=tmp_path, progress=False).verdict == "not_run"


def test_a_judgement_that_was_never_claimed_is_refused(studies: Any, tmp_path: Path) -> None:
    studies(toy=toy(LATER, judged=[GOOD]))
    with pytest.raises(ValueError, match="does not state: good"):
        reproduce("toy", folder=tmp_path, progress=False)


def test_missing_files_are_refused_in_words(studies: Any, tmp_path: Path) -> None:
    studies(toy=toy(GOOD, files={tmp_path / "absent": "the data of somebody"}))
    with pytest.raises(Unsupported, match=r"toy at scale 'full'.*absent does not exist.*the data of somebody"):
        reproduce("toy", scale="full", folder=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


def test_the_full_scale_refuses_without_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unsupported, match="tiny-imagenet-200 does not exist"):
        reproduce("neural-mechanics", scale="full", progress=False)


def test_unknown_study_and_scale() -> None:
    with pytest.raises(UnknownName, match="no study is called 'neural-mecanics'; did you mean 'neural-mechanics'"):
        reproduce("neural-mecanics")
    with pytest.raises(ValueError, match="scale='huge' must be one of quick, default, full"):
        reproduce("neural-mechanics", scale="huge")  # pyright: ignore[reportArgumentType]


def test_results_go_to_the_current_folder_by_default(
    studies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    studies(toy=toy(GOOD))
    assert reproduce("toy", progress=False).folder == Path("runs/studies/toy/quick")
    assert (tmp_path / "runs/studies/toy/quick/result.json").exists()
