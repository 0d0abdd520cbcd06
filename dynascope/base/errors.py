"""Errors that say what was given, what is permitted and what to do.

Every error keeps its parts as attributes and as ``args``, so that it survives pickling on its way back from a
worker process.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class DynascopeError(Exception):
    """Base of every error that dynascope raises on purpose, apart from ``ValueError`` for bad arguments."""


class UnknownName(DynascopeError, LookupError):
    """A name that nothing is registered under; the message lists the nearest and all known names.

    Args:
        kind: what was looked up, in the singular ("probe", "study", "task").
        name: the name that was given.
        known: the names that exist.

    Example:
        >>> print(UnknownName("probe", "chrages", ["charges", "kernel"]))
        no probe is called 'chrages'; did you mean 'charges'? Known: charges, kernel
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(kind, name, self.known)

    def __str__(self) -> str:
        nearest = get_close_matches(self.name, self.known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        return f"no {self.kind} is called {self.name!r}{hint} Known: {', '.join(self.known) or 'none'}"


class Unsupported(DynascopeError):
    """Something that cannot be computed rightly here, and is therefore refused.

    Args:
        what: what was asked for, and of which module or function.
        reason: why the answer would be wrong or undefined.
        way_out: what to do instead.
    """

    def __init__(self, what: str, reason: str, way_out: str) -> None:
        self.what, self.reason, self.way_out = what, reason, way_out
        super().__init__(what, reason, way_out)

    def __str__(self) -> str:
        return f"{self.what} is not supported: {self.reason}. Instead: {self.way_out}"


class DamagedRun(DynascopeError):
    """A run folder, or a file in it, that cannot be read.

    Args:
        path: the damaged file or folder.
        reason: what is wrong with it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path, self.reason = Path(path), reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"{self.path} cannot be read as part of a run: {self.reason}"


class NotASymmetry(DynascopeError):
    """A claimed symmetry that changes what the network computes.

    Args:
        name: name of the claimed symmetry.
        residual: the relative change that was measured.
        tolerance: the largest change that rounding explains.
    """

    def __init__(self, name: str, residual: float, tolerance: float) -> None:
        self.name, self.residual, self.tolerance = name, residual, tolerance
        super().__init__(name, residual, tolerance)

    def __str__(self) -> str:
        return (
            f"{self.name} is not a symmetry: acting with it changes the output by {self.residual:.3g}, "
            f"and rounding explains at most {self.tolerance:.3g}"
        )


class AlreadyObserved(DynascopeError):
    """An observer was attached to an optimiser that is already being observed; the message says which."""
