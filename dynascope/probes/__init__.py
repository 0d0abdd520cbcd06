"""What can be measured on any model, one file each. A probe computes on a snapshot and leaves no trace."""

from dynascope.base.registry import Registry

PROBES = Registry("dynascope.probes", "dynascope.probes")
"""All probes by their public names; a new one is one new file (copy ``_skeleton.py``)."""

__all__ = ["PROBES"]
