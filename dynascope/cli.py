"""The command line: the same verbs as in Python. It parses and prints; every decision is made elsewhere.

Nothing here imports torch before a command needs it, so that ``--help`` answers at once.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from dynascope.base.errors import DynascopeError

# Options of `run` that take a value: everything after the first other word belongs to the user's script.
_RUN_OPTIONS = {"--to", "--every", "--max-overhead", "--output"}


@dataclass(frozen=True)
class Inspect:
    """Find and verify the symmetries of a model and what they conserve.

    Example: dynascope inspect my_package.models:make --input float32[4,3,32,32]
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """module:factory; the factory returns the model, or (model, inputs)."""
    input: Annotated[str | None, arg(metavar="DTYPE[SHAPE]")] = None
    """dtype[shape], such as float32[4,3,32,32] or int64[2,16]; needed where the factory gives no inputs."""
    output: Literal["identity", "softmax"] = "identity"
    """softmax if the loss ignores a common shift of the logits (cross-entropy)."""
    mode: Literal["train", "eval"] | None = None
    """Mode to inspect in; the model's own if not given."""
    census: bool = False
    """Also measure the Jacobian's nullity and account for it (small models)."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the anatomy."""
        from dynascope.api.inspect import inspect
        from dynascope.api.targets import model_and_inputs

        model, inputs = model_and_inputs(self.model, self.input, mode=self.mode)
        anatomy = inspect(model, inputs, self.output, mode=self.mode)
        if self.census:
            anatomy.census()
        print(_strict_json(anatomy.to_dict()) if self.json else anatomy)
        return 0


@dataclass(frozen=True)
class Run:
    """Run an UNMODIFIED training script under observation.

    Its output, exceptions and exit code stay its own.

    Options of dynascope come before the script, everything after is the script's.

    Example: dynascope run --to runs/a train.py --epochs 3
    """

    command: Annotated[Positional[str], arg(metavar="SCRIPT")]
    """The script, or -m and a module, followed by its own arguments."""
    to: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the run, which must not hold a run yet; a new dated one under runs/ if not given."""
    every: int = 1
    """Record every k-th optimiser step."""
    max_overhead: Annotated[float | None, arg(metavar="FRACTION")] = None
    """Thin the record out so that observing costs at most this fraction of the time, such as 0.05."""
    output: Literal["identity", "softmax"] | None = None
    """What the loss ignores; found out on the first batches if not given."""

    def run(self) -> int:
        """Never reached: ``run`` is split from the script's own arguments first."""
        return 2


@dataclass(frozen=True)
class Predict:
    """Apply the laws to a run: each charge's account, its law, and the naive one."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of the run."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the table; exit code 1 if an account does not balance."""
        from dynascope.api.predict import predict

        found = predict(self.run_folder)
        print(_strict_json({"run": found.run, "verdicts": found.verdicts()}) if self.json else found)
        return 0 if found.balances else 1


@dataclass(frozen=True)
class Report:
    """Write a run's report: one self-contained HTML file, or one figure as PNG."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of the run."""
    to: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where to write; inside the run's folder if not given."""
    png: Annotated[str | None, arg(metavar="FIGURE")] = None
    """Name of a single figure; an unknown name lists those there are."""

    def run(self) -> int:
        """Write and print the path."""
        from dynascope import report

        if self.png is None:
            print(report.write(self.run_folder, self.to))
        else:
            target = self.to or self.run_folder / f"{self.png.replace('/', '_').replace(':', '_')}.png"
            print(report.png(self.run_folder, self.png, target))
        return 0


@dataclass(frozen=True)
class Reproduce:
    """Measure a paper's claims again, each with a negative control and a verdict."""

    study: Annotated[Positional[str], arg(metavar="STUDY")]
    """Name of the study (see `dynascope list`), or all."""
    scale: Annotated[Literal["quick", "default", "full"], arg(metavar="SCALE")] = "quick"
    """How much to run: quick, default or full."""
    to: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where results are kept, so that a finished study is not repeated."""
    json: bool = False
    """Print one JSON object with every claim."""

    def run(self) -> int:
        """Print the verdicts; exit code 1 if a claim is refuted."""
        from dynascope.api.reproduce import reproduce

        result = reproduce(self.study, scale=self.scale, folder=self.to, progress=not self.json)
        print(_strict_json(result.to_dict()) if self.json else result)
        return 1 if result.verdict == "refuted" else 0


@dataclass(frozen=True)
class List:
    """List the studies, probes and tasks there are."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print names with one line each."""
        from dynascope.api.catalogue import catalogue

        found = catalogue()
        if self.json:
            print(_strict_json(found))
        for room, members in () if self.json else found.items():
            print(room)
            for name, words in members.items():
                print(f"  {name:<22} {words}")
        return 0


Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command ``dynascope``.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        0 well, 1 a verdict failed, 2 bad input, 130 interrupted. Under ``run``, the exit code of the script.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        from dynascope import __version__

        print(f"dynascope {__version__}")
        return 0
    try:
        split = _split_run(argv)
        return _parsed(argv).run() if split is None else _run_script(*split)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    except (DynascopeError, ValueError, OSError) as error:
        return _refuse(_one_line(error), 2)
    except KeyboardInterrupt:
        return _refuse("interrupted", 130)


def _parsed(argv: Sequence[str]) -> Any:
    wanted: Any = FlagCreatePairsOff[OmitArgPrefixes[Command]]  # type: ignore[valid-type]
    return tyro.cli(wanted, prog="dynascope", description=_DESCRIPTION, args=argv)


_DESCRIPTION = "See, predict and steer how a PyTorch network learns."


def _refuse(words: str, code: int) -> int:
    print(f"dynascope: {words}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _strict_json(found: dict[str, Any]) -> str:
    """JSON as every reader knows it: numbers that are not finite are written as words, as in a run's files."""
    from dynascope.runs.layout import jsonable

    return json.dumps(jsonable(found, "result"), indent=2, allow_nan=False)


def _split_run(argv: list[str]) -> tuple[Run, bool, list[str]] | None:
    """Our options, whether a module is meant, and the script with its own arguments; None if this is not for us."""
    if not argv or argv[0] != "run":
        return None
    ours, module, at = ["run"], False, 1
    while at < len(argv) and argv[at].startswith("-"):
        word = argv[at]
        at += 1
        if word in {"-m", "--"}:
            module = word == "-m"
            break
        take = word.replace("_", "-") in _RUN_OPTIONS
        ours += [word, *argv[at : at + take]]
        at += take
    if at >= len(argv):
        return None
    return _parsed([*ours, "--", argv[at]]), module, argv[at:]


def _run_script(options: Run, module: bool, words: list[str]) -> int:
    from dynascope.api.script import run_script
    from dynascope.training.pace import Pace

    Pace(options.every, options.max_overhead)  # refuses what is out of range while the script has not started
    return run_script(
        words[0], words[1:], to=options.to, every=options.every, max_overhead=options.max_overhead,
        output=options.output, module=module,
    )  # fmt: skip
