"""Our own namespace's mount table: a snapshot at every change, and now and then without one."""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import AsyncIterator, Callable
from time import monotonic

from watcher import procfs
from watcher.core.mountinfo import parse
from watcher.core.mountstats import counters
from watcher.model import HOST, DisksRead, TableRead, TableUnreadable, UseRead

log = logging.getLogger(__name__)

SWEEP = 30.0  # seconds: a superblock made read-only through another namespace raises no event
SETTLE = 0.05  # seconds between two reads while changes pour in
READ_SHARE = 10  # the time of a read is at most this part of the time: a table of 10,000 takes 50 ms


class Changes:
    """Tells when the mount table has changed (poll(2) on mountinfo, proc_pid_mountinfo(5)).

    The loop's own epoll would report the descriptor as ready for ever (POLLIN always is), so it
    stands in an epoll of its own that waits for POLLPRI only, and the loop waits for that one.
    """

    def __init__(self, proc: str) -> None:
        self.changed = asyncio.Event()
        self._fd = procfs.open_mountinfo(proc)
        self._epoll = select.epoll()
        self._epoll.register(self._fd, select.EPOLLPRI | select.EPOLLERR)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._wake)

    def _wake(self) -> None:
        self._epoll.poll(0)  # takes the event; the next change raises another
        self.changed.set()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._fd)


async def tables(
    proc: str, wanted: asyncio.Event, looked: Callable[[], None] = lambda: None
) -> AsyncIterator[TableRead | TableUnreadable]:
    """The whole table at first, at each change, and whenever `wanted` is set (then even if it is unchanged).

    Changes in quick succession come as one; the last is never lost. `looked` is called each time it could be read.
    """
    changes = Changes(proc)
    last: bytes | None = None
    try:
        while True:
            asked = wanted.is_set()
            wanted.clear()
            changes.changed.clear()
            began, spent = monotonic(), 0.0
            try:
                data = procfs.read(f"{proc}/self/mountinfo")
            except OSError as e:
                yield TableUnreadable(HOST, e.strerror or str(e))
            else:
                looked()
                if asked or data != last:
                    last, table = data, TableRead(HOST, parse(data))
                    spent = monotonic() - began
                    yield table
            await _first_of(changes.changed, wanted, timeout=SWEEP)
            rest = began + max(SETTLE, READ_SHARE * spent) - monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
    finally:
        changes.close()


def use(proc: str) -> UseRead:
    """What has been counted of the use of our NFS mounts: from memory only, whatever their servers do."""
    try:
        return UseRead(counters(procfs.read(f"{proc}/self/mountstats")))
    except OSError as e:
        log.debug("cannot see which mounts are used: %s", e.strerror)
        return UseRead({})  # what shall idle out is not asked, then


def disks(proc: str, sys: str) -> DisksRead:
    """Which block devices there are, and how the ZFS pools are: from memory, no disk is asked."""
    return DisksRead(procfs.block_devices(sys), procfs.block_names(sys), procfs.zfs_pools(proc))


async def _first_of(*events: asyncio.Event, timeout: float) -> None:
    """Wait until one of the events is set, at most `timeout` seconds."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
