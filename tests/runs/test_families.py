from pathlib import Path

import numpy as np
import pytest

from dynascope.base.errors import DamagedRun
from dynascope.runs import chunks, families
from dynascope.runs.families import FamilyWriter, records_per_chunk


def writer(home: Path, *, size: int = 3, dtype: str = "float64") -> FamilyWriter:
    return FamilyWriter(home, "a family", columns=("value", "after"), size=size, dtype=dtype)


def records(count: int, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return np.cumsum(rng.integers(1, 4, count)), rng.normal(size=(count, 2, size))


@pytest.mark.parametrize("parts", [[1000], [1] * 70, [63, 1, 1, 200, 5000, 3], [4096, 4096, 1]])
def test_whatever_the_parts_everything_is_kept(tmp_path: Path, parts: list[int]) -> None:
    steps, values = records(sum(parts))
    family = writer(tmp_path)
    done = 0
    for part in parts:
        family.append(steps[done : done + part], values[done : done + part])
        done += part
        seen = families.read_steps(tmp_path, promised=None)
        assert done - len(seen) < families.BUFFERED_RECORDS
        np.testing.assert_array_equal(seen, steps[: len(seen)])
        if len(parts) < 10:
            got = families.read_values(tmp_path, ["after", "value"], stop=len(seen), promised=None)
            np.testing.assert_array_equal(got, values[: len(seen), ::-1])
    family.write()
    np.testing.assert_array_equal(families.read_steps(tmp_path, promised=done), steps)
    np.testing.assert_array_equal(
        families.read_values(tmp_path, ["value"], stop=done, promised=done)[:, 0], values[:, 0]
    )
    assert family.last_step == steps[-1]


def test_writing_is_foreseen(tmp_path: Path) -> None:
    steps, values = records(500, size=400)  # 81 records fill a chunk
    family = writer(tmp_path, size=400)
    on_disk = 0
    for start in range(0, 500, 5):
        foreseen = family.will_write(5)
        family.append(steps[start : start + 5], values[start : start + 5])
        now = len(families.read_steps(tmp_path, promised=None))
        assert foreseen or now == on_disk or on_disk > 0  # the first write, which run.json waits for, is foreseen
        on_disk = now
    assert on_disk > 400


def test_the_steps_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    family = writer(tmp_path)
    original = chunks.write_aside

    def spy(path: Path, data: bytes) -> None:
        order.append(str(path.relative_to(tmp_path)))
        original(path, data)

    monkeypatch.setattr(chunks, "write_aside", spy)
    family.append(*records(64))
    assert order == ["values/c.0.0.0", "values/zarr.json", "step/c.0", "step/zarr.json"]


def test_a_failed_write_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, values = records(130)
    family = writer(tmp_path)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        patch.setattr(chunks, "write_aside", full)
        with pytest.raises(OSError, match="no space"):
            family.append(steps[:64], values[:64])
    assert len(families.read_steps(tmp_path, promised=None)) == 0
    family.append(steps[64:], values[64:])
    family.write()
    np.testing.assert_array_equal(families.read_steps(tmp_path, promised=130), steps)
    np.testing.assert_array_equal(families.read_values(tmp_path, ["value", "after"], stop=130, promised=130), values)


@pytest.mark.parametrize(
    ("record_bytes", "expected"), [(8, 4096), (1024, 512), (8192, 64), (2**18, 64), (2**22, 4), (2**30, 1)]
)
def test_chunks_are_neither_many_nor_huge(record_bytes: int, expected: int) -> None:
    assert records_per_chunk(record_bytes) == expected


def test_names_that_differ_in_case_get_different_folders() -> None:
    taken: set[str] = set()
    folders = [families.free_folder(name, taken) for name in ("W", "w", "v")]
    assert len({folder.casefold() for folder in folders}) == 3
    assert folders[0] == "W"
    assert folders[2] == "v"


def test_a_family_is_found_by_its_full_name(tmp_path: Path) -> None:
    taken: set[str] = set()
    for name in ("W", "w", "x" * 300, "." * 3):
        home = tmp_path / families.free_folder(name, taken)
        FamilyWriter(home, name, columns=("value",), size=1, dtype="float64")
        assert families.locate(tmp_path, name) == home
    assert families.locate(tmp_path, "y") == tmp_path / "y"


def test_the_unused_end_of_a_chunk_is_empty(tmp_path: Path) -> None:
    family = writer(tmp_path, size=400)  # 81 records fill a chunk
    family.append(*records(100, size=400))
    family.write()
    steps, values = chunks.read_layout(tmp_path / "step"), chunks.read_layout(tmp_path / "values")
    last = tmp_path / "step" / "c.1"
    assert (chunks.decode(last.read_bytes(), steps, last)[19:] == -1).all()
    last = tmp_path / "values" / "c.1.0.0"
    assert np.isnan(chunks.decode(last.read_bytes(), values, last)[19:]).all()


def test_promises_are_checked(tmp_path: Path) -> None:
    family = writer(tmp_path)
    family.append(*records(64))
    for promised in (63, 65):
        with pytest.raises(DamagedRun, match=f"has 64 records, the finished run promises {promised}"):
            families.read_steps(tmp_path, promised=promised)
        with pytest.raises(DamagedRun, match=r"values.zarr\.json.*promises"):
            families.read_values(tmp_path, ["value"], stop=3, promised=promised)
    with pytest.raises(DamagedRun, match=r"zarr\.json.*missing"):
        families.read_steps(tmp_path / "elsewhere", promised=1)
    assert len(families.read_steps(tmp_path / "elsewhere", promised=None)) == 0


def test_values_that_a_power_failure_made_short_are_cut(tmp_path: Path) -> None:
    family = writer(tmp_path)
    steps, values = records(128)
    family.append(steps[:64], values[:64])
    early = (tmp_path / "values" / "zarr.json").read_bytes()
    family.append(steps[64:], values[64:])
    (tmp_path / "values" / "zarr.json").write_bytes(early)
    got = families.read_values(tmp_path, ["value"], stop=128, promised=None)
    np.testing.assert_array_equal(got[:, 0], values[:64, 0])


def test_columns_that_do_not_fit_are_damage(tmp_path: Path) -> None:
    writer(tmp_path).append(*records(64))
    chunks.write_group(tmp_path, {"name": "a family", "columns": ["value"]})
    with pytest.raises(DamagedRun, match="do not fit"):
        families.read_values(tmp_path, ["value"], stop=1, promised=None)
