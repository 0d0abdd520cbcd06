"""The command line: every command on something tiny, and every bad input in one line with exit code 2."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import dynascope as ds
from dynascope import __version__
from dynascope.base.cards import StudyCard
from dynascope.base.claims import Claim, conclude
from dynascope.base.registry import Member
from dynascope.cli import main
from dynascope.studies import Study

COMMANDS = ("inspect", "run", "predict", "report", "reproduce", "list")
MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 3))

    def forward(self, x):
        return self.layers(x)

def both():
    return Net(), torch.ones(2, 5)

def needs(width):
    return Net()

def fails():
    raise RuntimeError("two\\nlines")

number = 3
nothing_to_learn = nn.ReLU()
"""
SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for step in range(int(sys.argv[sys.argv.index("--steps") + 1])):
    loss = model(torch.randn(6, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
sys.exit(7)
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """The command as a function of its arguments."""

    def call(*argv: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with somebody's modules in it is the current one."""
    (tmp_path / "somebodys_models.py").write_text(MODELS)
    (tmp_path / "somebodys_typo.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "somebodys_models", raising=False)


def train(to: Path, activation: type[nn.Module] = nn.ReLU) -> Path:
    """An observed run of ten steps; with another activation than the one inspected, its rescale charge leaks."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)]
    anatomy = ds.inspect(nn.Sequential(*layers).double(), torch.ones(2, 4))
    model = nn.Sequential(layers[0], activation(), layers[2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    with ds.observe(model, optimizer, anatomy=anatomy, to=to, report=False):
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(6, 4, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
    return to


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "healthy")


def strict(text: str) -> Any:
    """What a reader of standard JSON understands; Python's own NaN and Infinity are refused."""

    def refuse(word: str) -> float:
        raise ValueError(f"{word} is not strict JSON")

    return json.loads(text, parse_constant=refuse)


def one_line(said: Said) -> str:
    """The refusal: one line, ours, and nothing on the output."""
    assert said.code == 2
    assert said.out == ""
    assert said.err.endswith("\n")
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith(("dynascope: ", "dynascope run: "))
    assert "Traceback" not in said.err
    return said.err


# ------------------------------------------------------------------------------------------------ help and version


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"dynascope {__version__}\n", "")


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS)], ids=lambda c: " ".join(c) or "dynascope")
def test_help_fits_a_terminal_of_80_columns(
    command: tuple[str, ...], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = call(*command, "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"usage: dynascope{''.join(f' {c}' for c in command)} ")
    assert max(map(len, said.out.splitlines())) <= 80
    assert command or all(f"• {c} " in said.out for c in COMMANDS)
    assert call(*command, "-h") == said


def test_help_of_run_beside_other_words(call: Call, started: list[Any]) -> None:
    """Before the script it is ours, whatever else stands there."""
    assert call("run", "--every", "3", "--help", "train.py") == call("run", "--help")
    assert started == []


@pytest.mark.parametrize("argv", [(), ("inspct",), ("list", "--jsn"), ("run",), ("run", "-m"), ("run", "--every")])
def test_a_wrong_usage_is_said_with_exit_code_2(argv: tuple[str, ...], call: Call) -> None:
    said = call(*argv)
    assert said.code == 2
    assert said.out == ""
    assert "--help" in said.err
    assert "Traceback" not in said.err


def test_the_module_and_the_command_are_the_same() -> None:
    said = subprocess.run([sys.executable, "-m", "dynascope", "--version"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, f"dynascope {__version__}\n", "")
    said = subprocess.run(
        [sys.executable, "-m", "dynascope", "predict", "/"], capture_output=True, text=True, check=False
    )
    one_line(Said(said.returncode, said.stdout, said.stderr))


# --------------------------------------------------------------------------------------------------------- inspect


@pytest.mark.usefixtures("models")
def test_inspect(call: Call) -> None:
    said = call("inspect", "somebodys_models:Net", "--input", "float32[2,5]")
    assert said.code == 0
    assert "7 independent continuous symmetries" in said.out
    assert call("inspect", "somebodys_models:both").out == said.out


@pytest.mark.usefixtures("models")
def test_inspect_as_json(call: Call) -> None:
    said = call("inspect", "somebodys_models:both", "--json")
    found = strict(said.out)
    assert (said.code, found["dimension"], found["parameters"], found["output"]) == (0, 7, 66, "identity")
    shifted = strict(call("inspect", "somebodys_models:both", "--json", "--output", "softmax", "--mode", "eval").out)
    assert (shifted["output"], shifted["mode"]) == ("softmax", "eval")
    assert shifted["dimension"] == 7 + 7 + 1  # each hidden unit's weights to the logits, and their biases


@pytest.mark.usefixtures("models")
def test_inspect_with_census(call: Call) -> None:
    said = call("inspect", "somebodys_models:both", "--census")
    assert said.code == 0
    assert said.out != call("inspect", "somebodys_models:both").out


BAD_TARGETS = {
    "no colon": ("somebodys_models", "write module:factory"),
    "no module": (":Net", "write module:factory"),
    "unknown module": ("nobodys_models:Net", "No module named 'nobodys_models'"),
    "unknown factory": ("somebodys_models:Nett", "has no attribute 'Nett'"),
    "a module with a mistake": ("somebodys_typo:f", "SyntaxError"),
    "a factory that needs something": ("somebodys_models:needs", "missing 1 required positional argument"),
    "a factory that fails": ("somebodys_models:fails", "RuntimeError: two lines"),
    "no factory": ("somebodys_models:number", "'int' object is not callable"),
    "no model": ("builtins:dict", "gives dict"),
    "no parameters": ("somebodys_models:nothing_to_learn", "ReLU has no parameters"),
}


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", BAD_TARGETS)
def test_a_bad_model_target(name: str, call: Call) -> None:
    target, words = BAD_TARGETS[name]
    assert words in one_line(call("inspect", target, "--input", "float32[2,5]"))


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    "described", ["float32[2,5", "float32", "2,5", "str[2,5]", "manual_seed[2]", "float32[0,5]", ""]
)
def test_a_malformed_input(described: str, call: Call) -> None:
    assert f"input is {described!r}" in one_line(call("inspect", "somebodys_models:Net", "--input", described))


@pytest.mark.usefixtures("models")
def test_an_input_that_is_missing_or_does_not_fit(call: Call) -> None:
    assert "add --input" in one_line(call("inspect", "somebodys_models:Net"))
    for described in ("float32[2,6]", "int64[2,5]", "float32[]"):
        assert "does not accept these inputs" in one_line(call("inspect", "somebodys_models:Net", "--input", described))


# ------------------------------------------------------------------------------------------------------------- run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``run`` would start, without starting it."""
    calls: list[Any] = []

    def run_script(script: str, args: list[str], **options: Any) -> int:
        calls.append((script, args, options))
        return 0

    monkeypatch.setattr("dynascope.api.script.run_script", run_script)
    return calls


DEFAULTS = {"to": None, "every": 1, "max_overhead": None, "output": None, "module": False}
SPLITS: dict[str, tuple[list[str], str, list[str], dict[str, Any]]] = {
    "a bare script": (["train.py"], "train.py", [], {}),
    "the script's own words": (["train.py", "--every", "3", "--to"], "train.py", ["--every", "3", "--to"], {}),
    "ours before, theirs after": (
        ["--every", "5", "train.py", "--every", "3"], "train.py", ["--every", "3"], {"every": 5},
    ),
    "all of ours": (
        ["--to", "a", "--every", "2", "--max-overhead", "0.05", "--output", "softmax", "t.py", "-v"], "t.py", ["-v"],
        {"to": Path("a"), "every": 2, "max_overhead": 0.05, "output": "softmax"},
    ),
    "joined by =": (["--to=a", "--every=2", "t.py"], "t.py", [], {"to": Path("a"), "every": 2}),
    "with underscores": (["--max_overhead", "0.1", "t.py"], "t.py", [], {"max_overhead": 0.1}),
    "a module": (["-m", "package.train", "-m", "x"], "package.train", ["-m", "x"], {"module": True}),
    "ours and a module": (["--every", "4", "-m", "p", "--to", "y"], "p", ["--to", "y"], {"every": 4, "module": True}),
    "the script's own help": (["train.py", "--help"], "train.py", ["--help"], {}),
    "the script's own separator": (["train.py", "--", "-h"], "train.py", ["--", "-h"], {}),
    "our separator": (["--every", "2", "--", "-odd-.py", "--", "a"], "-odd-.py", ["--", "a"], {"every": 2}),
    "a command of ours as word": (["train.py", "inspect", "run"], "train.py", ["inspect", "run"], {}),
    "empty words": (["train.py", ""], "train.py", [""], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_run_splits_our_words_from_the_scripts(name: str, call: Call, started: list[Any]) -> None:
    argv, script, args, changed = SPLITS[name]
    assert call("run", *argv) == (0, "", "")
    assert started == [(script, args, DEFAULTS | changed)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["missing.py"], "cannot open the script 'missing.py'"),
        (["--every", "0", "train.py"], "every=0 must be"),
        (["--max-overhead", "-1", "train.py"], "max_overhead=-1.0 must be"),
        (["--to", "RUN", "train.py"], "already holds a run"),
    ],
)
def test_run_refuses_before_the_script_starts(
    argv: list[str], words: str, call: Call, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print('started')")
    assert words in one_line(call("run", *(str(run_folder) if word == "RUN" else word for word in argv)))


def test_run_observes_an_unmodified_script(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and exit code are those of plain python, and the run can be predicted and reported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    plain = subprocess.run([sys.executable, "train.py", "--steps", "4"], capture_output=True, text=True, check=False)
    said = call("run", "--to", "runs/a", "train.py", "--steps", "4")
    assert (said.code, said.out) == (plain.returncode, plain.stdout)
    assert said.code == 7
    assert len(said.out.splitlines()) == 4
    assert ds.load("runs/a").series("charges:rescale/0.weight-2.weight", "value").values.shape == (4, 3)
    assert call("predict", "runs/a").code == 0


def test_an_error_of_the_script_is_the_scripts(tmp_path: Path) -> None:
    """The traceback of plain python, word for word, and its exit code; not one line of ours in its place."""
    (tmp_path / "fails.py").write_text("def inner():\n    raise ValueError('mine')\n\ninner()\n")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    plain, ours = run("fails.py"), run("-m", "dynascope", "run", "fails.py")
    assert ours.returncode == plain.returncode == 1
    assert "ValueError: mine" in plain.stderr
    own = [line for line in ours.stderr.splitlines() if not line.startswith("dynascope run: ")]
    assert [line.replace(f"{tmp_path}{os.sep}", "") for line in own] == [
        line.replace(f"{tmp_path}{os.sep}", "") for line in plain.stderr.splitlines()
    ]


# ------------------------------------------------------------------------------------------------- predict, report


def test_predict(call: Call, run_folder: Path) -> None:
    said = call("predict", run_folder)
    assert (said.code, said.err) == (0, "")
    assert "balances" in said.out
    found = strict(call("predict", run_folder, "--json").out)
    assert found["run"]
    assert {v["verdict"] for v in found["verdicts"] if v["kind"] == "account"} == {"balances"}


def test_predict_fails_where_an_account_leaks(call: Call, tmp_path: Path) -> None:
    folder = train(tmp_path / "leaking", nn.GELU)
    said = call("predict", folder)
    assert said.code == 1
    assert "LEAKS" in said.out
    assert call("predict", folder, "--json").code == 1


def test_numbers_that_are_not_finite_are_words_in_json(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = [{"kind": "account", "error": math.nan, "tolerance": math.inf}]
    found = SimpleNamespace(run="a", verdicts=lambda: verdicts, balances=False)
    monkeypatch.setattr("dynascope.api.predict.predict", lambda folder: found)
    said = strict(call("predict", "anywhere", "--json").out)
    assert said["verdicts"] == [{"kind": "account", "error": "nan", "tolerance": "inf"}]


def test_report(call: Call, run_folder: Path, tmp_path: Path) -> None:
    said = call("report", run_folder, "--to", tmp_path / "page.html")
    assert said == (0, f"{tmp_path / 'page.html'}\n", "")
    assert "<html" in (tmp_path / "page.html").read_text()
    assert call("report", run_folder).out == f"{run_folder / 'report.html'}\n"


def test_report_of_one_figure(call: Call, run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    said = call("report", run_folder, "--png", "leak", "--to", tmp_path / "leak.png")
    assert said == (0, f"{tmp_path / 'leak.png'}\n", "")
    assert (tmp_path / "leak.png").read_bytes().startswith(b"\x89PNG")
    family = "charges:rescale/0.weight-2.weight"
    assert Path(call("report", run_folder, "--png", family).out.strip()).parent == run_folder


def test_an_unknown_figure_lists_those_there_are(call: Call, run_folder: Path) -> None:
    said = one_line(call("report", run_folder, "--png", "leek"))
    assert "no figure is called 'leek'; did you mean 'leak'" in said
    assert "charges:rescale/0.weight-2.weight" in said


@pytest.mark.parametrize("command", ["predict", "report"])
def test_a_run_folder_that_is_missing_or_damaged(command: str, call: Call, run_folder: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in one_line(call(command, tmp_path / "missing"))
    assert "run.json" in one_line(call(command, tmp_path))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_bytes((run_folder / "run.json").read_bytes()[:100])
    assert "not valid JSON" in one_line(call(command, broken))
    (broken / "run.json").write_bytes((run_folder / "run.json").read_bytes().replace(b"charges", b"chxrges"))
    (broken / "complete.json").write_bytes((run_folder / "complete.json").read_bytes())
    assert "its checksum differs" in one_line(call(command, broken))
    assert "there is no such folder" in one_line(call(command, run_folder / "run.json"))


# ------------------------------------------------------------------------------------------------- reproduce, list


@pytest.fixture
def toy_study(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A study of one claim, in place of those there are, whose error one may choose."""

    def install(error: float) -> None:
        claim = Claim("law", "a law holds", tolerance=0.1, reason="by hand", control="no law")
        card = StudyCard("toy", "T", "1234.5678", "A", "V", 2026, "S")

        def evaluate(runs: Any) -> Any:
            yield conclude(claim, predicted=1.0, measured=math.inf, error=error, control_error=10.0)

        member = Member(card, lambda scale: Study(claims=(claim,), runs={}, evaluate=evaluate))
        studies = SimpleNamespace(names=lambda: ("toy",), get=lambda name: member)
        monkeypatch.setattr("dynascope.api.reproduce.STUDIES", studies)

    return install


@pytest.mark.parametrize(("error", "verdict", "code"), [(0.01, "supported", 0), (1.0, "refuted", 1)])
def test_reproduce(
    error: float, verdict: str, code: int, call: Call, tmp_path: Path, toy_study: Callable[[float], None]
) -> None:
    toy_study(error)
    said = call("reproduce", "toy", "--to", tmp_path, "--json")
    found = strict(said.out)
    assert (said.code, said.err) == (code, "")
    assert (found["study"], found["scale"], found["verdict"]) == ("toy", "quick", verdict)
    keys = {"id", "statement", "predicted", "measured", "error", "tolerance", "control", "verdict"}
    assert all(keys <= claim.keys() for claim in found["claims"])
    shown = call("reproduce", "toy", "--scale", "full", "--to", tmp_path)
    assert shown.code == code
    assert f"scale full: {verdict}" in shown.out


def test_an_unknown_study(call: Call) -> None:
    said = one_line(call("reproduce", "neural-mecanics"))
    assert "no study is called 'neural-mecanics'; did you mean 'neural-mechanics'" in said


def test_list(call: Call) -> None:
    said = call("list")
    assert (said.code, said.err) == (0, "")
    found = strict(call("list", "--json").out)
    assert {"studies", "probes", "tasks"} == found.keys()
    lines = said.out.splitlines()
    for room, members in found.items():
        assert room in lines
        for name, words in members.items():
            assert any(line.split() == [*name.split(), *words.split()] for line in lines)


# ------------------------------------------------------------------------------------------------------ interrupted


def test_ctrl_c_ends_in_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dynascope.api.reproduce.reproduce", interrupted)
    assert call("reproduce", "neural-mechanics") == (130, "", "dynascope: interrupted\n")
