"""A FUSE file system server for tests: one process, many mounts, each made to fail as wanted.

Standard library only; `tests.fakes.fuse` starts it as `python -I -S fuse_server.py` and gives it a socket as
standard input. (Inside a fake container its init forks and calls `serve`: no exec, and all of the container's
namespaces.) It must not touch its own mounts outside of a thread: it would wait for its own answer.

Control: one JSON object per line each way, every command answered once it is in effect. Paths and other
strings of bytes are `str` by surrogateescape. A mode is `[kind, value]`:

    ["ok", 0]        answered
    ["hang", 0]      read, never answered: callers survive SIGKILL
    ["unread", 0]    left in the kernel's queue: callers wait, but SIGKILL ends them
    ["no_init", 0]   not even INIT is answered (only from the mount on, not later)
    ["errno", N]     answered with errno N (1..511, the kernel takes no other)
    ["delay", N]     answered N milliseconds later, each request on its own

INIT is always answered unless the mode is no_init; DESTROY, RELEASE and RELEASEDIR always are: no caller waits for
them. Constants and structures are those of the kernel's include/uapi/linux/fuse.h, protocol 7.31, which later kernels
speak too.

When standard input ends, every connection is aborted (its descriptor is closed) and unmounted. With `--unmount`
nothing is served: mounts, one JSON array [path, mount_id, device, fstype] per line, are lazily unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import itertools
import json
import os
import re
import resource
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18  # linux/mount.h
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
PATH_MAX = 4096  # with the final NUL
AT_FDCWD, AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC = -100, 0x800, 0x4000

OPCODES = {
    1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 5: "READLINK", 6: "SYMLINK", 8: "MKNOD", 9: "MKDIR",
    10: "UNLINK", 11: "RMDIR", 12: "RENAME", 13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE", 17: "STATFS",
    18: "RELEASE", 20: "FSYNC", 21: "SETXATTR", 22: "GETXATTR", 23: "LISTXATTR", 24: "REMOVEXATTR", 25: "FLUSH",
    26: "INIT", 27: "OPENDIR", 28: "READDIR", 29: "RELEASEDIR", 30: "FSYNCDIR", 34: "ACCESS", 35: "CREATE",
    36: "INTERRUPT", 38: "DESTROY", 39: "IOCTL", 40: "POLL", 42: "BATCH_FORGET", 44: "READDIRPLUS", 52: "STATX",
}  # fmt: skip
NEVER_ANSWERED = {"FORGET", "BATCH_FORGET", "INTERRUPT"}
ALWAYS_ANSWERED = {"DESTROY", "RELEASE", "RELEASEDIR"}
FUSE_PARALLEL_DIROPS = 1 << 18  # else a hanging READDIR blocks the directory's other callers on a mutex

IN_HEADER = struct.Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
OUT_HEADER = struct.Struct("=IiQ")  # len error unique
INIT_IN = struct.Struct("=IIII")  # major minor max_readahead flags
INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
KSTATFS = struct.Struct("=5Q3I28x")  # blocks bfree bavail files ffree bsize namelen frsize
ATTR = struct.Struct("=6Q10I")
ATTR_OUT = struct.Struct("=QII")
ENTRY_OUT = struct.Struct("=QQQQII")
OPEN_OUT = struct.Struct("=QII")
READ_IN = struct.Struct("=QQI")
DIRENT = struct.Struct("=QQII")
READ_BUFFER = 16384  # the kernel wants 8 KiB at least (FUSE_MIN_READ_BUFFER)
MAX_WRITE = 4096
ROOT_NODE = 1

_libc = ctypes.CDLL(None, use_errno=True)


# ---- mounting: also used by the tests themselves


def _within_limit(path: bytes) -> tuple[bytes, int | None]:
    """The path, or for one longer than PATH_MAX the same place through a descriptor, which the caller closes."""
    if len(path) < PATH_MAX:
        return path, None
    *parents, name = path.split(b"/")
    fd = os.open(b"/" if path.startswith(b"/") else b".", os.O_PATH | os.O_DIRECTORY)
    for parent in filter(None, parents):
        below = os.open(parent, os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return b"/proc/thread-self/fd/%d/%s" % (fd, name), fd


def _on_path(path: bytes, call: Callable[[bytes], int]) -> None:
    short, fd = _within_limit(path)
    try:
        if call(short) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fsdecode(path))
    finally:
        if fd is not None:
            os.close(fd)


def mount(source: bytes, target: bytes, fstype: bytes, flags: int = 0, data: bytes = b"") -> None:
    """mount(2); raises OSError. The target may be longer than PATH_MAX."""
    _on_path(target, lambda path: _libc.mount(source, path, fstype, ctypes.c_ulong(flags), data or None))


def unmount(target: bytes, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily unless told otherwise; raises OSError."""
    _on_path(target, lambda path: _libc.umount2(path, flags | UMOUNT_NOFOLLOW))


def make_directories(path: bytes) -> None:
    """Each missing part of a path. What is there is not looked at: it may be a mount that hangs. Raises OSError."""
    parts = path.split(b"/")
    for count in range(1, len(parts) + 1):
        try:
            os.mkdir(b"/".join(parts[:count]) or b"/")
        except FileExistsError:
            continue


class Mounted(NamedTuple):
    """A mount as the table shows it. The kernel re-uses both numbers at once, hence the type."""

    path: bytes
    mount_id: int
    device: str  # major:minor
    fstype: bytes


def identify(path: bytes) -> tuple[int, str]:
    """Mount id and device of the topmost mount at `path`, without asking its server; raises OSError."""
    buffer = ctypes.create_string_buffer(256)
    flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC  # and an empty mask: FUSE then tells even strangers the device
    _on_path(path, lambda short: _libc.statx(AT_FDCWD, short, flags, 0, buffer))
    major, minor, mount_id = struct.unpack_from("=IIQ", buffer, 136)  # stx_dev_major, stx_dev_minor, stx_mnt_id
    return mount_id, f"{major}:{minor}"


def mount_table() -> set[tuple[int, str, bytes]]:
    """Mount id, device and type of every mount of this namespace."""
    with open("/proc/thread-self/mountinfo", "rb") as table:
        lines = [line.split() for line in table]
    return {(int(line[0]), line[2].decode(), _unescape(line[line.index(b"-") + 1])) for line in lines}


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)


def unmount_all(mounts: Iterable[Mounted]) -> list[Mounted]:
    """Lazily unmount those that stand on top of their path, whatever lies upon or below another; gives the others.

    Only what is ours: somebody may have mounted something else there by now.
    """
    left = list(mounts)
    while left:
        table = mount_table()
        kept = []
        for mounted in left:
            path, *identity = mounted
            try:
                if tuple(identity) in table and identify(path) == (mounted.mount_id, mounted.device):
                    unmount(path)
                    continue
            except OSError:
                pass  # below a dead directory, which takes it along when it goes
            kept.append(mounted)
        if len(kept) == len(left):
            break
        left = kept
    return left


# ---- one mount


class Request(NamedTuple):
    op: str
    unique: int
    node: int
    body: bytes


class Mode(NamedTuple):
    kind: str
    value: int


class Node(NamedTuple):
    directory: bool
    children: dict[bytes, int]


def plant(directories: Iterable[bytes], files: Iterable[bytes]) -> dict[int, Node]:
    """Nodes by id, from paths relative to the root; parents come into being as needed."""
    nodes = {ROOT_NODE: Node(True, {})}
    for path, directory in [(path, True) for path in directories] + [(path, False) for path in files]:
        at = ROOT_NODE
        *parents, name = path.split(b"/")
        for part, is_directory in [(parent, True) for parent in parents] + [(name, directory)]:
            if part not in nodes[at].children:
                nodes[at].children[part] = len(nodes) + 1
                nodes[len(nodes) + 1] = Node(is_directory, {})
            at = nodes[at].children[part]
    return nodes


class Connection:
    """A mount's /dev/fuse descriptor, its modes, and what it was asked."""

    def __init__(self, fd: int, settings: dict[str, Any]) -> None:
        self.fd = fd  # -1 once closed
        self.mounted = Mounted(os.fsencode(settings["path"]), 0, "", os.fsencode(settings["fstype"]))
        self.mode = Mode(*settings["mode"])
        self.op_modes: dict[str, Mode] = {}
        self.statfs: list[int] = settings["statfs"]
        self.owner: tuple[int, int] = (settings["user_id"], settings["group_id"])
        self.attr_valid: int = settings["attr_valid"]
        self.entry_valid: int = settings["entry_valid"]
        self.nodes = plant(map(os.fsencode, settings["directories"]), map(os.fsencode, settings["files"]))
        self.initialised = threading.Event()
        self.parked: list[Request] = []
        self.delayed = 0
        self.seen: Counter[str] = Counter()

    def mode_of(self, op: str) -> Mode:
        if op in ALWAYS_ANSWERED or (op == "INIT" and self.mode.kind != "no_init"):
            return Mode("ok", 0)
        return self.op_modes.get(op, self.mode)

    def reply(self, request: Request, error: int, payload: bytes = b"") -> None:
        header = OUT_HEADER.pack(OUT_HEADER.size + len(payload), -error, request.unique)
        try:
            os.write(self.fd, header + payload)
        except OSError as failure:
            # ENOENT: the caller was interrupted; ENODEV: aborted or unmounted; EBADF: we closed it
            if failure.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF):
                raise

    def answer(self, request: Request) -> None:
        """Answer as a healthy file system does."""
        node = self.nodes.get(request.node)
        match request.op:
            case "INIT":
                _, minor, readahead, offered = INIT_IN.unpack_from(request.body)
                flags = offered & FUSE_PARALLEL_DIROPS
                out = (7, min(minor, 31), readahead, flags, 0, 0, MAX_WRITE, 1, 0, 0, 0)
                self.reply(request, 0, INIT_OUT.pack(*out))
                self.initialised.set()
            case "STATFS":
                blocks, bfree, bavail, frsize = self.statfs
                self.reply(request, 0, KSTATFS.pack(blocks, bfree, bavail, 0, 0, frsize, 255, frsize))
            case "GETATTR" if node is not None:
                self.reply(request, 0, ATTR_OUT.pack(self.attr_valid, 0, 0) + self._attributes(request.node))
            case "LOOKUP" if node is not None:
                self._answer_lookup(request, node)
            case "OPENDIR":
                self.reply(request, 0, OPEN_OUT.pack(0, 0, 0))
            case "READDIR" if node is not None:
                _, offset, size = READ_IN.unpack_from(request.body)
                self.reply(request, 0, self._entries(request.node, node, offset, size))
            case "ACCESS" | "DESTROY" | "RELEASE" | "RELEASEDIR":
                self.reply(request, 0)
            case _:
                self.reply(request, errno.ENOSYS)

    def _attributes(self, number: int) -> bytes:
        directory = self.nodes[number].directory
        mode = stat.S_IFDIR | 0o755 if directory else stat.S_IFREG | 0o644
        links = 2 if directory else 1
        return ATTR.pack(number, 0, 0, 0, 0, 0, 0, 0, 0, mode, links, *self.owner, 0, 4096, 0)

    def _answer_lookup(self, request: Request, directory: Node) -> None:
        child = directory.children.get(request.body.rstrip(b"\0"))
        if child is None:
            self.reply(request, errno.ENOENT)
        else:
            valid = ENTRY_OUT.pack(child, 0, self.entry_valid, self.attr_valid, 0, 0)
            self.reply(request, 0, valid + self._attributes(child))

    def _entries(self, number: int, directory: Node, offset: int, size: int) -> bytes:
        names = [(b".", number), (b"..", ROOT_NODE), *directory.children.items()]
        out = b""
        for position, (name, node) in enumerate(names[offset:], offset + 1):
            kind = stat.S_IFDIR if self.nodes[node].directory else stat.S_IFREG
            entry = DIRENT.pack(node, position, len(name), kind >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return out


# ---- all mounts


class Server:
    """The loop over the control socket, all connections and the timers of delayed answers."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.received = b""
        self.epoll = select.epoll()
        self.epoll.register(control.fileno(), select.EPOLLIN)
        self.connections: dict[int, Connection] = {}
        self.by_fd: dict[int, Connection] = {}
        self.numbers = itertools.count(1)
        self.timers: list[tuple[float, int, Connection, Request]] = []

    def serve(self) -> None:
        """Until the control socket ends; then nothing of ours is left mounted."""
        while True:
            due = max(0.0, self.timers[0][0] - time.monotonic()) if self.timers else None
            for fd, events in self.epoll.poll(due):
                if fd == self.control.fileno():
                    if not self.read_control():
                        self.shut_down()
                        return
                elif fd in self.by_fd:
                    self.read_request(self.by_fd[fd], events)
            while self.timers and self.timers[0][0] <= time.monotonic():
                _, _, connection, request = heapq.heappop(self.timers)
                connection.delayed -= 1
                connection.answer(request)

    def shut_down(self) -> None:
        connections = list(self.connections.values())  # a thread may still be mounting
        for connection in connections:
            self.close(connection)  # first: a walk to a mount may lead through another one
        unmount_all(connection.mounted for connection in connections)

    # requests of the kernel

    def read_request(self, connection: Connection, events: int) -> None:
        if not events & select.EPOLLIN:
            self.close(connection)  # EPOLLERR: aborted, or its last mount is gone
            return
        try:
            data = os.read(connection.fd, READ_BUFFER)
        except OSError as failure:
            if failure.errno == errno.ENODEV:
                self.close(connection)
            elif failure.errno not in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                raise
            return
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(data)
        request = Request(OPCODES.get(opcode, str(opcode)), unique, node, data[IN_HEADER.size :])
        connection.seen[request.op] += 1
        if request.op not in NEVER_ANSWERED:
            self.treat(connection, request)

    def treat(self, connection: Connection, request: Request) -> None:
        mode = connection.mode_of(request.op)
        match mode.kind:
            case "ok":
                connection.answer(request)
            case "errno":
                connection.reply(request, mode.value)
            case "delay":
                connection.delayed += 1
                entry = (time.monotonic() + mode.value / 1000, next(self.numbers), connection, request)
                heapq.heappush(self.timers, entry)
            case _:
                connection.parked.append(request)
        if request.op == "INIT":
            self.choose_events(connection)

    def choose_events(self, connection: Connection) -> None:
        unread = connection.mode.kind == "unread" and connection.initialised.is_set()
        if connection.fd >= 0:
            self.epoll.modify(connection.fd, 0 if unread else select.EPOLLIN)

    def close(self, connection: Connection) -> None:
        """Closing the only descriptor of a connection aborts it: callers get ENOTCONN."""
        if connection.fd >= 0:
            del self.by_fd[connection.fd]
            self.epoll.unregister(connection.fd)
            os.close(connection.fd)
            connection.fd = -1
            connection.parked.clear()

    # commands of the test

    def read_control(self) -> bool:
        data = self.control.recv(1 << 20)
        *lines, self.received = (self.received + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            if command["command"] in ("mount", "unmount", "remount"):
                # These walk the path, which may lead through one of our own mounts: the loop must go on.
                threading.Thread(target=self.obey, args=(command,), daemon=True).start()
            else:
                self.obey(command)
        return bool(data)

    def obey(self, command: dict[str, Any]) -> None:
        try:
            reply = getattr(self, "do_" + command.pop("command"))(**command)
        except OSError as failure:
            reply = {"errno": failure.errno or errno.EIO, "error": failure.strerror or str(failure)}
        self.control.sendall(json.dumps(reply).encode() + b"\n")

    def do_mount(self, *, create: bool, source: str, flags: int, options: str, **settings: Any) -> dict[str, Any]:
        if create:
            make_directories(os.fsencode(settings["path"]))
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        connection = Connection(fd, settings)
        path, fstype = connection.mounted.path, connection.mounted.fstype
        user, group = connection.owner
        data = f"fd={fd},rootmode=40000,user_id={user},group_id={group}" + (options and "," + options)
        try:
            mount(os.fsencode(source), path, fstype, flags, os.fsencode(data))
        except OSError:
            os.close(fd)
            raise
        number = next(self.numbers)
        self.by_fd[fd] = self.connections[number] = connection
        self.epoll.register(fd, select.EPOLLIN)
        mount_id, device = identify(path)
        connection.mounted = Mounted(path, mount_id, device, fstype)
        if connection.mode.kind != "no_init" and not connection.initialised.wait(10):
            raise OSError(errno.ETIMEDOUT, "the kernel sent no INIT")
        return {"number": number, "mount_id": mount_id, "device": device}

    def do_set(
        self, *, number: int, mode: list[Any], ops: list[str], statfs: list[int] | None, drop_parked: bool
    ) -> dict[str, Any]:
        connection = self.connections[number]
        new = Mode(*mode)
        if ops:
            connection.op_modes.update(dict.fromkeys(ops, new))
        else:
            connection.mode = new
            connection.op_modes.clear()
        if statfs is not None:
            connection.statfs = statfs
        parked, connection.parked = connection.parked, []
        if not drop_parked:
            for request in parked:
                self.treat(connection, request)  # parked again if its mode still says so
        self.choose_events(connection)
        return {}

    def do_counters(self, *, number: int) -> dict[str, Any]:
        connection = self.connections[number]
        return {"requests": connection.seen, "parked": len(connection.parked), "delayed": connection.delayed}

    def do_close(self, *, number: int) -> dict[str, Any]:
        self.close(self.connections[number])
        return {}

    def do_unmount(self, *, number: int) -> dict[str, Any]:
        if unmount_all([self.connections[number].mounted]):
            raise OSError(errno.EINVAL, "another mount stands there, or none")
        return {}

    def do_remount(self, *, number: int, flags: int) -> dict[str, Any]:
        mount(b"none", self.connections[number].mounted.path, b"none", flags | MS_REMOUNT)
        return {}


def main() -> None:
    if sys.argv[1:] == ["--unmount"]:
        entries = map(json.loads, sys.stdin)
        unmount_all([Mounted(os.fsencode(path), number, device, os.fsencode(t)) for path, number, device, t in entries])
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us
    serve(0)


def serve(control: int) -> None:
    """Serve until the control socket of this descriptor number ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a descriptor per mount
    with socket.socket(fileno=os.dup(control)) as commands:
        Server(commands).serve()


if __name__ == "__main__":
    main()
