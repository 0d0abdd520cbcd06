from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from dynascope.base.errors import DamagedRun
from dynascope.runs import chunks
from dynascope.runs.chunks import ArrayLayout

CASES = [("int64", ()), ("float64", (3, 5)), ("float32", (2, 1)), ("float64", (1, 1))]


def write(folder: Path, dtype: str, inner: tuple[int, ...], records: int = 10, chunk: int = 4) -> np.ndarray:
    """An array of random bits, so that every value and also NaN payloads have to survive."""
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**40), 2**40, (records, *inner)).astype(dtype)
    if dtype != "int64":
        values[3] = np.nan
        values[4] = -np.inf
        values[5] = -0.0
    layout = ArrayLayout(dtype, chunk, inner)
    folder.mkdir()
    for index in range(-(-records // chunk)):
        rows = np.full((chunk, *inner), -1 if dtype == "int64" else np.nan, dtype)
        part = values[index * chunk : (index + 1) * chunk]
        rows[: len(part)] = part
        chunks.write_chunk(folder, layout, index, rows)
    chunks.write_layout(folder, replace(layout, records=records))
    return values


def read(folder: Path, stop: int | None = None) -> np.ndarray:
    layout = chunks.read_layout(folder)
    places = range(layout.inner[0]) if layout.inner else ()
    return chunks.read_records(folder, layout, layout.records if stop is None else stop, places)


@pytest.mark.parametrize(("dtype", "inner"), CASES)
def test_the_zarr_package_reads_the_same(tmp_path: Path, dtype: str, inner: tuple[int, ...]) -> None:
    values = write(tmp_path / "a", dtype, inner)
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert (array.shape, array.dtype) == (values.shape, np.dtype(dtype))
    assert np.asarray(array[:]).tobytes() == values.tobytes()
    assert read(tmp_path / "a").astype(dtype).tobytes() == values.tobytes()


def test_the_zarr_package_sees_a_spoilt_chunk_too(tmp_path: Path) -> None:
    write(tmp_path / "a", "float64", (3, 5))
    spoil(tmp_path / "a" / "c.1.0.0")
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(tmp_path / "a", mode="r")[:]


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 10])
def test_only_the_chunks_that_are_needed_are_opened(tmp_path: Path, stop: int) -> None:
    values = write(tmp_path / "a", "float64", (3, 5))
    for index in range(-(-stop // 4), 3):
        (tmp_path / "a" / f"c.{index}.0.0").unlink()
    np.testing.assert_array_equal(read(tmp_path / "a", stop), values[:stop])


def test_places_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    values = write(tmp_path / "a", "float64", (3, 5))
    layout = chunks.read_layout(tmp_path / "a")
    read_back = chunks.read_records(tmp_path / "a", layout, 10, [2, 0])
    np.testing.assert_array_equal(read_back, values[:, [2, 0]])


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [spoil, cut, empty, Path.unlink])
def test_a_damaged_chunk_is_named(tmp_path: Path, harm: object) -> None:
    write(tmp_path / "a", "float64", (3, 5))
    harm(tmp_path / "a" / "c.1.0.0")  # type: ignore[operator]
    np.testing.assert_array_equal(read(tmp_path / "a", 4).shape, (4, 3, 5))  # the chunk before it is fine
    with pytest.raises(DamagedRun, match=r"c\.1\.0\.0"):
        read(tmp_path / "a")


def test_a_chunk_of_another_array_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", "float64", (3, 5))
    write(tmp_path / "b", "float64", (3, 4))
    (tmp_path / "b" / "c.0.0.0").replace(tmp_path / "a" / "c.0.0.0")
    with pytest.raises(DamagedRun, match=r"c\.0\.0\.0.*holds 48 values, its array needs 60"):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"shape": [1]}', '{"shape": "x", "data_type": "int64", "chunk_grid": {}}', "[]"],
)
def test_broken_metadata_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(DamagedRun, match=r"zarr\.json"):
        chunks.read_layout(tmp_path)


@pytest.mark.parametrize("shape", [(4, 3, 5), (0, 3, 5)])
def test_arrays_of_other_writers_are_not_guessed_at(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr.create_array(tmp_path / "a", shape=shape, chunks=(2, 3, 5), dtype="float64")
    with pytest.raises(DamagedRun, match="open it with the zarr package"):
        chunks.read_layout(tmp_path / "a")
