"""Writing a run: one folder, readable at every moment and after a kill, up to what was last written."""

import shutil
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from os import getpid
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Integer, Shaped

from dynascope.base.errors import DamagedRun, DynascopeError
from dynascope.runs import layout, process
from dynascope.runs.chunks import write_group
from dynascope.runs.families import FamilyWriter, free_folder
from dynascope.runs.records import as_steps, check_columns, fitting, stacked
from dynascope.runs.scalars import Number, ScalarsWriter, Whole, as_step
from dynascope.runs.tables import scalars_to_parquet

FinalStatus = Literal["complete", "interrupted", "failed"]
Level = Literal["info", "warning"]

_OURS = ("schema", "status", "created", "finished", "writer", "notes")
_NOTES_AT_ONCE = 100
_DEFAULTS: dict[str, Any] = {
    "model": {},
    "anatomy": None,
    "optimizer": {},
    "settings": {},
    "versions": {},
    "seeds": {},
    "families": {},
}


class RunWriter:
    """Writer of one run, used from one background thread; other threads may add notes and updates.

    Made by ``create``. As a context manager it finishes the run as ``complete``, as ``interrupted`` after
    Ctrl-C and as ``failed`` after any other exception, which it lets pass.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from dynascope.runs import load
        >>> with TemporaryDirectory() as folder:
        ...     with RunWriter.create(f"{folder}/a", {"settings": {"seed": 0}}) as run:
        ...         run.scalars(0, 0.0, {"loss": 2.5})
        ...         run.series("norms", 0, {"value": np.array([1.0, 2.0])})
        ...     seen = load(f"{folder}/a")
        ...     seen.status, seen.series("norms", "value").values.tolist()
        ('complete', [[1.0, 2.0]])
    """

    def __init__(self, path: Path, meta: Mapping[str, Any]) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._finished = False
        self._stale = False  # run.json on disk lacks something that no reader needs before the next write
        self._families: dict[str, FamilyWriter] = {}
        self._folders: set[str] = set()
        self._document: dict[str, Any] = {
            "schema": layout.SCHEMA,
            "status": "running",
            "name": path.name,
            "created": _now(),
            "finished": None,
            "writer": process.fingerprint(),
            **deepcopy(_DEFAULTS),
            "notes": [],
        }
        self._merge(meta)
        write_group(path / layout.SERIES, {})
        self._scalars = ScalarsWriter(path / layout.SCALARS)
        try:
            self._save()  # last: whoever finds it can open everything else
        except BaseException:
            self._scalars.close()
            raise

    @classmethod
    def create(cls, path: str | Path, meta: Mapping[str, Any], *, overwrite: bool = False) -> "RunWriter":
        """Start a run in a folder of its own.

        Args:
            path: the folder; made if it does not exist. Files in it that are no part of a run are left alone.
            meta: what is known at the start: ``name``, ``model``, ``anatomy``, ``optimizer``, ``settings``,
                ``versions``, ``seeds``, ``families`` and any further keys of your own, all as JSON can hold
                them (numpy scalars and dataclasses are converted).
            overwrite: remove a run that is already there.

        Returns:
            The writer.

        Raises:
            RunExists: the folder holds a run and ``overwrite`` is false, or another process is writing it
                right now.
        """
        folder = Path(path).absolute()
        _make_room(folder, overwrite=overwrite)
        return cls(folder, meta)

    def scalars(self, step: Whole, time: Number, values: Mapping[str, Number]) -> None:
        """Append numbers of one step; they can be read when this returns.

        Args:
            step: optimiser updates so far; must not decrease. A second call for a step must bring other
                names.
            time: sum of the learning rates so far.
            values: Python or numpy numbers by name; NaN and infinities are kept.
        """
        with self._lock:
            self._refuse_after_finish()
            self._scalars.append(step, time, values)

    def series(self, family: str, step: Whole, columns: Mapping[str, Shaped[np.ndarray, " size"]]) -> None:
        """Append one record of a family; it can be read after 64 records or the next ``flush``.

        Args:
            family: any name; new ones appear in ``run.json`` by themselves.
            step: larger than that of the record before.
            columns: one array for each column, all of the same length, the same columns in every record.
        """
        steps = np.array([as_step(step, family)], np.int64)
        self._append(family, steps, list(columns), stacked(family, columns, axis=0)[None])

    def block(
        self,
        family: str,
        steps: Integer[np.ndarray, " records"],
        columns: Mapping[str, Shaped[np.ndarray, "records size"]],
    ) -> None:
        """Append several records of a family at once.

        A family whose first record has float32 in all columns is stored as float32, any other as float64.

        Args:
            family: any name; new ones appear in ``run.json`` by themselves.
            steps: increasing, the first larger than that of the record before.
            columns: one array for each column, records along the first axis.

        Raises:
            ValueError: names, shapes, types or steps do not fit; the message says which, nothing is stored.
        """
        ordered, values = as_steps(family, steps), stacked(family, columns, axis=1)
        if len(ordered) != len(values):
            raise ValueError(f"{family!r} got {len(ordered)} steps and {len(values)} records")
        self._append(family, ordered, list(columns), values)

    def _append(self, family: str, steps: np.ndarray, columns: list[str], values: np.ndarray) -> None:
        """Hand records to the writer of their family, which is made for the first of them."""
        with self._lock:
            self._refuse_after_finish()
            writer = self._families.get(family) or self._start_family(family, columns, values)
            records = fitting(writer, steps, columns, values)
            if self._stale and writer.will_write(len(steps)):
                self._save()
            writer.append(steps, records)

    def note(self, step: Whole, level: Level, text: str) -> None:
        """Add a remark that people should see.

        The first hundred are on disk when this returns, later ones with the next ``flush``: an instrument
        that complains at every step must not rewrite ``run.json`` every time.

        Args:
            step: the step it belongs to.
            level: ``info`` or ``warning``.
            text: one or two sentences.

        Raises:
            ValueError: the level is another one.
        """
        if level not in get_args(Level):
            raise ValueError(f"level must be one of {', '.join(get_args(Level))}, got {level!r}")
        with self._lock:
            self._refuse_after_finish()
            notes = self._document["notes"]
            notes.append({"step": as_step(step, "a note"), "level": level, "text": str(text)})
            self._stale = True
            if len(notes) <= _NOTES_AT_ONCE:
                self._save()

    def update(self, **meta: Any) -> None:
        """Set keys of ``run.json``; families are merged by name, everything else is replaced.

        Args:
            **meta: as for ``create``.
        """
        with self._lock:
            self._refuse_after_finish()
            self._merge(meta)
            self._save()

    def flush(self) -> None:
        """Make every record readable that was appended so far."""
        with self._lock:
            if self._stale:
                self._save()
            for family in self._families.values():
                family.write()

    def finish(self, status: FinalStatus = "complete") -> None:
        """Write everything that is left, and the completion mark last. A second call does nothing.

        Args:
            status: how the run ended.

        Raises:
            ValueError: the status is another one.
        """
        if status not in get_args(FinalStatus):
            raise ValueError(f"status must be one of {', '.join(get_args(FinalStatus))}, got {status!r}")
        with self._lock:
            if self._finished:
                return
            self.flush()
            sums = {layout.SCALARS: self._scalars.close()}
            if scalars_to_parquet(self.path / layout.SCALARS, self.path / layout.SCALARS_TABLE):
                sums[layout.SCALARS_TABLE] = layout.checksum((self.path / layout.SCALARS_TABLE).read_bytes())
            self._document.update(status=status, finished=_now())
            sums[layout.RUN] = layout.checksum(self._save())
            self._write_completion(sums)
            self._finished = True

    def _write_completion(self, sums: dict[str, str]) -> None:
        """Write the completion mark."""
        mark = {
            "schema": layout.SCHEMA,
            "status": self._document["status"],
            "finished": self._document["finished"],
            "scalars": self._scalars.lines,
            "families": {name: family.records for name, family in self._families.items()},
            "sha256": sums,
        }
        layout.write_aside(self.path / layout.COMPLETE, layout.to_json(mark, indent=1), durable=True)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(_status_after(error))

    def _refuse_after_finish(self) -> None:
        if self._finished:
            raise DynascopeError(f"{self.path} is finished and cannot be changed; write to a new folder")

    def _save(self) -> bytes:
        """Write ``run.json``."""
        data = layout.to_json(self._document, indent=1)
        layout.write_aside(self.path / layout.RUN, data, durable=True)
        self._stale = False
        return data

    def _merge(self, meta: Mapping[str, Any]) -> None:
        """Take over keys given by the caller, all or none."""
        reserved = [key for key in meta if key in _OURS]
        if reserved:
            raise ValueError(f"{', '.join(reserved)} cannot be set: the writer itself keeps {', '.join(_OURS)}")
        clean = {key: layout.jsonable(value, key) for key, value in meta.items()}
        families = _described(clean.pop("families", {}))
        for name, writer in self._families.items():
            told = {**self._document["families"][name], **families.get(name, {})}
            families[name] = _with_recorded(told, writer.columns, writer.size)
        self._document.update(clean)
        self._document["families"].update(families)

    def _start_family(self, name: str, columns: list[str], values: np.ndarray) -> FamilyWriter:
        """Make the folders of a family at its first record, and note it for ``run.json``."""
        size = values.shape[2]
        entry = self._document["families"].get(name, {})
        if entry.get("size", size) != size:
            raise ValueError(f"{name!r} was announced with size {entry['size']}, its first record has {size}")
        check_columns(name, columns)
        home = self.path / layout.SERIES / free_folder(name, self._folders)
        writer = FamilyWriter(home, name, columns=tuple(columns), size=size, dtype=values.dtype.name)
        self._families[name] = writer
        self._document["families"][name] = _with_recorded(entry, columns, size)
        self._stale = True
        return writer


def _now() -> str:
    """The present moment as ISO 8601 text in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _status_after(error: BaseException | None) -> FinalStatus:
    """The final status of a block that ended with this exception."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "complete"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _make_room(folder: Path, *, overwrite: bool) -> None:
    """Remove an older run from a folder if that was asked for, else refuse."""
    there = [part for part in layout.PARTS if (folder / part).exists()]
    if not there:
        return
    if not overwrite:
        raise _taken(folder, "pass overwrite=True to replace it, or choose another folder")
    if _written_elsewhere(folder):
        raise _taken(folder, "another process is still writing it: stop that first, or choose another folder")
    for part in there:
        path = folder / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _taken(folder: Path, advice: str) -> layout.RunExists:
    """The error for a folder that is taken."""
    return layout.RunExists(f"{folder} already holds a run ({', '.join(layout.PARTS[1:3])}, ...); {advice}")


def _written_elsewhere(folder: Path) -> bool:
    """Whether another living process is known to write this run."""
    if (folder / layout.COMPLETE).exists():
        return False
    path = folder / layout.RUN
    try:
        writer = layout.parse_object(layout.read_bytes(path), path).get("writer")
    except DamagedRun:
        return False
    return isinstance(writer, dict) and writer.get("pid") != getpid() and process.is_alive(writer) is True


def _described(families: Any) -> dict[str, dict[str, Any]]:
    """Descriptions of families, once it is sure that they are dicts of dicts."""
    if not isinstance(families, dict):
        raise ValueError(f"families must be a dict by name, got {families!r}")
    for name, entry in families.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("columns", {}), dict):
            raise ValueError(f"families.{name} must be a dict, and its columns too, got {entry!r}")
    return families


def _with_recorded(entry: Mapping[str, Any], columns: Sequence[str], size: int) -> dict[str, Any]:
    """The description of a family with its size and exactly the columns that are recorded."""
    told = entry.get("columns", {})
    return {**entry, "size": size, "columns": {column: told.get(column, "") for column in columns}}
