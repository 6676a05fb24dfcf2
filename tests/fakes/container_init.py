"""The processes of the fake containers in `containers.py`: monitors, inits, and the nursery that all come from.

Standard library only. `tests.fakes.containers` starts the nursery as `python -E -s -S -m tests.fakes.container_init`.
It forks a monitor per container, which clones that container's init, which forks a FUSE server if one is wanted: no
exec anywhere, so that a container costs milliseconds and shares its memory with the others.

Each process obeys its control socket (SOCK_SEQPACKET, descriptor 0): one JSON object per message, with descriptors
beside it, and one answer to each. A process that was asked for hands over a pidfd of itself. When its control socket
ends, a process ends with all that it started. Nothing here may walk through a mount that hangs.

What LXC does is done in LXC's order: the monitor's cgroup, the container's cgroup, clone, id maps, mounts, /proc,
pivot_root(".", "."), the lazy unmount of the old root.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.fakes import fuse_server
from tests.fakes.cgroups import join, prune
from tests.fakes.fuse_server import MS_BIND, make_directories, mount, unmount
from tests.fakes.loop_image import detach
from tests.fakes.namespaces import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    adopt_orphans,
    become_known_as,
    become_root_inside,
    detached_copy,
    die_with_parent,
    leave_user_namespace,
    new_mount_namespace,
    own_mounts,
    pivot,
    put_mount,
    spawn,
)

ID_SHIFT, ID_COUNT = 100000, 65536  # Proxmox's default map of unprivileged containers
MESSAGE_LIMIT = 1 << 18
GRACE = 2.0  # seconds for what is told to end


class Settings(NamedTuple):
    """One container, as its processes need to know it."""

    ctid: str
    argv: list[str]  # of the monitor
    cgroup: str  # where cgroup2 is mounted; "": no cgroups
    rootfs: str  # a directory of the host
    kind: str  # what is there: "tmpfs" (mounted by init), "directory", "image"
    device: str  # of the image
    user_namespace: bool
    binds: list[list[str]]  # [path on the host, path inside]


def _own_pidfd() -> int:
    return os.pidfd_open(os.getpid())


# ---- control sockets


def _take_control(fd: int) -> None:
    os.dup2(fd, 0)
    os.close(fd)


def _answer(reply: dict[str, Any], *fds: int) -> None:
    """Send an answer; the descriptors that go with it are closed here."""
    with socket.socket(fileno=os.dup(0)) as control:
        socket.send_fds(control, [json.dumps(reply).encode()], fds)
    for fd in fds:
        os.close(fd)


def failure_of(error: OSError) -> dict[str, Any]:
    return {"errno": error.errno, "error": error.strerror or str(error), "path": os.fsdecode(error.filename or "")}


class _Process:
    """Obeys its control socket until that ends: a command "x" is the method `do_x`."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.poll.register(0, select.POLLIN)

    def serve(self) -> None:
        while True:
            ready = [fd for fd, _ in self.poll.poll()]
            if 0 not in ready:
                if self.child_ended():
                    return
                continue
            with socket.socket(fileno=os.dup(0)) as control:
                data, fds, _, _ = socket.recv_fds(control, MESSAGE_LIMIT, 4, socket.MSG_CMSG_CLOEXEC)
            if not data:
                return
            command = json.loads(data)
            method = getattr(self, "do_" + command.pop("command"))
            try:
                reply = method(*fds, **command)
                given = () if reply is None else (reply,)
            except OSError as error:
                _answer(failure_of(error))
            else:
                _answer({}, *given)
            finally:
                for fd in fds:
                    os.close(fd)

    def child_ended(self) -> bool:
        """Whether that is the end of this process, too."""
        return True


class Nursery(_Process):
    """The parent of all monitors, and of whatever loses its parent."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[tuple[str, str]] = []

    def do_image(self, *, device: str, path: str) -> None:
        """Give this loop device back at the end: the test may be killed."""
        self.images.append((device, path))

    def do_monitor(self, control: int, **settings: Any) -> None:
        def body() -> None:
            _take_control(control)
            Monitor(Settings(**settings)).run()

        spawn(body)

    def do_pretend(self, control: int, **settings: Any) -> None:
        pretend(control, **settings)


def pretend(
    control: int, *, argv: list[str], comm: str, uid: int = 0, children: int = 1, user_namespace: bool = False
) -> None:
    """A process that looks like another one, with so many children, until its control socket ends."""

    def body() -> None:
        _take_control(control)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            become_known_as(comm, argv)
            if user_namespace:
                leave_user_namespace()
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            offspring = [spawn(_idle) for _ in range(children)]
        except OSError as error:
            _answer(failure_of(error))
            return
        _answer({}, _own_pidfd())
        _Process().serve()
        for pid in offspring:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    spawn(body)


def _idle() -> None:
    die_with_parent()
    os.close(0)
    signal.pause()


# ---- a container's processes


class Monitor(_Process):
    """`lxc-start`: lives in the host's namespaces, starts init, tidies up after it and ends with it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.init = 0
        self.pidfd = -1
        base, ctid = settings.cgroup, settings.ctid
        self.own_cgroup = f"{base}/lxc.monitor/{ctid}" if base else ""
        self.cgroup = f"{base}/lxc/{ctid}" if base else ""

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            die_with_parent()
            become_known_as("lxc-start", self.settings.argv)
            if self.cgroup:
                os.makedirs(self.own_cgroup, exist_ok=True)
                join(self.own_cgroup, os.getpid())
            self._prepare_root()
        except OSError as error:
            _answer(failure_of(error))
            self._leave()
            return
        _answer({}, _own_pidfd())
        self.serve()
        self._end_init()
        self._leave()

    def _prepare_root(self) -> None:
        rootfs = os.fsencode(self.settings.rootfs)
        if self.settings.kind == "image":
            # What is mounted here shows in the monitor's namespace only: Proxmox sets lxc.monitor.unshare.
            new_mount_namespace()
            mount(os.fsencode(self.settings.device), rootfs, b"ext4")
        if self.settings.kind != "tmpfs" and self.settings.user_namespace:
            os.chown(rootfs, ID_SHIFT, ID_SHIFT)

    def do_spawn(self, control: int) -> int:
        if self.cgroup:
            os.makedirs(f"{self.cgroup}/ns", exist_ok=True)
        flags = CLONE_NEWNS | CLONE_NEWPID | (CLONE_NEWUSER if self.settings.user_namespace else 0)
        trees: list[tuple[int, str]] = []

        def body() -> None:
            die_with_parent()
            _take_control(control)
            _answer({})  # from now on it dies with us
            Init(self.settings, trees).serve()

        try:
            for source, target in [["/dev/fuse", "/dev/fuse"], *self.settings.binds]:
                trees.append((detached_copy(source), target))
            self.init = spawn(body, flags)
        finally:
            for fd, _ in trees:
                os.close(fd)
        self.pidfd = os.pidfd_open(self.init)
        self.poll.register(self.pidfd, select.POLLIN)
        if self.settings.user_namespace:
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{self.init}/{name}", "w") as ids:
                    ids.write(f"0 {ID_SHIFT} {ID_COUNT}\n")
        if self.cgroup:
            join(f"{self.cgroup}/ns", self.init)
        return os.dup(self.pidfd)

    def do_halt(self) -> None:
        """End init, and stay for another: what LXC does when a container reboots."""
        self._end_init()

    def child_ended(self) -> bool:
        self._end_init()
        return True

    def _end_init(self) -> None:
        if not self.init:
            return
        os.kill(self.init, signal.SIGKILL)
        os.waitpid(self.init, 0)
        self.poll.unregister(self.pidfd)
        os.close(self.pidfd)
        self.init, self.pidfd = 0, -1
        if self.cgroup:
            prune(self.cgroup)

    def _leave(self) -> None:
        if self.cgroup:
            with contextlib.suppress(OSError):  # a second claimant of the id may still be there
                os.makedirs(f"{self.settings.cgroup}/lxc.pivot", exist_ok=True)
                join(f"{self.settings.cgroup}/lxc.pivot", os.getpid())
            prune(self.own_cgroup)


class Init(_Process):
    """The first process inside; until `go` its mount table is still a copy of the host's."""

    def __init__(self, settings: Settings, trees: list[tuple[int, str]]) -> None:
        super().__init__()
        self.settings = settings
        self.trees = trees

    def do_go(self) -> None:
        own_mounts()
        rootfs = os.fsencode(self.settings.rootfs)
        if self.settings.kind == "tmpfs":
            mount(b"rootfs", rootfs, b"tmpfs", 0, b"mode=755,uid=0,gid=0")
        else:
            mount(rootfs, rootfs, b"none", MS_BIND)
        os.chdir(rootfs)  # by this name only the outer root may reach it
        if self.settings.user_namespace:
            become_root_inside()
        for name in (b"dev", b"mnt", b"proc"):
            make_directories(name)
        mount(b"proc", b"proc", b"proc")
        for fd, target in self.trees:
            put_mount(fd, os.fsencode(target).lstrip(b"/"))
            os.close(fd)
        pivot()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what init starts
        become_known_as("systemd", ["/sbin/init"])

    def do_fuse(self, control: int) -> int:
        def body() -> None:
            _take_control(control)
            become_known_as("sshfs", ["sshfs"])
            fuse_server.serve(0)

        return os.pidfd_open(spawn(body))

    def do_pretend(self, control: int, **settings: Any) -> None:
        pretend(control, **settings)

    def do_run(self, *, steps: list[list[Any]]) -> None:
        for name, *arguments in steps:
            STEPS[name](*[os.fsencode(word) if isinstance(word, str) else word for word in arguments])


def _bind(source: bytes, target: bytes, flags: int) -> None:
    mount(source, target, b"none", MS_BIND | flags)


def _write(path: bytes, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        while size > 0:
            size -= os.write(fd, bytes(min(size, 1 << 20)))
    finally:
        os.close(fd)


def _unmount_ours(entries: list[list[Any]]) -> None:
    fuse_server.unmount_all(
        fuse_server.Mounted(os.fsencode(path), number, device, os.fsencode(fstype))
        for path, number, device, fstype in entries
    )


STEPS: dict[str, Callable[..., None]] = {
    "mkdir": make_directories,
    "rmdir": os.rmdir,
    "symlink": os.symlink,
    "rename": os.rename,
    "unlink": os.unlink,
    "write": _write,
    "bind": _bind,
    "mount": mount,
    "umount": unmount,
    "unmount_ours": _unmount_ours,
}


def main() -> None:
    """The nursery: until its control socket ends, and then until nothing of it is left."""
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reap at once, as init does for a real monitor
    adopt_orphans()
    nursery = Nursery()
    nursery.serve()
    _wait_for_all()
    for device, path in nursery.images:
        detach(device, path)


def _wait_for_all() -> None:
    deadline = time.monotonic() + GRACE
    while True:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                for pid in children.read().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.002)


if __name__ == "__main__":
    main()
