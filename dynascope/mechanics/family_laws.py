"""The laws of one recorded family of charges, as predictions that can be compared with the record.

For one parameter group of SGD, whose settings do not change, recorded at every step from the first one on. What a law
was fed is listed in its ``inputs``; none is fed a later value of the charge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dynascope.base.claims import Prediction
from dynascope.base.series import Series
from dynascope.base.settings import SGDSettings
from dynascope.mechanics import charge_laws, continuous_laws
from dynascope.mechanics.predictions import prediction
from dynascope.mechanics.step_settings import StepSettings, step_settings


@dataclass(frozen=True)
class FamilyRecord:
    """What was recorded about a family, and what the optimiser was told to do.

    Attributes:
        value: the charges before each step, from step 0 on.
        optimizer: settings of SGD, the same for all legs and steps.
        source: B(u, u) of the applied direction at each step; None for linear charges.
        gradient: B(theta, g) at each step, 0 by symmetry; needed only for ``account_with_gradient``.

    Raises:
        ValueError: a step is missing, or another series has other steps.
    """

    value: Series
    optimizer: SGDSettings
    source: Series | None = None
    gradient: Series | None = None

    def __post_init__(self) -> None:
        if not np.array_equal(self.value.steps, np.arange(len(self.value))) or not len(self.value):
            raise ValueError(f"{self.value.name!r} must be recorded at every step from 0 on; record with every=1")
        for other in filter(None, (self.source, self.gradient)):
            if not np.array_equal(other.steps, self.value.steps):
                raise ValueError(f"{other.name!r} and {self.value.name!r} must share their steps")

    @property
    def degree(self) -> int:
        """1 for linear charges, 2 for quadratic ones."""
        return 1 if self.source is None else 2


def law(record: FamilyRecord, *, degree: int | None = None) -> Prediction:
    """The paper's law: of first order in time without momentum, of second with it.

    Args:
        record: the family.
        degree: the degree that the law is to assume; that of the family unless a control asks for another.

    Returns:
        The charges before each step and after the last.
    """
    name = "continuous" if record.optimizer.momentum else "first_order"
    solve = continuous_laws.continuous if record.optimizer.momentum else continuous_laws.first_order
    return _predict(name, solve, record, degree=degree or record.degree, **_source(record))


def naive(record: FamilyRecord, *, optimizer: SGDSettings | None = None) -> Prediction:
    """Gradient flow, which knows no finite step: pure decay.

    Args:
        record: the family.
        optimizer: settings to assume in place of the recorded ones.

    Returns:
        The charges before each step and after the last.
    """
    return _predict("naive", continuous_laws.naive, record, optimizer=optimizer, degree=record.degree)


def account(record: FamilyRecord) -> Prediction:
    """The exact discrete account, which assumes the symmetry.

    Args:
        record: the family.

    Returns:
        The charges before each step and after the last.
    """
    return _predict("account", _accounted, record, degree=record.degree, **_source(record))


def account_with_gradient(record: FamilyRecord) -> Prediction:
    """The account of a charge that is conserved only at normalisation epsilon 0, the epsilon's term included.

    Args:
        record: the family, with its gradient form.

    Returns:
        The charges before each step and after the last.

    Raises:
        ValueError: the gradient form was not recorded.
    """
    if record.gradient is None:
        raise ValueError(f"the gradient form of {record.value.name!r} is missing; record the column 'gradient'")
    fed = {**_source(record), "epsilon": record.gradient.values}
    return _predict("account", _accounted, record, degree=record.degree, **fed)


def _accounted(value: Any, settings: StepSettings, **inputs: Any) -> Float[np.ndarray, "steps1 size"]:
    return charge_laws.account(value, settings, **inputs).value


def _source(record: FamilyRecord) -> dict[str, Any]:
    return {} if record.source is None else {"source": record.source.values}


def _predict(
    name: str,
    solve: Callable[..., Float[np.ndarray, "steps1 size"]],
    record: FamilyRecord,
    *,
    optimizer: SGDSettings | None = None,
    **inputs: Any,
) -> Prediction:
    """Solve a law from the first value on, and note what it was fed."""
    settings = step_settings(optimizer or record.optimizer, steps=len(record.value))
    values = solve(record.value.values[0], settings, **inputs)
    quantity = record.value.name
    recorded = {"source": "source", "epsilon": "gradient"}
    fed = (f"{quantity} at step 0", *(f"{recorded[key]} of {quantity}" for key in recorded if key in inputs))
    return prediction(name, values, steps=np.arange(len(values)), quantity=quantity, inputs=fed)
