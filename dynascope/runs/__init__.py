"""The archive: one folder a run, in open formats, written beside training and opened without torch."""

from dynascope.runs.query import Run, find, load
from dynascope.runs.store import RunWriter

__all__ = ["Run", "RunWriter", "find", "load"]
