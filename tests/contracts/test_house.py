"""House rules that a machine can check on the source: who may train, print, unpickle, and what no line may hold."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "dynascope"
Found = Iterator[ast.AST]
Rule = Callable[[ast.Module], Found]


PLACE = re.compile(r"^(/(home|root|Users|work|tmp|mnt|opt|var|etc|usr|data)(/|$)|[A-Z]:\\)")
HOSTS = "pypi.org pythonhosted.org conda.io anaconda.org huggingface.co download.pytorch.org github.com kaggle.com"
HOST = re.compile("|".join(map(re.escape, [*HOSTS.split(), "githubusercontent.com", "zenodo.org", "amazonaws.com"])))


def called(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    """Every call as (what stands before the last point, the name called, the call)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            before, _, name = ast.unparse(node.func).rpartition(".")
            yield before, name, node


def trains(tree: ast.Module) -> Found:
    """Calls that change parameters: ``backward`` of anything, and ``step`` of optimisers and schedulers.

    ``recorder.step(loss=...)`` tells a recorder the loss and changes nothing.
    """
    for before, name, node in called(tree):
        told = {keyword.arg for keyword in node.keywords} & {"loss", "batch"}
        if (name == "backward" and before != "super()") or (name == "step" and before and not told):
            yield node


def prints(tree: ast.Module) -> Found:
    yield from (node for before, name, node in called(tree) if (before, name) in {("", "print"), ("", "pprint")})


def unpickles(tree: ast.Module) -> Found:
    """Loading that can execute what a file says: pickles, and ``torch.load`` without ``weights_only=True``."""
    for before, name, node in called(tree):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        module = before.rpartition(".")[2]
        if module in {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"} and name in {"load", "loads", "open"}:
            yield node
        if before.startswith("pickle.Unpickler("):
            yield node
        if module == "torch" and name == "load" and options.get("weights_only") != "True":
            yield node
        if module in {"np", "numpy"} and name == "load" and options.get("allow_pickle") != "False":
            yield node


def postpones_annotations(tree: ast.Module) -> Found:
    """It blinds the check of shapes at run time."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            yield from (node for name in node.names if name.name == "annotations")


def is_unfinished(tree: ast.Module) -> Found:
    """``raise NotImplementedError`` in any form, and functions whose body is only ``...`` outside protocols."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            yield node


def names_a_place(tree: ast.Module) -> Found:
    """Strings with an absolute path of a machine, or the address of a registry or host of files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            if any(PLACE.match(word.strip("'\"`(,")) or HOST.search(word) for word in words):
                yield node


RULES: dict[str, tuple[Rule, dict[str, str]]] = {
    "only training changes parameters": (trains, {"training/": "the room for it"}),
    "only the command line prints": (prints, {"cli.py": "the room for it"}),
    "nothing is unpickled": (unpickles, {}),
    "annotations are not postponed": (postpones_annotations, {}),
    "nothing is left unfinished": (is_unfinished, {}),
    "no machine and no registry is named": (
        names_a_place,
        {"tasks/datasets.py": "the folder in which Debian's package dataset-fashion-mnist installs its files"},
    ),
}
"""Rule -> its finder, and the files or folders it does not bind, with the reason."""

SPOILT: dict[str, tuple[str, ...]] = {
    "only training changes parameters": (
        "loss.backward()", "torch.autograd.backward(loss)", "optimizer.step()", "self.optimizer.step(closure)",
        "scaler.step(optimizer)",
    ),
    "only the command line prints": ("print('hello')",),
    "nothing is unpickled": (
        "pickle.load(file)", "import pickle\npickle.loads(x)", "pickle.Unpickler(file).load()", "torch.load(path)",
        "torch.load(path, weights_only=False)", "np.load(path)", "np.load(path, allow_pickle=True)", "joblib.load(x)",
    ),
    "annotations are not postponed": ("from __future__ import annotations",),
    "nothing is left unfinished": ("raise NotImplementedError", "raise NotImplementedError('later')"),
    "no machine and no registry is named": (
        "x = '/home/somebody/data'", "x = 'see /root/x'", "x = 'C:\\\\data'", "x = 'https://pypi.org/simple'",
        "x = 'https://files.pythonhosted.org/a'", "x = 'huggingface.co/gpt2'", '"""Download it from github.com/a/b."""',
    ),
}  # fmt: skip
HEALTHY: dict[str, tuple[str, ...]] = {
    "only training changes parameters": ("seen.step(loss=loss)", "step(x)", "def backward(x): pass", "v = node.step"),
    "only the command line prints": ("printed(x)", "file.print(x)", "x = 'print(1)'"),
    "nothing is unpickled": (
        "torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "json.load(file)",
        "dynascope.load(path)",
    ),
    "annotations are not postponed": ("from __future__ import division",),
    "nothing is left unfinished": ("try:\n    f()\nexcept NotImplementedError:\n    pass",),
    "no machine and no registry is named": ("x = 'a/home/b'", "x = 'charges:/0'", "x = '/'", "x = 'arxiv.org/abs/1'"),
}  # fmt: skip


def offences(rule: str, package: Path = PACKAGE) -> list[str]:
    """Where a rule is broken, as ``file:line``; its exceptions left out."""
    find, exceptions = RULES[rule]
    found = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not any(name == free or (free.endswith("/") and name.startswith(free)) for free in exceptions):
            nodes = find(parsed(path))
            found += [f"dynascope/{name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:80]}" for node in nodes]
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds_everywhere(rule: str) -> None:
    broken = offences(rule)
    assert not broken, f"{rule}:\n" + "\n".join(broken)


@pytest.mark.parametrize(("rule", "line"), [(rule, line) for rule, lines in SPOILT.items() for line in lines])
def test_the_rule_finds_what_breaks_it(rule: str, line: str, tmp_path: Path) -> None:
    """The control: a file with this one line in it is reported."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "file.py").write_text(f"{line}\n")
    assert len(offences(rule, tmp_path)) == 1


@pytest.mark.parametrize(("rule", "line"), [(rule, line) for rule, lines in HEALTHY.items() for line in lines])
def test_the_rule_leaves_the_rest_alone(rule: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(f"{line}\n")
    assert offences(rule, tmp_path) == []


@pytest.mark.parametrize("rule", RULES)
def test_exceptions_are_needed(rule: str) -> None:
    find, exceptions = RULES[rule]
    for free in exceptions:
        files = PACKAGE.joinpath(free).rglob("*.py") if free.endswith("/") else [PACKAGE / free]
        assert any(list(find(parsed(path))) for path in files), free


def test_no_line_is_left_for_later() -> None:
    """Marks for later work, in code and in everything that ships with it; this file names them, so it is left out."""
    marks = re.compile("TO" + r"DO|FIX" + r"ME|\bXX" + r"X\b|\bHA" + "CK")
    shipped = [
        p for p in PACKAGE.rglob("*") if p.suffix in {".py", ".html", ".css", ".js", ".md"} and ".min." not in p.name
    ]
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{number}: {line.strip()}"
        for path in shipped
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line) and "uPlot" not in path.name
    ]
    assert not found, "\n".join(found)
    assert marks.search("# TO" + "DO: later")
