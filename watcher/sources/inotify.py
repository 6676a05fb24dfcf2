"""Changes of our own files and of control groups, through inotify. The one module that imports pyinotify.

Never of a directory on a watched file system: inotify_add_watch(2) asks its server.
"""

from __future__ import annotations

import asyncio
import logging
import os.path
import warnings
from collections.abc import Callable, Sequence, Set
from pathlib import PurePath

with warnings.catch_warnings():
    # pyinotify imports asyncore, deprecated in 3.11 and a package of its own from 3.12 on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import pyinotify

# Found once: each WatchManager would run ldconfig(8) anew to find the C library.
_LIBC = pyinotify.INotifyWrapper.create()
pyinotify.INotifyWrapper.create = staticmethod(lambda: _LIBC)
pyinotify.log.setLevel(logging.ERROR)  # it warns of each event that was under way when its watch was removed

SETTLE = 0.2  # seconds: an editor writes, renames and removes in one go


class WatchError(Exception):
    """The directory cannot be watched; its text says why."""


# A file has been written, replaced or taken away.
_FILES = pyinotify.IN_CLOSE_WRITE | pyinotify.IN_MOVED_TO | pyinotify.IN_MOVED_FROM | pyinotify.IN_DELETE


def _begin(
    event: Callable[[pyinotify.Event], None],
) -> tuple[pyinotify.WatchManager, pyinotify.AsyncioNotifier]:
    try:
        watches = pyinotify.WatchManager()
    except OSError as e:
        raise WatchError(f"inotify: {e}") from e
    return watches, pyinotify.AsyncioNotifier(watches, asyncio.get_running_loop(), default_proc_fun=event)


class FileChanges:
    """Tells of each burst of changes of one file, however it is written.

    Editors replace the file, so it is the directory that is watched.
    """

    def __init__(self, path: str) -> None:
        """Start watching. Raises WatchError (no such directory, limit of watches reached)."""
        file = PurePath(path)
        self._name = file.name
        self._changed = asyncio.Event()
        self._watches, self._notifier = _begin(self._event)
        try:
            self._watches.add_watch(str(file.parent), _FILES | pyinotify.IN_ONLYDIR, quiet=False)
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


class DirectoryChanges:
    """Tells when files of some names change, come or go in some directories; those that are not there are left out."""

    def __init__(
        self, directories: Sequence[str], is_of_interest: Callable[[str], bool], changed: Callable[[], object]
    ) -> None:
        """Start watching. Raises WatchError."""
        self._is_of_interest, self._changed = is_of_interest, changed
        self._watches, self._notifier = _begin(self._event)
        for directory in directories:
            try:
                self._watches.add_watch(directory, _FILES | pyinotify.IN_CREATE | pyinotify.IN_ONLYDIR, quiet=False)
            except (pyinotify.WatchManagerError, UnicodeEncodeError):
                continue  # a slow look finds what changes there

    def _event(self, event: pyinotify.Event) -> None:
        if event.mask & pyinotify.IN_Q_OVERFLOW or self._is_of_interest(event.name):
            self._changed()

    def close(self) -> None:
        self._notifier.stop()


class CgroupChanges:
    """Tells when the control groups of LXC containers come and go, and when containers freeze or thaw.

    A help to be quick: what cannot be watched, or is lost in an overflow, is seen by who looks now and then.
    """

    def __init__(self, cgroup: str, *, came_or_went: Callable[[], None], froze: Callable[[str], None]) -> None:
        """`cgroup` is where cgroupfs is mounted. `froze` gets the path of a cgroup.events. Raises WatchError."""
        self._cgroup = os.path.normpath(cgroup)  # as pyinotify gives it back
        self._came_or_went, self._froze = came_or_went, froze
        self._followed: dict[str, int] = {}
        self._watches, self._notifier = _begin(self._event)
        self.watch_directories()

    def watch_directories(self) -> None:
        """Watch those that are there; to be called again whenever they may have come.

        "lxc" and "lxc.monitor" are Proxmox VE's; LXC's own default is a pair of groups in the root for each container.
        """
        for directory in ("", "/lxc", "/lxc.monitor"):
            self._add(self._cgroup + directory, pyinotify.IN_CREATE | pyinotify.IN_DELETE | pyinotify.IN_ONLYDIR)

    def follow(self, paths: Set[str]) -> None:
        """Watch these cgroup.events, and no others."""
        for path in [p for p, watch in self._followed.items() if self._watches.get_path(watch) is None]:
            del self._followed[path]  # went with its control group; another may have come in its place
        for path in self._followed.keys() - paths:
            try:
                self._watches.rm_watch(self._followed.pop(path), quiet=False)
            except pyinotify.WatchManagerError:
                pass  # has just gone
        for path in paths - self._followed.keys():
            if (watch := self._add(path, pyinotify.IN_MODIFY)) is not None:
                self._followed[path] = watch

    def _add(self, path: str, mask: int) -> int | None:
        try:
            watches: dict[str, int] = self._watches.add_watch(path, mask, quiet=False)
        except (
            pyinotify.WatchManagerError,
            UnicodeEncodeError,
        ):  # not there, too many; pyinotify cannot say such bytes
            return None
        return watches.get(path)

    def _event(self, event: pyinotify.Event) -> None:
        if event.mask & pyinotify.IN_Q_OVERFLOW:
            self._came_or_went()
        elif event.mask & pyinotify.IN_MODIFY:
            self._froze(event.path)
        elif not event.mask & (pyinotify.IN_CREATE | pyinotify.IN_DELETE) or event.name == "lxc.pivot":
            return  # the watch has gone with its directory; where a monitor puts itself for a moment
        elif event.path != self._cgroup or event.name.startswith("lxc"):
            self._came_or_went()

    def close(self) -> None:
        self._notifier.stop()
