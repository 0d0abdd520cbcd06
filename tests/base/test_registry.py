import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dynascope.base import registry as module
from dynascope.base.cards import TaskCard
from dynascope.base.errors import UnknownName, Unsupported
from dynascope.base.registry import Registry

PLUGIN = """
    from {room} import THINGS
    from dynascope.base.cards import TaskCard
    {line}
    @THINGS.register(TaskCard("{name}"))
    def {function}():
        return "{name}"
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """Makes an importable package of plug-ins: file name -> (registered name, further line)."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(files: dict[str, tuple[str, str]]) -> Registry:
        name = f"room{len(made)}_{tmp_path.name.replace('-', '_')}"
        made.append(name)
        package = tmp_path / name / "things"
        package.mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        (package / "__init__.py").write_text(
            f"from dynascope.base.registry import Registry\nTHINGS = Registry('{name}.things', 'no.such.group')\n"
        )
        for file, (plugin, line) in files.items():
            path = package / f"{file}.py"
            path.parent.mkdir(exist_ok=True)
            if path.parent != package:
                (path.parent / "__init__.py").touch()
            text = PLUGIN.format(room=f"{name}.things", name=plugin, function=plugin.replace("-", "_"), line=line)
            path.write_text(textwrap.dedent(text))
        return __import__(f"{name}.things", fromlist=["THINGS"]).THINGS

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] in made]:
        del sys.modules[name]


def test_files_and_folders_are_walked_on_the_first_look_up(room: Callable[..., Registry]) -> None:
    things = room({"alpha": ("alpha", ""), "deep/beta_two": ("beta-two", ""), "_skeleton": ("skeleton", "")})
    assert not any(name.endswith("alpha") for name in sys.modules)
    assert things.names() == ("alpha", "beta-two")
    assert things.get("alpha")() == "alpha"
    assert things.get("alpha").card == TaskCard("alpha")
    assert things.get("alpha").value.__name__ == "alpha"


def test_the_walk_happens_once(room: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch) -> None:
    things, walks = room({"alpha": ("alpha", "")}), []
    monkeypatch.setattr(module, "entry_points", lambda group: walks.append(group) or ())
    things.names(), things.get("alpha"), things.names()
    assert walks == [things.group]


def test_hyphens_and_underscores_are_equal(room: Callable[..., Registry]) -> None:
    things = room({"beta_two": ("beta-two", "")})
    assert things.get("beta-two") is things.get("beta_two")


def test_unknown_name_lists_the_known_ones(room: Callable[..., Registry]) -> None:
    with pytest.raises(UnknownName, match="no thing is called 'alhpa'; did you mean 'alpha'"):
        room({"alpha": ("alpha", "")}).get("alhpa")


def test_missing_optional_package_disables_one_plug_in_only(room: Callable[..., Registry]) -> None:
    things = room({"alpha": ("alpha", ""), "gamma": ("gamma", "import no_such_package.inside")})
    assert things.names() == ("alpha",)
    assert things.unavailable == {"gamma": "no_such_package"}
    with pytest.raises(Unsupported, match="install 'no_such_package'"):
        things.get("gamma")


def test_missing_module_of_our_own_is_an_error(room: Callable[..., Registry]) -> None:
    things = room({"alpha": ("alpha", "import dynascope.no_such_room")})
    with pytest.raises(ModuleNotFoundError, match=r"dynascope\.no_such_room"):
        things.names()


def test_broken_plug_in_is_an_error_each_time(room: Callable[..., Registry]) -> None:
    things = room({"alpha": ("alpha", ""), "broken": ("broken", "1 / 0")})
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            things.names()


def test_two_equal_names_are_an_error(room: Callable[..., Registry]) -> None:
    with pytest.raises(ValueError, match=r"name='be-ta' is registered.*again"):
        room({"alpha": ("be_ta", ""), "beta": ("be-ta", "")}).names()


def test_the_same_definition_may_come_again(room: Callable[..., Registry]) -> None:
    things = room({"alpha": ("alpha", "")})
    member = things.get("alpha")
    things.register(member.card)(member.value)
    assert things.names() == ("alpha",)


def test_register_returns_the_function_unchanged() -> None:
    def plain() -> int:
        return 1

    assert Registry("dynascope.base", "no.such.group").register(TaskCard("plain"))(plain) is plain
    assert vars(plain) == {}


def test_entry_points_of_other_packages(room: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch) -> None:
    things = room({"alpha": ("alpha", "")})
    package = things.room.partition(".")[0]
    outside = Path(sys.modules[package].__file__).parent.parent / "outside_plugin.py"
    outside.write_text(textwrap.dedent(PLUGIN.format(room=things.room, name="outside", function="outside", line="")))
    points = [
        EntryPoint("outside", "outside_plugin", things.group),
        EntryPoint("absent", "no_such_package", things.group),
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: [p for p in points if p.group == group])
    try:
        assert things.names() == ("alpha", "outside")
        assert things.unavailable == {"absent": "no_such_package"}
    finally:
        sys.modules.pop("outside_plugin", None)


@pytest.mark.parametrize(("package", "kind"), [("probes", "probe"), ("studies", "study"), ("tasks", "task")])
def test_the_message_speaks_of_one_member(package: str, kind: str, room: Callable[..., Registry]) -> None:
    things = room({})
    things._walked, things.room = True, f"x.{package}"
    with pytest.raises(UnknownName, match=f"no {kind} is called"):
        things.get("none")
