"""Where file systems stand in a mount namespace: a part of the child `users`.

Standard library only; it must not import the project. Nothing is opened but files of proc(5).
"""

from __future__ import annotations

import os
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

UTF8 = ("utf-8", "surrogateescape")
MAX_POINTS = 512  # mount points in one mount namespace
MAX_COVERED = 16  # of these that are looked at for other mounts in them
# The cgroups of containers of Docker's and its like, made by systemd or by themselves, and of LXC's.
_DOCKER = rb"(?:(?:docker|libpod|cri-containerd|crio)-|/docker/)([0-9a-f]{12})[0-9a-f]{52}(?:\.scope)?(?:/|$)"
_LXC = rb"/lxc(?:\.payload\.|/)([A-Za-z0-9][A-Za-z0-9_.-]{0,63})(?:/|$)"
_MADE_BY = (b"docker", b"libpod", b"cri-containerd", b"crio")
# Where requests to a server wait: fs/fuse/dev.c, net/sunrpc and fs/nfs, fs/smb/client, fs/ceph, net/9p.
WAITS = {
    "fuse": ("request_wait_answer", "fuse_"),
    "nfs": ("rpc_", "nfs_", "nfs4_", "netfs_"),
    "cifs": ("wait_for_response", "cifs_", "smb2_", "compound_send_recv", "netfs_"),
    "smb": ("wait_for_response", "cifs_", "smb2_", "compound_send_recv", "netfs_"),
    "ceph": ("ceph_", "netfs_"),
    "9p": ("p9_", "v9fs_", "netfs_"),
}


def read(path: str, limit: int = 1 << 22) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [], 0
        while size < limit and (part := os.read(fd, 1 << 16)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def read_once(path: str) -> bytes:
    """What the kernel gives in one piece."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 14)
    finally:
        os.close(fd)


def link(path: str, directory: int | None = None) -> str:
    """Where a link leads; "" if that cannot be read."""
    try:
        return os.readlink(path, dir_fd=directory)
    except OSError:
        return ""


def unescape(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8) & 255,)) + part[3:] for part in rest)


def _escape(field: bytes) -> bytes:
    """As the tables have it (mangle of fs/proc_namespace.c)."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else b"%c" % byte for byte in field)


class Wanted:
    """One file system, and who was found to use it."""

    def __init__(self, device: str, fstype: str, source: str) -> None:
        self.device, self.fstype = device.encode(), fstype.encode(*UTF8)
        # Where it names something: of "none" there are many.
        named = b" - %b %b " % (self.fstype, _escape(source.encode(*UTF8)))
        self.line = named if ":" in source or source.startswith("//") else b""
        self.waits = next((names for kind, names in WAITS.items() if fstype.startswith(kind)), ())
        self.found: dict[str, tuple[str, bool, bool]] = {}  # pid -> (mount namespace, blocked, uses)
        self.docker: dict[str, tuple[str, bool]] = {}  # container -> (the LXC container that it runs in, is it old)
        self.cut = False


class Points:
    """Where they stand in one mount namespace."""

    def __init__(self) -> None:
        self.all: set[Wanted] = set()
        self.old: set[Wanted] = set()  # of these only an older mount of the same source stands there
        self._at: dict[str, list[Wanted]] = {}
        self._starts: tuple[str, ...] = ()  # of the paths on them
        self._covered: list[tuple[str, ...]] = []  # of each of these, how paths begin on what is mounted in it

    def add(self, mount_point: str, one: Wanted) -> bool:
        """Whether there was room for it."""
        if mount_point not in self._at and len(self._at) >= MAX_POINTS:
            return False
        self.all.add(one)
        at = self._at.setdefault(mount_point, [])
        if one not in at[-1:]:  # mounts of it on one another come one after the other
            at.append(one)
        return True

    def forget(self, some: set[Wanted]) -> None:
        self.all -= some
        for ones in self._at.values():
            ones[:] = [one for one in ones if one not in some]

    def ready(self, table: bytes) -> None:
        """All have been added. `table`: the text of mountinfo."""
        self._starts = tuple(point.rstrip("/") + "/" for point in self._at)
        self._covered = [_mounted_in(s, table) if n < MAX_COVERED else () for n, s in enumerate(self._starts)]

    def of(self, path: str) -> set[Wanted]:
        """Those on which a path lies."""
        path += "/"
        if not path.startswith(self._starts):
            return set()
        found = zip(self._starts, self._covered, self._at.values(), strict=True)
        here = (ones for start, covered, ones in found if path.startswith(start) and not path.startswith(covered))
        return {one for ones in here for one in ones}


class Tables:
    """The mount tables, and what of them is wanted."""

    def __init__(self, proc: str, wanted: Sequence[Wanted]) -> None:
        self._proc, self._wanted = proc, wanted
        self._ours = b""

    def points(self, pid: str, *, is_ours: bool) -> Points:
        """Where they stand for this process. Ours comes first.

        Of what has a source, an older mount counts, too, where it is another's: it hangs, or changes what nobody sees.
        """
        points = Points()
        try:
            table = read(f"{self._proc}/{pid}/mountinfo")
        except OSError:
            return points
        if is_ours:
            self._ours = table
        for one in self._wanted:
            device = b" %b " % one.device if one.device else b""
            if not self._add(points, one, lines_with(table, device), old=False) and not is_ours:
                self._add(points, one, lines_with(table, one.line), old=True)
        if points.all:
            self._note_container(pid, points)
        points.ready(table)
        return points

    def _add(self, points: Points, one: Wanted, lines: Iterable[list[bytes]], *, old: bool) -> bool:
        """Whether it stands there, by these lines of the table."""
        stands = False
        for number, fields in enumerate(lines):
            if number >= MAX_POINTS:  # a container may bind it on itself by the ten thousand
                one.cut = True
                break
            if one.fstype not in fields[7:] or (not old and fields[2] != one.device):
                continue
            if old and b" %b " % fields[2] in self._ours:
                continue  # it is another of that source, which we have, too
            if not points.add(os.fsdecode(unescape(fields[4])), one):
                one.cut = True
                break
            stands = True
            if old:
                points.old.add(one)
        return stands

    def _note_container(self, pid: str, points: Points) -> None:
        """That it is one of Docker's; LXC's containers may well have older mounts, or mounts of their own."""
        try:
            group = read_once(f"{self._proc}/{pid}/cgroup").rstrip(b"\n")
        except OSError:
            return
        docker, lxc = container_of(group)
        if docker:
            for one in points.all:
                one.docker[docker] = lxc, one in points.old
        elif lxc:
            points.forget(points.old)


def _mounted_in(start: str, table: bytes) -> tuple[str, ...]:
    """How paths begin that lie on other mounts within a directory ("/mnt/nas/"): who has those open uses them.

    Mounts in what is mounted there only: one that is hidden below may be older than it.
    """
    inside, at = _escape(os.fsencode(start)), _escape(os.fsencode(start.rstrip("/") or "/"))
    below = islice(lines_with(table, b" %b" % inside), MAX_POINTS)
    there = {fields[0] for fields in islice(lines_with(table, b" %b " % at), MAX_POINTS) if fields[4] == at}
    found = (fields[4] for fields in below if fields[1] in there and fields[4].startswith(inside) and fields[4] != at)
    return tuple(dict.fromkeys(f"{os.fsdecode(unescape(point))}/" for point in found))


def lines_with(table: bytes, words: bytes) -> Iterator[list[bytes]]:
    """The fields of the lines that hold these words; nothing for none."""
    at = -1
    while words and (at := table.find(words, at + 1)) >= 0:
        fields = table[table.rfind(b"\n", 0, at) + 1 : table.find(b"\n", at)].split(b" ")
        if len(fields) > 9:
            yield fields


def container_of(group: bytes) -> tuple[str, str]:
    """Docker's or its like, and LXC's in which that runs, from /proc/<pid>/cgroup; "" where there is none."""
    if b"lxc" not in group and not any(maker in group for maker in _MADE_BY):
        return "", ""
    import re  # takes longer than a thousand processes, and is seldom needed

    docker = re.search(_DOCKER, group)
    lxc = re.search(_LXC, group[: docker.start()] if docker is not None else group)
    return docker[1].decode() if docker is not None else "", lxc[1].decode() if lxc is not None else ""
