"""A cgroup directory and a cgroup namespace for one test session, so that two sessions on a machine never meet there.

    session = SessionCgroup.enter()     # this process and all it starts; raises OSError where that cannot be
    session.path                        # where its own cgroup2 is mounted: the place that the machine's had
    session.leave()

To be entered from the main thread, in a private mount namespace. Nothing outside of our own directory is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile

from tests.fakes.fuse_server import MS_BIND, mount, unmount

CLONE_NEWCGROUP = 0x02000000  # linux/sched.h
PREFIX = "mountwatch-tests-"


class SessionCgroup:
    """The directory that this process sits in, which it sees as the root of the hierarchy."""

    def __init__(self, path: str, parent: int, name: str, back: int) -> None:
        self.path = path
        self._parent = parent
        self._name = name
        self._back = back

    @classmethod
    def enter(cls) -> SessionCgroup:
        path, home = _find()
        for name in os.listdir(home):
            if name.startswith(PREFIX) and not _populated(os.path.join(home, name)):
                prune(os.path.join(home, name))  # of a session that was killed
        # Opened now: with nsdelegate the way back is closed to what is opened inside the new namespace.
        back = os.open(os.path.join(home, "cgroup.procs"), os.O_WRONLY)
        parent = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        session = cls(path, parent, "", back)
        try:
            own = tempfile.mkdtemp(prefix=PREFIX, dir=home)
            session._name = os.path.basename(own)
            os.chmod(own, 0o755)
            join(own, os.getpid())
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWCGROUP) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"cgroup namespace: {os.strerror(code)}")
            mount(os.fsencode(own), os.fsencode(path), b"none", MS_BIND)  # a new mount on top of its like is refused
        except OSError:
            session.leave(mounted=False)
            raise
        return session

    def leave(self, *, mounted: bool = True) -> None:
        """Go back and remove the directory; what still runs in it keeps it, until a later session finds it empty."""
        if mounted:
            unmount(os.fsencode(self.path))
        os.write(self._back, b"0")
        os.close(self._back)
        if self._name:
            prune(f"/proc/self/fd/{self._parent}/{self._name}")
        os.close(self._parent)


def join(directory: str, pid: int) -> None:
    """Move a process into a cgroup; raises OSError."""
    with open(os.path.join(directory, "cgroup.procs"), "wb", buffering=0) as procs:
        procs.write(b"%d" % pid)


def prune(directory: str) -> None:
    """Remove a cgroup and those below it, as far as no process is in them."""
    with contextlib.suppress(OSError):
        for name in [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]:
            prune(os.path.join(directory, name))
        os.rmdir(directory)


def _populated(directory: str) -> bool:
    try:
        with open(os.path.join(directory, "cgroup.events")) as events:
            return "populated 0" not in events.read()
    except OSError:
        return True  # just removed by its own session


def _find() -> tuple[str, str]:
    """Where cgroup2 is mounted, and our own directory there."""
    with open("/proc/self/mountinfo") as table:
        lines = [line.split() for line in table]
    found = [(line[4], line[3]) for line in lines if line[line.index("-") + 1] == "cgroup2"]
    if not found:
        raise OSError(errno.ENODEV, "cgroup2 is not mounted")
    path, root = found[-1]
    with open("/proc/self/cgroup") as own:
        (mine,) = [line[3:].rstrip("\n") for line in own if line.startswith("0::")]
    return path, os.path.normpath(os.path.join(path, os.path.relpath(mine, root)))
