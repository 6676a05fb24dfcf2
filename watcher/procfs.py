"""Blocking reads of procfs: the one place that has them.

Only what cannot wait for another process's memory or for a file system is read here: mountinfo,
mountstats, stat, task, children, comm, status, ns, cgroup, and the stack of our own children; and what lies in memory,
too: cgroup.events of cgroupfs, the names of block devices in sysfs, the states of ZFS pools. Not cmdline, environ or
maps.
"""

from __future__ import annotations

import os
from itertools import dropwhile
from typing import NamedTuple

_CHUNK = 1 << 16  # the kernel gives at most a page of mountinfo at a time, whatever is asked for
_PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


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


def read_short(path: str) -> bytes:
    """A file that the kernel gives in one piece: comm, stat, status, cgroup, cgroup.events. Raises OSError.

    A look at containers is made of thousands of these, and another read to find the end is a third of each.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _CHUNK)
    finally:
        os.close(fd)


def open_mountinfo(proc: str) -> int:
    """A descriptor that polls readable (POLLPRI) when our own mount table changes (proc_pid_mountinfo(5))."""
    return os.open(f"{proc}/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)


def start_time(proc: str, pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat: with the pid it names a process for good. None where there is none."""
    try:
        return int(_stat(f"{proc}/{pid}/stat")[1][19])
    except (OSError, IndexError, ValueError):
        return None


def resident(pid: int | str) -> int:
    """Bytes of memory of a process of ours; 0 for one that has ended."""
    try:
        return int(_stat(f"/proc/{pid}/stat")[1][21]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _stat(path: str) -> tuple[bytes, list[bytes]]:
    """The name and, from the third (the state) on, the fields of a stat file. Raises OSError."""
    head, _, tail = read_short(path).rpartition(b")")
    return head.partition(b"(")[2], tail.split()


def threads(proc: str, pid: int) -> set[int]:
    """The threads that a process still has. After SIGKILL: those that cannot die, and the leader as a zombie."""
    try:
        return {int(name) for name in os.listdir(f"{proc}/{pid}/task")}
    except OSError:
        return set()


def thread_exists(proc: str, pid: int, tid: int) -> bool:
    """Whether a thread still runs. A zombie does not."""
    try:
        _, fields = _stat(f"{proc}/{pid}/task/{tid}/stat")
    except OSError:
        return False
    return fields[:1] not in ([b"Z"], [b"X"])


def is_held(proc: str, pid: int, tid: int) -> bool:
    """Whether a thread sleeps in the kernel. One that runs, waits for a processor, or ends just now does not."""
    try:
        return _stat(f"{proc}/{pid}/task/{tid}/stat")[1][:1] in ([b"S"], [b"D"])
    except OSError:
        return False


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


# ---- local disks


def block_devices(sys: str) -> frozenset[str]:
    """ "major:minor" of each; empty where sysfs is not to be seen."""
    return _listed(f"{sys}/dev/block")


def block_names(sys: str) -> frozenset[str]:
    """ "sda1" and the like."""
    return _listed(f"{sys}/class/block")


def zfs_pools(proc: str) -> dict[str, str]:
    """The state of each pool ("ONLINE", "SUSPENDED"): OpenZFS's kstat answers from memory, also for one that hangs."""
    states = {}
    for pool in _listed(f"{proc}/spl/kstat/zfs"):
        try:
            states[pool] = read_short(f"{proc}/spl/kstat/zfs/{pool}/state").decode("ascii", "replace").strip()
        except OSError:
            continue  # no pool; or exported meanwhile
    return states


def _listed(path: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(path))
    except OSError:
        return frozenset()


# ---- other processes, and control groups


class Process(NamedTuple):
    """What /proc/<pid>/stat says of a process that has not ended."""

    comm: bytes
    parent: int
    start_time: int  # in clock ticks since boot


def process(proc: str, pid: int) -> Process | None:
    """None if there is none, or only its exit status is left."""
    try:
        name, fields = _stat(f"{proc}/{pid}/stat")
        if fields[0] in (b"Z", b"X"):
            return None
        return Process(name, int(fields[1]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def processes(proc: str) -> list[int]:
    """The pids of all processes that we may see. Raises OSError."""
    return [int(name) for name in os.listdir(proc) if name.isdecimal()]


def comm(proc: str, pid: int) -> bytes:
    """A process's name; empty where there is none."""
    try:
        return read_short(f"{proc}/{pid}/comm").rstrip(b"\n")
    except OSError:
        return b""


def children(proc: str, pid: int) -> list[int]:
    """The children of a process's first thread. Raises OSError: FileNotFoundError without CONFIG_PROC_CHILDREN, too."""
    return [int(child) for child in read(f"{proc}/{pid}/task/{pid}/children").split()]


def namespace(proc: str, pid: int | str, kind: str) -> int:
    """The inode number that names the namespace of a kind ("mnt", "pid", "user") of a process. Raises OSError."""
    return int(os.readlink(f"{proc}/{pid}/ns/{kind}").partition("[")[2].rstrip("]"))
