"""The service as systemd runs it: a real `python -m watcher` process, and real mounts for it to watch.

    with Site() as site:
        nas = site.mount("nas")
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            nas.set(HANG)
            await service.wait_for_line("stale: ")

A test says what it waits for: a line of stderr, a message received, a datagram. Nothing here sleeps for an effect,
and at the end of the blocks no process is left but threads that the kernel holds, which the FUSE server's end frees.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.fakes.containers import Containers, not_ours
from tests.fakes.fuse import MS_BIND, FuseMount, FuseServer
from tests.fakes.fuse_server import mount, unmount

LIMIT = 60.0  # seconds for anything that takes a second or two: past it, it does not happen
POLL = 0.02  # seconds between two looks at what tells of no change (/proc)
HOST = socket.gethostname().partition(".")[0]  # as it stands in titles

# Alarms within two seconds: what takes half a minute by default.
FAST = {
    "interval": "500ms",
    "timeout": "300ms",
    "stale_interval": "600ms",
    "alarm_after": "1s",
    "alarm_after_error": "300ms",
    "startup_grace": "0s",
}

_MARK = "WATCHER_TEST_RUN"  # in the environment of the service and of all that it starts
_PEOPLES_LINE = re.compile(r"\d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) ")
_JOURNAL_LINE = re.compile(r"<[2-7]>")


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def toml(value: str | Sequence[str]) -> str:
    """A text or a list of texts as TOML."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)


class Service:
    """One `python -m watcher` process; `lines` is what it has written to stderr."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], *, journal: bool = False) -> None:
        self.lines: list[str] = []
        # What the interpreter warns of, such as descriptors left open, shows on stderr.
        self._command = [sys.executable, "-W", "error", "-m", "watcher", *arguments]
        self._mark = uuid.uuid4().hex
        self._env: dict[str, str] = {**os.environ, **env, _MARK: self._mark}
        self._journal = journal
        self._written = asyncio.Event()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()  # as journald gives it
        with theirs:
            status = os.fstat(theirs.fileno())
            env = self._env | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}" if self._journal else "1:2"}
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=theirs.fileno(),
                cwd="/",
                env=env,
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(reader))
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._has_ended)
        return self

    def _has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)  # readable from now on: the loop would spin
        self._ended.set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        async with asyncio.timeout(LIMIT):
            await self._ended.wait()
        self._process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._pidfd)
        async with asyncio.timeout(LIMIT):
            await self._reading
            self._writer.close()
            await self._writer.wait_closed()
        if kind is None:
            form = _JOURNAL_LINE if self._journal else _PEOPLES_LINE
            strange = [line for line in self.lines if not (form.match(line) and line.isprintable())]
            assert not strange, f"not log lines: {strange}\n{self.log}"
        elif not isinstance(error, asyncio.CancelledError):
            sys.stderr.write(f"---- the service's stderr\n{self.log}\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self.lines.append(line.decode("utf-8", "backslashreplace").removesuffix("\n"))
            self._written.set()
        self._written.set()

    # ---- what it says

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def found(self, pattern: str) -> list[str]:
        """The lines so far in which this regular expression matches."""
        return [line for line in self.lines if re.search(pattern, line)]

    async def wait_for_line(self, pattern: str, count: int = 1) -> str:
        """The `count`th line that matches, as soon as it is written."""
        try:
            async with asyncio.timeout(LIMIT):
                while len(found := self.found(pattern)) < count:
                    assert not self._reading.done(), f"the service ended without {pattern!r}\n{self.log}"
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            raise AssertionError(f"no {count} lines with {pattern!r} within {LIMIT:g} s\n{self.log}") from None
        return found[count - 1]

    # ---- its life

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait_end(self) -> int:
        """The exit code (negative: the signal that ended it), once all it wrote has been read."""
        try:
            async with asyncio.timeout(LIMIT):
                await self._ended.wait()
                await asyncio.shield(self._reading)
        except TimeoutError:
            raise AssertionError(f"still running after {LIMIT:g} s\n{self.log}") from None
        return self._process.wait()

    async def wait_serving(self) -> None:
        """Until it acts upon signals: what comes earlier is the kernel's to deal with."""
        caught = 1 << (signal.SIGTERM - 1)

        def acts() -> bool:
            status = Path(f"/proc/{self.pid}/status").read_text()
            return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & caught) or self._ended.is_set()

        await self.wait_until(acts, "it catches SIGTERM")

    async def wait_for_edits_to_count(self, files: int = 1) -> None:
        """Until it watches the directory of its configuration; an edit before that waits for the sweep, a minute.

        `files`: 2 if that of the token is to be watched, too.
        """

        def watches() -> bool:
            found = 0
            for fd in os.listdir(f"/proc/{self.pid}/fdinfo"):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    found += "inotify wd:" in Path(f"/proc/{self.pid}/fdinfo/{fd}").read_text()
            return found >= files or self._ended.is_set()

        await self.wait_until(watches, "it watches its configuration")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        await self.wait_serving()
        self.send(number)
        return await self.wait_end()

    def processes(self) -> list[int]:
        """The service and its children that live. Of a killed child whose thread the kernel holds nothing is left."""
        mark, found = f"{_MARK}={self._mark}".encode(), []
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError):
                    if mark in Path("/proc", name, "environ").read_bytes():
                        found.append(int(name))
        return found

    def children(self) -> list[int]:
        return [pid for pid in self.processes() if pid != self.pid]

    async def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """For what no event tells of."""
        try:
            async with asyncio.timeout(LIMIT):
                while not true():
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise AssertionError(f"not within {LIMIT:g} s: {what}\n{self.log}") from None

    # ---- what it uses

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def wake_ups(self) -> int:
        """How often its threads have been put on a processor."""
        total = 0
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            status = Path(f"/proc/{self.pid}/task/{tid}/status").read_text()
            total += sum(map(int, re.findall(r"ctxt_switches:\s*(\d+)", status)))
        return total

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime


class Site:
    """A host for the service: a directory with a short path (messages abridge long ones), mounts and a configuration.

    The directory that `watcher` keeps its last good configuration in belongs to the system: for as long as the site
    stands, an empty directory of the test's own lies over /var/lib (in the tests' mount namespace).
    """

    def __init__(self) -> None:
        self._servers: list[FuseServer] = []

    def __enter__(self) -> Self:
        self.path = Path(tempfile.mkdtemp(prefix="w"))
        self.system = self.path / "var-lib"
        self.system.mkdir()
        mount(os.fsencode(self.system), b"/var/lib", b"none", MS_BIND)
        self.fuse = self.server()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        unmount(b"/var/lib")
        shutil.rmtree(self.path)

    # ---- mounts

    def server(self) -> FuseServer:
        """One more FUSE server, to be killed alone."""
        self._servers.append(FuseServer())
        return self._servers[-1]

    def place(self, name: str) -> str:
        """The mount point of this name."""
        return str(self.path / "m" / name)

    def mount(self, name: str, *, server: FuseServer | None = None, **options: Any) -> FuseMount:
        """A FUSE mount below `m`, which the service watches."""
        os.makedirs(self.place(name), exist_ok=True)
        return (server or self.fuse).mount(self.place(name), **({"source": f"{name[:8]}:/export"} | options))

    # ---- configuration

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def socket(self) -> Path:
        """Where the service listens."""
        return self.path / "state" / "run" / "watcher.sock"

    def config_text(
        self,
        channels: Mapping[str, str] | None = None,
        *,
        on: Sequence[str] = ("stale",),
        group_wait: str = "300ms",
        exclude: Sequence[str] = (),
        state: str = "state",
        socket: str | None = None,
        lxc: Containers | None = None,
        more: str = "",
        **probe: str,
    ) -> str:
        """A configuration. `channels`: name to URL, or to a whole line such as `url_file = "…"`; `probe`: over FAST.

        With `lxc` the containers that it has by now are watched, too: others on this machine are none of ours.
        """
        include = [self.place("*"), *(f"{ct.namespace}:*" for ct in lxc.containers)] if lxc else [self.place("*")]
        exclude = [*exclude, *(not_ours() if lxc else ())]
        lines = ["[watch]", f"include = {toml(include)}", f"exclude = {toml(exclude)}"]
        lines.append(f"containers = {'true' if lxc else 'false'}")
        lines += ["[probe]", *(f"{key} = {toml(value)}" for key, value in (FAST | probe).items())]
        lines += ["[notify]", f"on = {toml(on)}", f"group_wait = {toml(group_wait)}"]
        for name, url in (channels or {}).items():
            source = url if " = " in url else f"url = {toml(url)}"
            lines += ["[[notify.channels]]", f"name = {toml(name)}", source]
        lines += ["[state]", f"path = {toml(str(self.path / state / 'state.db'))}"]
        lines += [
            "[status]",
            f"socket = {toml(str(self.path / state / 'run' / 'watcher.sock') if socket is None else socket)}",
        ]
        lines += ["[paths]", f"runtime = {toml(str(self.path / state / 'run'))}"]
        if lxc:
            lines.append(f"lxc_config = {toml(lxc.lxc_config_dirs)}")
            lines += [f"cgroup = {toml(lxc.cgroup_path)}"] if lxc.cgroup_path else []
        lines.append(more)
        return "\n".join(lines) + "\n"

    def write_config(self, *arguments: Any, **options: Any) -> None:
        """Write what `config_text` gives, in place."""
        self.write(self.config, self.config_text(*arguments, **options))

    @staticmethod
    def write(path: Path, text: str, mode: int = 0o600) -> None:
        path.touch(mode=mode)
        path.write_text(text, "utf-8")

    # ---- processes

    def service(
        self,
        *arguments: str,
        config: Path | None = None,
        env: Mapping[str, str] | None = None,
        journal: bool = False,
    ) -> Service:
        """The service on this site's configuration (or `config`), as an async context manager."""
        return Service(["--config", str(config or self.config), *arguments], env or {}, journal=journal)

    async def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
        """A command such as `check-config`, to its end."""
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "watcher", "--config", str(self.config), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={**os.environ, **(env or {})},
            text=True,
        ) as process:
            try:
                out, err = await asyncio.to_thread(process.communicate, None, LIMIT)
            finally:
                process.kill()
        return Outcome(process.returncode, out, err)
