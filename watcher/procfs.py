"""Blocking reads of procfs: the one place that has them.

Only what cannot wait for another process's memory or for a file system is read here: mountinfo,
stat, task, children, comm, status, ns, and the stack of our own children. Not cmdline, environ or maps.
"""

from __future__ import annotations

import os
from itertools import dropwhile

_CHUNK = 1 << 16  # the kernel gives at most a page of mountinfo at a time, whatever is asked for


def read(path: str, limit: int = 1 << 26) -> bytes:
    """A whole procfs file, to its end. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [], 0
        while size < limit and (part := os.read(fd, _CHUNK)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def open_mountinfo(proc: str) -> int:
    """A descriptor that polls readable (POLLPRI) when our own mount table changes (proc_pid_mountinfo(5))."""
    return os.open(f"{proc}/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)


def start_time(proc: str, pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat: with the pid it names a process for good. None where there is none."""
    try:
        text = read(f"{proc}/{pid}/stat")
        return int(text.rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def threads(proc: str, pid: int) -> set[int]:
    """The threads that a process still has. After SIGKILL: those that cannot die, and the leader as a zombie."""
    try:
        return {int(name) for name in os.listdir(f"{proc}/{pid}/task")}
    except OSError:
        return set()


def thread_exists(proc: str, pid: int, tid: int) -> bool:
    """Whether a thread still runs. A zombie does not."""
    try:
        text = read(f"{proc}/{pid}/task/{tid}/stat")
    except OSError:
        return False
    return text.rpartition(b")")[2].split()[:1] not in ([b"Z"], [b"X"])


def stack(proc: str, pid: int, tid: int) -> tuple[str, ...]:
    """The kernel functions in which a thread waits, innermost first; empty without the privilege to see."""
    try:
        text = read(f"{proc}/{pid}/task/{tid}/stack").decode("ascii", "replace")
    except OSError:
        return ()
    # "[<0>] rpc_wait_bit_killable+0x11/0x70 [sunrpc]"
    names = [line.partition("] ")[2].partition("+")[0] for line in text.splitlines() if line]
    # Some architectures show the scheduler's own frames on top: how it waits, not for what.
    return tuple(dropwhile(lambda name: name.strip("_").startswith(("switch_to", "schedule", "io_schedule")), names))


def boot_id(proc: str) -> str:
    """Of this boot; empty where it cannot be told."""
    try:
        return read(f"{proc}/sys/kernel/random/boot_id").decode("ascii", "replace").strip()
    except OSError:
        return ""
