"""Lets tests marked `lab` run in labs while everything around them runs here, and sound as if they ran here.

Outside, each lab is booted once, with all of its tests that were collected, beside the other tests; whoever comes to
such a test waits for its report. Inside (see `labs.INSIDE`), tests are ordinary, and their reports are written down.

`--lab-table FILE` writes what the tests have noted with the fixture `row` into a file, between two marks.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import pytest

from tests.conftest import skip_or_fail
from tests.system import labs
from tests.system.table import ROW, Row, write_table

IN_LAB = os.environ.get(labs.INSIDE)
AT_ONCE = int(os.environ.get("LABS_AT_ONCE", "6"))
LIMIT = 900.0  # seconds for one lab, its boot included: only one that hangs comes near it
DEFAULT_SUITE = "trixie"

all_labs = pytest.StashKey[dict[str, labs.Lab]]()
lab_of = pytest.StashKey[labs.Lab]()
reports_file = pytest.StashKey[TextIO]()
rows_noted = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("labs")
    group.addoption("--lab-table", metavar="FILE", help="write the table of cases into FILE, between its marks")
    group.addoption("--lab-output", metavar="DIR", help="keep what each lab printed in DIR")


@pytest.fixture
def row(record_property: Callable[[str, object], None]) -> Callable[[Row], None]:
    """Note a row of the README's table."""
    return lambda r: record_property(ROW, list(r))


# ---- inside


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[rows_noted] = []
    if (table := config.option.lab_table) and not IN_LAB:
        try:  # now, not after minutes
            write_table(Path(table), None)
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--lab-table: {error}") from None
    if IN_LAB:
        subprocess.run(["modprobe", "fuse"], check=True)
        subprocess.run(["mount", "-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"], check=True)
        config.stash[reports_file] = Path("/job", labs.REPORTS).open("a", buffering=1)  # noqa: SIM115  until the end


def _write(config: pytest.Config, said: object) -> None:
    config.stash[reports_file].write(json.dumps(said) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for key, value in report.user_properties if report.when == "call" and report.passed else ():
        if key == ROW and _session:
            _session[0].config.stash[rows_noted].append(Row._make(cast("list[Any]", value)))
    if IN_LAB and _session:
        config = _session[0].config
        _write(config, config.hook.pytest_report_to_serializable(config=config, report=report))


_session: list[pytest.Session] = []  # the hook above is not told


def pytest_sessionstart(session: pytest.Session) -> None:
    _session[:] = [session]


def pytest_runtest_logfinish(nodeid: str) -> None:
    if IN_LAB:
        _write(_session[0].config, {"finished": nodeid})


# ---- outside


def pytest_collection_finish(session: pytest.Session) -> None:
    if IN_LAB or session.config.option.collectonly:
        return
    groups: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in session.items:
        if mark := item.get_closest_marker("lab"):
            groups.setdefault((mark.args[0], mark.kwargs.get("suite", DEFAULT_SUITE)), []).append(item)
    if labs.missing():
        return  # each of them says so
    labs.compile_checkout()
    room = threading.Semaphore(AT_ONCE)
    started = session.config.stash[all_labs] = {}
    for (name, suite), items in groups.items():
        limit = max(mark.kwargs.get("limit", LIMIT) for item in items if (mark := item.get_closest_marker("lab")))
        lab = started[name] = labs.Lab(name, labs.own_suite() or suite, [item.nodeid for item in items], limit)
        for item in items:
            item.stash[lab_of] = lab
    # Those that take longest first, as far as that can be known.
    for lab in sorted(started.values(), key=lambda lab: -lab.tests):
        lab.start(room)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") and not IN_LAB:
        skip_or_fail(f"lab test {labs.missing()}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    lab = item.stash.get(lab_of, None)
    if lab is None:
        return None
    hook, config = item.ihook, item.config
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    complete = False
    for data in lab.reports(item.nodeid):
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        complete |= report.when == "teardown"
        hook.pytest_runtest_logreport(report=report)
    if not complete:
        report = pytest.TestReport(
            item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", lab.ended(), "call"
        )
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for lab in terminalreporter.config.stash.get(all_labs, {}).values():
        if lab.died:
            terminalreporter.write_line(f"lab {lab.name}: the machine died and was booted once more", yellow=True)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """A lab has a limit of its own, and its tests have theirs inside; here it only looks as if they took that long."""
    return True if lab_of in item.stash else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    for lab in config.stash.get(all_labs, {}).values():
        if directory := config.option.lab_output:
            Path(directory, f"{lab.name}.txt").write_text(lab.output())
        lab.stop()
    if config.option.lab_table and not IN_LAB:
        noted = config.stash[rows_noted]
        write_table(Path(config.option.lab_table), noted)
