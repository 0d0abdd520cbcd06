import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynascope.base.errors import DamagedRun
from dynascope.runs import RunWriter, layout

CHECKED = "Type-check error"
"""What is said instead of our own words when the tests run with the annotations checked."""


@dataclass(frozen=True)
class Settings:
    learning_rate: float
    shape: tuple[int, ...] = (2, 3)


def refuse(word: str) -> float:
    raise ValueError(word)


def test_jsonable_converts_what_people_pass() -> None:
    given_value = {
        "settings": Settings(np.float32(0.5)),  # type: ignore[arg-type]
        "flags": np.array([True, False]),
        "flag": np.bool_(True),
        "counts": {np.int64(16), np.int64(9)},
        "path": Path("a") / "b",
        "bad": [math.nan, -math.inf, np.float64("inf")],
        "none": None,
    }
    clean = layout.jsonable(given_value, "meta")
    assert json.loads(layout.to_json(clean), parse_constant=refuse) == {
        "settings": {"learning_rate": 0.5, "shape": [2, 3]},
        "flags": [True, False],
        "flag": True,
        "counts": [9, 16],
        "path": os.path.join("a", "b"),
        "bad": ["nan", "-inf", "inf"],
        "none": None,
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {"b": object()}]}, r"meta\.a\[1\]\.b is a object"),
        ({"a": {3: 1}}, r"keys of meta\.a must be strings, got 3"),
        ({"a": 1 + 2j}, r"meta\.a is a complex"),
        (Settings, "meta is a type"),
    ],
)
def test_jsonable_names_the_key_it_refuses(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        layout.jsonable(value, "meta")


@given(st.floats(allow_nan=True))
def test_floats_survive(value: float) -> None:
    text = json.dumps(layout.encode_float(value), allow_nan=False)
    back = layout.decode_float(json.loads(text))
    assert back == value or (math.isnan(back) and math.isnan(value))


@pytest.mark.parametrize("value", ["NaN", "1.0", True, None, [1.0]])
def test_only_the_three_words_are_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        layout.decode_float(value)


def test_a_broken_character_does_not_break_the_file() -> None:
    name = os.fsdecode(b"run-\xff")  # what sys.argv holds for a path that is no UTF-8
    data = layout.to_json({"name": name, "greek": "η"})
    assert json.loads(data) == {"name": name, "greek": "η"}
    assert "η".encode() in data


NAMES = st.text(st.characters(codec="utf-8"), min_size=1)


@given(NAMES)
@example(".hidden")
@example("_private")
@example("__zarr")
@example("..")
@example("end.")
@example("a~b")
def test_folder_names_are_safe(name: str) -> None:
    folder = layout.folder_name(name)
    assert len(folder.encode()) <= 160
    assert folder.isascii()
    assert not set('/\\:*?"<>|\0 ') & set(folder)
    assert folder[0] not in "._"
    assert folder[-1] != "."
    assert "~" in folder[-17:] or unquote(folder) == name
    assert len(quote(name, safe="")) > 100 or unquote(folder) == name


@given(NAMES, NAMES)
def test_different_names_have_different_folders(one: str, other: str) -> None:
    if one != other:
        assert layout.folder_name(one) != layout.folder_name(other)
        assert layout.hashed_folder_name(one) != layout.hashed_folder_name(other)


def test_no_name_can_imitate_the_checksum_of_another() -> None:
    imitation = layout.hashed_folder_name("x")
    assert layout.folder_name(imitation) != imitation


def test_long_names_that_begin_alike_stay_apart() -> None:
    one, other = layout.folder_name("w" * 300 + "a"), layout.folder_name("w" * 300 + "b")
    assert one != other
    assert max(len(one), len(other)) <= 160


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_must_be_a_string(name: object) -> None:
    with pytest.raises((ValueError, TypeError), match=f"non-empty string|{CHECKED}"):
        layout.folder_name(name)  # type: ignore[arg-type]


def test_write_aside_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    layout.write_aside(path, b"old", durable=True)
    layout.write_aside(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_an_interrupted_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    layout.write_aside(path, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        layout.write_aside(path, b"new")
    assert path.read_bytes() == b"old"


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedRun, match=r"run\.json.*missing"):
        layout.read_bytes(tmp_path / "run.json")
    with pytest.raises(DamagedRun, match="cannot be read"):
        layout.read_bytes(tmp_path)
    for text, words in [(b'{"a": NaN}', "strict"), (b"[1]", "object is expected"), (b"\xff", "not valid")]:
        with pytest.raises(DamagedRun, match=words):
            layout.parse_object(text, tmp_path)


def test_the_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "run-format.md").read_text()
    with RunWriter.create(tmp_path / "runs" / "a", {"settings": {"seed": 0}}) as writer:
        for step in range(70):
            writer.scalars(step, 0.1 * step, {"loss": math.inf if step else 1.0})
            record = {"after": np.zeros(3), "value": np.arange(3.0) + step}
            writer.series("charges:rescale/0.weight-2.weight", step, record)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, found)
    assert found["run"]["settings"] == {"seed": 0}
    assert found["table"]["loss"].tolist() == [1.0] + [math.inf] * 69
    assert found["steps"].tolist() == list(range(70))
    np.testing.assert_array_equal(found["value"], np.arange(70.0)[:, None] + np.arange(3.0))
