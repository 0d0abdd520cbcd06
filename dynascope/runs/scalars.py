"""Scalars of a run: one strict JSON object a line, complete as soon as the line ends."""

import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynascope.base.errors import DamagedRun
from dynascope.base.series import Series
from dynascope.runs.layout import (
    STEP,
    TIME,
    checksum,
    decode_float,
    encode_float,
    parse_object,
    read_bytes,
    to_json,
)

Number = float | int | np.integer | np.floating | np.ndarray
"""A real number; an array counts as one if it has no axes."""
Whole = int | np.integer


def as_float(value: Any, name: str) -> float:
    """A Python or numpy real number as a float.

    Args:
        value: the number; a numpy array without axes counts as one.
        name: what it is called, for the message.

    Returns:
        The float.

    Raises:
        ValueError: it is of another type, or too large for a float.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(
            f"{name} must be a real number, got {value!r} of type {type(value).__qualname__}; "
            "for a tensor pass tensor.item()"
        )
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is too large for a float: {value}") from error


def as_step(value: Any, name: str) -> int:
    """A Python or numpy integer that is not negative.

    Args:
        value: the integer.
        name: what it belongs to, for the message.

    Returns:
        The step.

    Raises:
        ValueError: it is of another type or negative.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"the step of {name} must be an integer >= 0, got {value!r}")
    return int(value)


class ScalarsWriter:
    """Appends lines to a file of scalars; each is on its way to the disk when ``append`` returns.

    Args:
        path: the file, made anew.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (lives as long as the run is written)
        self._sha = hashlib.sha256()
        self._size = 0
        self._step = -1
        self._names: set[str] = set()
        self.lines = 0

    def append(self, step: Whole, time: Number, values: Mapping[str, Number]) -> None:
        """Write one line.

        Args:
            step: not smaller than that of the line before; a further line of the same step must bring new
                names.
            time: sum of learning rates so far.
            values: the scalars, by name.

        Raises:
            ValueError: a number, a name or the order of the steps is wrong; nothing is written then.
        """
        step = as_step(step, "scalars")
        if step < self._step:
            raise ValueError(f"scalars of step {step} come after those of step {self._step}; steps must not decrease")
        earlier = self._names if step == self._step else set()
        line: dict[str, Any] = {STEP: step, TIME: encode_float(as_float(time, TIME))}
        for name, value in values.items():
            if not isinstance(name, str) or name in ("", STEP, TIME) or name in earlier:
                raise ValueError(
                    f"{name!r} cannot be the name of a scalar of step {step}: it must be a non-empty string "
                    f"other than {STEP!r} and {TIME!r}, given once a step"
                )
            line[name] = encode_float(as_float(value, name))
        self._write(to_json(line) + b"\n")
        self._step, self._names = step, earlier | set(values)

    def _write(self, line: bytes) -> None:
        """Write a whole line or, when the disk refuses, none of it."""
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written to {self._file.name}")
        except BaseException:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(line)
        self._sha.update(line)
        self.lines += 1

    def close(self) -> str:
        """Bring everything to the disk, close the file and return the checksum of its content."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
        return self._sha.hexdigest()


def read_lines(path: Path, *, until: int | None, promised: str | None) -> Iterator[dict[str, Any]]:
    """The lines of a file of scalars, numbers decoded.

    A last line without its end is one that is being written, or was when the writer was killed: it is left
    out.

    Args:
        path: the file.
        until: last step wanted; lines after it are not even parsed. None for all.
        promised: checksum that a finished run promises; checked only when all lines are wanted.

    Yields:
        One dict a line, ``step`` an int and everything else a float.

    Raises:
        DamagedRun: the checksum does not fit, or a line is not what it should be.
    """
    data = read_bytes(path)
    if promised is not None and until is None and checksum(data) != promised:
        raise DamagedRun(path, "its checksum differs from the one noted when the run finished")
    before = -1
    for number, text in enumerate(data.split(b"\n")[:-1], start=1):
        line = parse_object(text, path, f"line {number}: ")
        step = line.get(STEP)
        if not isinstance(step, int) or isinstance(step, bool) or step < before or TIME not in line:
            raise DamagedRun(path, f"line {number}: {STEP!r} is missing or smaller than before, or {TIME!r} is missing")
        if until is not None and step > until:
            return
        before = step
        try:
            yield {name: value if name == STEP else decode_float(value) for name, value in line.items()}
        except ValueError as error:
            raise DamagedRun(path, f"line {number}: {error}") from error


def read_scalars(path: Path, *, until: int | None, promised: str | None) -> dict[str, Series]:
    """All scalars by name, ``time`` among them.

    Args:
        path: the file.
        until: last step wanted, None for all.
        promised: checksum that a finished run promises.

    Returns:
        A series for each name, in the order of first appearance.

    Raises:
        DamagedRun: the file is not what it should be.
    """
    found: dict[str, tuple[array, array]] = {TIME: (array("q"), array("d"))}
    for line in read_lines(path, until=until, promised=promised):
        step = line.pop(STEP)
        for name, value in line.items():
            steps, values = found.setdefault(name, (array("q"), array("d")))
            if name == TIME and steps and steps[-1] == step:  # a second line of the same step repeats it
                continue
            steps.append(step)
            values.append(value)
    try:
        return {
            name: Series(np.frombuffer(steps, np.int64), np.frombuffer(values, np.float64), name=name)
            for name, (steps, values) in found.items()
        }
    except ValueError as error:
        raise DamagedRun(path, str(error)) from error
