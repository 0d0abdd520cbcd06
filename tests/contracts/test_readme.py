"""README.md is executed: what it shows works, in the order in which it is read, in one empty folder.

- A block fenced ```` ```python ```` is executed in one namespace that all blocks share.
- After the line ``<!-- file: NAME -->`` it is written to that file instead, for a command that runs it.
- A block fenced ```` ```console ```` is executed after the line ``<!-- run -->``: each of its lines ``$ dynascope ...``
  must end with exit code 0.
- Any other fence, ```` ```text ```` among them, is left alone.
"""

import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dynascope import cli

README = Path(__file__).parents[2] / "README.md"
EXPECTED = 5
"""Fewer blocks that are executed than this: the README shows nothing, or they are no longer found."""

FENCE = re.compile(r"^```(?P<kind>\w*)\s*$")
MARK = re.compile(r"^<!--\s*(?P<word>run|file):?\s*(?P<name>\S*)\s*-->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, the mark before it (``run``, ``file`` or none), where it starts, and its text."""

    kind: str
    mark: str
    name: str
    line: int
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is executed."""
        return self.kind == "python" or (self.kind == "console" and self.mark == "run")


def blocks(text: str) -> list[Block]:
    """All fenced blocks in their order.

    Raises:
        ValueError: a fence is left open, or a mark stands before no block.
    """
    found: list[Block] = []
    lines = iter(enumerate(text.splitlines(), 1))
    mark: tuple[str, str] | None = None
    for number, line in lines:
        if seen := MARK.match(line):
            mark = seen["word"], seen["name"]
        elif fence := FENCE.match(line):
            inside = []
            for _, each in lines:
                if each.rstrip() == "```":
                    break
                inside.append(each)
            else:
                raise ValueError(f"the fence in line {number} is never closed")
            found.append(Block(fence["kind"], *(mark or ("", "")), number + 1, "\n".join(inside) + "\n"))
            mark = None
        elif mark and line.strip():
            raise ValueError(f"the mark before line {number} stands before no block")
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of every line ``$ dynascope ...``; a trailing backslash continues a line."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = (shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ dynascope "))
    return [each[1:] for each in words]


def command_line(words: list[str]) -> tuple[int, str]:
    """Exit code and error stream of ``dynascope WORDS`` in the current folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dynascope", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stderr


def execute(text: str, command: Callable[[list[str]], tuple[int, str]] = command_line) -> dict[str, Any]:
    """Execute all blocks in the current folder.

    Returns:
        The namespace that the Python blocks leave behind.

    Raises:
        AssertionError: a block fails; the message names its line in the README and says why.
    """
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(text):
        if block.kind == "python" and block.mark == "file":
            Path(block.name).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            _execute(block, space)
        for words in commands(block) if block.runs else ():
            code, error = command(words)
            assert code == 0, f"README.md, line {block.line}: `dynascope {shlex.join(words)}` ends with {code}\n{error}"
    return space


def _execute(block: Block, space: dict[str, Any]) -> None:
    padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the README's own lines
    try:
        exec(compile(padded, "README.md", "exec"), space)
    except Exception:
        raise AssertionError(f"README.md, line {block.line}, fails:\n{traceback.format_exc()}") from None


# ------------------------------------------------------------------------------------------------------ the README


def test_the_readme_shows_something() -> None:
    found = [block for block in blocks(README.read_text(encoding="utf-8")) if block.runs]
    assert len(found) >= EXPECTED, f"README.md has {len(found)} blocks that are executed, {EXPECTED} are expected"
    assert all(commands(block) for block in found if block.kind == "console"), (
        "a marked block has no `$ dynascope` line"
    )


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    execute(README.read_text(encoding="utf-8"))


def test_commands_that_are_only_shown_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """They are not started, but their verbs and options exist."""
    shown = [line for block in blocks(README.read_text(encoding="utf-8")) for line in block.text.splitlines()]
    lines = [line.removeprefix("$ ") for line in shown if line.removeprefix("$ ").startswith("dynascope ")]
    assert lines
    for line in lines:
        assert understood(line), f"{line}\n{capsys.readouterr().err}"
    assert not understood("dynascope reprot runs/a")
    assert not understood("dynascope report --pgn x runs/a")
    assert not understood("dynascope run --evry 3 train.py")


def understood(line: str) -> bool:
    """Whether the command line's parser accepts a line, without anything being started."""
    words = shlex.split(line, comments=True)[1:]
    try:
        return bool(cli._split_run(words) or cli._parsed(words))
    except SystemExit:
        return False


# ----------------------------------------------------------------------------------------- whoever executes the README

SAMPLE = """
# Title

```python
x = 2
```

Words.

```text
this is no Python
```

<!-- file: train.py -->
```python
print("only when it is run")
```

```python
y = x + 1
```

<!-- run -->
```console
$ dynascope run --to a train.py --epochs 3  # with a remark
some output
$ make demo
$ dynascope report \\
    a
```

```console
$ dynascope prune --not --yet
```
"""


def test_blocks_are_found_and_share_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    called: list[list[str]] = []

    def command(words: list[str]) -> tuple[int, str]:
        called.append(words)
        return 0, ""

    found = blocks(SAMPLE)
    assert [(b.kind, b.mark, b.name) for b in found] == [
        ("python", "", ""), ("text", "", ""), ("python", "file", "train.py"), ("python", "", ""),
        ("console", "run", ""), ("console", "", ""),
    ]  # fmt: skip
    assert sum(block.runs for block in found) == 4
    assert execute(SAMPLE, command)["y"] == 3
    assert called == [["run", "--to", "a", "train.py", "--epochs", "3"], ["report", "a"]]
    assert (tmp_path / "train.py").read_text() == 'print("only when it is run")\n'


def test_a_block_that_fails_is_named() -> None:
    text = "words\n\n```python\nx = 1\nx.missing\n```\n"
    with pytest.raises(AssertionError, match=r"(?s)README\.md, line 4, fails.*line 5.*no attribute 'missing'"):
        execute(text)
    with pytest.raises(AssertionError, match="SyntaxError"):
        execute("```python\ndef f(:\n```\n")


def test_a_command_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "<!-- run -->\n```console\n$ dynascope report nowhere\n```\n"
    with pytest.raises(AssertionError, match=r"(?s)line 3: `dynascope report nowhere` ends with 2.*no such folder"):
        execute(text)
    execute(text.replace("<!-- run -->", ""))
    execute(text.replace("report nowhere", "--version"))


def test_a_readme_that_is_torn_is_refused() -> None:
    with pytest.raises(ValueError, match="the fence in line 2 is never closed"):
        blocks("a\n```python\nx = 1\n")
    with pytest.raises(ValueError, match="the mark before line 3 stands before no block"):
        blocks("<!-- run -->\n\nwords\n")
