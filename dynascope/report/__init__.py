"""What a run shows: one self-contained HTML page, and single figures as PNG; no torch, no science."""

from dynascope.report.figures import figure_names, png
from dynascope.report.page import write

__all__ = ["figure_names", "png", "write"]
