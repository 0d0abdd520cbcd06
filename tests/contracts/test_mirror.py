"""Tests mirror the rooms: each file of the package has its test file at the same place, and each test file its file."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE, TESTS = ROOT / "dynascope", ROOT / "tests"

WITHOUT_TEST = {
    "__main__.py": "one line; tests/test_cli.py runs `python -m dynascope`",
    "probes/_skeleton.py": "the file to copy; tests/contracts/test_mirror.py compiles it below",
    "studies/_skeleton.py": "the file to copy; tests/contracts/test_mirror.py compiles it below",
}
"""Files that need no test file of their own, with the reason. Every __init__.py is one: it holds the names of its room,
which the tests of the room use; those of the package itself are in test_imports.py."""

WITHOUT_FILE = {
    "contracts": "what holds across rooms: imports, the mirror, house rules, README",
    "trips": "the five trips through all rooms",
    "references": "slow and obvious implementations to compare with",
}
"""Folders of tests that mirror no room, with the reason."""


def sources(package: Path = PACKAGE) -> set[str]:
    """Every file of the package, by its path inside it, but the __init__ of rooms."""
    files = (path.relative_to(package) for path in package.rglob("*.py"))
    return {path.as_posix() for path in files if path.name != "__init__.py"}


def mirrored(folder: Path = TESTS) -> set[str]:
    """Every test file that mirrors something, by the path of the file that it tests."""
    files = (path.relative_to(folder) for path in folder.rglob("test_*.py"))
    kept = (path for path in files if path.parts[0] not in WITHOUT_FILE)
    return {path.with_name(path.name.removeprefix("test_")).as_posix() for path in kept}


def test_every_file_has_its_test() -> None:
    missing = sorted(sources() - mirrored() - WITHOUT_TEST.keys())
    assert not missing, f"no test file for dynascope/: {', '.join(missing)}"


def test_every_test_has_its_file() -> None:
    stray = sorted(mirrored() - sources())
    assert not stray, f"test files for files of dynascope/ that are not there: {', '.join(stray)}"


def test_every_exception_is_still_needed() -> None:
    gone = sorted(WITHOUT_TEST.keys() - sources())
    assert not gone, f"reasons for files that have vanished: {', '.join(gone)}"
    tested = sorted(WITHOUT_TEST.keys() & mirrored())
    assert not tested, f"reasons for files that have a test by now: {', '.join(tested)}"
    assert all(len(reason) > 20 for reason in (*WITHOUT_TEST.values(), *WITHOUT_FILE.values()))


def test_a_hole_is_seen(tmp_path: Path) -> None:
    """The control, in both directions, on a small house of our own."""
    for file in ("package/room/law.py", "package/room/inner/deep.py", "package/room/__init__.py", "package/cli.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for file in ("tests/room/test_law.py", "tests/room/test_gone.py", "tests/contracts/test_x.py", "tests/cases.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    have, tested = sources(tmp_path / "package"), mirrored(tmp_path / "tests")
    assert have - tested == {"room/inner/deep.py", "cli.py"}
    assert tested - have == {"room/gone.py"}


@pytest.mark.parametrize("name", [name for name in WITHOUT_TEST if name.endswith("_skeleton.py")])
def test_the_files_to_copy_are_python(name: str) -> None:
    compile((PACKAGE / name).read_text(encoding="utf-8"), name, "exec")
