"""Drivers for the tests of probing: the prober with its events kept, the tracker fed by real tables, `watcher --once`.

Must not judge anything: that is the tests' matter.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from time import monotonic
from typing import Any, TypeVar

from tests.fakes.containers import Containers, not_ours
from tests.fakes.fuse import FuseMount
from watcher import procfs
from watcher.children import Children
from watcher.core.filters import Filter
from watcher.core.mountinfo import parse
from watcher.core.places import superblock_of
from watcher.core.tracker import Tracker
from watcher.model import (
    HOST,
    Event,
    Mount,
    MountState,
    Pace,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    Superblock,
    TableRead,
    Tick,
    Transition,
)
from watcher.probing import child as probe_child
from watcher.probing.prober import Prober
from watcher.probing.wedged import WedgedNotes

LIMIT = 60.0  # generous: only what is broken comes near it
ROOT = Path(__file__).parents[2]
LOOK_EVERY = 0.01

E = TypeVar("E")


# What is noted of a machine on which other tests run: containers full of mounts, thousands of processes; and of one
# whose first process even root may not look at.
_OF_OTHERS = ("table is larger than", "there are too many processes", "some processes cannot be seen")


def of_ours(stderr: str) -> str:
    """What is said on stderr, but for what tests beside us cause."""
    return "".join(notes_of_ours(stderr.splitlines(keepends=True)))


def source_of_ours(name: str) -> str:
    """A source that no test mounts that runs beside this one: who works in its mount would use an older one of ours."""
    return f"nas01:/{name}-{os.getpid()}"


def notes_of_ours(notes: Iterable[str]) -> list[str]:
    """The same of notes in a document."""
    return [note for note in notes if not any(words in note for words in _OF_OTHERS)]


def table() -> tuple[Mount, ...]:
    """The mount table of this process, as the code under test reads it."""
    return parse(Path("/proc/self/mountinfo").read_bytes())


def mounts_at(path: bytes | str | Path) -> list[Mount]:
    """The lines whose mount point is exactly this path, in the table's order."""
    wanted = os.fsdecode(path)
    return [mount for mount in table() if mount.mount_point == wanted]


def probe_of(mount: Mount, *, timeout: float = 1.0, deep: bool = False) -> Probe:
    return Probe(superblock_of(mount), Place(HOST, mount.mount_point), mount.mount_id, timeout, deep)


def probe(mounted: FuseMount, *, timeout: float = 1.0, deep: bool = False) -> Probe:
    """One question to a mount of the FUSE server."""
    superblock = Superblock(mounted.device, "/", mounted.fstype, mounted.source)
    return Probe(superblock, Place(HOST, mounted.mount_point), mounted.mount_id, timeout, deep)


async def until(ready: Callable[[], bool], what: str = "condition") -> None:
    """Return when it holds; raises TimeoutError."""
    deadline = monotonic() + LIMIT
    while not ready():
        if monotonic() > deadline:
            raise TimeoutError(f"no {what} within {LIMIT:g} s")
        await asyncio.sleep(LOOK_EVERY)


def probe_children(parent: int | None = None) -> list[int]:
    """Probe children of a process (default: this one) that live or have a thread left."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            mine = int(fields[1]) == (os.getpid() if parent is None else parent)
            # A killed child whose threads hang has lost its command line, not its state of a zombie leader.
            if mine and (os.fsencode(str(probe_child.__file__)) in command):
                found.append(int(name))
    return found


def stuck_threads(pids: Iterable[int]) -> list[int]:
    """Threads of these processes that still wait somewhere in the kernel (a zombie leader is none)."""
    return [tid for pid in pids for tid in procfs.threads("/proc", pid) if procfs.thread_exists("/proc", pid, tid)]


@dataclass
class Asker:
    """A prober with real children; keeps every event."""

    prober: Prober
    children: Children
    runtime: Path
    events: list[Event]

    async def ask(self, *probes: Probe) -> list[ProbeReport]:
        """One sweep; its reports in the order of the probes. Every probe gets exactly one."""
        before = len(self.events)
        await self.prober.sweep(list(probes))
        reports = [event for event in self.events[before:] if isinstance(event, ProbeReport)]
        assert len(reports) == len(probes)
        by_place = {report.probe.place: report for report in reports}
        return [by_place[p.place] for p in probes]

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def notes(self) -> list[Path]:
        """The files in which stuck threads are noted."""
        directory = self.runtime / "wedged"
        return sorted(directory.iterdir()) if directory.is_dir() else []


@asynccontextmanager
async def asker(runtime: Path) -> AsyncIterator[Asker]:
    """A prober whose notes are in `runtime`, and whose wedged threads are watched."""
    children, events = Children(), list[Event]()
    prober = Prober(children, events.append, notes=WedgedNotes(str(runtime)))
    watching = asyncio.create_task(prober.watch_wedged())
    try:
        yield Asker(prober, children, runtime, events)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        children.close()


# ---- the tracker on the real table

FAST = Pace(
    interval=0.2, timeout=0.6, stale_interval=0.1, alarm_after=0.0, alarm_after_error=0.0, deep_interval=3600.0
)  # fmt: skip


@dataclass
class Picture:
    """A tracker that sees the mounts below one directory, through real tables and real probes."""

    tracker: Tracker
    asker: Asker
    transitions: list[Transition] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)  # all that were asked, in order
    _handled: int = 0

    def handle(self, event: Event) -> None:
        self.transitions += self.tracker.handle(event, monotonic())

    def read_table(self) -> None:
        """Read it until nothing asks for another reading."""
        self.handle(TableRead(HOST, table()))
        for _ in range(3):
            if not self.tracker.take_rereads():
                return
            self.handle(TableRead(HOST, table()))

    def absorb(self) -> None:
        """Hand the prober's news to the tracker."""
        while self._handled < len(self.asker.events):
            self._handled += 1
            self.handle(self.asker.events[self._handled - 1])

    async def round(self) -> list[Probe]:
        """Ask what is due now, judge it; gives what was asked."""
        self.absorb()
        due = self.tracker.due(monotonic())
        for asked in due:
            self.handle(ProbeStarted(asked))
        self.probes += due
        if due:
            await self.asker.prober.sweep(due)
        self.absorb()
        if self.tracker.take_rereads():
            self.read_table()
        self.handle(Tick())
        return due

    async def until(self, ready: Callable[[], bool], what: str = "state") -> None:
        """Rounds until it holds; raises TimeoutError."""
        deadline = monotonic() + LIMIT
        while True:
            self.absorb()
            if ready():
                return
            if monotonic() > deadline:
                raise TimeoutError(f"no {what} within {LIMIT:g} s: {self.tracker.snapshot()}")
            if not await self.round():
                await asyncio.sleep(LOOK_EVERY)

    async def until_status(self, path: bytes | str, status: str) -> MountState:
        await self.until(lambda: self.state(path).status == status, f"{status} at {os.fsdecode(path)}")
        return self.state(path)

    def states(self) -> dict[str, MountState]:
        return {state.place.mount_point: state for state in self.tracker.snapshot()}

    def state(self, path: bytes | str) -> MountState:
        return self.states()[os.fsdecode(path)]


def watching(
    below: Path,
    *,
    pace: Pace = FAST,
    fstypes: Sequence[str] = ("fuse.*", "tmpfs"),
    overrides: Sequence[tuple[Sequence[str], Mapping[str, float]]] = (),
) -> Filter:
    """The mounts below a directory."""
    return Filter(fstypes=fstypes, include=[f"{below}/*"], exclude=(), show_only=(), pace=pace, overrides=overrides)


@asynccontextmanager
async def picture(runtime: Path, chosen: Filter) -> AsyncIterator[Picture]:
    """A tracker that has read the table once."""
    async with asker(runtime) as asking:
        seen = Picture(Tracker(chosen), asking)
        seen.read_table()
        yield seen


# ---- the command


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    def mount(self, path: bytes | str, namespace: str = HOST, *, key: str = "mounts") -> dict[str, Any]:
        """The entry of one mount point that is plain text; `key`: of "mounts" or of "capacity"."""
        wanted = (namespace, os.fsdecode(path))
        (found,) = [m for m in self.document[key] if (m["namespace"], m["target"]) == wanted]
        entry: dict[str, Any] = found
        return entry

    def notes_on(self, namespace: str) -> list[str]:
        """What is said to be unseen or unwatched of one container."""
        ctid = namespace.removeprefix("ct:")
        return [note for note in self.document["notes"] if re.match(rf"CT {re.escape(ctid)}\b", note)]


class Command:
    """`watcher` with a configuration of its own, which watches below one directory, and in no container."""

    def __init__(self, directory: Path, *, watch: Path | None = None) -> None:
        self.runtime, self.state = directory / "run", directory / "state" / "state.db"
        self.config = directory / "config.toml"
        self.sections: dict[str, str] = {
            "watch": f"include = [{json.dumps(f'{watch or directory}/*')}]\ncontainers = false",
            "probe": 'timeout = "1s"\nalarm_after = "20s"',
            "state": f"path = {json.dumps(str(self.state))}",
            "paths": f"runtime = {json.dumps(str(self.runtime))}",
        }
        self.extra = ""
        self.write()

    def look_into(self, lxc: Containers, **watch: Sequence[str]) -> None:
        """Watch also what this session's containers that there are by now have mounted; `watch`: keys of [watch]."""
        include = [f"{self.config.parent}/*", *(f"{ct.namespace}:*" for ct in lxc.containers)]
        keys = {"include": include, "exclude": not_ours()} | watch
        self.sections["watch"] = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        cgroup = f"\ncgroup = {json.dumps(lxc.cgroup_path)}" if lxc.cgroup_path else ""
        self.sections["paths"] = (
            f"runtime = {json.dumps(str(self.runtime))}\nlxc_config = {json.dumps(lxc.lxc_config_dirs)}{cgroup}"
        )
        self.write()

    def write(self) -> None:
        """Write the configuration as it now is."""
        sections = [f"[{name}]\n{text}\n" for name, text in self.sections.items()]
        self.config.write_text("\n".join(sections) + self.extra)

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "watcher", "--config", str(self.config), *arguments]

    @staticmethod
    def environment(**more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WATCHER", "COLUMNS", "FORCE_COLOR"))}
        return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"} | more

    def start(self, *arguments: str, stdout: int = PIPE, stderr: int = PIPE) -> subprocess.Popen[bytes]:
        """Started in a session of its own: an autofs knows it for a stranger, and a signal meets it alone."""
        return subprocess.Popen(
            self.argv(*arguments),
            cwd="/",
            env=self.environment(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )

    def run(self, *arguments: str) -> Outcome:
        with self.start(*arguments) as process:
            try:
                stdout, stderr = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Outcome(process.returncode, stdout.decode(), stderr.decode())

    def once(self, *arguments: str) -> Outcome:
        """`watcher --once --json`; fails the test on anything unexpected on stderr."""
        outcome = self.run("--once", "--json", *arguments)
        assert "Traceback" not in outcome.stderr, outcome.stderr
        return outcome

    def notes(self) -> list[Path]:
        """The files in which stuck threads are noted."""
        directory = self.runtime / "wedged"
        return sorted(directory.iterdir()) if directory.is_dir() else []

    def noted_threads(self) -> list[tuple[int, int]]:
        """(pid, tid) of every stuck thread that is noted."""
        return [(t["pid"], t["tid"]) for note in self.notes() for t in json.loads(note.read_text())["threads"]]
