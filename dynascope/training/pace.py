"""How often to record, and how recording thins itself out when it takes too much of the time."""

from math import ceil, log2

# A window must be long enough for its ratio to mean something, and short enough to react soon.
RECORDS, SECONDS = 20, 0.5


class Pace:
    """Which steps to record.

    Args:
        every: record each ``every``-th step, 1 or more.
        max_overhead: time for recording divided by all other time, above which recording doubles ``every``
            until the ratio fits; None for no limit.

    Raises:
        ValueError: a number is outside its range.

    Example:
        >>> pace = Pace(2)
        >>> [step for step in range(5) if pace.due(step)]
        [0, 2, 4]
    """

    def __init__(self, every: int = 1, max_overhead: float | None = None) -> None:
        if every != int(every) or every < 1:
            raise ValueError(f"every={every} must be a whole number, 1 or more")
        if max_overhead is not None and not max_overhead > 0:
            raise ValueError(f"max_overhead={max_overhead} must be above 0 (0.05 allows 5 % more time), or None")
        self.every = int(every)
        self.thinned = False
        """Whether recording has thinned itself out: steps are then missing that were asked for."""
        self.limit = max_overhead
        """Permitted time for recording, divided by all other time; None for no limit."""
        self._begun: float | None = None
        self._spent, self._records = 0.0, 0

    def due(self, step: int) -> bool:
        """Whether a step is recorded.

        Args:
            step: number of the step, from 0.

        Returns:
            True for multiples of ``every``.
        """
        return step % self.every == 0

    def spend(self, seconds: float) -> None:
        """Count time that recording took.

        Args:
            seconds: the time.
        """
        self._spent += seconds

    def review(self, now: float) -> float | None:
        """Compare the time spent with the time passed after each record, and thin out where it is too much.

        Args:
            now: the present time in seconds, of any clock that does not stand still.

        Returns:
            The overhead that was measured, if ``every`` was raised because of it; else None.
        """
        if self.limit is None:
            return None
        if self._begun is None:  # the first record does what is done once, and does not count
            self._restart(now)
            return None
        self._records += 1
        passed = now - self._begun
        if self._records < RECORDS and passed < SECONDS:
            return None
        overhead = self._spent / max(passed - self._spent, 1e-9)
        if overhead > self.limit:
            # Time for recording is inversely proportional to `every`.
            self.every *= 2 ** max(1, ceil(log2(overhead / self.limit)))
            self.thinned = True
        self._restart(now)
        return overhead if overhead > self.limit else None

    def _restart(self, now: float) -> None:
        self._begun, self._spent, self._records = now, 0.0, 0
