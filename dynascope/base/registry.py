"""Find the plug-ins of a room: one file each, no central list to edit."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from dynascope.base.cards import Card
from dynascope.base.errors import UnknownName, Unsupported

T = TypeVar("T")


@dataclass(frozen=True)
class Member(Generic[T]):
    """A registered function or class together with its card; calling the member calls the value."""

    card: Any
    value: T

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the registered function or class returns."""
        return self.value(*args, **kwargs)  # type: ignore[operator]


class Registry:
    """The plug-ins of one room, found on the first look-up.

    Walks the room's files and sub-folders (names with a leading underscore are left out), then the entry
    points of installed packages. Hyphens and underscores are equal in names.

    Args:
        room: package that holds the plug-ins, such as ``dynascope.probes``.
        group: entry-point group under which other packages offer more.
    """

    def __init__(self, room: str, group: str) -> None:
        self.room, self.group = room, group
        self.unavailable: dict[str, str] = {}
        """Plug-ins whose optional package is missing: public name -> name of the missing package."""
        self._members: dict[str, Member[Any]] = {}
        self._walked = False

    def register(self, card: Card) -> Callable[[T], T]:
        """Decorator that enters a function or class under its card's name and returns it unchanged.

        Args:
            card: the facts about it.

        Returns:
            The decorator.
        """

        def enter(value: T) -> T:
            key = _key(card.name)
            known = self._members.get(key)
            # The same definition may arrive twice: a reload, or a second look-up after a failed import.
            if known is not None and _origin(known.value) != _origin(value):
                raise ValueError(
                    f"name={card.name!r} is registered in {self.room} by {_origin(known.value)} and again by "
                    f"{_origin(value)}; give one of them another name"
                )
            self._members[key] = Member(card, value)
            return value

        return enter

    def names(self) -> tuple[str, ...]:
        """The names of all members that can be used here, sorted; see also ``unavailable``."""
        self._walk()
        return tuple(sorted(member.card.name for member in self._members.values()))

    def get(self, name: str) -> Member[Any]:
        """Look a member up.

        Args:
            name: public name; hyphens and underscores are equal.

        Returns:
            The member: ``.card`` and ``.value``; calling it calls the value.

        Raises:
            Unsupported: its optional package is not installed.
            UnknownName: nothing has that name.
        """
        self._walk()
        key = _key(name)
        if key in self._members:
            return self._members[key]
        if key in self.unavailable:
            missing = self.unavailable[key]
            raise Unsupported(f"{name!r} of {self.room}", f"the package {missing!r} is missing", f"install {missing!r}")
        raise UnknownName(self._kind(), name, self.names())

    def _walk(self) -> None:
        if self._walked:
            return
        for module in _modules(self.room):
            self._load(module.rpartition(".")[2], lambda module=module: importlib.import_module(module))
        for entry in entry_points(group=self.group):
            self._load(entry.name, entry.load)
        self._walked = True

    def _load(self, name: str, load: Callable[[], object]) -> None:
        """Import one plug-in; a missing package of other people's only makes this plug-in unavailable."""
        try:
            load()
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in ("", *sys.modules):  # the package is there, something in it is not: a mistake
                raise
            self.unavailable[_key(name)] = missing

    def _kind(self) -> str:
        plural = self.room.rpartition(".")[2]
        return plural[:-3] + "y" if plural.endswith("ies") else plural.removesuffix("s")


def _modules(package: str) -> Iterator[str]:
    """Dotted names of all files below a package whose names do not start with an underscore."""
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        if found.name.rpartition(".")[2].startswith("_"):
            continue
        if found.ispkg:
            yield from _modules(found.name)
        else:
            yield found.name


def _key(name: str) -> str:
    return name.replace("-", "_")


def _origin(value: object) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', repr(value))}"
