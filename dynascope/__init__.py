"""dynascope: see, predict and steer how a PyTorch network learns.

Importing the package imports neither torch nor any optional package: every public name resolves on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers see
    from dynascope import probes as probes
    from dynascope.api.inspect import inspect as inspect
    from dynascope.api.observe import observe as observe
    from dynascope.api.predict import predict as predict
    from dynascope.api.reproduce import reproduce as reproduce
    from dynascope.runs import load as load

_FUNCTIONS = {
    "inspect": "dynascope.api.inspect",
    "observe": "dynascope.api.observe",
    "predict": "dynascope.api.predict",
    "reproduce": "dynascope.api.reproduce",
    "load": "dynascope.runs",
}
_NAMESPACES = {"probes": "dynascope.probes"}

__all__ = ["__version__", "inspect", "load", "observe", "predict", "probes", "reproduce"]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562) and keep it."""
    if name in _FUNCTIONS:
        value = getattr(import_module(_FUNCTIONS[name]), name)
    elif name in _NAMESPACES:
        value = import_module(_NAMESPACES[name])
    else:
        raise AttributeError(f"dynascope has no attribute {name!r}; public names are {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
