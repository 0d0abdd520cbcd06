import os
import subprocess
import sys

import pytest

from dynascope.runs import process

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere nothing can be known about a process")

WAITS = [sys.executable, "-c", "input()"]


def test_this_process_is_alive() -> None:
    assert process.is_alive(process.fingerprint()) is True


def test_an_ended_process_is_known_to_be_gone() -> None:
    with subprocess.Popen(WAITS, stdin=subprocess.PIPE) as child:
        writer = {**process.fingerprint(), "pid": child.pid, "started": process._started(child.pid)}
        assert process.is_alive(writer) is True
        child.kill()
    assert process.is_alive(writer) is False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only /proc tells")
def test_a_zombie_and_a_reused_process_id_are_gone() -> None:
    with subprocess.Popen(WAITS, stdin=subprocess.PIPE) as child:
        writer = {**process.fingerprint(), "pid": child.pid, "started": process._started(child.pid)}
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, but nobody has taken note: a zombie
        assert process.is_alive(writer) is False
    assert process.is_alive({**process.fingerprint(), "started": "1"}) is False


def test_a_restart_of_the_machine_ends_everything() -> None:
    assert process.is_alive({**process.fingerprint(), "boot": "another"}) is False


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}, {"pid": None}])
def test_what_cannot_be_determined_stays_open(change: dict) -> None:
    assert process.is_alive({**process.fingerprint(), **change}) is None


@pytest.mark.parametrize("writer", [None, {}, "pid 5", {"pid": "5"}])
def test_nonsense_is_not_determined(writer: object) -> None:
    assert process.is_alive(writer) is None


def test_somebody_elses_process_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert process.is_alive(process.fingerprint()) is True
