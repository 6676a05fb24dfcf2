"""When to look at a file of ours again: on inotify's word, and now and then without."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence

import anyio

from watcher.model import Mount
from watcher.reading import may_hang
from watcher.sources import inotify

log = logging.getLogger(__name__)

SWEEP = 60.0  # seconds between two looks at the file that no event asked for


async def occasions(path: str, mounts: Callable[[], Sequence[Mount]]) -> AsyncIterator[None]:
    """An item now, and each time that the file may have changed. `mounts`: our mount table as it is, which tells
    whether the file may be watched.
    """
    while True:
        watch: inotify.FileChanges | None = None
        try:
            # inotify_add_watch(2) asks the file system, which may be one that hangs.
            if not may_hang(path, mounts()):
                watch = inotify.FileChanges(path)
        except inotify.WatchError as e:
            log.debug("%s", e)
        try:
            # Looked at once the watch stands, so that no change falls between the two.
            yield
            # For as long as a sweep; then it is set up anew, since the directory may be another by now.
            with anyio.move_on_after(SWEEP):
                await (watch.next() if watch else anyio.sleep_forever())
        finally:
            if watch:
                watch.close()
