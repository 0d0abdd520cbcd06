"""Runs a script or a module as ``python SCRIPT`` or ``python -m MODULE`` would, inside this process.

Only the standard library is imported here: nothing may be loaded before the script loads it.
"""

import builtins
import importlib.util
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

# Frames of ours are taken out of the tracebacks of scripts.
OURS = str(Path(__file__).parents[2]) + os.sep
# What a shell reports for a process that Ctrl-C ended.
INTERRUPTED = 130


def run_as_main(target: str, args: Sequence[str], *, module: bool) -> tuple[int, BaseException | None]:
    """Run a script or a module as ``__main__``.

    Args:
        target: path of a script, or name of a module.
        args: what follows it on the command line.
        module: ``target`` is a module.

    Returns:
        The exit code that plain python would give, and the exception that ended the script, if one did; what
        python prints about it has been printed.
    """
    with _main_module(target, args, module=module) as main:
        try:
            if module:
                runpy._run_module_as_main(target, alter_argv=True)  # type: ignore[attr-defined]  # behind `python -m`
            else:
                _execute(target, main)
        except SystemExit as error:
            return exit_code(error), error
        except BaseException as error:
            return _print_uncaught(error), error
    return 0, None


def exit_code(error: SystemExit) -> int:
    """The exit code of ``sys.exit``; a message that stands in its place is printed, as python does.

    Args:
        error: the exception.

    Returns:
        The code.
    """
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    sys.stderr.write(f"{error.code}\n")
    return 1


def _print_uncaught(error: BaseException) -> int:
    """Print an uncaught exception with the script's own hook, without frames of ours."""
    hide_frames(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    sys.excepthook(type(error), error, error.__traceback__)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def hide_frames(error: BaseException) -> None:
    """Take the frames of this package out of a traceback and those of its causes.

    Args:
        error: an exception; its traceback is changed.
    """
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = _without_ours(each.__traceback__)
        linked = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        waiting += [other for other in linked if isinstance(other, BaseException)]


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    kept = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(OURS):
            kept.append(trace)
        trace = trace.tb_next
    for position, each in enumerate(kept):
        each.tb_next = kept[position + 1] if position + 1 < len(kept) else None
    return kept[0] if kept else None


def _execute(script: str, main: ModuleType) -> None:
    with io.open_code(os.path.abspath(script)) as file:
        source = file.read()
    exec(compile(source, main.__file__ or script, "exec", dont_inherit=True), main.__dict__)


@contextmanager
def _main_module(target: str, args: Sequence[str], *, module: bool) -> Iterator[ModuleType]:
    """A fresh ``__main__``, with ``sys.argv`` and ``sys.path`` as the script expects them; ours return afterwards."""
    main = ModuleType("__main__")
    main.__dict__.update({"__builtins__": builtins, "__annotations__": {}})
    if not module:
        path = os.path.abspath(target)
        loader = SourceFileLoader("__main__", path)
        main.__dict__.update({"__file__": path, "__cached__": None, "__loader__": loader})
    before = sys.argv, list(sys.path), sys.modules["__main__"]
    sys.argv = ["-m" if module else target, *args]
    if not sys.flags.safe_path:
        # What stands first now is the folder of the program that started us.
        sys.path[:1] = [os.getcwd() if module else os.path.dirname(os.path.realpath(target))]
    sys.modules["__main__"] = main
    try:
        yield main
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before


def when_imported(name: str, task: Callable[[], None]) -> Callable[[], None]:
    """Do something as soon as a module has been imported, at once if it has been already.

    Args:
        name: a top-level module.
        task: called without arguments; its errors are the import's, so it had better have none.

    Returns:
        Stops the waiting.
    """
    if name in sys.modules:
        task()
        return lambda: None
    finder = _Waiting(name, task)
    sys.meta_path.insert(0, finder)
    return finder.stop


class _Waiting(MetaPathFinder):
    """Stands before all finders until one module is imported, and lets the others do the finding."""

    def __init__(self, name: str, task: Callable[[], None]) -> None:
        self._name, self._task = name, task

    def stop(self) -> None:
        """Wait no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module with the other finders, and have its loader call the task when it is done.

        Args:
            fullname: module asked for.
            path: search path of its package.
            target: module to reload.

        Returns:
            The spec, or None for every other module.
        """
        if fullname != self._name:
            return None
        self.stop()
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_then_tell(module: ModuleType) -> None:
                del loader.exec_module  # the loader is as it was
                execute(module)
                self._task()

            loader.exec_module = execute_then_tell
        return spec
