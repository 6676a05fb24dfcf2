"""What grows under a mount point while its mount is away: looks in, a judgement out.

Bytes over time make a rate, a rate and what is free make an hour at which the disk is full. Values only; times are
seconds, of looks by any clock that is never set, of growth since the epoch.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from watcher.core.wording import container_name, duration, name, size
from watcher.model import HOST, Place

LEAST = 1 << 20  # bytes: less is no news
WINDOW = 600.0  # seconds from which the rate is taken
SOON = 1800.0  # seconds until the disk is full: worth another word
FIRST, LAST = 10.0, 60.0  # seconds between two looks, at first and later on
MAX_AHEAD = 30 * 86400.0  # seconds: what is further away is not foretold


class Look(NamedTuple):
    """What was seen at one moment."""

    at: float
    bytes: int  # that lie in the directory
    free: int  # bytes on its disk
    newest: float  # when something in it changed last
    is_whole: bool = True  # all of it was counted


class Gravity(enum.IntEnum):
    """How much there is to say of it."""

    QUIET = 0
    WRITTEN = 1  # something is being written
    SOON_FULL = 2  # and the disk will be full soon, or is


@dataclass(frozen=True, slots=True)
class Growth:
    """That something is written under a mount point."""

    place: Place  # the directory; the host's where a container has that bound
    disk: str  # the mount point of the file system in which it lies
    bytes: int
    since: float
    at: float  # when this was judged
    full_in: float | None = None  # seconds; None: not foreseen
    gravity: Gravity = Gravity.WRITTEN
    noted: float = 0.0  # when this gravity was reached

    def shifted(self, seconds: float) -> Growth:
        """The clock was set."""
        return replace(self, since=self.since + seconds, at=self.at + seconds, noted=self.noted + seconds)


class Looks(NamedTuple):
    """What has been seen so far of one directory, the oldest first."""

    base: Look | None = None  # the last before it began to grow
    recent: tuple[Look, ...] = ()
    worst: Gravity = Gravity.QUIET
    noted: float = 0.0

    def take(self, look: Look) -> Looks:
        """Another look."""
        if self.base is None or not self.recent:
            return Looks(look, (look,))
        recent = (*(old for old in self.recent if look.at - old.at <= WINDOW or old is self.recent[-1]), look)
        if self.worst is Gravity.QUIET and _grown(self.base, look) <= 0:
            return Looks(look, (look,))
        taken = Looks(self.base, recent, self.worst, self.noted)
        gravity = taken._gravity()
        return taken._replace(worst=gravity, noted=look.at) if gravity > self.worst else taken

    def growth(self, place: Place, disk: str, offset: float) -> Growth | None:
        """What there is to say; None: nothing. `offset`: seconds from the clock of the looks to the epoch."""
        if self.base is None or self.worst is Gravity.QUIET:
            return None
        last, grown = self.recent[-1], _grown(self.base, self.recent[-1])
        if grown < LEAST:
            return None  # it has been taken away
        growth = Growth(place, disk, grown, self.base.at, last.at, _full_in(self.recent), self.worst, self.noted)
        return growth.shifted(offset)

    def _gravity(self) -> Gravity:
        if self.base is None or _grown(self.base, self.recent[-1]) < LEAST:
            return Gravity.QUIET
        left = _full_in(self.recent)
        return Gravity.SOON_FULL if left is not None and left <= SOON else Gravity.WRITTEN


def pause(looks: int) -> float:
    """Seconds until the next look, after so many."""
    return min(LAST, FIRST * 2.0 ** min(max(looks - 1, 0), 20))


def _grown(before: Look, after: Look) -> int:
    """Bytes by which the directory has grown, as far as that is known."""
    if before.is_whole and after.is_whole:
        return after.bytes - before.bytes
    # Too much lies there to be counted: then what the disk has lost, if anything has changed in what was seen.
    return before.free - after.free if after.newest > before.at else 0


def _full_in(looks: Sequence[Look]) -> float | None:
    """Seconds from the last look until its disk is full, at the rate of late."""
    if len(looks) < 2:
        return None
    first, before, last = looks[0], looks[-2], looks[-1]
    if last.free <= 0:
        return 0.0
    if _grown(before, last) <= 0:
        return None  # it has stopped
    # Others may write to the same disk, too.
    lost = max(_grown(first, last), first.free - last.free)
    left = last.free * (last.at - first.at) / lost if lost > 0 else MAX_AHEAD
    return left if left < MAX_AHEAD else None


def words(growth: Growth, place: Place, container: str, since: str) -> str:
    """ "CT 105 arr writes to its root disk under /mnt/media: 1.20 GiB since 14:03, full in about 40 min".

    `place`: of the mount that is away, with its container's name; `since`: of the growth, as people read it.
    """
    inside = place.namespace != HOST
    who = container_name(place.namespace, container) if inside else "Something"
    whose = "the host's " if inside and growth.place.namespace == HOST else "its " if inside else "the "
    disk = f"{whose}root disk" if growth.disk == "/" else f"{whose}disk on {name(growth.disk)}"
    text = f"{who} writes to {disk} under {name(growth.place.mount_point)}: {size(growth.bytes)} since {since}"
    if growth.full_in is None:
        return text
    if growth.full_in <= 0:
        return f"{text}, and it is full"
    return f"{text}, full {'within a minute' if growth.full_in < 60 else f'in about {duration(growth.full_in)}'}"
