"""Changes of our own files, through inotify on their directories. The one module that imports pyinotify.

Never of a directory on a watched file system: inotify_add_watch(2) asks its server.
"""

from __future__ import annotations

import asyncio
import warnings
from pathlib import PurePath

with warnings.catch_warnings():
    # pyinotify imports asyncore, deprecated in 3.11 and a package of its own from 3.12 on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import pyinotify

# Found once: each WatchManager would run ldconfig(8) anew to find the C library.
_LIBC = pyinotify.INotifyWrapper.create()
pyinotify.INotifyWrapper.create = staticmethod(lambda: _LIBC)

SETTLE = 0.2  # seconds: an editor writes, renames and removes in one go


class WatchError(Exception):
    """The directory cannot be watched; its text says why."""


class FileChanges:
    """Tells of each burst of changes of one file, however it is written.

    Editors replace the file, so it is the directory that is watched.
    """

    def __init__(self, path: str) -> None:
        """Start watching. Raises WatchError (no such directory, limit of watches reached)."""
        file = PurePath(path)
        self._name = file.name
        self._changed = asyncio.Event()
        try:
            self._watches = pyinotify.WatchManager()
        except OSError as e:
            raise WatchError(f"inotify: {e}") from e
        mask = pyinotify.IN_CLOSE_WRITE | pyinotify.IN_MOVED_TO | pyinotify.IN_MOVED_FROM | pyinotify.IN_DELETE
        self._notifier = pyinotify.AsyncioNotifier(
            self._watches, asyncio.get_running_loop(), default_proc_fun=self._event
        )
        try:
            self._watches.add_watch(str(file.parent), mask | pyinotify.IN_ONLYDIR, quiet=False)
        except pyinotify.WatchManagerError as e:
            self._notifier.stop()
            raise WatchError(f"{file.parent}: {e}") from e

    def _event(self, event: pyinotify.Event) -> None:
        # Kubernetes-like set-ups swap a link named ..data beside the file.
        if event.mask & pyinotify.IN_Q_OVERFLOW or event.name in (self._name, "..data"):
            self._changed.set()

    async def next(self) -> None:
        """Return after the next burst of changes, or at once if there was one since the last call."""
        await self._changed.wait()
        await asyncio.sleep(SETTLE)
        self._changed.clear()

    def close(self) -> None:
        self._notifier.stop()
