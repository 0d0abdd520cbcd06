"""What ``module:factory`` and ``float32[2,3]`` on a command line mean."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynascope.functional.model import as_function
from dynascope.functional.params import buffers_of, parameters_of

Mode = Literal["train", "eval"]
_INPUT = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[\d,\s]*)\]")


def model_and_inputs(target: str, described: str | None, *, mode: Mode | None = None) -> tuple[nn.Module, Any]:
    """Import a factory and call it.

    Args:
        target: ``module:factory``, the module importable from here.
        described: inputs as ``dtype[shape]``, or None where the factory gives them.
        mode: "train" or "eval", in which the model must accept the inputs; its present mode if None.

    Returns:
        The model and its example inputs.

    Raises:
        ValueError: the target or the inputs cannot be understood, or the model does not accept them.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"model is {target!r}; write module:factory, such as my_package.models:make")
    made = _made(target, _found(target, module_name, name))
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{target!r} gives {type(model).__name__}; it must give a module, or (module, inputs)")
    if described is not None:
        inputs = example(described)
    if inputs is None:
        raise ValueError(f"{target!r} gives no example inputs; add --input, such as --input float32[4,3,32,32]")
    _try(target, model, inputs, mode)
    return model, inputs


def _found(target: str, module_name: str, name: str) -> Any:
    """Import what a target names; a module that cannot be imported may raise anything."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ValueError(
            f"{target!r} cannot be found: {_words(error)}; the module must be importable from here"
        ) from error
    return found


def _made(target: str, found: Any) -> Any:
    if isinstance(found, nn.Module):
        return found
    try:
        return found()
    except Exception as error:
        raise ValueError(
            f"calling {target!r} failed: {_words(error)}; it must give a module, or (module, inputs), without arguments"
        ) from error


def _try(target: str, model: nn.Module, inputs: Any, mode: Mode | None) -> None:
    """Call the model once, without a trace on it: inputs that do not fit are said before anything is searched."""
    try:
        with torch.no_grad():
            as_function(model, mode=mode).on(parameters_of(model), buffers_of(model), inputs)
    except Exception as error:
        raise ValueError(f"{target!r} does not accept these inputs: {_words(error)}; see --input") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def example(described: str) -> Tensor:
    """Random inputs from a description.

    Args:
        described: ``dtype[shape]``.

    Returns:
        Standard normal numbers, or integers 0 and 1, from a fixed seed.

    Raises:
        ValueError: the description cannot be understood.
    """
    found = _INPUT.fullmatch(described.strip())
    dtype = getattr(torch, found["dtype"], None) if found else None
    if not found or not isinstance(dtype, torch.dtype):
        raise ValueError(f"input is {described!r}; write dtype[shape], such as float32[4,3,32,32] or int64[2,16]")
    shape = [int(n) for n in found["shape"].split(",") if n.strip()]
    if 0 in shape:
        raise ValueError(f"input is {described!r}; every size in it must be 1 or more")
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)
