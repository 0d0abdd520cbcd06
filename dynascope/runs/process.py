"""Is the process that writes a run still there? Only a sure answer counts."""

import os
import socket
from pathlib import Path
from typing import Any


def fingerprint() -> dict[str, Any]:
    """What identifies this process on this machine, to be stored beside what it writes.

    Returns:
        ``pid`` and ``host``; on Linux also ``boot`` (changes when the machine restarts), ``namespace`` (of
        the process
        ids: differs between containers) and ``started`` (clock ticks since boot, tells a reused pid), else
            None.
    """
    return {"pid": os.getpid(), **_surroundings(), "started": _started(os.getpid())}


def is_alive(writer: Any) -> bool | None:
    """Whether the process with this fingerprint still runs.

    It has ended for certain when this is the same host (equal host names are taken to be one machine) and
    the machine has restarted since, or the process id is free, a zombie's, or in use by a process that
    started at another time. From another host, from another container, or on Windows (where asking would
    interrupt the process) nothing is known.

    Args:
        writer: what ``fingerprint`` returned there.

    Returns:
        True or False where that is certain, None where it cannot be determined from here.
    """
    if not isinstance(writer, dict) or not isinstance(writer.get("pid"), int) or os.name != "posix":
        return None
    here = _surroundings()
    if writer.get("host") != here["host"]:
        return None
    if writer.get("boot") != here["boot"]:
        return False
    if writer.get("namespace") != here["namespace"]:
        return None
    return _exists(writer["pid"]) and _started(writer["pid"]) == writer.get("started")


def _surroundings() -> dict[str, str | None]:
    """The parts of a fingerprint that all processes of one machine and container share."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
    }


def _exists(pid: int) -> bool:
    """Whether a process id is in use."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process: it exists
        return True
    return True


def _started(pid: int) -> str | None:
    """Start of a process in clock ticks since boot, "ended" for a zombie, None where there is no /proc."""
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    # The second field is the command in brackets and may hold spaces and brackets itself (proc(5)).
    fields = stat.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]


def _read(path: str) -> str | None:
    """The text of a file of /proc, None where there is none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    """The target of a link of /proc, None where there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return None
