"""What may be loaded when: no torch and nothing optional before it is needed, and nobody imports upwards."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import dynascope

ROOT = Path(__file__).parents[2]
BUDGET = 30.0
"""Seconds that --help may take before something heavy must have crept in: torch alone takes a few. Idle machines need
half a second; this is no benchmark."""

PLACES = {
    "import dynascope": "import dynascope",
    "dynascope.load": "import dynascope; dynascope.load",
    "dir(dynascope)": "import dynascope; dir(dynascope)",
    "dynascope.runs": "import dynascope.runs",
    "dynascope.report": "import dynascope.report",
    "dynascope.base": "from dynascope.base import cards, claims, clock, errors, random, registry, series, settings",
    "a missing run": "import dynascope, contextlib\nwith contextlib.suppress(Exception): dynascope.load('nowhere')",
    "--help": "import runpy; sys.argv = ['dynascope', '--help']; runpy.run_module('dynascope', run_name='__main__')",
    "report --help": (
        "import runpy; sys.argv = ['dynascope', 'report', '--help']; runpy.run_module('dynascope', run_name='__main__')"
    ),
    "--version": "from dynascope.cli import main; main(['--version'])",
    "run of a missing script": "from dynascope.cli import main; main(['run', 'no such script.py'])",
    "report of a missing run": "from dynascope.cli import main; main(['report', 'no such folder'])",
}


def optional_packages() -> set[str]:
    """Import names of everything that an extra installs here, and torch, which is needed later than one thinks."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    wanted = {_plain(re.match(r"[\w.-]+", entry)) for entries in extras.values() for entry in entries} - {"dynascope"}
    installed = {name for name, owners in packages_distributions().items() if {_plain(o) for o in owners} & wanted}
    return installed | {"torch", "scipy", "pandas", "matplotlib", "lightning", "transformers", "sklearn", "pyarrow"}


def _plain(name: re.Match[str] | str | None) -> str:
    text = name.group() if isinstance(name, re.Match) else str(name)
    return text.lower().replace("_", "-")


def loaded_by(code: str) -> set[str]:
    """Top-level names of all modules after a piece of code, in a fresh interpreter."""
    program = f"import sys\ntry:\n exec({code!r})\nexcept SystemExit:\n pass\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("place", PLACES)
def test_neither_torch_nor_anything_optional_is_loaded(place: str) -> None:
    loaded = loaded_by(PLACES[place])
    assert "dynascope" in loaded
    assert loaded & optional_packages() == set()


def test_the_question_can_be_answered_with_yes() -> None:
    """The control: what needs torch is seen to load it, and the list of optional packages is not empty."""
    assert "torch" in loaded_by("import dynascope; dynascope.inspect")
    assert {"torch", "pytest", "hypothesis", "matplotlib"} <= optional_packages()
    assert "matplotlib" in loaded_by("import dynascope, matplotlib") & optional_packages()


def test_help_answers_quickly(record_property: Callable[[str, object], None]) -> None:
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "dynascope", "--help"], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    record_property("seconds of --help", round(seconds, 3))
    print(f"python -m dynascope --help took {seconds:.2f} s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: dynascope ")
    assert seconds < BUDGET


def test_public_names_resolve_on_first_use() -> None:
    assert set(dir(dynascope)) == set(dynascope.__all__)
    assert {"inspect", "observe", "predict", "reproduce", "load", "probes"} <= set(dynascope.__all__)
    for name in dynascope.__all__:
        assert getattr(dynascope, name) is getattr(dynascope, name)
    assert callable(dynascope.inspect)
    with pytest.raises(AttributeError, match=r"no attribute 'inspct'; public names are .*inspect.*observe.*predict"):
        dynascope.inspct  # noqa: B018


# ----------------------------------------------------------------------------------------------- who may import whom


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import-linter on the package in a folder; that copy, whatever is installed."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    options = ["--no-cache", "--no-logo", "--config", str(folder / "pyproject.toml")]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


def test_nobody_imports_upwards() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


FORBIDDEN = {
    "an upward import": ("base/clock.py", "import dynascope.training.loop", "Storeys: nobody imports upwards"),
    "a prediction that sees": ("mechanics/charge_laws.py", "import dynascope.runs.query", "A prediction cannot see"),
    "a loop that knows": ("training/loop.py", "import dynascope.probes.charges", "The loop does not know"),
    "a report with torch": ("report/page.py", "import torch", "Words, archive and report live without torch"),
    "a study that calculates": ("studies/neural_mechanics.py", "import numpy", "Studies contain no mathematics"),
    "doors that know each other": ("api/predict.py", "import dynascope.api.inspect", "Front doors do not know"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_import_is_found(name: str, tmp_path: Path) -> None:
    """The control: a copy of the package with one forbidden line breaks just the rule that forbids it."""
    file, line, rule = FORBIDDEN[name]
    shutil.copytree(ROOT / "dynascope", tmp_path / "dynascope", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    spoilt = tmp_path / "dynascope" / file
    spoilt.write_text(f"{spoilt.read_text()}\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [words for words in done.stdout.splitlines() if words.startswith(rule) and words.endswith("BROKEN")]


def test_every_room_has_its_storey() -> None:
    """The list of layers is complete; and each folder below the package is a room or a porch of the floor plan."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = json.dumps(next(c["layers"] for c in contracts if c["type"] == "layers"))
    rooms = {folder.name for folder in (ROOT / "dynascope").iterdir() if (folder / "__init__.py").exists()}
    assert rooms <= set(re.findall(r"\w+", layers))
