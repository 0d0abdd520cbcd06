"""Reading runs: lazily, while they are written or afterwards, and never guessing at what is damaged."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from dynascope.base.errors import DamagedRun, UnknownName
from dynascope.base.series import Series
from dynascope.runs import families, layout, process, scalars, tables

if TYPE_CHECKING:
    import pandas as pd

_DESCRIPTION = (
    "schema", "name", "created", "model", "anatomy", "optimizer", "settings", "versions", "seeds", "families",
)  # fmt: skip
"""Keys of ``run.json`` that are known before the first step, and therefore part of every view."""


class Run:
    """A run on disk, from ``load`` or ``find``; ``run.json`` is read once, everything else when asked for.

    Args:
        path: its folder.
        document: content of ``run.json``.
        mark: content of the completion mark, None while the run is not finished.
        status: see the property of this name.
        stop: last step that may be seen, None for all.
        error: what is wrong with the folder, None if it could be opened; every accessor raises it then.
    """

    def __init__(
        self,
        path: Path,
        document: dict[str, Any],
        mark: dict[str, Any] | None = None,
        *,
        status: str = "running",
        stop: int | None = None,
        error: DamagedRun | None = None,
    ) -> None:
        self.path = path
        self.error = error
        self._document = document
        self._mark = mark
        self._status = status
        self._stop = stop
        self._scalars: dict[str, Series] | None = None

    @property
    def status(self) -> str:
        """``running``, ``complete``, ``interrupted``, ``failed`` or ``damaged``, as of the opening.

        A run without completion mark counts as running unless its writer has certainly ended: that is known
        on the machine that writes it, from the process id and start time in ``run.json``; then it was
        interrupted. A view made by ``until`` is always running.
        """
        return self._status

    @property
    def meta(self) -> dict[str, Any]:
        """Everything in ``run.json``, with the actual ``status``.

        A view made by ``until`` has the description of the run and the notes of its own steps, nothing
        else, since other keys may have been written later.
        """
        document = self._readable()._document
        if self._stop is None:
            return {**document, "status": self.status}
        notes = [note for note in document["notes"] if note["step"] <= self._stop]
        known = {key: document[key] for key in _DESCRIPTION if key in document}
        return {**known, "status": self.status, "finished": None, "notes": notes}

    @property
    def scalars(self) -> dict[str, Series]:
        """Scalars by name, ``time`` (the sum of learning rates) among them.

        While the run is being written they are read anew on every access.
        """
        if self._readable()._scalars is not None:
            return dict(self._scalars or {})
        promised = None if self._mark is None else self._mark["sha256"].get(layout.SCALARS)
        found = scalars.read_scalars(self.path / layout.SCALARS, until=self._stop, promised=promised)
        self._scalars = found if self._mark is not None else None
        return dict(found)

    @property
    def families(self) -> dict[str, dict[str, Any]]:
        """Descriptions of the families of series by name, with ``size`` and ``columns`` once recorded."""
        return dict(self._readable()._document["families"])

    def series(self, family: str, column: str) -> Series:
        """One column of one family.

        Args:
            family: a key of ``families``.
            column: a key of its ``columns``.

        Returns:
            Steps, and values of shape (records, size).

        Raises:
            UnknownName: there is no such family or column.
            DamagedRun: a file of it is missing or spoilt.
        """
        steps, values = self._records(family, [column])
        return Series(steps, values[:, 0], name=f"{family}/{column}")

    def table(self, family: str) -> "pd.DataFrame":
        """All columns of a family as a tidy pandas frame: ``step``, ``index`` (place in the family), columns.

        Args:
            family: a key of ``families``.

        Returns:
            One row per record and entry.

        Raises:
            Unsupported: pandas is not installed (extra ``table``).
        """
        return tables.to_frame(self._rows(family))

    def write_parquet(self, family: str, path: str | Path) -> None:
        """The table of a family as a Parquet file; needs pyarrow, not pandas.

        Args:
            family: a key of ``families``.
            path: the file to write; an older one is replaced.

        Raises:
            Unsupported: pyarrow is not installed (extra ``table``).
        """
        tables.to_parquet(self._rows(family), Path(path))

    def until(self, step: int) -> "Run":
        """A view that shows this run as it was known at ``step``, records of that step included.

        Every accessor of the view cuts when it reads, so whatever lies later on disk has no influence on it.

        Args:
            step: last step that may be seen; a view of a view never sees more than the first.

        Returns:
            The view.
        """
        run = self._readable()
        last = step if run._stop is None else min(step, run._stop)
        return Run(run.path, run._document, run._mark, stop=last)

    def __repr__(self) -> str:
        cut = "" if self._stop is None else f", until step {self._stop}"
        return f"Run({str(self.path)!r}, {self.status}{cut})"

    def _readable(self) -> "Run":
        if self.error is not None:
            raise self.error
        return self

    def _records(
        self, family: str, columns: list[str]
    ) -> tuple[Int64[np.ndarray, " records"], Float64[np.ndarray, "records columns size"]]:
        """Steps and values of some columns, cut where this view ends."""
        if family not in self.families:
            raise UnknownName("family", family, self.families)
        entry = self.families[family]
        for column in set(columns) - set(entry.get("columns", {})):
            raise UnknownName(f"column of {family}", column, entry.get("columns", {}))
        home = families.locate(self.path / layout.SERIES, family)
        promised = None if self._mark is None else self._mark["families"].get(family, 0)
        steps = families.read_steps(home, promised=promised)
        stop = len(steps) if self._stop is None else int(np.searchsorted(steps, self._stop, side="right"))
        if stop == 0:
            return steps[:0], np.empty((0, len(columns), entry.get("size", 0)))
        values = families.read_values(home, columns, stop=stop, promised=promised)
        return steps[: len(values)], values

    def _rows(self, family: str) -> dict[str, np.ndarray]:
        """The tidy rows of a family."""
        names = list(self.families.get(family, {}).get("columns", {}))
        steps, values = self._records(family, names)
        return tables.tidy(steps, {name: values[:, place] for place, name in enumerate(names)})


def load(path: str | Path) -> Run:
    """Open a run, finished or still being written.

    Args:
        path: its folder.

    Returns:
        The run; open it again to see a newer status or description.

    Raises:
        DamagedRun: the folder is no run, or one of its small files is spoilt; the message names the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from dynascope.runs.store import RunWriter
        >>> with TemporaryDirectory() as folder:
        ...     with RunWriter.create(f"{folder}/a", {"name": "first"}) as run:
        ...         run.scalars(0, 0.0, {"loss": float("inf")})
        ...     seen = load(f"{folder}/a")
        ...     seen.meta["name"], seen.scalars["loss"].values.tolist()
        ('first', [inf])
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise DamagedRun(folder, "there is no such folder")
    mark = _read_mark(folder / layout.COMPLETE)  # before run.json, which may be replaced in between but not after it
    data = layout.read_bytes(folder / layout.RUN)
    if mark is not None and layout.checksum(data) != mark["sha256"].get(layout.RUN):
        raise DamagedRun(folder / layout.RUN, "its checksum differs from the one noted when the run finished")
    document = layout.parse_object(data, folder / layout.RUN)
    _check(document, folder / layout.RUN, {"status": str, "created": str, "families": dict, "notes": list})
    return Run(folder, document, mark, status=_status(folder, document, mark))


def find(folder: str | Path) -> list[Run]:
    """All runs in a folder, in its folders and in theirs, newest first.

    Damaged runs are listed too, at the time of their last change: ``run.error`` says what is wrong with them.

    Args:
        folder: where to look; may be a run itself.

    Returns:
        The runs.

    Raises:
        ValueError: there is no such folder.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        raise ValueError(f"folder must be an existing folder that holds runs, got {str(folder)!r}")
    runs = [_load_or_mark(home) for home in _homes(root, depth=2)]
    return [run for _, run in sorted(runs, key=lambda pair: pair[0], reverse=True)]


def _read_mark(path: Path) -> dict[str, Any] | None:
    """The completion mark, None where there is none yet."""
    if not path.exists():
        return None
    mark = layout.parse_object(layout.read_bytes(path), path)
    _check(mark, path, {"status": str, "families": dict, "sha256": dict})
    return mark


def _check(document: dict[str, Any], path: Path, needed: dict[str, type]) -> None:
    """Refuse a document of a newer schema, or one that lacks what every reader relies on."""
    schema = document.get("schema")
    if not isinstance(schema, int):
        raise DamagedRun(path, "it does not say which schema it follows")
    if schema > layout.SCHEMA:
        raise DamagedRun(
            path,
            f"it follows schema {schema}, this dynascope knows {layout.SCHEMA}; install a newer one",
        )
    for key, kind in needed.items():
        if not isinstance(document.get(key), kind):
            raise DamagedRun(path, f"{key!r} is missing or no {kind.__name__}")


def _status(folder: Path, document: dict[str, Any], mark: dict[str, Any] | None) -> str:
    """The status of a run, from its completion mark or from what is known about its writer."""
    if mark is None and process.is_alive(document.get("writer")) is False:
        mark = _read_mark(folder / layout.COMPLETE)  # it may have finished after the first look, before it ended
        return "interrupted" if mark is None else str(mark["status"])
    return "running" if mark is None else str(mark["status"])


def _homes(folder: Path, depth: int) -> Iterator[Path]:
    """Folders that hold a run, or what is left of one; runs are not searched for further runs."""
    if any((folder / part).exists() for part in layout.PARTS):
        yield folder
    elif depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir():
                yield from _homes(child, depth - 1)


def _load_or_mark(home: Path) -> tuple[str, Run]:
    """A run with the moment it was created, or a damaged one with the moment of its last change."""
    try:
        run = load(home)
        return run.meta["created"], run
    except DamagedRun as error:
        changed = datetime.fromtimestamp(home.stat().st_mtime, UTC).isoformat(timespec="microseconds")
        return changed, Run(home, {}, status="damaged", error=error)
