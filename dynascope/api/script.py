"""The front door of observation for somebody's unmodified script: ``dynascope run SCRIPT``.

The script runs as under plain python: ``__main__``, ``sys.argv``, ``sys.path``, exit codes and tracebacks are
the same, and its output is its own. torch is not imported before the script does it (the script may set its
environment first), so everything that needs torch is loaded at that moment, by name.
"""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from dynascope.training.launch.as_python import run_as_main, when_imported


def run_script(
    script: str,
    args: Sequence[str] = (),
    *,
    to: str | Path | None = None,
    every: int = 1,
    max_overhead: float | None = None,
    output: Literal["identity", "softmax"] | None = None,
    module: bool = False,
    report: bool = True,
    before_finish: Sequence[Callable[[Any], object]] = (),
    on_finish: Sequence[Callable[[Path], object]] = (),
) -> int:
    """Run an unmodified script and record the charges of every model that it trains.

    Models, optimisers, inputs and losses are found while the script runs; what could not be observed is said
    in one warning at the end. Once the script has started, its output, exceptions and exit code stand,
    whatever happens here.

    Args:
        script: path of the script, or with ``module`` the name of a module.
        args: the script's own arguments.
        to: folder of the run; None for a new one under ``runs/``. Further optimisers get -2, -3, ...
            appended.
        every: record each ``every``-th step.
        max_overhead: share of the time that recording may take.
        output: the output head; None to find out from the first three batches.
        module: run a module as ``python -m`` does.
        report: write ``report.html`` into the folder of each run.
        before_finish: called with each run's archive at the end, while it can still be written to.
        on_finish: called with each run's folder when it is complete.

    Returns:
        The script's exit code; 2 if there is no such script or the folder holds a run already.
    """
    name = script if module else Path(script).stem
    path = Path(to or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}").absolute()
    refusal = _refusal(script, path, module=module)
    if refusal:
        return _say(refusal, 2)
    wishes = {"every": every, "max_overhead": max_overhead, "output": output}
    watches: list[Any] = []
    command = {"script": script, "arguments": list(args)}
    stop = when_imported("torch", partial(_watch, watches, path, wishes, command))
    code, error = run_as_main(script, args, module=module)
    stop()
    before_finish = (_store_predictions, *before_finish)
    on_finish = (*((_write_report,) if report else ()), *on_finish)
    missed = watches[0].close(error, before_finish, on_finish) if watches else _never_watched()
    if missed:
        _say(f"not everything was observed: {'; '.join(missed)}", code)
    return code


def _watch(watches: list[Any], path: Path, wishes: dict[str, Any], command: dict[str, Any]) -> None:
    """Begin to watch, now that torch is there; an error of ours must not reach the script's import."""
    try:
        watch = import_module("dynascope.training.script_watch").ScriptWatch
        watches.append(watch(path, wishes, _instruments, command))
    except Exception as error:
        _say(f"nothing will be observed ({type(error).__name__}: {error})", 0)


def _never_watched() -> list[str]:
    # Where torch is there, the reason has been said already.
    return [] if "torch" in sys.modules else ["torch was never imported"]


def _instruments() -> list[Any]:
    return [import_module("dynascope.probes.charges").ChargeInstrument]


def _store_predictions(writer: Any) -> None:
    import_module("dynascope.diagnosis.closing").store_predictions(writer)


def _write_report(path: Path) -> None:
    import_module("dynascope.report").write(path)


def _refusal(script: str, path: Path, *, module: bool) -> str | None:
    """Why the script cannot be started, None if it can."""
    if not module and not Path(script).is_file():
        return f"cannot open the script {script!r}: there is no such file; give a Python file, or -m and a module"
    if (path / "run.json").exists():
        return f"{path} already holds a run; give another folder with --to"
    return None


def _say(text: str, code: int) -> int:
    """One line on the error stream; the code is passed through."""
    sys.stdout.flush()  # what the script printed comes first
    sys.stderr.write(f"dynascope run: {text}\n")
    return code
