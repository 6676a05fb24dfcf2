"""mountwatch.service as the README installs it, on a lab's own systemd, and what systemd and the journal say of it.

    async with Unit() as unit:
        unit.configure([f"{directory}/*"])
        await unit.systemctl("start")
        await unit.line("stale: ")

Only for a lab: it takes the machine's /opt/mountwatch, /etc/mountwatch, /var/lib/mountwatch and /run/mountwatch for
its own, and leaves none of them but the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.integration.service import Outcome, toml
from tests.system.labs import CHECKOUT

NAME = "mountwatch.service"
SOURCE = CHECKOUT / "contrib" / "systemd" / NAME
INSTALLED = Path("/etc/systemd/system", NAME)
DROP_INS = Path(f"{INSTALLED}.d")
PREFIX = Path("/opt/mountwatch")
CONFIG = Path("/etc/mountwatch/config.toml")
STATE, RUNTIME = Path("/var/lib/mountwatch"), Path("/run/mountwatch")
CGROUP = Path("/sys/fs/cgroup/system.slice", NAME)
LIMIT = 60.0  # seconds for what takes a few: a lab is slow, and may share its processor with others
POLL = 0.5  # seconds between two looks at what tells of no change, each of which starts a process

# Alarms within seconds, at a pace at which starting probes is not all that a lab does.
QUICK = {
    "interval": "2s",
    "timeout": "1s",
    "stale_interval": "1s",
    "alarm_after": "3s",
    "alarm_after_error": "1s",
    "startup_grace": "0s",
}

Entry = dict[str, Any]  # of the journal


async def command(*argv: str) -> Outcome:
    """A command of the test's own, to its end."""
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=LIMIT)
    return Outcome(done.returncode, done.stdout, done.stderr)


class Unit:
    """The unit from its installation to its removal; `entries` is what the journal has of it since then."""

    _read_by_systemd: ClassVar[dict[str, str]] = {}  # by path; the machine's

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        if not PREFIX.exists():
            PREFIX.symlink_to(sys.prefix)
        shutil.copy2(SOURCE, INSTALLED)  # as old as it was, or systemd takes it for another one
        await command("systemctl", "reset-failed", NAME)
        follow = ["journalctl", "-f", "--no-tail", "-o", "json", f"--since=@{time.time():.6f}", "-u", NAME]
        self._journal = await asyncio.create_subprocess_exec(*follow, stdout=asyncio.subprocess.PIPE, limit=1 << 20)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = await command("systemctl", "status", "--no-pager", "-l", "-n0", NAME)
        sys.stderr.write(f"{status.out}---- the journal\n{self.log}\n")  # shown if the test fails
        await self.systemctl("stop")
        for pid in self.processes():  # those that can die
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._journal.kill()
        await self._journal.wait()
        await self._reading
        INSTALLED.unlink()
        for directory in (DROP_INS, CONFIG.parent, STATE, RUNTIME):
            shutil.rmtree(directory, ignore_errors=True)

    async def _read(self) -> None:
        assert self._journal.stdout is not None
        while (line := await self._journal.stdout.readline()).endswith(b"\n"):  # what is killed may break off
            self.entries.append(json.loads(line))
            self._news.set()

    # ---- what is set

    def drop_in(self, *lines: str) -> None:
        """Lines of [Service] that change the unit, as `systemctl edit` would."""
        DROP_INS.mkdir(exist_ok=True)
        (DROP_INS / "override.conf").write_text("\n".join(["[Service]", *lines, ""]))

    def configure(
        self, include: Sequence[str], channels: Iterable[str] = (), *, watch: str = "", more: str = "", **probe: str
    ) -> None:
        """Write the configuration. `channels`: for each the line that says where its URL is; `watch`: a line of
        [watch]; `probe`: over QUICK.
        """
        lines = ["[watch]", f"include = {toml(include)}", watch, "[probe]"]
        lines += [f"{key} = {toml(value)}" for key, value in (QUICK | probe).items()]
        lines += ["[notify]", 'group_wait = "300ms"']
        for number, line in enumerate(channels):
            lines += ["[[notify.channels]]", f'name = "channel-{number}"', line]
        self.write_config("\n".join([*lines, more, ""]))

    @staticmethod
    def write_config(text: str) -> None:
        CONFIG.parent.mkdir(exist_ok=True)
        CONFIG.touch(mode=0o600)
        CONFIG.write_text(text)

    # ---- what systemd does and says

    async def systemctl(self, verb: str, *options: str) -> None:
        """A verb that must succeed."""
        await self.reload()
        done = await command("systemctl", verb, *options, NAME)
        assert done.code == 0, f"systemctl {verb}: {done.code}\n{done.err}\n{self.log}"

    async def reload(self) -> None:
        """`systemctl daemon-reload`, which takes seconds, only where systemd has not read the files as they are."""
        files = {str(file): file.read_text() for file in (INSTALLED, *DROP_INS.glob("*.conf"))}
        if files != self._read_by_systemd:
            done = await command("systemctl", "daemon-reload")
            assert done.code == 0, done.err
            Unit._read_by_systemd = files

    async def show(self, *properties: str, unit: str = NAME) -> dict[str, str]:
        done = await command("systemctl", "show", f"--property={','.join(properties)}", unit)
        assert done.code == 0, done.err
        return dict(line.split("=", 1) for line in done.out.splitlines())

    async def until(self, true: Callable[[dict[str, str]], bool], *properties: str, unit: str = NAME) -> dict[str, str]:
        """These properties, as soon as they are as wanted."""
        values: dict[str, str] = {}
        try:
            async with asyncio.timeout(LIMIT):
                while not true(values := await self.show(*properties, unit=unit)):
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise AssertionError(f"{unit} is still {values} after {LIMIT:g} s\n{self.log}") from None
        return values

    async def status(self, pattern: str) -> str:
        """The line for `systemctl status`, as soon as it matches."""
        return (await self.until(lambda p: bool(re.search(pattern, p["StatusText"])), "StatusText"))["StatusText"]

    async def main_pid(self) -> int:
        return int((await self.show("MainPID"))["MainPID"])

    async def restarted(self, pid: int, times: int = 1) -> int:
        """The new main process, once systemd has restarted what was `pid`, and it is ready."""

        def back(values: dict[str, str]) -> bool:
            return (
                values["NRestarts"] == str(times) and values["SubState"] == "running" and values["MainPID"] != str(pid)
            )

        return int((await self.until(back, "NRestarts", "SubState", "MainPID"))["MainPID"])

    @staticmethod
    def processes() -> list[int]:
        """All in its control group, whatever systemd thinks of them."""
        try:
            return [int(pid) for pid in (CGROUP / "cgroup.procs").read_text().split()]
        except OSError:  # none, and so no group
            return []

    # ---- what the journal has

    @property
    def log(self) -> str:
        return "\n".join(str(entry["MESSAGE"]) for entry in self.entries)

    def found(self, pattern: str) -> list[Entry]:
        """The entries so far in whose message this regular expression matches."""
        return [entry for entry in self.entries if re.search(pattern, str(entry["MESSAGE"]))]

    async def line(self, pattern: str, count: int = 1) -> Entry:
        """The `count`th entry that matches, as soon as it is there."""
        try:
            async with asyncio.timeout(LIMIT):
                while len(found := self.found(pattern)) < count:
                    assert not self._reading.done(), f"journalctl ended without {pattern!r}\n{self.log}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {count} lines with {pattern!r} within {LIMIT:g} s\n{self.log}") from None
        return found[count - 1]
