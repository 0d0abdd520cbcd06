"""One file per paper: its claims, the runs they need, the law and the control to compare. No mathematics here.

A study is a function from a scale to a ``Study``: which claims, which runs, and how finished runs become
comparisons. ``api.reproduce`` executes it. A new study is one new file (copy ``_skeleton.py``).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from dynascope.base.claims import Claim, Comparison
from dynascope.base.registry import Registry
from dynascope.runs import Run
from dynascope.training.specs import RunSpec

STUDIES = Registry("dynascope.studies", "dynascope.studies")
"""All studies by their public names."""

Scale: TypeAlias = Literal["quick", "default", "full"]
"""Quick: under a minute, some of the claims. Default: every claim. Full: the paper's own size, for who has the data."""


@dataclass(frozen=True)
class Study:
    """A study at one scale.

    Attributes:
        claims: every claim of the study; those that this scale leaves out are reported as ``not_run``.
        runs: the runs needed, under names of the study's own.
        evaluate: turns the finished runs, by the same names, into one comparison for each claim that this scale
            tests; yields them as they come.
        files: folders that the user must provide, each with words that say what belongs there.
    """

    claims: tuple[Claim, ...]
    runs: Mapping[str, RunSpec]
    evaluate: Callable[[Mapping[str, Run]], Iterable[Comparison]]
    files: Mapping[Path, str] = field(default_factory=dict)


MakeStudy: TypeAlias = Callable[[Scale], Study]

__all__ = ["STUDIES", "MakeStudy", "Scale", "Study"]
