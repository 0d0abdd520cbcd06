import json
import math
from pathlib import Path

import numpy as np
import pytest

from dynascope.base.errors import DamagedRun
from dynascope.runs.scalars import ScalarsWriter, as_float, read_lines, read_scalars

CHECKED = "Type-check error"
"""What is said instead of our own words when the tests run with the annotations checked."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scalars.jsonl"


def read(path: Path, until: int | None = None, promised: str | None = None) -> dict[str, list]:
    found = read_scalars(path, until=until, promised=promised)
    return {name: [series.steps.tolist(), series.values.tolist()] for name, series in found.items()}


def test_every_line_is_strict_json_and_there_at_once(path: Path) -> None:
    writer = ScalarsWriter(path)
    values = {
        "loss": math.nan,
        "up": np.float64("inf"),
        "down": -math.inf,
        "third": 1 / 3,
        "count": np.int64(7),
    }
    writer.append(np.int64(4), np.float32(0.5), values)  # type: ignore[arg-type]
    text = path.read_text()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert text.endswith("\n")
    assert line == {
        "step": 4, "time": 0.5, "loss": "nan", "up": "inf", "down": "-inf", "third": 1 / 3, "count": 7.0,
    }  # fmt: skip
    writer.close()


def test_what_is_read_is_what_was_written(path: Path) -> None:
    writer = ScalarsWriter(path)
    rng = np.random.default_rng(0)
    losses = [*rng.normal(size=20), 5e-324, 1.7976931348623157e308, -0.0, math.inf]
    for step, loss in enumerate(losses):
        writer.append(2 * step, 0.1 * step, {"loss": loss} if step % 3 else {})
        writer.append(2 * step, 0.1 * step, {"other": np.float32(loss)} if step < 20 else {})
    writer.close()
    found = read(path)
    assert list(found) == ["time", "other", "loss"]
    assert found["loss"] == [
        [2 * k for k in range(24) if k % 3], [loss for k, loss in enumerate(losses) if k % 3]
    ]  # fmt: skip
    assert found["time"] == [list(range(0, 48, 2)), [0.1 * k for k in range(24)]]
    assert found["other"][1] == [float(np.float32(loss)) for loss in losses[:20]]


def test_no_line_gives_no_records(path: Path) -> None:
    ScalarsWriter(path).close()
    assert read(path) == {"time": [[], []]}


class Tensor:
    """Not a number, but convertible: what a framework's tensor looks like."""

    def __float__(self) -> float:
        return 1.0


@pytest.mark.parametrize("value", ["1.0", None, True, np.True_, 1j, [1.0], np.ones(1), Tensor()])
def test_a_bad_value_is_refused_by_name(path: Path, value: object) -> None:
    writer = ScalarsWriter(path)
    with pytest.raises((ValueError, TypeError), match=rf"loss/train must be a real number|{CHECKED}"):
        writer.append(0, 0.0, {"good": 1.0, "loss/train": value})  # type: ignore[dict-item]
    assert path.read_bytes() == b""
    writer.append(0, 0.0, {"good": np.array(1.0)})  # nothing of the refused line was kept
    writer.close()


def test_an_integer_beyond_floats_is_refused() -> None:
    with pytest.raises(ValueError, match="count is too large"):
        as_float(10**400, "count")


@pytest.mark.parametrize("step", [-1, 1.0, True, "0", None])
def test_a_bad_step_is_refused(path: Path, step: object) -> None:
    writer = ScalarsWriter(path)
    with pytest.raises((ValueError, TypeError), match=f"step of scalars must be an integer >= 0|{CHECKED}"):
        writer.append(step, 0.0, {})  # type: ignore[arg-type]
    writer.close()


def test_order_and_names_are_checked(path: Path) -> None:
    writer = ScalarsWriter(path)
    writer.append(5, 0.0, {"loss": 1.0})
    with pytest.raises(ValueError, match="step 4 come after those of step 5"):
        writer.append(4, 0.0, {})
    for name in ("loss", "step", "time", ""):
        with pytest.raises(ValueError, match=f"{name!r} cannot be the name"):
            writer.append(5, 0.0, {name: 1.0})
    writer.append(5, 0.0, {"accuracy": 1.0})
    with pytest.raises(ValueError, match="'loss' cannot"):
        writer.append(5, 0.0, {"loss": 1.0})
    writer.append(6, 0.0, {"loss": 1.0})
    writer.close()


def test_an_unfinished_last_line_is_left_out(path: Path) -> None:
    writer = ScalarsWriter(path)
    for step in range(3):
        writer.append(step, 0.0, {"loss": float(step)})
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = whole[:length].count(b"\n")
        assert read(path)["time"][0] == list(range(complete)), lines
    writer.close()


def test_a_full_disk_leaves_no_part_of_a_line(path: Path) -> None:
    writer = ScalarsWriter(path)
    writer.append(0, 0.0, {"loss": 1.0})
    real = writer._file

    class Full:
        name = str(path)
        truncate, seek, closed = real.truncate, real.seek, False

        def write(self, line: bytes) -> int:
            return real.write(line[:5]) or 0

    writer._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="only 5 of"):
        writer.append(1, 0.0, {"loss": 2.0})
    writer._file = real
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")
    writer.append(1, 0.0, {"loss": 3.0})
    promised = writer.close()
    assert read(path, promised=promised)["loss"] == [[0, 1], [1.0, 3.0]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"step": 1, "time": 0.0, "loss', "line 2: not valid JSON"),
        ('{"step": 1, "time": 0.0, "loss": NaN}', "line 2: not valid JSON"),
        ('{"step": 1, "time": 0.0, "loss": "much"}', "line 2: 'much' is not a number"),
        ('{"step": 1, "time": 0.0, "loss": null}', "line 2: None is not a number"),
        ('{"time": 0.0}', "line 2: 'step' is missing"),
        ('{"step": 1.5, "time": 0.0}', "line 2: 'step' is missing"),
        ('{"step": -1, "time": 0.0}', "line 2: 'step' is missing or smaller"),
        ('{"step": 1}', "line 2: .*'time' is missing"),
        ("[]", "line 2: a JSON object is expected, found list"),
        ("", "line 2: not valid JSON"),
        ('{"step": 0, "time": 0.0, "loss": 1.0}', "steps must increase"),
    ],
)
def test_a_bad_line_in_the_middle_is_named(path: Path, line: str, words: str) -> None:
    path.write_text(f'{{"step": 0, "time": 0.0, "loss": 1.0}}\n{line}\n{{"step": 2, "time": 0.0}}\n')
    with pytest.raises(DamagedRun, match=rf"scalars\.jsonl.*{words}"):
        read(path)


def test_lines_after_a_step_are_not_even_parsed(path: Path) -> None:
    path.write_text('{"step": 0, "time": 0.0}\n{"step": 1, "time": 0.5}\n{"step": 2, "time": 1.0}\nnoise\n')
    assert read(path, until=1, promised="not checked, since it covers the noise")["time"] == [
        [0, 1],
        [0.0, 0.5],
    ]
    with pytest.raises(DamagedRun):
        read(path, until=2)


def test_the_checksum_is_checked(path: Path) -> None:
    writer = ScalarsWriter(path)
    writer.append(0, 0.0, {"loss": 1.0})
    promised = writer.close()
    assert writer.close() == promised
    assert len(list(read_lines(path, until=None, promised=promised))) == 1
    path.write_bytes(path.read_bytes().replace(b"1.0", b"2.0"))
    with pytest.raises(DamagedRun, match="checksum"):
        read(path, promised=promised)
