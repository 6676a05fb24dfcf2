"""Mounts on demand that shall idle out (autofs(5)): NFS on the host is asked only while others use it, the rest never.

To walk through the trigger counts as use, so a probe now and then would keep such a mount for ever. The counters of
its use (`mountstats`) tell who else is there, and no probe of ours moves them: whatever has moved since the last
reading was somebody, and we may ask. That puts the end of the idle time off by an interval at most.

A mount that fails is asked on until it is well again or gone: who hangs in it does not call again, so no counter would
tell of him, and nobody of the recovery. So this dead mount stays until its server is back, while without us it would
idle out once nobody hangs in it. But it was asked because somebody had used it within the last interval, or because
we had just been started: of a server that is switched off while nobody is there nothing is noticed or kept.
"""

from __future__ import annotations

from collections.abc import Iterable

from watcher.core.health import FAILING
from watcher.core.mountstats import NFS
from watcher.core.places import Standing
from watcher.core.schedule import on_grid
from watcher.core.watched import Watched
from watcher.model import UseRead

NOT_ASKED = "mounted on demand with an idle time-out: not asked, so that it can idle out"


def at_trigger(watched: Watched) -> list[Standing]:
    """The places on triggers at which it may be asked, while it is used or fails; none if there are others."""
    return _counted(watched) if watched.used or watched.health.reach in FAILING else []


def is_idle(watched: Watched) -> bool:
    """Whether only its counters can tell that it is to be asked."""
    return not (watched.used or watched.health.reach in FAILING) and bool(_counted(watched))


def note_use(due: Iterable[Watched], everyone: Iterable[Watched], read: UseRead, now: float) -> None:
    """Of those that are `due`, the ones that have been used since the last reading are to be asked.

    A mount counts as used when it is first seen: somebody has just mounted it, or hangs in it since before we came.
    """
    spokesmen = _spokesmen(everyone)
    for watched in due:
        counted = next(
            (c for s in _counted(watched) if (c := read.counters.get(s.place.mount_point)) is not None), None
        )
        is_new, moved = watched.counters is None, counted is not None and counted != watched.counters
        watched.counters = counted or watched.counters
        spokesman = spokesmen[watched.superblock.device]
        watched.used = (moved and (is_new or spokesman is watched)) or spokesman.health.reach in FAILING
        if not watched.used:
            watched.next_at = on_grid(now, watched.pace.interval)


def _spokesmen(everyone: Iterable[Watched]) -> dict[str, Watched]:
    """By device: who is asked for all of them.

    Directories of one file system of a server, such as homes, share their counters: else whoever is in one of them
    would keep them all. What is asked in any case comes first, then what was mounted last: the likeliest to be used.
    """
    nfs = [w for w in everyone if w.superblock.fstype in NFS]
    nfs.sort(key=lambda w: (any(not s.idles_out for s in w.standings), max(s.mount.mount_id for s in w.standings)))
    return {w.superblock.device: w for w in nfs}


def _counted(watched: Watched) -> list[Standing]:
    """Its places, if all are on triggers and there are counters of it; those of the host only."""
    if watched.superblock.fstype not in NFS or any(not s.idles_out for s in watched.standings):
        return []
    return [s for s in watched.standings if s.container is None]
