"""Running as ``__main__``, compared with what python itself does."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from dynascope.training.launch import as_python
from dynascope.training.launch.as_python import exit_code, hide_frames, run_as_main, when_imported


def plain(folder, *words):
    """Exit code, standard output and error stream of plain python."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def ours(monkeypatch, capsys, folder, target, *args, module=False):
    monkeypatch.chdir(folder)
    # Python's own hook, whatever the test runner put in its place.
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    code, _ = run_as_main(target, args, module=module)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SCRIPTS = {
    "its surroundings": """
import sys
print(__name__, __file__, sys.argv, sys.path[0], __doc__, __package__, __spec__)
print(sorted(name for name in globals() if name.startswith("__")))
print(sys.modules["__main__"].__dict__ is globals(), __builtins__.__name__, __loader__.name)
""",
    "a docstring": '"""About."""\nprint(__doc__)\n',
    "exit 3": "import sys\nprint('out')\nsys.exit(3)\n",
    "exit with words": "import sys\nsys.exit('no data')\n",
    "exit with nothing": "raise SystemExit\n",
    "an error": "def deep():\n    return {}['x']\nprint('first')\ndeep()\n",
    "an error from another": """
try:
    1 / 0
except ZeroDivisionError as error:
    raise ValueError("outer") from error
""",
    "an error while handling another": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    [][1]\n",
    "a group of errors": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])\n",
    "a syntax error": "print('never')\nx = = 1\n",
    "its own hook": "import sys\nsys.excepthook = lambda *a: print('hooked', a[0].__name__)\n1 / 0\n",
    "the future": "from __future__ import annotations\nx: Undefined = 1\nprint(x)\n",
    "latin": "# -*- coding: latin-1 -*-\nprint(len('\xe4'))\n",
    "neighbours": "import neighbour\nprint(neighbour.x)\n",
}


@pytest.mark.parametrize("source", SCRIPTS.values(), ids=SCRIPTS)
def test_scripts_behave_as_under_python(tmp_path, monkeypatch, capsys, source):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "script.py").write_text(source, encoding="latin-1")
    (tmp_path / "sub" / "neighbour.py").write_text("x = 5\n")
    script = os.path.join("sub", "script.py")
    expected = plain(tmp_path, script, "--flag", "word")
    before = sys.argv, list(sys.path), sys.modules["__main__"]
    assert ours(monkeypatch, capsys, tmp_path, script, "--flag", "word") == expected
    assert (sys.argv, sys.path, sys.modules["__main__"]) == before
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize("body", ["print(__name__, __spec__.name, sys.argv[1:], sys.path[0])", "1 / 0", "sys.exit(4)"])
@pytest.mark.parametrize("package", [False, True])
def test_modules_behave_as_under_python_m(tmp_path, monkeypatch, capsys, body, package):
    name = f"tried_{package}"
    path = tmp_path / name / "__main__.py" if package else tmp_path / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"import sys\n{body}\n")
    expected = plain(tmp_path, "-m", name, "word")
    assert ours(monkeypatch, capsys, tmp_path, name, "word", module=True) == expected


def test_an_unknown_module_is_said_as_python_says_it(tmp_path, monkeypatch, capsys):
    expected = plain(tmp_path, "-m", "no_such_module_at_all")
    assert ours(monkeypatch, capsys, tmp_path, "no_such_module_at_all", module=True) == expected


def test_ctrl_c_has_the_exit_code_of_a_shell(tmp_path, monkeypatch, capsys):
    (tmp_path / "script.py").write_text("raise KeyboardInterrupt\n")
    code, _, err = ours(monkeypatch, capsys, tmp_path, "script.py")
    assert code == 130
    assert err.endswith("KeyboardInterrupt\n")


def test_spawned_children_import_the_script_and_not_us(tmp_path, monkeypatch, capfd):
    (tmp_path / "script.py").write_text(
        "import multiprocessing as mp, sys\n"
        "def work():\n    print(__name__, any(n.startswith('dynascope') for n in sys.modules), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    child = mp.get_context('spawn').Process(target=work)\n    child.start()\n    child.join()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run_as_main("script.py", [], module=False)[0] == 0
    assert capfd.readouterr().out == "__mp_main__ False\n"


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (7, 7), (True, 1)])
def test_exit_codes(code, expected):
    assert exit_code(SystemExit(code)) == expected


def test_only_our_frames_are_hidden(monkeypatch):
    def raising():
        compile("(", "x", "exec")

    def caught():
        with pytest.raises(SyntaxError) as found:
            raising()
        return found.value

    error = caught()
    hide_frames(error)
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["caught", "raising"]
    monkeypatch.setattr(as_python, "OURS", __file__)
    hide_frames(error)
    assert error.__traceback__ is None


def test_waiting_for_an_import(tmp_path, monkeypatch):
    (tmp_path / "awaited_module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen, finders = [], list(sys.meta_path)
    when_imported("awaited_module", lambda: seen.append(sys.modules["awaited_module"].x))
    import colorsys  # something else

    assert seen == []
    assert colorsys
    import awaited_module

    assert seen == [1]
    assert sys.meta_path == finders
    assert "exec_module" not in vars(awaited_module.__loader__)
    when_imported("awaited_module", lambda: seen.append(2))  # it is there already
    assert seen == [1, 2]
    sys.modules.pop("awaited_module")


def test_waiting_can_be_stopped(monkeypatch):
    finders = list(sys.meta_path)
    stop = when_imported("never_imported_module", lambda: None)
    assert len(sys.meta_path) == len(finders) + 1
    stop()
    stop()
    assert sys.meta_path == finders


def test_nothing_but_the_standard_library_is_loaded_before_the_script():
    listing = "import sys, dynascope.api.script; print(sorted(m.split('.')[0] for m in sys.modules))"
    loaded = set(eval(plain(Path.cwd(), "-c", listing)[1]))
    assert loaded - set(sys.stdlib_module_names) <= {"dynascope", "__main__", *_always_there()}


def _always_there():
    """What the environment loads into every python, such as editable installs."""
    return {m.split(".")[0] for m in eval(plain(Path.cwd(), "-c", "import sys; print(list(sys.modules))")[1])}
