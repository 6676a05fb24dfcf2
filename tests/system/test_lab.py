"""The lab itself: what it is, how it ends, and what is heard of a lab that does not do what it should."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.system import labs

COMMANDS = [
    (["sh", "-c", "echo said; exit 7"], 60, 7, "said\n"),
    (["sleep", "1000"], 12, 124, ""),
    # The machine dies under the command.
    (["sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo o > /proc/sysrq-trigger; sleep 1000"], 60, 125, ""),
]


@pytest.fixture(scope="session")
def image() -> str:
    if missing := labs.missing():
        skip_or_fail(f"lab test {missing}")
    return labs.image(labs.own_suite() or "trixie")


@pytest.mark.lab("fuse3")
def test_it_is_a_machine_of_its_own() -> None:
    assert platform.node() == "lab"
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert "MOUNTWATCH_LAB" in os.environ


@pytest.mark.lab("fuse3")
def test_what_is_shared_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "own").touch()
    with pytest.raises(OSError, match="Read-only"):
        (labs.CHECKOUT / "new").touch()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("command", "limit", "code", "out"), COMMANDS, ids=["ends", "limit", "dies"])
def test_how_it_ends(image: str, command: list[str], limit: float, code: int, out: str) -> None:
    done = subprocess.run(labs.run(image, *command, limit=limit), stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (code, out)


@pytest.mark.timeout(300)
def test_a_test_that_never_reports_is_told_why(image: str) -> None:
    lab = labs.Lab("early", Path(image).name.partition("-")[0], ["tests/system/nowhere.py::test_nothing"], 60)
    lab.start(threading.Semaphore())
    try:
        assert list(lab.reports("tests/system/nowhere.py::test_nothing")) == []
        assert "ended with 4" in lab.ended()
        assert "file or directory not found" in lab.ended()
    finally:
        lab.stop()
