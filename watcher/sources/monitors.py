"""The LXC monitors among the processes, and each one's init: what a walk of /proc finds.

Believes only processes of our own pid and user namespace that are root in it: any other can call
itself lxc-start. Reads only what `procfs` may (no cmdline), starts nothing, decides nothing about ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from watcher import procfs
from watcher.core import lxc

FULL_EVERY = 20  # slow walks: a process seen twice before it called exec(3) is then found all the same


class Monitor(NamedTuple):
    """A process that holds a container, or is about to or did."""

    pid: int
    start_time: int


class Init(NamedTuple):
    """A container's first process, as it is seen from our pid namespace."""

    pid: int
    start_time: int


class ChildrenUnknown(Exception):
    """The kernel does not list children (it lacks CONFIG_PROC_CHILDREN)."""


class Monitors:
    """Finds monitors and remembers which processes are none, so that a walk costs little when nothing is new."""

    def __init__(self, proc: str) -> None:
        """Raises OSError where our own namespaces cannot be read."""
        self._proc = proc
        self._ours = {kind: procfs.namespace(proc, "self", kind) for kind in ("mnt", "pid", "user")}
        self._seen: dict[int, int] = {}  # pid -> in how many slow walks its name was read, up to 2
        self._known: dict[int, Monitor] = {}
        self._slow_walks = 0
        self.hidden = 0  # processes of that name, and root's, of which we may see no more

    def walk(self, *, slow: bool = False) -> list[Monitor]:
        """All monitors; a slow walk reads the names of new processes only, except every 20th. Raises OSError."""
        pids = procfs.processes(self._proc)
        full = not slow or self._slow_walks % FULL_EVERY == 0
        self._slow_walks += slow
        named = [pid for pid in pids if full or pid in self._known or self._seen.get(pid, 0) < 2]
        self._seen = {pid: min(2, self._seen.get(pid, 0) + slow) for pid in pids}
        self.hidden = 0
        known, self._known = self._known, {}
        for pid in named:
            if procfs.comm(self._proc, pid) == lxc.COMM and (monitor := self._look_at(pid, known.get(pid))):
                self._known[pid] = monitor
        return list(self._known.values())

    def _look_at(self, pid: int, known: Monitor | None) -> Monitor | None:
        process = procfs.process(self._proc, pid)
        if process is None:
            return None
        monitor = Monitor(pid, process.start_time)
        if monitor == known:
            return known
        try:
            if not lxc.is_all_root(procfs.read_short(f"{self._proc}/{pid}/status")):
                return None
            ours = all(procfs.namespace(self._proc, pid, kind) == self._ours[kind] for kind in ("pid", "user"))
        except PermissionError:
            self.hidden += 1
            return None
        except OSError:
            return None  # gone
        return monitor if ours else None

    def find_init(self, monitor: Monitor, told: int | None = None) -> Init | None:
        """The init of a monitor's container, None if there is none (yet, or any more).

        `told` is the init's pid where it was asked for otherwise. Raises ChildrenUnknown where it must be.
        """
        try:
            candidates: Sequence[int] = procfs.children(self._proc, monitor.pid) if told is None else [told]
        except FileNotFoundError:
            if procfs.process(self._proc, monitor.pid) is None:
                return None
            raise ChildrenUnknown from None
        except OSError:
            return None
        # What shares our pid namespace is a hook, whatever mounts it sees (PVE gives the monitor its own).
        candidates = [pid for pid in candidates if self._is_apart(pid)]
        if len(candidates) > 1:
            candidates = list(self._first_processes(candidates))
        if len(candidates) != 1:
            return None
        process = procfs.process(self._proc, candidates[0])
        # Its parent tells that the pid was not re-used while we looked.
        return Init(candidates[0], process.start_time) if process and process.parent == monitor.pid else None

    def _is_apart(self, pid: int) -> bool:
        try:
            return all(procfs.namespace(self._proc, pid, kind) != self._ours[kind] for kind in ("mnt", "pid"))
        except OSError:
            return False

    def _first_processes(self, pids: Iterable[int]) -> Iterable[int]:
        for pid in pids:
            try:
                if lxc.is_first_process(procfs.read_short(f"{self._proc}/{pid}/status")):
                    yield pid
            except OSError:
                continue

    def is_alive(self, process: Monitor | Init) -> bool:
        """Whether it is still this very process, and not only its exit status."""
        now = procfs.process(self._proc, process.pid)
        return now is not None and now.start_time == process.start_time

    def cgroup_id(self, monitor: Monitor) -> str | None:
        """The container's id, where the monitor's control group says it."""
        try:
            return lxc.id_from_cgroup(procfs.read_short(f"{self._proc}/{monitor.pid}/cgroup"))
        except OSError:
            return None

    def user_namespace(self, init: Init) -> int:
        """The inode of its user namespace if that is not ours, else 0. Raises OSError."""
        inode = procfs.namespace(self._proc, init.pid, "user")
        return inode if inode != self._ours["user"] else 0
