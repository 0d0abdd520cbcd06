"""One thread in every test: results do not depend on the machine, and parallel test runs do not fight."""

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import config

torch.set_num_threads(1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Lets arguments of a wrong type pass the shape checks of `make test`, so that our own message is seen."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
