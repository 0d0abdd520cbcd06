"""Records on their way to the archive."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dynascope.training import blocks
from dynascope.training.background import Background
from dynascope.training.blocks import Blocks, one_number


class Archive:
    """Keeps what it is told."""

    def __init__(self):
        self.blocks, self.lines, self.notes, self.flushes = [], [], [], 0

    def block(self, family, steps, columns):
        self.blocks.append((family, steps.tolist(), {name: values.copy() for name, values in columns.items()}))

    def scalars(self, step, time, values):
        self.lines.append((step, time, values))

    def note(self, step, level, text):
        self.notes.append((step, level, text))

    def flush(self):
        self.flushes += 1


def instrument():
    row = torch.zeros(1, 2)
    return SimpleNamespace(
        name="two",
        row=row,
        notes=[],
        unpack=lambda rows: [("family", {"first": rows[:, 0, :1], "second": rows[:, 0, 1:]})],
    )


def setup():
    archive = Archive()
    background = Background("test")
    return archive, background, Blocks(archive, background), instrument()


def test_rows_are_copied_and_arrive_in_order():
    archive, background, kept, source = setup()
    for step in range(5):
        source.row.fill_(step)
        kept.keep(step, {"time": 0.1 * step, "rate": torch.tensor(2.0)}, [source])
    kept.hand_over([source])
    background.close()
    ((family, steps, columns),) = archive.blocks
    assert (family, steps) == ("family", [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(columns["second"][:, 0], np.arange(5))
    assert archive.lines[3] == (3, pytest.approx(0.3), {"rate": 2.0})


def test_full_blocks_are_handed_over_and_their_memory_is_used_again(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_RECORDS", 3)
    archive, background, kept, source = setup()
    for step in range(10):
        source.row.fill_(step)
        kept.keep(step, {"time": 0.0}, [source])
    kept.hand_over([source])
    background.close()
    assert [steps for _, steps, _ in archive.blocks] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    np.testing.assert_array_equal(np.concatenate([c["first"][:, 0] for _, _, c in archive.blocks]), np.arange(10))
    assert list(kept._spare) == ["two"]


def test_a_block_in_use_is_never_written_to_again(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_RECORDS", 1)
    archive, background, kept, source = setup()
    tasks = []
    kept._background = SimpleNamespace(submit=tasks.append)  # nothing is written until the end
    for step in range(4):
        source.row.fill_(step)
        kept.keep(step, {"time": 0.0}, [source])
    kept.hand_over([source])
    for task in tasks:
        task()
    background.close()
    assert [float(columns["first"][0, 0]) for _, _, columns in archive.blocks] == [0, 1, 2, 3]


def test_the_latest_record_can_be_amended_and_no_other():
    archive, background, kept, source = setup()
    kept.amend(0, loss=9.0)
    kept.keep(0, {"time": 0.0}, [source])
    kept.keep(1, {"time": 0.0}, [source])
    kept.amend(0, loss=9.0)
    kept.amend(1, loss=torch.tensor(0.5))
    kept.hand_over([source])
    background.close()
    assert [values for _, _, values in archive.lines] == [{}, {"loss": 0.5}]


def test_losses_of_all_kinds_keep_their_places():
    archive, background, kept, source = setup()
    for step, loss in enumerate([torch.tensor(1.0), None, 2.0, torch.tensor(3.0, dtype=torch.float64)]):
        kept.keep(step, {"time": 0.0} | ({} if loss is None else {"loss": loss}), [source])
    kept.hand_over([source])
    background.close()
    assert [values.get("loss") for _, _, values in archive.lines] == [1.0, None, 2.0, 3.0]


def test_nothing_kept_nothing_handed_over():
    archive, background, kept, source = setup()
    kept.hand_over([source])
    background.close()
    assert archive.blocks == archive.lines == []


def test_one_number():
    loss = torch.tensor([2.0], requires_grad=True)
    copy = one_number(loss)
    assert copy.shape == ()
    assert not copy.requires_grad
    assert copy.data_ptr() != loss.data_ptr()
    assert one_number(3) == 3.0
    assert one_number(None) is None
    assert one_number(torch.ones(2)) is None
