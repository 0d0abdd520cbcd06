"""Optimiser settings as values, and the short name of any settings."""

import hashlib
import json
import math
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

_SGD_KEYS = {
    "learning_rate": "lr",
    "momentum": "momentum",
    "dampening": "dampening",
    "weight_decay": "weight_decay",
    "nesterov": "nesterov",
    "maximize": "maximize",
}


def _require(name: str, value: float, allowed: bool, permitted: str) -> None:
    if not (allowed and math.isfinite(value)):
        raise ValueError(f"{name}={value} must be {permitted}")


@dataclass(frozen=True)
class SGDSettings:
    r"""Settings of ``torch.optim.SGD``, with the ranges that it permits.

    v' = mu v + (1 - tau) (g + lambda theta), theta' = theta - eta u with u = v', or
    u = g + lambda theta + mu v' for Nesterov; tau counts as 0 at a parameter's first step and when mu = 0.

    Args:
        learning_rate: eta, finite and >= 0.
        momentum: mu, finite and >= 0.
        dampening: tau, finite; 0 for Nesterov.
        weight_decay: lambda, coupled (added to the gradient), finite and >= 0.
        nesterov: whether the look-ahead direction is applied; needs momentum > 0 and dampening = 0.
        maximize: whether the loss is climbed instead of descended.

    Raises:
        ValueError: a setting is outside its range.

    Example:
        >>> SGDSettings(0.1, momentum=0.9).momentum
        0.9
    """

    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        _require("learning_rate", self.learning_rate, self.learning_rate >= 0, "finite and >= 0")
        _require("momentum", self.momentum, self.momentum >= 0, "finite and >= 0")
        _require("dampening", self.dampening, True, "finite")
        _require("weight_decay", self.weight_decay, self.weight_decay >= 0, "finite and >= 0")
        if self.nesterov and not (self.momentum > 0 and self.dampening == 0):
            raise ValueError(
                f"nesterov=True with momentum={self.momentum}, dampening={self.dampening}: "
                "Nesterov needs momentum > 0 and dampening = 0"
            )

    @classmethod
    def from_group(cls, group: Mapping[str, Any]) -> "SGDSettings":
        """Read the settings out of a parameter group of ``torch.optim.SGD``.

        Args:
            group: one element of ``optimizer.param_groups``; the learning rate may be a tensor.

        Returns:
            The group's settings.

        Raises:
            ValueError: the group lacks one of SGD's settings, so it belongs to another optimiser.
        """
        missing = sorted(key for key in _SGD_KEYS.values() if key not in group)
        if missing:
            raise ValueError(f"group has the keys {sorted(group)} and lacks {missing}: not a torch.optim.SGD group")
        numbers = {name: float(group[key]) for name, key in list(_SGD_KEYS.items())[:4]}
        return cls(**numbers, nesterov=bool(group["nesterov"]), maximize=bool(group["maximize"]))

    def to_dict(self) -> dict[str, float | bool]:
        """The settings as a dictionary, for JSON.

        Returns:
            Names and values in the order of the fields.
        """
        return asdict(self)


def identity(settings: object) -> str:
    """A short, stable name of any settings: 12 hexadecimal digits.

    Equal settings have equal names on every machine and in every Python session; the order of dictionary
    entries does not count, nor does 1 against 1.0. Two dataclasses of different type differ even when their
    fields agree.

    Args:
        settings: dataclasses, mappings with string keys, sequences, sets, paths, enumerations, numbers,
            strings or None, nested as deep as you like.

    Returns:
        The first 12 hexadecimal digits of SHA-256 over a canonical text.

    Example:
        >>> identity({"a": 1, "b": 2.5}) == identity({"b": 2.5, "a": 1.0})
        True
    """
    text = json.dumps(_canonical(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: object) -> object:  # one branch for each kind of value, nothing else
    """The value as plain JSON; what JSON does not know carries its kind, so that kinds never collide."""
    match value:
        case Enum():
            return {"enum": f"{type(value).__qualname__}.{value.name}"}
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return _canonical_float(float(value))
        case PurePath():
            return {"path": value.as_posix()}
        case Mapping():
            return {"map": {_key(key): _canonical(entry) for key, entry in value.items()}}
        case Set():
            return {"set": sorted(json.dumps(_canonical(entry), sort_keys=True) for entry in value)}
        case list() | tuple():
            return [_canonical(entry) for entry in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            entries = {entry.name: _canonical(getattr(value, entry.name)) for entry in fields(value)}
            return {"type": type(value).__qualname__, "fields": entries}
        case _:
            raise TypeError(
                f"settings contain {value!r} of type {type(value).__name__}, which has no stable name: "
                "use dataclasses, mappings, sequences, sets, paths, enumerations, numbers, strings or None"
            )


def _canonical_float(value: float) -> object:
    """A float whose spelling is equal whenever the values are equal (1 and 1.0, 0.0 and -0.0)."""
    if not math.isfinite(value):
        return {"float": repr(value)}
    return int(value) if value.is_integer() else value


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"settings contain the key {key!r} of type {type(key).__name__}; keys must be strings")
    return key
