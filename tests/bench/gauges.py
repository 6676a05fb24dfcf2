"""Reads wall time, processor time and memory of this process and of its children. Measures nothing by itself.

All are the kernel's own counts: getrusage(2), proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

OWN_NAME = "bench"  # tells a forked child that has not yet become another program from one that has


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds of wall time that the call took, and its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def cpu() -> float:
    """Seconds of processor time so far, user and system, of this process and of the children it has reaped."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def cpu_of_reaped() -> float:
    """The same of the children that have been reaped alone."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_of(pid: int) -> float:
    """The same of another process, in steps of a clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, cutime, cstime


def own_cpu_of(pid: int) -> float:
    """Without its children, and in nanoseconds' steps (proc_pid_schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory(pid: int | str = "self", key: str = "VmHWM") -> int:
    """Bytes resident, at its peak (VmHWM) or now (VmRSS); 0 for a process that has none (any more)."""
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
        return int(text.partition(f"{key}:")[2].split(None, 1)[0]) * 1024
    return 0


def children() -> list[int]:
    """The pids of this process's children that run a program of their own."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if _name(pid) != OWN_NAME]


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").rstrip("\n")
    return OWN_NAME


class ChildrensMemory:
    """Looks again and again, in a thread, how much memory the children have and how many there are.

    Not getrusage's maximum: that of a child starts with the memory of the parent it was forked from.
    """

    def __init__(self, interval: float) -> None:
        self.peak = 0  # bytes: of each child its own peak, of those that were seen at the same time the sum
        self.most = 0  # children at the same time
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> ChildrensMemory:
        Path("/proc/self/comm").write_text(OWN_NAME)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._interval):
            sizes = [size for pid in children() if (size := memory(pid))]
            self.peak, self.most = max(self.peak, sum(sizes)), max(self.most, len(sizes))
