"""One thread that writes what was recorded, so that training does not wait for the disk."""

import queue
import threading
import time
from collections.abc import Callable

Task = Callable[[], None]

# Blocks that may wait for a slow disk; then recording waits too, so that memory stays bounded.
WAITING = 8


class Background:
    """Runs tasks in order in one thread of its own; the first error stops it and is kept.

    Args:
        name: name of the thread.

    Example:
        >>> done = []
        >>> worker = Background("example")
        >>> worker.submit(lambda: done.append(1))
        >>> worker.close()
        >>> done
        [1]
    """

    def __init__(self, name: str) -> None:
        self.error: Exception | None = None
        """What stopped the tasks; None while all is well."""
        self.seconds = 0.0
        """Processor time that the tasks have used."""
        self._tasks: queue.Queue[Task | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Run a task after those submitted before. After an error, or once closed, tasks are dropped.

        Args:
            task: called without arguments.
        """
        if self.error is None and self._thread.is_alive():
            self._tasks.put(task)

    def close(self) -> None:
        """Wait until everything submitted has been done."""
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self.error is None:
                try:
                    task()
                except Exception as error:  # whatever the disk does must not end the training
                    self.error = error
            self.seconds = time.thread_time()
