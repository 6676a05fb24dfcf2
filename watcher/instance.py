"""That no two services run on the same files: locks that we hold for as long as we live.

flock(2): the kernel lets go of them when we end, however that happens. The files stay, since to remove one is to let
two processes hold "the" lock. Whatever is wrong with them does not keep us from watching.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

import anyio

from watcher import procfs

log = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds for a predecessor that is just ending
AGAIN = 0.1


class Occupied(Exception):
    """Another service runs already; the text says which, and what to do."""


class Instance:
    """The locks of this process."""

    def __init__(self) -> None:
        self._held: list[int] = []

    async def claim(self, paths: Iterable[str], proc: str = "/proc") -> None:
        """Lock these files, which lie on local file systems. Raises Occupied if another service has one of them."""
        for path in dict.fromkeys(paths):
            try:
                own_directory(os.path.dirname(path))
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError as e:
                log.warning("%s: %s; a second watcher would not be noticed", path, e.strerror or e)
                continue
            self._held.append(fd)
            if await _locked(fd):
                with suppress(OSError):  # no space: then nobody learns our pid
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                continue
            holder = _pid_in(fd)
            if holder is None or procfs.process(proc, holder) is not None:
                who = f"pid {holder}" if holder is not None else "its pid is not known"
                raise Occupied(f"another watcher runs already ({who}), and holds {path}; stop it first")
            # Killed, but one of its threads waits for a dead disk, and with it the kernel holds all it had open.
            log.warning("%s is still held by pid %d, which has ended but for what hangs; going on", path, holder)

    def release(self) -> None:
        for fd in self._held:
            os.close(fd)
        self._held.clear()


async def _locked(fd: int) -> bool:
    for _ in range(round(PATIENCE / AGAIN)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await anyio.sleep(AGAIN)
        except OSError as e:
            log.warning("cannot lock: %s; a second watcher would not be noticed", e.strerror or e)
            return True
        else:
            return True
    return False


def _pid_in(fd: int) -> int | None:
    try:
        return int(os.pread(fd, 20, 0))
    except (OSError, ValueError):
        return None


def own_directory(path: str) -> None:
    """See that the directory is there, and that nobody else can put anything into it. Raises OSError."""
    os.makedirs(path, 0o755, exist_ok=True)
    status = os.lstat(path)  # noqa: TID251  # the caller has asked the mount table where it lies
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(20, f"{path} is not a directory")
    # In /tmp anybody may have made it first.
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionError(1, f"{path} belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(1, f"others can write to {path}; chmod go-w {path}")
