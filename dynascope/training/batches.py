"""Which examples each step sees: a function of the step and the seed alone."""

import torch
from jaxtyping import Int
from torch import Tensor

from dynascope.base.random import seed_from
from dynascope.functional.task import Data


class Batches:
    """The batch of any step, drawn by indexing tensors in memory.

    The indices of an epoch come from a generator of their own, seeded by (seed, epoch). So there is no
    sampler state to save: a resumed run sees the batches that the uninterrupted one would have seen.

    Args:
        data: the examples; batches are on the same device.
        batch_size: examples in each batch; None makes every batch the whole data, in order.
        seed: fixes all draws.
        replacement: draw each batch independently; otherwise every epoch is a new permutation, of which the
            examples that do not fill a last batch are left out.

    Raises:
        ValueError: batch_size is below 1 or above the number of examples.

    Example:
        >>> data = Data(torch.arange(4.0), torch.arange(4))
        >>> batches = Batches(data, batch_size=2, seed=0)
        >>> sorted(int(y) for step in (0, 1) for y in batches(step)[1])
        [0, 1, 2, 3]
    """

    def __init__(self, data: Data, *, batch_size: int | None, seed: int, replacement: bool = False) -> None:
        if batch_size is not None and not 1 <= batch_size <= len(data):
            raise ValueError(
                f"batch_size={batch_size}: give a number from 1 to {len(data)}, the number of training "
                "examples, or None for all of them"
            )
        self.data, self.batch_size, self.seed, self.replacement = data, batch_size, seed, replacement
        self._epoch = -1
        self._rows: Int[Tensor, "batches batch"] = torch.empty(0, 0, dtype=torch.int64)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of a step."""
        if self.batch_size is None:
            return self.data.x, self.data.y
        epoch, position = divmod(step, len(self.data) // self.batch_size)
        if epoch != self._epoch:
            self._rows = self.indices(epoch, self.batch_size).to(self.data.x.device)
            self._epoch = epoch
        row = self._rows[position]
        return self.data.x[row], self.data.y[row]

    def indices(self, epoch: int, batch_size: int) -> Int[Tensor, "batches batch"]:
        """Draw the examples of one epoch, a batch a row.

        Args:
            epoch: number of the epoch.
            batch_size: examples in each batch.

        Returns:
            Indices into the data, on the CPU.
        """
        generator = torch.Generator().manual_seed(seed_from("batches", epoch, seed=self.seed))
        shape = (len(self.data) // batch_size, batch_size)
        if self.replacement:
            return torch.randint(len(self.data), shape, generator=generator)
        return torch.randperm(len(self.data), generator=generator)[: shape[0] * shape[1]].view(shape)
