"""The front door of prediction."""

from collections.abc import Mapping
from pathlib import Path

from dynascope.diagnosis.accounts import Predictions, predict_run
from dynascope.runs import Run


def predict(run: Run | str | Path, *, assume: Mapping[str, float] | None = None) -> Predictions:
    """What must the charges of this run do? The exact account, the continuous law, and the naive one beside them.

    The account is fed the size of every update and the first value of the charge; the continuous law is fed the same.
    Neither sees a later value of the charge that it is compared with.

    Args:
        run: a run, or its folder.
        assume: settings to assume in place of the recorded ones, such as ``{"weight_decay": 0.0}``; a wrong one leaks.

    Returns:
        Predictions by family: print them, index them by name, or ask ``.balances``.
    """
    return predict_run(run, assume=assume)
