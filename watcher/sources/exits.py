"""When the inits of containers end: each has a pidfd (pidfd_open(2)), which can be read from then on.

It is all that is held open of a container. What follows from an end is for `containers`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from watcher.sources.claims import Claims
from watcher.sources.running import Running


class Exits:
    """Of the containers that are followed."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake`: somebody has to take what has ended."""
        self._wake = wake
        self._pidfds: dict[Running, int] = {}
        self._ended: list[Running] = []

    def follow(self, running: Running, claims: Claims) -> None:
        """Raises OSError: it is gone already, or there are too many descriptors."""
        self._pidfds[running] = pidfd = os.pidfd_open(running.init.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._has_ended, running)
        if not claims.is_alive(running.init):  # so the pidfd may be of another
            self._has_ended(running)

    def unfollow(self, running: Running) -> None:
        if (pidfd := self._pidfds.pop(running, None)) is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    def take(self) -> list[Running]:
        """Those that have ended since the last time."""
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        for running in list(self._pidfds):
            self.unfollow(running)
        self._ended.clear()

    def _has_ended(self, running: Running) -> None:
        self.unfollow(running)
        self._ended.append(running)
        self._wake()
