"""Runs the child that counts what lies under mount points (`beneath`), and kills it when its time is over.

What is mounted there is never touched. What to look at is the caller's matter, and that the disk underneath is none
that hangs by its nature.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any, NamedTuple

from watcher.children import Child, Children, framed
from watcher.core.explain import base_of
from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, mount_of
from watcher.model import Container, Mount, Place, TableRead
from watcher.probing import beneath
from watcher.reading import may_hang_on

SECONDS = 5.0  # for one directory
GRACE = 2.0  # seconds more for its answer to come
KILLED = 1.0  # seconds in which a child ends that was killed, unless it hangs
PATIENCE = 60.0  # seconds for all directories of one namespace
ANSWER_LIMIT = 1 << 16  # bytes of one answer
NO_RIGHTS = "needs root (CAP_SYS_ADMIN)"
NO_DIRECTORY = "there is no directory of files under it"
REMOTE = "the directory lies on a remote or FUSE mount itself, which is not asked"

# Nobody's files lie in these.
_NO_FILES = frozenset(("proc", "sysfs", "cgroup2", "cgroup", "devpts", "securityfs", "debugfs", "tracefs", "bpf"))


class Job(NamedTuple):
    """A directory to be looked into."""

    place: Place
    mount: Mount | None  # that stands on it; None: none does, and the directory lies open
    base: Mount  # that it lies in
    container: Container | None
    expected_by: str = ""  # who says that something should be mounted there


class Found(NamedTuple):
    """What lies there; or why that is not known."""

    files: int = 0
    bytes: int = 0  # that they take on the disk
    names: tuple[str, ...] = ()
    cut: str = ""  # why not all of it was counted: "entries", "time", "depth", "unreadable"
    free: int = 0  # bytes of the file system, for an ordinary user
    newest: float = 0.0  # when something of it changed last; seconds since the epoch
    error: str = ""
    is_absent: bool = False  # there is no such directory
    is_hung: bool = False  # a child of ours hangs in it; else its disk is not at fault if it only took too long


def job_of(
    place: Place, mount: Mount | None, table: TableRead, chosen: Filter, *, expected_by: str = ""
) -> tuple[Job | None, Mount | None, str]:
    """(what to look into, the mount in which the directory lies, why nobody looks).

    `mount`: the one that stands there; `chosen`: what is watched, and so may hang.
    """
    base = base_of(mount, table.mounts) if mount is not None else mount_of(place.mount_point, table.mounts)
    if base is None or base.fstype in _NO_FILES:
        return None, base, NO_DIRECTORY
    way = (base, *Tree(table.mounts).ancestors(base))
    if any(may_hang_on(m.fstype) or chosen.watches(table.namespace, m) for m in way):
        return None, base, REMOTE
    return Job(place, mount, base, table.container, expected_by), base, ""


async def look_into(
    jobs: list[Job], children: Children, *, entries: int, seconds: float = SECONDS, patience: float = PATIENCE
) -> list[Found]:
    """One namespace's, in this order; a directory that hangs costs its time, and the others get another child."""
    found: list[Found] = []
    ends = monotonic() + patience
    while jobs:
        container = jobs[0].container
        pid, start = (container.init_pid, container.start_time) if container is not None else (0, 0)
        try:
            child = await children.spawn([sys.executable, "-I", "-S", str(beneath.__file__), str(pid), str(start)])
        except OSError as e:
            return found + [Found(error=f"no child can be started: {e.strerror}") for _ in jobs]
        fields = [
            (
                str(int(job.mount is not None)),
                str(n),
                str(job.base.mount_id),
                job.base.mount_point,
                job.place.mount_point,
                str(int(1000 * seconds)),
            )
            for n, job in enumerate(jobs)
        ]
        child.write(framed(field for job in fields for field in (*job, entries)))
        child.close_stdin()
        try:
            answers = _Answers(child, seconds + GRACE)
            for done, job in enumerate(jobs):
                if monotonic() > ends:
                    late = Found(error=f"not looked at within {patience:g} s: name it")
                    return found + [late for _ in jobs[done:]]
                answer = await answers.next()
                if answer is None or answer.get("id") != str(done):
                    child.kill()
                    is_hung = not await child.wait_exit(KILLED)
                    found.append(Found(error=f"no answer from its disk within {seconds + GRACE:g} s", is_hung=is_hung))
                    jobs = jobs[done + 1 :]
                    break
                found.append(_found(job, answer))
            else:
                jobs = []
        finally:
            child.kill()
    return found


class _Answers:
    """The lines of a child."""

    def __init__(self, child: Child, limit: float) -> None:
        self._child = child
        self._limit = limit
        self._rest = b""

    async def next(self) -> dict[str, Any] | None:
        """None if none comes in time, or none more."""
        try:
            async with asyncio.timeout(self._limit):
                while b"\n" not in self._rest:
                    chunk = await self._child.read()
                    if not chunk or len(self._rest) > ANSWER_LIMIT:
                        return None
                    self._rest += chunk
        except TimeoutError:
            return None
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else None


def _found(job: Job, answer: Mapping[str, Any]) -> Found:
    if "step" in answer:
        code = int(answer["errno"])
        return Found(error=_trouble(str(answer["step"]), code, job), is_absent=code == errno.ENOENT)
    return Found(
        int(answer["files"]),
        int(answer["bytes"]),
        tuple(map(str, answer["names"])),
        str(answer["cut"]),
        int(answer["free"]),
        float(answer["newest"]),
    )


def _trouble(step: str, code: int, job: Job) -> str:
    words = os.strerror(code)
    if code == errno.EPERM and step in ("clone", "enter"):
        return NO_RIGHTS
    if step == "enter":
        return f"its container cannot be entered: {words}"
    if step == "clone" and code == errno.ENOSYS:
        return "the kernel is too old: open_tree(2) came with Linux 5.2"
    if step == "clone" and code == errno.EINVAL:
        return "the kernel does not let it be looked into: mounts in this container are locked to what lies under them"
    if step == "other":
        return "another mount stands in its way by now"
    if step == "open" and code == errno.ENOTDIR:
        return "is no directory" if job.mount is None else NO_DIRECTORY
    if code == errno.ENOENT:
        return "there is no such directory" if job.mount is None else "its directory has been removed"
    return f"cannot be looked into: {words}"
