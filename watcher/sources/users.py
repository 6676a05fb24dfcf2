"""The child that finds who uses file systems: `python -I -S users.py`.

Standard input, JSON: {"proc", "own", "wanted": [[MAJOR:MINOR, FSTYPE], …], "directories", "storage"}. It looks at all
processes once (`own`: files whose processes are ours, by their command line, and do not count), then reads the
configurations of guests: files of the directories, as /var/lib/lxc and /etc/pve/lxc are laid out, and what lies beside
the latter; and storage.cfg. /etc/pve is a FUSE mount, and may hang: then this is killed, and what it has printed by
then counts. Links of /proc are read, never followed. Standard library only; it must not import the project.

Standard output, lines of JSON: for each that is wanted, in this order, {"processes": [{"pid", "comm", "mnt", "blocked",
"uses"}], "users", "blocked", "maybe", "cut", "docker": [[container, LXC container or ""], …], "jobs": [UPID, …]}, then
{"running": [UPID, …]}, all backups that run, then {"file", "text"} (base64) for each file, then {"end": true}.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
from typing import Any

MAX_LISTED = 64
MAX_FDS = 4096  # of one process
MAX_TASKS = 64
MAX_FILES = 2000
FILE_LIMIT = 1 << 18  # bytes
CPU_LIMIT = 0.12  # seconds of the processor, our own start included
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


Points = dict[str, list[Wanted]]  # by mount point


class Search:
    """For the processes that use file systems, in whatever mount namespaces these stand."""

    def __init__(self, proc: str, wanted: list[list[str]], own: list[str]) -> None:
        self._proc = proc
        self._wanted = [Wanted(device, fstype) for device, fstype in wanted]
        self._own = [name.encode("utf-8", "surrogateescape") for name in own]
        self._points: dict[str, Points] = {}  # by mount namespace
        self.jobs: dict[str, str] = {}  # pid -> UPID of a backup

    def run(self) -> list[dict[str, Any]]:
        """Who waits comes first; then who has files open, as far as our share of the processor lasts."""
        rest: list[tuple[str, str, Points]] = []
        me, ours = str(os.getpid()), _link(f"{self._proc}/self/ns/mnt")
        for pid in os.listdir(self._proc):
            if not pid.isdecimal() or pid == me:
                continue
            namespace = _link(f"{self._proc}/{pid}/ns/mnt")
            if not namespace:
                continue  # a kernel thread, gone, or not ours to see
            if namespace == ours:
                self._note_job(pid)
            points = self._points.get(namespace)
            if points is None and time.process_time() > CPU_LIMIT:  # there are too many of them
                for one in self._wanted:
                    one.cut = True
                continue
            if points is None:
                points = self._points[namespace] = self._mount_points(pid)
                self._note_docker(pid, points)
            if not points:
                continue
            blocked, here = self._blocked(pid, points), self._at(f"{self._proc}/{pid}/cwd", points)
            if blocked or here:
                uses = self._uses(pid, points)
                for one in {*blocked, *uses}:
                    one.found[pid] = namespace, one in blocked, one in uses
            else:
                rest.append((pid, namespace, points))
        for n, (pid, namespace, points) in enumerate(rest):
            if time.process_time() > CPU_LIMIT:
                for one in {one for *_, left in rest[n:] for at in left.values() for one in at}:
                    one.cut = True
                break
            for one in self._uses(pid, points):
                one.found[pid] = namespace, False, True
        return [self._said(one) for one in self._wanted]

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
            "docker": list(one.docker.items())[:MAX_LISTED],
            "jobs": list(jobs),
        }

    def _mount_points(self, pid: str) -> Points:
        try:
            table = _read(f"{self._proc}/{pid}/mountinfo")
        except OSError:
            return {}
        points: Points = {}
        for one in self._wanted:
            at = -1
            while one.device and (at := table.find(b" %b " % one.device, at + 1)) >= 0:
                fields = table[table.rfind(b"\n", 0, at) + 1 : table.find(b"\n", at)].split(b" ")
                if len(fields) > 9 and fields[2] == one.device and one.fstype in fields[7:]:
                    points.setdefault(os.fsdecode(_unescape(fields[4])), []).append(one)
        return points

    # ---- what is more than a process

    def _note_docker(self, pid: str, points: Points) -> None:
        try:
            group = _read_once(f"{self._proc}/{pid}/cgroup").rstrip(b"\n") if points else b""
        except OSError:
            return
        if (match := _DOCKER.search(group)) is not None:
            lxc = _LXC.search(group[: match.start()])
            for one in {one for at in points.values() for one in at}:
                one.docker[match[1].decode()] = lxc[1].decode() if lxc is not None else ""

    def _note_job(self, pid: str) -> None:
        """PVE's workers call themselves "task UPID:node:pid:pstart:starttime:type:id:user:" (PVE::RESTEnvironment)."""
        base = f"{self._proc}/{pid}"
        try:
            if len(self.jobs) < MAX_JOBS and _read_once(f"{base}/comm").startswith(b"task UPID:"):
                title = _read_once(f"{base}/cmdline").partition(b"\0")[0].strip().removeprefix(b"task ")
                if b":vzdump:" in title and os.stat(base).st_uid == 0:
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

    @staticmethod
    def _at(link: str, points: Points, directory: int | None = None) -> set[Wanted]:
        """On which of them lies what a link names."""
        path = _link(link, directory)
        found: set[Wanted] = set()
        if path[:1] == "/":
            while path:
                found.update(points.get(path, ()))
                path = path.rpartition("/")[0]
            found.update(points.get("/", ()))
        return found

    def _uses(self, pid: str, points: Points) -> set[Wanted]:
        base = f"{self._proc}/{pid}"
        found = self._at(f"{base}/cwd", points) | self._at(f"{base}/root", points)
        try:
            directory = os.open(f"{base}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return found
        try:
            for fd in os.listdir(directory)[:MAX_FDS]:
                found |= self._at(fd, points, directory)
        except OSError:
            pass
        finally:
            os.close(directory)
        return found

    def _blocked(self, pid: str, points: Points) -> set[Wanted]:
        """Of which of them one of its threads may wait for the server, by what it waits for in the kernel."""
        base, here = f"{self._proc}/{pid}", {one for at in points.values() for one in at if one.waits}
        found: set[Wanted] = set()
        try:
            fields = _read_once(f"{base}/stat").rpartition(b")")[2].split()
            if fields[17] == b"1":  # num_threads
                return self._waits_for(base, fields[0], here)
            for tid in os.listdir(f"{base}/task")[:MAX_TASKS]:
                state = _read_once(f"{base}/task/{tid}/stat").rpartition(b")")[2].split(None, 1)[0]
                found |= self._waits_for(f"{base}/task/{tid}", state, here - found)
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
        try:
            command = _read(f"{self._proc}/{pid}/cmdline", 1 << 14)
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
    search = Search(asked["proc"], asked["wanted"], asked["own"])
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
