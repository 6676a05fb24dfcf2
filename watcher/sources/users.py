"""The child that finds who uses a file system: `python -I -S users.py PROC MAJOR:MINOR FSTYPE OWN [DIRECTORY...]`.

It looks at processes first (`OWN`: files whose processes are ours, by their command line, and do not count), then
reads the configurations of guests: files of DIRECTORY, as /var/lib/lxc and /etc/pve/lxc are laid out, and what lies
beside the latter. /etc/pve is a FUSE mount, and may hang: then this is killed, and what it has printed by then counts.
Links of /proc are read, never followed. Standard library only; it must not import the project.

Standard output, lines of JSON: {"processes": [{"pid", "comm", "mnt", "blocked", "uses"}], "users",
"blocked", "maybe", "cut"}, then
{"file", "text"} (base64) for each file, then {"end": true}.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from typing import Any

MAX_LISTED = 64
MAX_FDS = 4096  # of one process
MAX_TASKS = 64
MAX_FILES = 2000
FILE_LIMIT = 1 << 18  # bytes
CPU_LIMIT = 0.12  # seconds of the processor, our own start included
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


def _say(line: dict[str, Any]) -> None:
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def _unescape(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8) & 255,)) + part[3:] for part in rest)


class Search:
    """For the processes that use one file system, in whatever mount namespace it stands."""

    def __init__(self, proc: str, device: str, fstype: str, own: list[str]) -> None:
        self._proc = proc
        self._device, self._fstype = device.encode(), fstype.encode("utf-8", "surrogateescape")
        self._own = [name.encode("utf-8", "surrogateescape") for name in own]
        self._points: dict[str, tuple[str, ...]] = {}  # by mount namespace
        self._waits = next((names for kind, names in _WAITS.items() if fstype.startswith(kind)), ())

    def run(self) -> dict[str, Any]:
        """Who waits comes first; then who has files open, as far as our share of the processor lasts."""
        found: dict[str, tuple[str, bool, bool]] = {}  # pid -> (mount namespace, blocked, uses)
        rest: list[tuple[str, str, tuple[str, ...]]] = []
        me = str(os.getpid())
        for pid in os.listdir(self._proc):
            if not pid.isdecimal() or pid == me:
                continue
            try:
                namespace = os.readlink(f"{self._proc}/{pid}/ns/mnt")
            except OSError:
                continue  # a kernel thread, gone, or not ours to see
            points = self._points.get(namespace)
            if points is None:
                points = self._points[namespace] = self._mount_points(pid)
            if not points:
                continue
            blocked = self._is_blocked(pid)
            if blocked or self._lies(f"{self._proc}/{pid}/cwd", points):
                found[pid] = namespace, blocked, self._uses(pid, points)
            else:
                rest.append((pid, namespace, points))
        cut = False
        for pid, namespace, points in rest:
            if time.process_time() > CPU_LIMIT:
                cut = True
                break
            if self._uses(pid, points):
                found[pid] = namespace, False, True
        ordered = sorted(
            ((int(pid), *one) for pid, one in found.items() if not self._is_own(pid)),
            key=lambda one: (not one[2], not one[3], one[0]),
        )
        listed = [
            {"pid": pid, "comm": self._comm(pid), "mnt": namespace, "blocked": blocked, "uses": uses}
            for pid, namespace, blocked, uses in ordered[:MAX_LISTED]
        ]
        return {
            "processes": listed,
            "users": sum(uses for *_, uses in ordered),
            "blocked": sum(blocked and uses for _, _, blocked, uses in ordered),
            "maybe": sum(not uses for *_, uses in ordered),
            "cut": cut,
        }

    def _mount_points(self, pid: str) -> tuple[str, ...]:
        try:
            table = _read(f"{self._proc}/{pid}/mountinfo")
        except OSError:
            return ()
        points = []
        for line in table.split(b"\n"):
            fields = line.split(b" ")
            if len(fields) > 9 and fields[2] == self._device and self._fstype in fields[7:]:
                points.append(os.fsdecode(_unescape(fields[4])))
        return tuple(points)

    @staticmethod
    def _lies(link: str, points: tuple[str, ...], directory: int | None = None) -> bool:
        try:
            path = os.readlink(link, dir_fd=directory)
        except OSError:
            return False
        return path[:1] == "/" and any(path == p or path.startswith(p.rstrip("/") + "/") for p in points)

    def _uses(self, pid: str, points: tuple[str, ...]) -> bool:
        base = f"{self._proc}/{pid}"
        if self._lies(f"{base}/cwd", points) or self._lies(f"{base}/root", points):
            return True
        try:
            directory = os.open(f"{base}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return any(self._lies(fd, points, directory) for fd in os.listdir(directory)[:MAX_FDS])
        except OSError:
            return False
        finally:
            os.close(directory)

    def _is_blocked(self, pid: str) -> bool:
        """Whether one of its threads waits in the kernel for a server of this type."""
        base = f"{self._proc}/{pid}"
        try:
            fields = _read_once(f"{base}/stat").rpartition(b")")[2].split()
            if fields[17] == b"1":  # num_threads
                return self._waits_for_server(base, fields[0])
            for tid in os.listdir(f"{base}/task")[:MAX_TASKS]:
                state = _read_once(f"{base}/task/{tid}/stat").rpartition(b")")[2].split(None, 1)[0]
                if self._waits_for_server(f"{base}/task/{tid}", state):
                    return True
        except (OSError, IndexError):
            pass
        return False

    def _waits_for_server(self, task: str, state: bytes) -> bool:
        # FUSE waits as S until a signal comes; the others are D from the beginning.
        if not self._waits or (state != b"D" and (state != b"S" or not self._fstype.startswith(b"fuse"))):
            return False
        try:
            stack = _read_once(f"{task}/stack").decode("ascii", "replace")
        except OSError:
            return False
        names = [line.partition("] ")[2].lstrip("_") for line in stack.splitlines()]
        # A FUSE server waits in fuse_dev_read for requests: that is its work.
        return any(f.startswith(self._waits) for f in names) and not any(f.startswith("fuse_dev_") for f in names)

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
    """Configurations in a directory: "101/config", "101.conf"; with VMs and storages beside it, if it is called lxc."""
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
        found.append(f"{parent}/storage.cfg")
    return found


def main() -> None:
    proc, device, fstype, own, *directories = sys.argv[1:]
    _say(Search(proc, device, fstype, own.split("\n")).run())
    for directory in directories:
        for path in _files(directory.rstrip("/")):
            try:
                text = _read(path, FILE_LIMIT)
            except OSError:
                continue
            _say({"file": path, "text": base64.b64encode(text).decode("ascii")})
    _say({"end": True})


if __name__ == "__main__":
    main()
    os._exit(0)
