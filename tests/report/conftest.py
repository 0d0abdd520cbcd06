"""Runs that several tests of the report read; none of them writes into one."""

from pathlib import Path

import pytest

from dynascope.report.content import Content, gather
from dynascope.report.page import write
from dynascope.runs import Run
from tests.report.builder import build

HOSTILE = "<script>alert(1)</script>\"'&<!--"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(tmp_path_factory.mktemp("report") / "good")


@pytest.fixture(scope="session")
def content(run: Run) -> Content:
    return gather(run)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return gather(build(tmp_path_factory.mktemp("report") / "bare", steps=60, predicted=False))


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return gather(build(tmp_path_factory.mktemp("report") / "broken", steps=100, broken=True))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return gather(build(tmp_path_factory.mktemp("report") / "hostile", steps=60, hostile=HOSTILE))


@pytest.fixture(scope="session")
def report(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(run, tmp_path_factory.mktemp("page") / "report.html")
