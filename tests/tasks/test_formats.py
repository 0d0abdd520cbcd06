"""Readers of file formats, on small files written here byte by byte."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from dynascope.tasks.formats import (
    DamagedData,
    MissingData,
    find,
    read_folders,
    read_idx,
    read_pickled,
    read_records,
)

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.tobytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_gives_back_what_was_written(tmp_path, compressed):
    path = tmp_path / ("images.gz" if compressed else "images")
    path.write_bytes(gzip.compress(idx(IMAGES)) if compressed else idx(IMAGES))
    np.testing.assert_array_equal(read_idx(path, ndim=3), IMAGES)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "starts with nothing"),
        (b"\x00\x00\x08\x01" + idx(IMAGES)[4:], "starts with 00 00 08 01"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "starts with 00 00 0d 03"),
        (idx(IMAGES)[:9], "ends after 9 bytes"),
        (idx(IMAGES)[:-1], "holds 39 bytes"),
        (idx(IMAGES) + b"\x00", "holds 41 bytes"),
        # sizes whose product is 0 in 32-bit arithmetic
        (b"\x00\x00\x08\x03" + struct.pack(">III", 2**31, 2**31, 4), "demands"),
    ],
)
def test_idx_names_a_corrupt_file(tmp_path, raw, words):
    path = tmp_path / "images"
    path.write_bytes(raw)
    with pytest.raises(DamagedData, match=words) as caught:
        read_idx(path, ndim=3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda _: b"no gzip at all", lambda raw: raw[:40] + raw[60:]])
def test_idx_names_a_broken_gzip_file(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(idx(noise))))
    with pytest.raises(DamagedData, match="is not a whole gzip file"):
        read_idx(path, ndim=3)


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_records_split_labels_from_images(tmp_path, label_bytes):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    rows = [
        bytes([99] * (label_bytes - 1) + [label]) + image.tobytes() for label, image in zip((7, 3), images, strict=True)
    ]
    path = tmp_path / "batch.bin"
    path.write_bytes(b"".join(rows))
    read, labels = read_records(path, label_bytes=label_bytes, image=(3, 2, 2))
    np.testing.assert_array_equal(read, images)
    assert labels.tolist() == [7, 3]


@pytest.mark.parametrize("size", [0, 12, 14, 27])
def test_records_of_a_wrong_size_are_refused(tmp_path, size):
    path = tmp_path / "batch.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DamagedData, match=f"holds {size} bytes"):
        read_records(path, label_bytes=1, image=(3, 2, 2))


PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 12)


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """What Python 2 wrote at protocol 2: every string is a byte string (opcode U)."""

    def text(word: bytes) -> bytes:
        return b"U" + bytes([len(word)]) + word

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    shape = b"(" + b"".join(map(number, data.shape)) + b"t"
    array += b"(" + number(1) + shape + dtype + b"I00\n" + text(data.tobytes()) + b"tb"
    row = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + row + b"u."


@pytest.mark.parametrize(
    "raw",
    [
        python2_pickle(PIXELS, [4, 9]),
        pickle.dumps({b"data": PIXELS, b"labels": [4, 9]}, protocol=2),
        pickle.dumps({"data": PIXELS, "labels": [4, 9]}, protocol=4),
    ],
)
def test_pickled_batches_are_read_without_building_foreign_objects(tmp_path, raw):
    reference = pickle.loads(raw, encoding="bytes")  # noqa: S301 (written three lines above)
    np.testing.assert_array_equal(next(v for k, v in reference.items() if k in {b"data", "data"}), PIXELS)
    path = tmp_path / "data_batch_1"
    path.write_bytes(raw)
    images, labels = read_pickled(path, label_key="labels", image=(3, 2, 2))
    np.testing.assert_array_equal(images, PIXELS.reshape(2, 3, 2, 2))
    assert labels.tolist() == [4, 9]


class Hostile:
    """Makes a directory when it is unpickled by the ordinary unpickler."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.target),)


def test_a_hostile_pickle_runs_nothing(tmp_path):
    target, path = tmp_path / "harm", tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Hostile(target), "labels": []}, protocol=2))
    with pytest.raises(DamagedData, match="mkdir, which is not permitted"):
        read_pickled(path, label_key="labels", image=(3, 2, 2))
    assert not target.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 (the control: here it does run)
    assert target.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"data": PIXELS},
        {"data": PIXELS, "labels": [1]},
        {"data": PIXELS, "labels": [1, 300]},
        {"data": PIXELS.astype(np.int64), "labels": [1, 2]},
        {"data": PIXELS.astype(object), "labels": [1, 2]},
        {"data": PIXELS.astype(np.int8), "labels": [1, 2]},
        {"data": PIXELS[:, :11], "labels": [1, 2]},
        {"data": np.asfortranarray(PIXELS), "labels": [1, 2]},
        [1, 2],
    ],
)
def test_a_pickle_with_other_content_is_refused(tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DamagedData, match="data_batch_1"):
        read_pickled(path, label_key="labels", image=(3, 2, 2))


def test_a_truncated_pickle_is_refused(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(python2_pickle(PIXELS, [4, 9])[:-20])
    with pytest.raises(DamagedData, match=r"\.bin files"):
        read_pickled(path, label_key="labels", image=(3, 2, 2))


def test_folders_give_labels_by_class_and_files_by_name(tmp_path):
    for name, values in {"dog": (5, 6, 7), "ant": (1, 2)}.items():
        (tmp_path / name).mkdir()
        for number, value in enumerate(values):
            (tmp_path / name / f"{number}.raw").write_bytes(bytes([value]))

    def decode(file):
        return np.frombuffer(file.read_bytes(), np.uint8).reshape(1, 1, 1)

    images, labels = read_folders(tmp_path, ["dog", "ant"], pattern="*.raw", limit=2, decode=decode)
    assert images.ravel().tolist() == [5, 6, 1, 2]
    assert labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(MissingData, match=r"no \*\.raw in .*cat: every class"):
        read_folders(tmp_path, ["dog", "cat"], pattern="*.raw", limit=None, decode=decode)


def test_find_prefers_the_first_name_and_says_what_is_missing(tmp_path):
    (tmp_path / "b").touch()
    assert find(tmp_path, "a", "b", advice="-") == tmp_path / "b"
    (tmp_path / "a").touch()
    assert find(tmp_path, "a", "b", advice="-") == tmp_path / "a"
    with pytest.raises(MissingData, match=f"no c in {tmp_path}: buy it"):
        find(tmp_path, "c", advice="buy it")


def test_errors_survive_a_trip_between_processes(tmp_path):
    for error in (MissingData(tmp_path / "x", "get it"), DamagedData(tmp_path, "is empty")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 (our own bytes)
