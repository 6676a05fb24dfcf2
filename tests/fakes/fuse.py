"""Mounts that hang, fail or answer late at will: the tests' side of `fuse_server.py`.

    with FuseServer() as server:
        nas = server.mount("/mnt/x", mode=HANG, source="nas01:/export", fstype="fuse.test")
        nas.set(OK)                                 # parked requests are answered now
        nas.set(HANG, ops=["OPENDIR", "READDIR"])   # only these hang
        nas.set(fails(errno.ESTALE))

A switch is in effect when the call returns. All calls are synchronous and take some 0.1 ms; they use a non-blocking
socket and poll(2), which blockbuster lets pass, so they are fit for async tests too. What waits for others
(`wait_parked`, `wait_seen`) would stop the event loop: there, `await asyncio.to_thread(nas.wait_parked)`.
Calls may come from any thread.

On exit every connection is aborted, so that unkillable callers are freed, and every mount is lazily unmounted.

By hand, as root: `python tests/fakes/fuse.py hang /mnt/x`, then type modes: ok, hang, unread, errno 116, delay 500.
This module imports nothing of the project, so that this works from anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

SERVER = Path(__file__).with_name("fuse_server.py")
CONNECTIONS = Path("/sys/fs/fuse/connections")  # fusectl
LIMIT = 60.0  # seconds for what takes microseconds: past it the server is broken
GRACE = 1.0  # seconds for a killed server to end by itself
POLL_INTERVAL, POLL_AT_MOST = 0.002, 0.02  # seconds between two looks, at first and later

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND = 1, 2, 4, 4096  # linux/mount.h

# The numbers of a real file system: 40 GiB, three quarters of it used.
FRSIZE = 4096
ALL_ONES = 2**64 - 1

AnyPath = str | bytes | os.PathLike[str]


class FuseServerError(Exception):
    """The server does not answer, or has ended."""


class Mode(NamedTuple):
    """What becomes of a mount's requests; see the server's docstring."""

    kind: str
    value: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.value}" if self.kind in ("errno", "delay") else self.kind


OK = Mode("ok")
HANG = Mode("hang")
UNREAD = Mode("unread")
NO_INIT = Mode("no_init")


def fails(code: int) -> Mode:
    """Every request is answered with this errno."""
    if not 1 <= code <= 511:
        raise ValueError(f"the kernel takes errno 1 to 511 of a FUSE server, not {code}")
    return Mode("errno", code)


def delayed(milliseconds: int) -> Mode:
    """Every request is answered so much later, each on its own."""
    return Mode("delay", milliseconds)


def parse_mode(text: str) -> Mode:
    """Words such as "hang", "errno 116", "errno ESTALE", "delay 500" as a mode; raises ValueError."""
    match text.split():
        case ["ok" | "hang" | "unread" | "no_init" as kind]:
            return Mode(kind)
        case ["errno", code]:
            return fails(int(code) if code.isdecimal() else getattr(errno, code, 0))
        case ["delay", milliseconds]:
            return delayed(int(milliseconds))
    raise ValueError(f"{text!r} is none of: ok, hang, unread, no_init, errno N, delay MS")


class Statfs(NamedTuple):
    """What STATFS answers: counts of blocks, and their size in bytes; 0 and ALL_ONES are taken too."""

    blocks: int = 10 * 2**20
    bfree: int = 3 * 2**20
    bavail: int = 2**20 * 5 // 2
    frsize: int = FRSIZE


class Counters(NamedTuple):
    """What a mount was asked."""

    requests: dict[str, int]  # read so far, by operation ("STATFS"); what was not read is not known here
    parked: int  # read and not answered
    delayed: int  # waiting for their time


class ServerProcess(Protocol):
    """What FuseServer needs of its process: of a Popen, or of a process that is not its child."""

    pid: int

    def kill(self) -> None: ...

    def wait(self, timeout: float) -> int:
        """The exit code, or another number than 0 where it cannot be known; raises subprocess.TimeoutExpired."""


class FuseMount:
    """One mount of a FuseServer."""

    def __init__(
        self, server: FuseServer, number: int, *, path: bytes, mount_id: int, device: str, fstype: str, source: str
    ) -> None:
        self._server = server
        self._number = number
        self.path = path
        self.fstype = fstype
        self.source = source
        self.mount_id = mount_id  # as in mountinfo
        self.device = device  # "major:minor", as in mountinfo
        self._control_inode = self._look_at_control()

    @property
    def mount_point(self) -> str:
        """The path as `str`, decoded with surrogateescape."""
        return os.fsdecode(self.path)

    @property
    def control(self) -> Path:
        """The connection's directory in fusectl (`waiting`, `abort`)."""
        return CONNECTIONS / self.device.partition(":")[2]

    def _look_at_control(self) -> int:
        # The kernel re-uses the minor number at once, but not this inode: it tells that a connection is still ours.
        try:
            return os.stat(self.control).st_ino
        except OSError:  # no fusectl, or the connection is gone
            return 0

    def _call(self, command: str, **arguments: Any) -> dict[str, Any]:
        return self._server._call(command, number=self._number, **arguments)

    def set(
        self, mode: Mode, *, ops: Iterable[str] = (), statfs: Statfs | None = None, drop_parked: bool = False
    ) -> None:
        """Switch the mount, or only the named operations of it; a switch without `ops` undoes all of those.

        Parked requests are treated anew by what now holds for them: answered, failed, delayed or parked again;
        with `drop_parked` they are forgotten, and their callers wait until the connection ends.
        """
        operations = list(ops)
        if mode.kind == "no_init" or (operations and mode.kind == "unread"):
            raise ValueError(f"{mode} holds for a whole mount, no_init from its beginning")
        self._call("set", mode=mode, ops=operations, statfs=statfs, drop_parked=drop_parked)

    def counters(self) -> Counters:
        return Counters(**self._call("counters"))

    def waiting(self) -> int:
        """Requests that the kernel counts as waiting: also unread ones and those that wait for INIT."""
        return int((self.control / "waiting").read_text())

    def wait_parked(self, count: int = 1, *, timeout: float = LIMIT) -> None:
        """Return when so many requests are read and unanswered; raises TimeoutError."""
        _wait(lambda: self.counters().parked >= count, f"{count} parked requests", timeout)

    def wait_seen(self, op: str, count: int = 1, *, timeout: float = LIMIT) -> None:
        """Return when so many requests of this operation have been read; raises TimeoutError."""
        _wait(lambda: self.counters().requests.get(op, 0) >= count, f"{count} {op}", timeout)

    def wait_waiting(self, count: int = 1, *, timeout: float = LIMIT) -> None:
        """Return when the kernel counts so many waiting requests; raises TimeoutError."""
        _wait(lambda: self.waiting() >= count, f"{count} waiting", timeout)

    def close_fd(self) -> None:
        """As if this mount's server died: callers get ENOTCONN, the mount stays in the table."""
        self._call("close")

    def unmount(self) -> None:
        """Unmount lazily; raises OSError if another mount stands on top or this one is gone."""
        self._call("unmount")

    def remount(self, flags: int) -> None:
        """Remount with flags: MS_RDONLY makes the superblock read-only, MS_BIND | MS_RDONLY this mount alone."""
        self._call("remount", flags=flags)

    def abort(self) -> None:
        """Abort the connection through fusectl, as an administrator would: all callers get ENOTCONN."""
        (self.control / "abort").write_text("1")

    def abort_if_ours(self) -> None:
        """The same, where the server cannot be asked any more; without effect on a connection that has ended."""
        if self._control_inode and self._look_at_control() == self._control_inode:
            with contextlib.suppress(OSError):
                self.abort()


class FuseServer:
    """A server process for any number of mounts; started at once, ended by `close` or the end of the `with`."""

    creates_mount_points = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = b""
        self._mounts: list[FuseMount] = []
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            try:
                self._process = self._start(theirs)
            except BaseException:
                self._socket.close()
                raise

    def _start(self, control: socket.socket) -> ServerProcess:
        command = [sys.executable, "-I", "-S", str(SERVER)]
        return subprocess.Popen(command, stdin=control.fileno(), cwd="/", start_new_session=True)

    def __enter__(self) -> FuseServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def mount(
        self,
        path: AnyPath,
        *,
        mode: Mode = OK,
        source: str = "nas01:/export",
        fstype: str = "fuse.test",
        flags: int = MS_NOSUID | MS_NODEV,
        options: str = "",
        user_id: int = 0,
        group_id: int = 0,
        statfs: Statfs | None = None,
        directories: Sequence[str] = (),
        files: Sequence[str] = ("one", "two", "three"),
        attr_valid: int = 0,
        entry_valid: int = 0,
    ) -> FuseMount:
        """Mount at an existing directory; INIT is done on return, unless the mode is NO_INIT. Raises OSError.

        `source` and `fstype` ("fuse" or "fuse.<anything>") show in mountinfo; `options` are FUSE's own, such as
        "allow_other,default_permissions"; `directories` and `files` are the tree, by paths relative to its root;
        `attr_valid` and `entry_valid` are the seconds for which the kernel may answer from its caches.
        """
        where = os.path.abspath(os.fsencode(path))
        reply = self._call(
            "mount",
            create=self.creates_mount_points,
            path=os.fsdecode(where),
            mode=mode,
            source=source,
            fstype=fstype,
            flags=flags,
            options=options,
            user_id=user_id,
            group_id=group_id,
            statfs=statfs or Statfs(),
            directories=directories,
            files=files,
            attr_valid=attr_valid,
            entry_valid=entry_valid,
        )
        mounted = FuseMount(self, path=where, fstype=fstype, source=source, **reply)
        self._mounts.append(mounted)
        return mounted

    def kill(self) -> None:
        """SIGKILL the server: all its mounts stay in the table and say ENOTCONN. `close` still unmounts them."""
        self._process.kill()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            # A thread of its own waits in one of its mounts and keeps the descriptors open.
            self.abort_connections()
            self._process.wait(LIMIT)

    def close(self) -> None:
        """Abort every connection, unmount everything, end the process. Never hangs; may be called again."""
        self._socket.close()  # the server's order to do all that by itself
        try:
            code = self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        if code != 0:
            self._unmount_remains()
        self._mounts.clear()

    def _call(self, command: str, **arguments: Any) -> dict[str, Any]:
        line = json.dumps({"command": command, **arguments}).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    self._poll(select.POLLOUT, command)
                    line = line[self._socket.send(line) :]
                while b"\n" not in self._received:
                    self._poll(select.POLLIN, command)
                    data = self._socket.recv(1 << 20)
                    if not data:
                        raise ConnectionResetError
                    self._received += data
            except ConnectionError:
                raise FuseServerError(f"{command}: the FUSE server has ended") from None
            text, _, self._received = self._received.partition(b"\n")
        reply: dict[str, Any] = json.loads(text)
        if "errno" in reply:
            raise OSError(reply["errno"], f"{command}: {reply['error']}", arguments.get("path"))
        return reply

    def _poll(self, event: int, command: str) -> None:
        if self._socket.fileno() < 0:
            raise FuseServerError(f"{command}: the FUSE server was closed")
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(LIMIT * 1000):
            raise FuseServerError(f"{command}: the FUSE server did not answer within {LIMIT:g} s")

    def abort_connections(self) -> None:
        """Abort all that this server still serves, without asking it: it may hang, or have ended."""
        for mounted in self._mounts:
            mounted.abort_if_ours()

    def _unmount_remains(self) -> None:
        # In a child with a limit: a path may lead through a mount of someone else that hangs.
        entries = [(m.mount_point, m.mount_id, m.device, m.fstype) for m in self._mounts]
        command = [sys.executable, "-I", "-S", str(SERVER), "--unmount"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/") as child:
            try:
                child.communicate(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries), LIMIT)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait(ready: Callable[[], bool], what: str, timeout: float) -> None:
    began = time.monotonic()
    while not ready():
        waited = time.monotonic() - began
        if waited > timeout:
            raise TimeoutError(f"no {what} within {timeout:g} s")
        time.sleep(min(max(waited / 20, POLL_INTERVAL), POLL_AT_MOST))  # what waits for long costs little


def say(text: object) -> None:
    print(text, flush=True)  # noqa: T201  (a person, or a pipe, reads it line by line)


def main() -> None:
    """One mount, switched by words typed on standard input; unmounted at its end."""
    parser = argparse.ArgumentParser(description="Mount a test file system and make it hang or fail at will (as root).")
    parser.add_argument("mode", type=parse_mode, help="ok, hang, unread, no_init, 'errno N', 'delay MS'")
    parser.add_argument("mount_point", help="created if missing")
    parser.add_argument("--source", default="nas01:/export", help="what the mount table shows (default: %(default)s)")
    parser.add_argument("--fstype", default="fuse.test", help="fuse or fuse.ANYTHING (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        os.makedirs(arguments.mount_point, exist_ok=True)
        with FuseServer() as server:
            mounted = server.mount(
                arguments.mount_point,
                mode=arguments.mode,
                source=arguments.source,
                fstype=arguments.fstype,
                options="allow_other",
            )
            say(f"{arguments.mount_point}: {arguments.mode}. Type a mode, 'counters', or 'quit'.")
            for line in sys.stdin:
                word = line.strip()
                if word == "quit":
                    break
                try:
                    if word == "counters":
                        say(mounted.counters())
                    elif word:
                        mounted.set(parse_mode(word))
                        say(word)
                except ValueError as error:
                    say(error)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
