"""What watches in a lab: the service with a receiver for its messages, and beside it the way that others probe.

    async with Watch(["/mnt/nfs"]) as watch:          # default settings, but for what is named here
        await watch.status("1 ok")
        told = await watch.outage(place, server.stop_nfsd)     # the commands of the alarm mend it

    told = await outage(place, server.cut, joined(server), says="NO ANSWER", within=SILENCE)    # all of it, and judged

Must not know how anything is broken or mended.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.fakes.receivers import GotifyMessage, GotifyReceiver
from tests.integration.service import Service, toml
from tests.system.control import Control
from tests.system.following import TO_MEND, OwnAct, follow
from tests.system.table import Row

# What the design promises with default settings, and seconds by which a lab on a busy machine may be late.
SILENCE, ERROR, RECOVERY = 35.0, 20.0, 12.0
LAG = 15.0

PATIENCE = 120.0  # seconds for a message: with default settings an alarm takes up to 35
KERNEL = os.uname().release

# A message within seconds, where a case is not about the settings; slower than in the other tests, since a lab is.
QUICK = {
    "interval": "2s",
    "timeout": "1s",
    "stale_interval": "1s",
    "alarm_after": "3s",
    "alarm_after_error": "2s",
    "startup_grace": "0s",
}


class Told(NamedTuple):
    """One outage from beginning to end."""

    alarm: GotifyMessage
    alarm_after: float  # seconds since it broke
    control: list[str]  # what the control has said between the break and the alarm
    recovery: GotifyMessage
    recovery_after: float  # seconds since `stat -f` answers again
    done: list[str]  # in between: what was typed, and what the test has done

    def judge(self, says: str, within: float) -> None:
        """`says`: what must stand in the alarm's title; `within`: seconds to the alarm."""
        assert says in self.alarm.title
        assert self.alarm_after < within + LAG
        assert self.recovery_after < RECOVERY + LAG

    def row(self, order: int, case: str, words: str) -> Row:
        """Of the table; `words`: what we said."""
        said = self.control[-1] if self.control else "–"
        return Row(order, case, KERNEL, said, words, self.alarm_after, self.recovery_after, self.story)

    @property
    def story(self) -> str:
        """The alarm as it was received, what was done about it, and what was heard then."""
        first, last = (f"{m.title}\n{m.message}" for m in (self.alarm, self.recovery))
        return "\n\n".join([first, "\n".join(self.done), last])


class Watch:
    """The service on a configuration of its own, its receiver, and what it tells the service manager."""

    def __init__(
        self,
        include: Sequence[str],
        *,
        probe: Mapping[str, str] | None = None,
        on: Sequence[str] = ("stale",),
        containers: bool = False,
        more: str = "",
    ) -> None:
        """`probe`: keys of [probe] other than the defaults; the grace after the boot is none, since a lab is young."""
        self._include, self._on, self._containers, self._more = include, on, containers, more
        self._probe = {"startup_grace": "0s"} | dict(probe or {})
        self._statuses: list[str] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="w", ignore_cleanup_errors=True)))
            self.gotify = await stack.enter_async_context(GotifyReceiver())
            self._listen(stack)
            self.configure()
            self.service = await stack.enter_async_context(
                Service(["--config", str(self.config)], {"NOTIFY_SOCKET": str(self.path / "notify")})
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stderr.write(f"---- messages\n{self.messages}\n---- status\n{self._statuses[-3:]}\n")
        await self._stack.__aexit__(kind, error, trace)

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    def configure(self) -> None:
        """Write the configuration."""
        lines = ["[watch]", f"include = {toml(self._include)}", f"containers = {str(self._containers).lower()}"]
        lines += ["[probe]", *(f"{key} = {toml(value)}" for key, value in self._probe.items())]
        lines += ["[notify]", f"on = {toml(self._on)}"]
        lines += ["[[notify.channels]]", 'name = "gotify"', f"url = {toml(self.gotify.url)}"]
        lines += ["[state]", f"path = {toml(str(self.path / 'state' / 'state.db'))}"]
        lines += ["[status]", f"socket = {toml(str(self.path / 'run' / 'watcher.sock'))}"]
        lines += ["[paths]", f"runtime = {toml(str(self.path / 'run'))}", self._more]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    def _listen(self, stack: AsyncExitStack) -> None:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(self.path / "notify"))
        manager.setblocking(False)
        self._heard = asyncio.Event()

        def hear() -> None:
            for line in manager.recv(65536).decode("utf-8", "replace").splitlines():
                if line.startswith("STATUS="):
                    self._statuses.append(line.removeprefix("STATUS="))
                    self._heard.set()

        asyncio.get_running_loop().add_reader(manager, hear)
        stack.callback(asyncio.get_running_loop().remove_reader, manager)

    # ---- what it says

    @property
    def messages(self) -> list[str]:
        """All messages so far, title and body."""
        return [f"{m.title}\n{m.message}" for m in self.gotify.received]

    @property
    def now(self) -> str:
        """The last status line."""
        return self._statuses[-1] if self._statuses else ""

    async def status(self, pattern: str, limit: float = PATIENCE) -> None:
        """Until the line for `systemctl status` matches."""
        try:
            async with asyncio.timeout(limit):
                while not re.search(pattern, self.now):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise AssertionError(f"no status {pattern!r} within {limit:g} s: {self._statuses}") from None

    async def next_message(self, had: int, limit: float = PATIENCE) -> GotifyMessage:
        """The message after those `had`."""
        try:
            return (await self.gotify.wait_for(had + 1, limit))[had]
        except TimeoutError:
            raise AssertionError(f"no message within {limit:g} s; so far: {self.messages}") from None

    async def followed(self, had: int) -> GotifyMessage:
        """The message after those `had`, once its commands have been run, as an administrator would."""
        message = await self.next_message(had)
        await asyncio.to_thread(follow, message.message)
        return message

    async def outage(
        self,
        place: str | Path,
        breaks: Callable[[], object],
        mends: OwnAct | None = None,
        *,
        looks: Callable[[], object] | None = None,
        edits: OwnAct | None = None,
        follows: Sequence[str] = TO_MEND,
        hangs: Sequence[str] = (),
        begins: str = "🔴",
        ends: str = " ok after ",
        inside: Sequence[str] = (),
        back_within: float = PATIENCE,
    ) -> Told:
        """Break, do what the alarm says, and mend: the message of each, and the control's words in between.

        `follows`: which of the alarm's lines are run, as an administrator would. With `mends`, which no command of it
        can do, they need not succeed, else they have to, once `edits` has been done. `looks`: before all that.
        `hangs`: what the alarm must name as hanging on it. `begins`, `ends`: what stands in the titles of the two.
        `inside`: what stands before a command that is to run in the container whose `place` it is. `back_within`:
        seconds that the kernel may take until `stat -f` answers.
        """
        had = len(self.gotify.received)
        control = Control(str(place), inside)
        done = []
        try:
            await asyncio.to_thread(breaks)
            began = time.monotonic()
            alarm = await self.next_message(had)
            alarm_after = time.monotonic() - began
            said = control.since(began)
            assert begins in alarm.title, self.messages
            named = alarm.message.partition("Hangs on ")[2]
            assert all(word in named for word in hangs), (hangs, alarm.message)
            if looks is not None:
                await asyncio.to_thread(looks)
            if edits is not None:
                await asyncio.to_thread(edits.do)
                done.append(f"({edits.words})")
            done += await asyncio.to_thread(follow, alarm.message, follows, must=mends is None)
            if mends is not None:
                await asyncio.to_thread(mends.do)
                done.append(f"({mends.words})")
            await asyncio.to_thread(until_it_answers, str(place), inside, back_within)
            back = time.monotonic()
            recovery = await self.next_message(had + 1)
            recovery_after = time.monotonic() - back
        finally:
            control.stop()
        assert ends in recovery.title, self.messages
        return Told(alarm, alarm_after, said, recovery, recovery_after, done)


async def outage(
    place: Path,
    breaks: Callable[[], object],
    mends: OwnAct | None = None,
    *,
    says: str,
    within: float,
    on: Sequence[str] = ("stale",),
    **how: Any,
) -> Told:
    """With default settings: one alarm that says this within so many seconds, one recovery in time, and no more."""
    async with Watch([str(place)], on=on) as watch:
        await watch.status("1 ok")
        told = await watch.outage(place, breaks, mends, **how)
        assert len(watch.messages) == 2, watch.messages
    told.judge(says, within)
    return told


def nothing() -> None:
    """What breaks something that is broken from its beginning."""


def until_it_answers(place: str, inside: Sequence[str] = (), limit: float = PATIENCE) -> None:
    """Until a plain `stat -f` answers, and a moment later once more: after an outage requests come in a burst."""
    until = time.monotonic() + limit
    good = 0
    while good < 2:
        process = subprocess.Popen([*inside, "stat", "-f", place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            good = good + 1 if process.wait(max(0.1, until - time.monotonic())) == 0 else 0
        except subprocess.TimeoutExpired:
            process.kill()
        assert time.monotonic() < until, f"{place} does not answer after {limit:g} s"
        time.sleep(0.1)


def once(*arguments: str, config: Path | None = None, limit: float = 60.0) -> tuple[int, Any]:
    """`watcher --once --json` with these arguments: its exit code, and what it says."""
    options = ["--config", str(config)] if config else []
    done = subprocess.run(
        [sys.executable, "-m", "watcher", *options, "--once", "--json", *arguments],
        stdout=subprocess.PIPE,
        timeout=limit,
        cwd="/",
    )
    return done.returncode, json.loads(done.stdout)
