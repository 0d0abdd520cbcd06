import pytest
import torch

from dynascope.functional.task import Data


def test_data_is_indexed_by_slices_and_tensors() -> None:
    data = Data(torch.arange(10.0)[:, None], torch.arange(10))
    assert len(data) == 10
    assert data[2:5].y.tolist() == [2, 3, 4]
    picked = data[torch.tensor([7, 1])]
    assert picked.x.tolist() == [[7], [1]]
    assert picked.y.tolist() == [7, 1]


def test_inputs_and_targets_must_agree() -> None:
    with pytest.raises(ValueError, match="x has 3 examples and y has 2"):
        Data(torch.zeros(3, 1), torch.zeros(2))
