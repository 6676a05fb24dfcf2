"""The child that counts what lies under mount points: `python -I -S beneath.py PID START_TIME`.

Of our own mount namespace if PID is 0, else of that process's, which it enters. It clones the mount that the directory
lies in, without the mounts on it (open_tree(2)), and so never touches what is mounted there. It may hang with its disk,
and is expected to be killed. Standard library only; it must not import the project.

A directory on which nothing is mounted needs none of that, and is reached through /proc/PID/root; what is mounted
further down is left aside.

Standard input, NUL-terminated fields, seven per job: 1 if something is mounted there, id, the id of the mount that the
directory lies in, that mount's mount point, the directory's path, how many milliseconds and how many entries to look
at. Standard output, one line of JSON for each job: {"id", "files", "bytes", "names", "cut", "free", "newest"}, or
{"id", "step", "errno"}; `free`: bytes of the file system, `newest`: when something of what was looked at changed last,
in seconds since the epoch.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import stat
import sys
import time

CLONE_NEWNS = 0x00020000  # linux/sched.h
OPEN_TREE = 428  # asm-generic/unistd.h; the same on all architectures of Debian
OPEN_TREE_CLONE = 1  # linux/mount.h
AT_EMPTY_PATH = 0x1000  # linux/fcntl.h
MAX_DEPTH = 100  # directories, with two descriptors each
MAX_NAMES = 5
MAX_ASIDE = 4096  # mounts further down in one directory
NAME_LIMIT = 200  # characters
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ESTALE, _ELOOP, _E2BIG = 116, 40, 7
_ESCAPE = re.compile(rb"\\([0-7]{3})")

_libc = ctypes.CDLL(None, use_errno=True)


class StepError(Exception):
    """At which step a job failed, and why (errno)."""

    def __init__(self, step: str, code: int) -> None:
        super().__init__(step, code)
        self.step, self.code = step, code


def _call(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def enter(pid: int, start_time: int, *, whole: bool) -> tuple[str, int]:
    """Go into that process's mount namespace, if its pid is not another's by now.

    Its root, by a path that is ours, and its directory in /proc. `whole`: False only gives these.
    """
    process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with open(os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if int(fields[19]) != start_time:
        raise ProcessLookupError(3, os.strerror(3))
    if not whole:
        return f"/proc/self/fd/{os.open('root', os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)}", process
    namespace = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    _call(_libc.setns(namespace, CLONE_NEWNS))  # os.setns came with 3.12
    os.close(namespace)
    return "/", process


class Looker:
    """Does the jobs, one after the other."""

    def __init__(self, fdinfo: int, root: str, process: int) -> None:
        """`fdinfo`: our own. `process`: the directory in /proc of one that has this root.

        Both are opened in the procfs of the host: a container's is not to be believed.
        """
        self._fdinfo = fdinfo
        self._root = root
        self._process = process

    def look_open(self, mount_id: int, path: str, seconds: float, entries: int) -> dict[str, object]:
        """Into a directory on which nothing is mounted; "other" if something is by now."""
        fd = self._walk(path, mount_id, "/")
        try:
            top = os.open(".", _DIRECTORY, dir_fd=fd)
        except OSError as e:
            raise StepError("open", e.errno or 0) from None
        finally:
            os.close(fd)
        return _count(top, time.monotonic() + seconds, entries, self._aside(mount_id, path))

    def _aside(self, mount_id: int, path: str) -> frozenset[str]:
        """What is mounted further down, by its path from here: it may hang, or be mounted by a look at it."""
        above, found = os.fsencode(path.rstrip("/") + "/"), set[str]()
        with open(os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._process), "rb") as table:
            for line in table:
                fields = line.split(b" ", 5)
                if len(fields) < 6 or fields[1] != b"%d" % mount_id:
                    continue
                point = _ESCAPE.sub(lambda m: bytes((int(m[1], 8) & 0xFF,)), fields[4])
                if point.startswith(above):
                    found.add(os.fsdecode(point[len(above) :]))
                if len(found) > MAX_ASIDE:
                    raise StepError("count", _E2BIG)
        return frozenset(found)

    def look(self, mount_id: int, base: str, path: str, seconds: float, entries: int) -> dict[str, object]:
        directory, _, leaf = path.rpartition("/")
        above = self._walk(directory, mount_id, base)
        try:
            clone = _libc.syscall(OPEN_TREE, above, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | os.O_CLOEXEC)
            if clone < 0:
                raise StepError("clone", ctypes.get_errno())
        finally:
            os.close(above)
        try:
            covered = os.open(leaf, _DIRECTORY, dir_fd=clone)
        except OSError as e:
            raise StepError("open", e.errno or 0) from None
        finally:
            os.close(clone)
        return _count(covered, time.monotonic() + seconds, entries)

    def _walk(self, path: str, mount_id: int, base: str) -> int:
        """An O_PATH descriptor of a directory of that mount, reached without following one symlink."""
        if path and base != "/" and not (path == base or path.startswith(base.rstrip("/") + "/")):
            raise StepError("walk", _ELOOP)
        fd = os.open(self._root, os.O_PATH | os.O_CLOEXEC)
        try:
            for part in path.split("/"):
                if part:
                    below = os.open(part, _PATH, dir_fd=fd)
                    os.close(fd)
                    fd = below
        except OSError as e:
            os.close(fd)
            raise StepError("walk", e.errno or 0) from None
        if self._mount_id(fd) != mount_id:
            os.close(fd)
            raise StepError("other", _ESTALE)
        return fd

    def _mount_id(self, fd: int) -> int:
        with open(os.open(str(fd), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fdinfo), "rb") as file:
            for line in file:
                if line.startswith(b"mnt_id:"):
                    return int(line[7:])
        return -1


class _Tally:
    def __init__(self, entries: int) -> None:
        self.left = entries
        self.files = self.size = 0
        self.newest = 0.0
        self.names: list[str] = []
        self.cut = ""
        self._linked: set[tuple[int, int]] = set()

    def add(self, status: os.stat_result) -> None:
        self.newest = max(self.newest, status.st_ctime)
        self.files += not stat.S_ISDIR(status.st_mode)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in self._linked:
                return
            self._linked.add((status.st_dev, status.st_ino))
        # The directories of an empty tree are not what somebody misses.
        self.size += 0 if stat.S_ISDIR(status.st_mode) else max(status.st_blocks * 512, 0)


def _count(top: int, deadline: float, entries: int, aside: frozenset[str] = frozenset()) -> dict[str, object]:
    """What lies below a directory, as far as time and number allow, and not in the paths `aside`. Closes it."""
    tally, system = _Tally(entries), os.fstatvfs(top)
    tally.newest = os.fstat(top).st_ctime
    stack = [(top, os.scandir(top), "")]
    while stack:
        fd, listing, way = stack[-1]
        entry = next(listing, None)
        if entry is None:
            listing.close()
            os.close(fd)
            stack.pop()
            continue
        if aside and way + entry.name in aside:
            continue
        if len(stack) == 1 and len(tally.names) < MAX_NAMES:
            tally.names.append(entry.name[:NAME_LIMIT])
        tally.left -= 1
        if tally.left < 0 or time.monotonic() > deadline:
            tally.cut = "entries" if tally.left < 0 else "time"
            break
        try:
            status = entry.stat(follow_symlinks=False)
            tally.add(status)
            if not stat.S_ISDIR(status.st_mode):
                continue
            if len(stack) == MAX_DEPTH:
                tally.cut = "depth"
                continue
            below = os.open(entry.name, _DIRECTORY, dir_fd=fd)
            stack.append((below, os.scandir(below), f"{way}{entry.name}/" if aside else ""))
        except FileNotFoundError:
            continue  # gone meanwhile
        except OSError:
            tally.cut = "unreadable"
    for fd, listing, _ in stack:
        listing.close()
        os.close(fd)
    return {
        "files": tally.files,
        "bytes": tally.size,
        "names": tally.names,
        "cut": tally.cut,
        "free": system.f_bavail * system.f_frsize,
        "newest": tally.newest,
    }


def _jobs() -> list[list[str]]:
    fields = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\0")
    return [fields[n : n + 7] for n in range(0, len(fields) - 6, 7)]


def main() -> None:
    pid, start_time = int(sys.argv[1]), int(sys.argv[2])
    jobs = _jobs()
    fdinfo = os.open("/proc/self/fdinfo", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    trouble: OSError | None = None
    root, process = "/", os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if pid:
        try:
            root, process = enter(pid, start_time, whole=any(covered == "1" for covered, *_ in jobs))
        except OSError as e:
            trouble = e
    looker = Looker(fdinfo, root, process)
    for covered, name, mount_id, base, path, milliseconds, entries in jobs:
        try:
            if trouble is not None:
                raise StepError("enter", trouble.errno or 0)
            limits = int(milliseconds) / 1000, int(entries)
            if covered == "1":
                found = looker.look(int(mount_id), base, path, *limits)
            else:
                found = looker.look_open(int(mount_id), path, *limits)
        except StepError as e:
            found = {"step": e.step, "errno": e.code}
        except OSError as e:
            found = {"step": "count", "errno": e.errno or 0}
        os.write(1, json.dumps({"id": name, **found}).encode() + b"\n")


if __name__ == "__main__":
    main()
    os._exit(0)
