"""What ``module:factory`` and ``float32[2,3]`` on a command line mean."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_INPUT = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[\d,\s]*)\]")


def model_and_inputs(target: str, described: str | None) -> tuple[nn.Module, Any]:
    """Import a factory and call it.

    Args:
        target: ``module:factory``, the module importable from here.
        described: inputs as ``dtype[shape]``, or None where the factory gives them.

    Returns:
        The model and its example inputs.

    Raises:
        ValueError: the target or the inputs cannot be understood.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not name:
        raise ValueError(f"model is {target!r}; write module:factory, such as torchvision_free.models:make")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = importlib.import_module(module_name)
        for part in name.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{target!r} cannot be found: {error}; the module must be importable from here") from error
    made = factory if isinstance(factory, nn.Module) else factory()
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{target!r} returned a {type(model).__name__}; it must return a module, or (module, inputs)")
    if described is not None:
        inputs = example(described)
    if inputs is None:
        raise ValueError(f"{target!r} gives no example inputs; add --input, such as --input float32[4,3,32,32]")
    return model, inputs


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
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)
