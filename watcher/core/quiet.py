"""Recurring quiet windows: for a NAS that sleeps at night.

A window holds while a clock on the wall, in local time, stands between its two times. That is all there is to
midnight and to summer time: an hour that the clock shows twice is quiet twice, one that it skips is not quiet at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from watcher.core.filters import MountPatterns
from watcher.core.times import Local
from watcher.model import Place

WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")  # as datetime counts the days
MIDNIGHT = 24 * 60


class Window(NamedTuple):
    """Minutes after midnight; one that ends before it begins ends on the next day, `days` are those it begins on."""

    mounts: tuple[str, ...]
    begins: int
    ends: int  # up to 1440
    days: tuple[str, ...] = WEEK

    def holds(self, at: datetime) -> bool:
        """Whether it is quiet at this local time."""
        minute, today = at.hour * 60 + at.minute, at.weekday()
        if self.begins < self.ends:
            return self.begins <= minute < self.ends and WEEK[today] in self.days
        if minute >= self.begins:
            return WEEK[today] in self.days
        return minute < self.ends and WEEK[today - 1] in self.days


class QuietHours:
    """All windows of the configuration, their patterns compiled."""

    def __init__(self, windows: Iterable[Window], local: Local) -> None:
        self.windows = tuple(windows)
        self._patterns = [MountPatterns(w.mounts) for w in self.windows]
        self._local = local

    def active(self, wall: float) -> frozenset[int]:
        """The numbers of the windows that hold now."""
        if not self.windows:
            return frozenset()
        at = self._local(wall)
        return frozenset(n for n, window in enumerate(self.windows) if window.holds(at))

    def cover(self, place: Place, server: str | None, active: frozenset[int]) -> bool:
        """Whether one of these windows is about this mount."""
        return any(self._patterns[n].match(place, server) for n in active)
