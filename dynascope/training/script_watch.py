"""Observes everything that a running script trains: one recorder and one run folder for each optimiser found."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from dynascope.training.discovery import Discovery, Find, Inside


class ScriptWatch:
    """Watches from now until ``close``.

    Args:
        path: folder of the first run; later ones get -2, -3, ... appended.
        wishes: fields of ``session.Wishes`` but the instruments.
        instruments: gives the makers of instruments when the first optimiser has been found.
        settings: further settings to write down in each run.
    """

    def __init__(
        self,
        path: Path,
        wishes: Mapping[str, Any],
        instruments: Callable[[], Sequence[Any]],
        settings: Mapping[str, Any],
    ) -> None:
        self._path, self._wishes, self._instruments, self._settings = path, wishes, instruments, settings
        self._recorders: list[Any] = []
        self._discovery = Discovery(self._found)
        self._stack = ExitStack()
        self._stack.enter_context(self._discovery.watch())

    def _found(self, find: Find) -> None:
        # Loaded only now: inspection needs torch.export, which takes seconds to import.
        session = import_module("dynascope.training.session")
        if session.is_reserved(find.optimizer):
            return  # the script observes it by itself
        recorder = session.begin(
            find.model,
            find.optimizer,
            session.free_path(self._path),
            session.Wishes(**self._wishes, instruments=self._instruments()),
            inputs=lambda: find.inputs,
            loss=find.loss,
            settings=self._settings,
            tell=self._discovery.miss,
        )
        self._recorders.append(recorder)
        if find.unseen:
            text = f"{find.unseen} of the numbers that the optimiser moves are in no module that was seen"
            recorder.note(text, level="warning")
        recorder.attach()
        if isinstance(find.moment, Inside):
            recorder.join(find.moment.loss)

    def close(
        self,
        error: BaseException | None,
        before_finish: Sequence[Callable[[Any], object]],
        on_finish: Sequence[Callable[[Path], object]],
    ) -> list[str]:
        """Stop watching and finish every run.

        Args:
            error: what ended the script, None for nothing.
            before_finish: called with each archive while it can still be written to.
            on_finish: called with each folder when its run is complete.

        Returns:
            What could not be observed, in words.
        """
        self._stack.close()
        for recorder in self._recorders:
            import_module("dynascope.training.session").finish(
                recorder, error, before_finish, on_finish, tell=self._discovery.miss
            )
        return self._discovery.summary()
