"""A task: exactly specified data, model, loss and metric, as a value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Shaped
from torch import Tensor, nn

from dynascope.base.cards import TaskCard

Output = Literal["softmax", "identity"]


@dataclass(frozen=True, eq=False)
class Data:
    """Examples and what the network should answer.

    Args:
        x: inputs, one example a row.
        y: targets, one example a row.

    Raises:
        ValueError: x and y differ in the number of examples.
    """

    x: Shaped[Tensor, " examples *features"]
    y: Shaped[Tensor, "*targets"]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} examples and y has {len(self.y)}; they must agree")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice | Tensor) -> "Data":
        """The examples of a slice or of an index tensor."""
        return Data(self.x[index], self.y[index])


@dataclass(frozen=True, eq=False)
class Task:
    """Everything that training needs besides an optimiser.

    Args:
        name: public name.
        train: examples to learn from.
        test: examples to judge by.
        model: makes a freshly initialised network from a seed.
        loss: scalar from (output, y); its reduction over examples is written out where it is defined.
        output: which change of the output the loss ignores ("softmax": a common shift of the logits).
        metric: scalar from (output, y) for people to read, such as accuracy.
        card: facts about the data.
    """

    name: str
    train: Data
    test: Data
    model: Callable[[int], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    output: Output
    metric: Callable[[Tensor, Tensor], Tensor]
    card: TaskCard
