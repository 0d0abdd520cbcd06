"""The front door of the studies."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

from tqdm import tqdm

from dynascope.base.claims import Comparison, Verdict, not_run, overall
from dynascope.base.errors import Unsupported
from dynascope.studies import STUDIES, Scale, Study
from dynascope.studies._execute import execute

DEFAULT_FOLDER = Path("runs/studies")


@dataclass(frozen=True)
class StudyResult:
    """The verdicts of one study, or of all of them.

    Print it for a table, or take ``to_dict()`` for JSON.

    Attributes:
        study: public name, or "all".
        paper: arXiv identifier or DOI; empty for "all".
        scale: at which the study was executed.
        claims: one comparison for each claim, in the study's order.
        seconds: time it took, reused runs not counted.
        folder: where runs and result lie.
    """

    study: str
    paper: str
    scale: Scale
    claims: tuple[Comparison, ...]
    seconds: float
    folder: Path

    @property
    def verdict(self) -> Verdict:
        """The worst news: refuted, else inconclusive, else supported; not_run if nothing was executed."""
        return overall([claim.verdict for claim in self.claims])

    def to_dict(self) -> dict[str, Any]:
        """Everything as strict JSON.

        Returns:
            The dictionary that ``dynascope reproduce --json`` prints.
        """
        return {
            "study": self.study,
            "paper": self.paper,
            "scale": self.scale,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 3),
            "claims": [claim.to_dict() for claim in self.claims],
        }

    def __str__(self) -> str:
        """The verdicts as a table of at most 100 columns; claims that were not run are only counted."""
        shown = [claim for claim in self.claims if claim.verdict != "not_run"]
        paper = f" (arXiv {self.paper})" if self.paper else ""
        left_out = len(self.claims) - len(shown)
        lines = [
            f"{self.study}{paper}, scale {self.scale}: {self.verdict}",
            "",
            _line("claim", "error", "permitted", "control", "verdict"),
            *(_row(claim) for claim in shown),
            "",
            f"{len(shown)} claims in {self.seconds:.1f} s"
            + (f"; {left_out} more need a larger scale" if left_out else ""),
        ]
        return "\n".join(line.rstrip() for line in lines)


def reproduce(
    study: str, *, scale: Scale = "quick", folder: str | Path | None = None, progress: bool = True
) -> StudyResult:
    """Measure the claims of a paper again, each with a control that ought to fail.

    Runs are kept below ``folder/<study>/<scale>`` and reused: a study that was stopped goes on where it was, and a
    finished one is only judged again. Runs of other settings, or of other code, are never reused.

    Args:
        study: name of a study, or "all".
        scale: "quick" (seconds to a minute), "default" (every claim) or "full" (the paper's own size).
        folder: where runs and results are kept; ``runs/studies`` in the current folder if None.
        progress: show a progress bar for what takes longer than two seconds.

    Returns:
        The verdicts.

    Raises:
        UnknownName: there is no such study.
        ValueError: there is no such scale.
        Unsupported: this scale needs files that are not there; the message says which and where to put them.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale={scale!r} must be one of {', '.join(get_args(Scale))}")
    root = DEFAULT_FOLDER if folder is None else Path(folder)
    if study != "all":
        return _reproduce(study, scale, root, progress)
    return _together([_reproduce(name, scale, root, progress) for name in STUDIES.names()], scale, root)


def _reproduce(name: str, scale: Scale, root: Path, progress: bool) -> StudyResult:
    member = STUDIES.get(name)
    begun, home = perf_counter(), root / member.card.name / scale
    study: Study = member.value(scale)
    _require_files(study, f"{member.card.name} at scale {scale!r}")
    comparisons = study.evaluate(execute(study.runs, home, progress=progress))
    judged = _in_order(study, tqdm(comparisons, "claims", delay=2.0, disable=not progress))
    result = StudyResult(
        study=member.card.name,
        paper=member.card.paper,
        scale=scale,
        claims=judged,
        seconds=perf_counter() - begun,
        folder=home,
    )
    _write(home / "result.json", result.to_dict())
    return result


def _require_files(study: Study, what: str) -> None:
    for path, words in study.files.items():
        if not path.exists():
            raise Unsupported(what, f"{path} does not exist here", f"put there (or link to) {words}")


def _in_order(study: Study, comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """One comparison for each claim of the study; claims that were not tested say so."""
    found = {comparison.claim_id: comparison for comparison in comparisons}
    stray = found.keys() - {claim.id for claim in study.claims}
    if stray:
        raise ValueError(f"the study judged claims that it does not state: {', '.join(sorted(stray))}")
    note = "this scale leaves the claim out"
    return tuple(found.get(claim.id) or not_run(claim, note=note) for claim in study.claims)


def _together(results: Sequence[StudyResult], scale: Scale, folder: Path) -> StudyResult:
    claims = [replace(c, claim_id=f"{result.study}: {c.claim_id}") for result in results for c in result.claims]
    return StudyResult("all", "", scale, tuple(claims), sum(result.seconds for result in results), folder)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON aside, then rename, so that a kill leaves the old result or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)


def _row(claim: Comparison) -> str:
    numbers = claim.error, claim.tolerance, claim.control_error
    error, tolerance, control = ("-" if number is None else f"{number:.1e}" for number in numbers)
    return _line(claim.claim_id, error, tolerance, control, claim.verdict)


def _line(claim: str, error: str, permitted: str, control: str, verdict: str) -> str:
    return f"{_shortened(claim, 50):<50} {error:>9} {permitted:>9} {control:>9}  {verdict:<12}"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
