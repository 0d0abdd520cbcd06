"""Copy this file to add a probe: the new file's name is the probe's public name, and nothing else needs editing.

A probe is a pure function of a ``Snapshot``. It must leave weights, buffers, gradients, modes, hooks and
random state as they were. It returns named numbers; tensors stay where they are (no ``.item()``: that would
make training wait).
"""

from torch import Tensor

from dynascope.base.cards import ProbeCard
from dynascope.functional.params import norm
from dynascope.functional.snapshot import Snapshot
from dynascope.probes import PROBES


@PROBES.register(
    ProbeCard(
        name="skeleton",
        measures="norm of all parameters taken as one vector",
        equation="|theta|_2",
        cost="one pass over the parameters",
        fails_when="never",
    )
)
def skeleton(snapshot: Snapshot) -> dict[str, Tensor]:
    """Norm of the parameters.

    Args:
        snapshot: the moment of training to look at.

    Returns:
        ``parameter_norm``.
    """
    return {"parameter_norm": norm(snapshot.params)}
