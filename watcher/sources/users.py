"""The child that finds who uses file systems: `python -I -S users.py`.

Standard input, JSON: {"proc", "own", "wanted": [[MAJOR:MINOR, FSTYPE], …], "directories", "storage", "seconds"}. It
looks at all processes once, for so many seconds at most (`own`: files whose processes are ours, by their command line,
and do not count), then reads the configurations of guests: files of the directories, as /var/lib/lxc and /etc/pve/lxc
are laid out, and what lies beside the latter; and storage.cfg. /etc/pve is a FUSE mount, and may hang: then this is
killed, and what it has printed by then counts. Links of /proc are read, never followed. Standard library only; it must
not import the project.

Standard output, lines of JSON: for each that is wanted, in this order, {"processes": [{"pid", "comm", "mnt", "blocked",
"uses"}], "users", "blocked", "maybe", "cut", "lost", "docker": [[container, LXC container or ""], …], "jobs": [UPID,
…]}, then {"running": [UPID, …]}, all backups that run, then {"file", "text"} (base64) for each file, then {"end":
true}.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MAX_LISTED = 64
MAX_FDS = 4096  # of one process
MAX_TASKS = 64
MAX_FILES = 2000
FILE_LIMIT = 1 << 18  # bytes
CPU_LIMIT = 0.12  # seconds of the processor, our own start included, after which nobody's open files are looked at
CPU_END = 0.4  # the same, after which nobody is: somebody has started processes by the ten thousand
MAX_POINTS = 512  # mount points in one mount namespace
MAX_JOBS = 16
MAX_PARENTS = 32
# The cgroups of containers of Docker's and its like, made by systemd or by themselves, and of LXC's.
_DOCKER = re.compile(
    rb"(?:(?:docker|libpod|cri-containerd|crio)-|/docker/)([0-9a-f]{12})[0-9a-f]{52}(?:\.scope)?(?:/|$)"
)
_LXC = re.compile(rb"/lxc(?:\.payload\.|/)([A-Za-z0-9][A-Za-z0-9_.-]{0,63})(?:/|$)")
# Where requests to a server wait: fs/fuse/dev.c, net/sunrpc and fs/nfs, fs/smb/client, fs/ceph, net/9p.
_WAITS = {
    "fuse": ("request_wait_answer", "fuse_"),
    "nfs": ("rpc_", "nfs_", "nfs4_", "netfs_"),
    "cifs": ("wait_for_response", "cifs_", "smb2_", "compound_send_recv", "netfs_"),
    "smb": ("wait_for_response", "cifs_", "smb2_", "compound_send_recv", "netfs_"),
    "ceph": ("ceph_", "netfs_"),
    "9p": ("p9_", "v9fs_", "netfs_"),
}


def _read(path: str, limit: int = 1 << 22) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [], 0
        while size < limit and (part := os.read(fd, 1 << 16)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _read_once(path: str) -> bytes:
    """What the kernel gives in one piece."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 14)
    finally:
        os.close(fd)


def _link(path: str, directory: int | None = None) -> str:
    """Where a link leads; "" if that cannot be read."""
    try:
        return os.readlink(path, dir_fd=directory)
    except OSError:
        return ""


def _say(line: dict[str, Any]) -> None:
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def _unescape(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8) & 255,)) + part[3:] for part in rest)


class Wanted:
    """One file system, and who was found to use it."""

    def __init__(self, device: str, fstype: str) -> None:
        self.device, self.fstype = device.encode(), fstype.encode("utf-8", "surrogateescape")
        self.waits = next((names for kind, names in _WAITS.items() if fstype.startswith(kind)), ())
        self.found: dict[str, tuple[str, bool, bool]] = {}  # pid -> (mount namespace, blocked, uses)
        self.docker: dict[str, str] = {}  # container -> the LXC container that it runs in
        self.cut = False


class Points:
    """Where they stand in one mount namespace."""

    def __init__(self) -> None:
        self.all: set[Wanted] = set()
        self._at: dict[str, list[Wanted]] = {}
        self._starts: tuple[str, ...] = ()  # of the paths on them

    def add(self, mount_point: str, one: Wanted) -> bool:
        """Whether there was room for it."""
        if mount_point not in self._at and len(self._at) >= MAX_POINTS:
            return False
        self.all.add(one)
        self._at.setdefault(mount_point, []).append(one)
        return True

    def ready(self) -> None:
        self._starts = tuple(point.rstrip("/") + "/" for point in self._at)

    def of(self, path: str) -> set[Wanted]:
        """Those on which a path lies."""
        path += "/"
        if not path.startswith(self._starts):
            return set()
        found = zip(self._starts, self._at.values(), strict=True)
        return {one for start, ones in found if path.startswith(start) for one in ones}


class Search:
    """For the processes that use file systems, in whatever mount namespaces these stand."""

    def __init__(self, proc: str, wanted: list[list[str]], own: list[str], seconds: float) -> None:
        self._proc = proc
        self._wanted = [Wanted(device, fstype) for device, fstype in wanted]
        self._own = [name.encode("utf-8", "surrogateescape") for name in own]
        self._ends = time.monotonic() + seconds
        self._lost = False  # not even all that wait have been looked at
        self.jobs: dict[str, str] = {}  # pid -> UPID of a backup

    def run(self) -> list[dict[str, Any]]:
        """Who waits comes first; then who has files open, as far as our share of the processor lasts."""
        rest: list[tuple[str, str, Points]] = []
        for namespace, pids, is_ours in self._spaces():
            if self._is_over(CPU_LIMIT) and not is_ours:  # there are too many of them
                self._cut(self._wanted)
                continue
            points = self._mount_points(pids[0])
            if points.all:
                self._note_docker(pids[0], points)
            elif not is_ours:
                continue
            for pid in pids:
                if self._is_over(CPU_END):
                    self._lost = True
                    break
                stat = self._stat(pid)
                if is_ours:
                    self._note_job(pid, stat)
                if not points.all:
                    continue
                blocked, here = self._blocked(pid, stat, points), points.of(_link(f"{self._proc}/{pid}/cwd"))
                if blocked or here:
                    uses = self._uses(pid, points)
                    for one in {*blocked, *uses}:
                        one.found[pid] = namespace, one in blocked, one in uses
                else:
                    rest.append((pid, namespace, points))
        for pid, namespace, points in rest:
            if self._is_over(CPU_LIMIT):
                self._cut(points.all)
                continue
            for one in self._uses(pid, points):
                one.found[pid] = namespace, False, True
        return [self._said(one) for one in self._wanted]

    def _spaces(self) -> list[tuple[str, list[str], bool]]:
        """(mount namespace, its processes, whether it is ours), ours first: nobody has to wait for who has many."""
        spaces: dict[str, list[str]] = {}
        me, ours = str(os.getpid()), _link(f"{self._proc}/self/ns/mnt")
        for pid in os.listdir(self._proc):
            if pid.isdecimal() and pid != me:
                namespace = _link(f"{self._proc}/{pid}/ns/mnt")
                if namespace:  # else a kernel thread, gone, or not ours to see
                    spaces.setdefault(namespace, []).append(pid)
        ordered = sorted(spaces.items(), key=lambda space: (space[0] != ours, len(space[1])))
        return [(namespace, pids, namespace == ours) for namespace, pids in ordered]

    def _is_over(self, limit: float) -> bool:
        return time.process_time() > limit or time.monotonic() > self._ends

    @staticmethod
    def _cut(wanted: Iterable[Wanted]) -> None:
        for one in wanted:
            one.cut = True

    def _said(self, one: Wanted) -> dict[str, Any]:
        ordered = sorted(
            ((int(pid), *how) for pid, how in one.found.items() if not self._is_own(pid)),
            key=lambda how: (not how[2], not how[3], how[0]),
        )
        listed = [
            {"pid": pid, "comm": self._comm(pid), "mnt": namespace, "blocked": blocked, "uses": uses}
            for pid, namespace, blocked, uses in ordered[:MAX_LISTED]
        ]
        jobs = dict.fromkeys(filter(None, (self._job_of(str(pid)) for pid, *_ in ordered[:MAX_LISTED])))
        return {
            "processes": listed,
            "users": sum(uses for *_, uses in ordered),
            "blocked": sum(blocked and uses for _, _, blocked, uses in ordered),
            "maybe": sum(not uses for *_, uses in ordered),
            "cut": one.cut,
            "lost": self._lost,
            "docker": list(one.docker.items())[:MAX_LISTED],
            "jobs": list(jobs),
        }

    def _mount_points(self, pid: str) -> Points:
        points = Points()
        try:
            table = _read(f"{self._proc}/{pid}/mountinfo")
        except OSError:
            return points
        for one in self._wanted:
            at = -1
            while one.device and (at := table.find(b" %b " % one.device, at + 1)) >= 0:
                fields = table[table.rfind(b"\n", 0, at) + 1 : table.find(b"\n", at)].split(b" ")
                is_one = len(fields) > 9 and fields[2] == one.device and one.fstype in fields[7:]
                if is_one and not points.add(os.fsdecode(_unescape(fields[4])), one):
                    one.cut = True
                    break
        points.ready()
        return points

    # ---- what is more than a process

    def _note_docker(self, pid: str, points: Points) -> None:
        try:
            group = _read_once(f"{self._proc}/{pid}/cgroup").rstrip(b"\n")
        except OSError:
            return
        if (match := _DOCKER.search(group)) is not None:
            lxc = _LXC.search(group[: match.start()])
            for one in points.all:
                one.docker[match[1].decode()] = lxc[1].decode() if lxc is not None else ""

    def _note_job(self, pid: str, stat: bytes) -> None:
        """PVE's workers call themselves "task UPID:node:pid:pstart:starttime:type:id:user:" (PVE::RESTEnvironment)."""
        base = f"{self._proc}/{pid}"
        try:
            if not stat.partition(b"(")[2].startswith(b"task UPID:") or len(self.jobs) >= MAX_JOBS:
                return
            if os.stat(base).st_uid == 0:
                title = _read_once(f"{base}/cmdline").partition(b"\0")[0].strip().removeprefix(b"task ")
                if b":vzdump:" in title:
                    self.jobs[pid] = title[:256].decode("utf-8", "backslashreplace")
        except OSError:
            pass

    def _job_of(self, pid: str) -> str:
        """The backup that a process belongs to, if it does: it is that worker, or has been started by it."""
        for _ in range(MAX_PARENTS if self.jobs else 0):
            if pid in self.jobs:
                return self.jobs[pid]
            try:
                pid = _read_once(f"{self._proc}/{pid}/stat").rpartition(b")")[2].split(None, 2)[1].decode()
            except (OSError, IndexError):
                break
        return ""

    # ---- one process

    def _stat(self, pid: str) -> bytes:
        """proc_pid_stat(5); b"" of what has ended."""
        try:
            return _read_once(f"{self._proc}/{pid}/stat")
        except OSError:
            return b""

    def _uses(self, pid: str, points: Points) -> set[Wanted]:
        base = f"{self._proc}/{pid}"
        found = points.of(_link(f"{base}/cwd")) | points.of(_link(f"{base}/root"))
        try:
            directory = os.open(f"{base}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return found
        try:
            with os.scandir(directory) as entries:  # not all of them at once: there may be a million
                for entry in islice(entries, MAX_FDS):
                    if self._is_over(CPU_LIMIT):
                        self._cut(points.all)
                        break
                    found |= points.of(_link(entry.name, directory))
        except OSError:
            pass
        finally:
            os.close(directory)
        return found

    def _blocked(self, pid: str, stat: bytes, points: Points) -> set[Wanted]:
        """Of which of them one of its threads may wait for the server, by what it waits for in the kernel."""
        base, here = f"{self._proc}/{pid}", {one for one in points.all if one.waits}
        found: set[Wanted] = set()
        try:
            fields = stat.rpartition(b")")[2].split()
            if fields[17] == b"1":  # num_threads
                return self._waits_for(base, fields[0], here)
            with os.scandir(f"{base}/task") as entries:
                threads = [f"{base}/task/{entry.name}" for entry in islice(entries, MAX_TASKS)]
            for task in threads:
                state = _read_once(f"{task}/stat").rpartition(b")")[2].split(None, 1)[0]
                found |= self._waits_for(task, state, here - found)
        except (OSError, IndexError):
            pass
        return found

    @staticmethod
    def _waits_for(task: str, state: bytes, candidates: set[Wanted]) -> set[Wanted]:
        # FUSE waits as S until a signal comes; the others are D from the beginning.
        if state == b"S":
            candidates = {one for one in candidates if one.fstype.startswith(b"fuse")}
        if not candidates or state not in (b"D", b"S"):
            return set()
        try:
            stack = _read_once(f"{task}/stack").decode("ascii", "replace")
        except OSError:
            return set()
        names = [line.partition("] ")[2].lstrip("_") for line in stack.splitlines()]
        # A FUSE server waits in fuse_dev_read for requests: that is its work.
        if any(f.startswith("fuse_dev_") for f in names):
            return set()
        return {one for one in candidates if any(f.startswith(one.waits) for f in names)}

    def _is_own(self, pid: str) -> bool:
        """Whether it is a child of ours: the same program, in our pid namespace.

        Of no other the command line is read: that waits for whoever changes the memory of a process, and he may wait
        for the very mount, or for what a container has made to hold us up.
        """
        base, ours = f"{self._proc}/{pid}", f"{self._proc}/self"
        if _link(f"{base}/ns/pid") != _link(f"{ours}/ns/pid") or _link(f"{base}/exe") != _link(f"{ours}/exe"):
            return False
        try:
            command = _read(f"{base}/cmdline", 1 << 14)
        except OSError:
            return False
        return any(name in command.split(b"\0") for name in self._own)

    def _comm(self, pid: int) -> str:
        try:
            return os.fsdecode(_read(f"{self._proc}/{pid}/comm", 64).rstrip(b"\n"))
        except OSError:
            return ""


def _files(directory: str) -> list[str]:
    """Configurations in a directory: "101/config", "101.conf"; with those of VMs beside it, if it is called lxc."""
    try:
        names = sorted(os.listdir(directory))[:MAX_FILES]
    except OSError:
        names = []
    found = [f"{directory}/{n}" if n.endswith(".conf") else f"{directory}/{n}/config" for n in names]
    parent, _, last = directory.rpartition("/")
    if last == "lxc":
        machines = f"{parent}/qemu-server"
        try:
            found += [f"{machines}/{n}" for n in sorted(os.listdir(machines))[:MAX_FILES] if n.endswith(".conf")]
        except OSError:
            pass
    return found


def main() -> None:
    asked = json.load(sys.stdin)
    search = Search(asked["proc"], asked["wanted"], asked["own"], asked["seconds"])
    for said in search.run():
        _say(said)
    _say({"running": list(search.jobs.values())})
    for path in (asked["storage"], *(path for d in asked["directories"] for path in _files(d.rstrip("/")))):
        try:
            text = _read(path, FILE_LIMIT)
        except OSError:
            continue
        _say({"file": path, "text": base64.b64encode(text).decode("ascii")})
    _say({"end": True})


if __name__ == "__main__":
    main()
    os._exit(0)
