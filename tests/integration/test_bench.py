"""The benchmark runs, says all that it should, and leaves nothing behind. No figure of it is judged."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GONE_LIMIT = 30.0  # seconds

SECTIONS = {
    "Healthy mounts, one sweep over all of them": [
        f"{size} mounts{what}"
        for size in (10, 40)
        for what in ("", ": processor time", ": memory of children", ": memory of own process")
    ],
    "40 mounts, 4 of them hung for good; time-out 0.5 s": [
        "until the last verdict",
        "threads left that cannot be killed",
        "from the moment they answer until all is gone",
    ],
    "20 of 20 mounts hung for good; time-out 0.5 s": [
        "until the last verdict",
        "children",
        "memory of the child",
        "threads left that cannot be killed",
        "from the moment they answer until all is gone",
    ],
    "A mount or unmount -> known (6 changes)": ["beside 10 mounts: median", "beside 10 mounts: 99th of 100"],
    "Commands, from start to exit (median of 1)": ["watcher --once, 10 mounts", "watcher --version", "python -c pass"],
    "The service at rest, 20 mounts, defaults, over 0.5 s": [
        "processor time, of one core, with children",
        "resident memory",
        "resident memory at its peak",
        "resident memory once its socket has been asked",
        "questions to each mount",
    ],
    "The service asked, 20 mounts, over 1.5 s": [
        "processor time, of one core, with children",
        "one scrape a second: more than that",
        "the same, and 50 follow the events",
        "a scrape (median)",
        "a scrape: size",
        "resident memory before the first scrape, socket not asked yet",
        "after it",
    ],
    "12 mounts of 3 servers go stale at once": [
        "messages",
        "from the last verdict until the last message",
        "processor time above idle, couriers and probes apart",
        "memory above idle",
        "state on disk",
    ],
    "An incident is looked into, beside 20 processes (median of 1)": [
        "FUSE: processor time",
        "a kernel's client: the same",
    ],
    "6 containers with 4 mounts each": [
        "who runs, their names and tables: a first look",
        "the same: processor time",
        "the same without their names",
        "another look, nothing has changed",
        "one sweep",
        "one sweep: processor time",
        "one sweep, directories read too",
        "one sweep, 2 of the containers in user namespaces of their own",
        "judging: all tables taken in",
        "judging: what is due, when all is",
        "judging: the reports of one sweep",
        "judging: when something is due next",
        "judging: how all of it stands",
    ],
    "A container starts or stops -> known (median of 2)": [
        "from its first process until its mounts are known",
        "the longest",
        "from the death of its init until it is forgotten",
        "the longest",
    ],
    "The service at rest, 3 containers with 2 mounts each, defaults, over 0.5 s": [
        "processor time, of one core, with children",
        "resident memory",
        "resident memory at its peak",
        "resident memory once its socket has been asked",
        "questions to each mount",
    ],
}


def processes_with(marker: str) -> set[str]:
    """The command lines of the processes that have inherited this environment variable."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


@pytest.mark.kernel
@pytest.mark.cgroups
def test_the_quick_benchmark_prints_every_row_and_leaves_nothing(tmp_path: Path) -> None:
    marker = f"MOUNTWATCH_TEST={tmp_path}"
    environ = os.environ | {"TMPDIR": str(tmp_path)} | dict([marker.split("=", 1)])
    before = Path("/proc/self/mountinfo").read_bytes()

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bench", "--quick", "--markdown"],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=220, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    machine, _, *table = done.stdout.splitlines()
    assert "Linux" in machine
    assert "Python" in machine
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert {len(row) for row in rows} == {6}
    assert [row[0] for row in rows] == [
        line for heading, lines in SECTIONS.items() for line in (f"**{heading}**", *lines)
    ]
    assert all(row[1] for row in rows if not row[0].startswith("**"))
    assert all(row[4].startswith("did not end") for row in rows if row[0] == "until the last verdict")

    deadline = time.monotonic() + GONE_LIMIT  # a process that was let go may still be dying
    while (left := processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == set()
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_bytes() == before


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--seconds", "soon"]])
def test_wrong_options_are_refused_before_anything_is_mounted(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
