"""What a page shows, read once from the run folder: families of charges as lines, verdicts, scalars."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from dynascope.base.series import Series
from dynascope.report.lines import Lines, summarise
from dynascope.runs import Run, load

CHARGES = "charges:"
"""Prefix of the families that hold charges."""
PREDICTED = "predicted:"
"""Prefix of the families that hold predictions of charges, where these stand apart."""
MEASURED = ("value", "scale", "gradient", "after")
PREDICTIONS = ("account", "law", "naive")
UNITS = {1: "sum of weights", 2: "sum of squared weights"}

HELD, FAILED = frozenset({"supported", "balances"}), frozenset({"refuted", "leaks"})
"""Stored verdicts that decide; others leave it to the tolerance."""

Mark = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Judgement:
    """One entry of ``verdicts`` in run.json.

    Attributes:
        kind: "account", "law" or "naive".
        error: the stored error, None if absent.
        tolerance: the stored tolerance, None if none was set.
        verdict: the stored word.
        sampled: True if the record was thinned, so that the account is of single steps.
        words: the stored sentence.
        source: where the entry stands.
    """

    kind: str
    error: float | None
    tolerance: float | None
    verdict: str
    sampled: bool
    words: str
    source: str

    @property
    def mark(self) -> Mark:
        """Whether the statement held, by its stored verdict, or else by its stored tolerance."""
        if self.verdict in HELD | FAILED:
            return "good" if self.verdict in HELD else "bad"
        if self.tolerance is None or self.error is None:
            return "open"
        return "good" if self.error <= self.tolerance else "bad"


@dataclass(frozen=True)
class Family:
    """One family of charges as the page needs it.

    Attributes:
        key: name in the archive, with its prefix.
        kind: "translation", "scale", "rescale", ...
        words: one line for people.
        degree: 1 or 2; None if unknown.
        size: number of charges.
        exact: False if the symmetry holds only at normalisation epsilon 0.
        sampled: True if a verdict says so, or the recorded steps have holes.
        without_law: why no law applies to it; empty where one does.
        lines: median, band and selected neurons of the drawn columns, not thinned.
        leak: largest |account - value| / scale over the family, by step; None without an account.
        leak_source: the series of that account.
        push: largest |gradient| / scale over the family, by step; None where not recorded.
        judgements: stored verdicts by kind.
    """

    key: str
    kind: str
    words: str
    degree: int | None
    size: int
    exact: bool
    sampled: bool
    lines: Lines
    without_law: str = ""
    leak: Series | None = None
    leak_source: str = ""
    push: Series | None = None
    judgements: Mapping[str, Judgement] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name without the prefix."""
        return self.key.removeprefix(CHARGES)

    @property
    def unit(self) -> str:
        """Unit of the charge, from its degree."""
        return UNITS.get(self.degree or 0, "charge")


@dataclass(frozen=True)
class Content:
    """A run, ready to be shown."""

    path: Path
    status: str
    meta: Mapping[str, Any]
    scalars: Mapping[str, Series]
    families: tuple[Family, ...]
    others: tuple[tuple[str, Mapping[str, Any]], ...]

    @property
    def title(self) -> str:
        """Name of the run, or of its folder."""
        return str(self.meta.get("name") or self.path.name)

    @property
    def steps(self) -> int | None:
        """Number of steps between the first and the last scalar, both included."""
        ends = [(series.steps[0], series.steps[-1]) for series in self.scalars.values() if len(series.steps)]
        return int(max(stop for _, stop in ends) - min(start for start, _ in ends) + 1) if ends else None


def opened(run_or_path: Run | str | Path) -> Run:
    """The run itself, or the run in this folder."""
    return load(run_or_path) if isinstance(run_or_path, (str, Path)) else run_or_path


def gather(run: Run) -> Content:
    """Read everything a page shows; the large arrays are reduced family by family and let go.

    Args:
        run: an opened run, finished or not.

    Returns:
        The content of its page.
    """
    meta = run.meta
    names = [name for name in run.families if name.startswith(CHARGES)]
    shown = (CHARGES, PREDICTED)
    others = tuple((name, about) for name, about in run.families.items() if not name.startswith(shown))
    families = tuple(read for name in names if (read := read_family(run, name)) is not None)
    return Content(Path(run.path), str(run.status), meta, run.scalars, families, others)


def read_family(run: Run, key: str) -> Family | None:
    """Read and reduce one family of charges.

    Args:
        run: an opened run.
        key: name of the family, with its prefix.

    Returns:
        The family, or None if no step of it was recorded.
    """
    about, homes = run.families[key], columns_of(run, key)
    if "value" not in homes or not len(steps := run.series(key, "value").steps):
        return None
    columns = {column: _aligned(run.series(home, column), steps) for column, home in homes.items()}
    judged = judgements(run.meta.get("verdicts") or (), key)
    sampled = any(one.sampled for one in judged.values()) or bool((np.diff(steps) > 1).any())
    # the account of a sampled record is of single steps: it says what each charge is after its step
    reference = "after" if sampled and "after" in columns else "value"
    return Family(
        key=key,
        kind=str(about.get("kind", "charge")),
        words=str(about.get("words", "")),
        degree=about.get("degree"),
        size=columns["value"].shape[1],
        exact=bool(about.get("exact", True)),
        sampled=sampled,
        without_law=str(about.get("without_law") or ""),
        lines=summarise(steps, columns, {column: f"{home}/{column}" for column, home in homes.items()}),
        leak=_relative(columns, "account", reference, steps=steps),
        leak_source=f"{homes.get('account', key)}/account",
        push=_relative(columns, "gradient", None, steps=steps),
        judgements=judged,
    )


def columns_of(run: Run, key: str) -> dict[str, str]:
    """The columns a page reads of one family of charges, each with the family that holds it.

    Predictions stand beside the measured columns, or in a family of their own with the prefix `PREDICTED`.

    Args:
        run: an opened run.
        key: name of the family, with its prefix.

    Returns:
        Names of families by column.
    """
    own = run.families[key].get("columns", ())
    homes = {column: key for column in (*MEASURED, *PREDICTIONS) if column in own}
    other = PREDICTED + key.removeprefix(CHARGES)
    predicted = run.families.get(other, {}).get("columns", ())
    return homes | {column: other for column in PREDICTIONS if column in predicted}


def judgements(entries: list[Mapping[str, Any]] | tuple[()], key: str) -> dict[str, Judgement]:
    """The stored verdicts of one family, by kind."""
    found = {}
    for index, entry in enumerate(entries):
        if entry.get("family") in {key, key.removeprefix(CHARGES)}:
            found[str(entry.get("kind"))] = Judgement(
                kind=str(entry.get("kind")),
                error=as_float(entry.get("error")),
                tolerance=as_float(entry.get("tolerance")),
                verdict=str(entry.get("verdict") or "not_run"),
                sampled=bool(entry.get("sampled")),
                words=str(entry.get("words") or ""),
                source=f"run.json#/verdicts/{index}/error",
            )
    return found


def as_float(stored: object) -> float | None:
    """A stored number; JSON keeps what is not finite as the strings "nan", "inf" and "-inf"."""
    if isinstance(stored, (int, float)) or (isinstance(stored, str) and stored in {"nan", "inf", "-inf"}):
        return float(stored)
    return None


def _aligned(series: Series, steps: Int[np.ndarray, " steps"]) -> Float[np.ndarray, "steps size"]:
    """Values at these steps, NaN where there are none (a killed run); other steps of the series are left out."""
    values = series.values.reshape(len(series), -1)
    aligned = np.full((len(steps), values.shape[1]), np.nan)
    _, here, there = np.intersect1d(steps, series.steps, assume_unique=True, return_indices=True)
    aligned[here] = values[there]
    return aligned


def _relative(
    columns: Mapping[str, Float[np.ndarray, "steps size"]],
    first: str,
    second: str | None,
    *,
    steps: np.ndarray,
) -> Series | None:
    """Largest |first - second| / scale over the family at each step; 0 over a scale of 0 counts as 0."""
    if not {first, second or first, "scale"} <= columns.keys():
        return None
    away = np.abs(columns[first] - (columns[second] if second else 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(away == 0.0, 0.0, away / columns["scale"])
    return Series(steps, ratio.max(axis=1), f"{first}/{second or 'zero'} over scale", "")
