"""What outlives one run, or one mounting: that a mount has ever answered, and what an earlier run knew of it.

What was stale then is stale until it has answered twice, like any other: only so is its end told, and its going on not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from watcher.core.health import ALARMED
from watcher.core.known import Identity, Known
from watcher.core.places import Standing
from watcher.core.watched import Watched, subject_of
from watcher.model import Change, Kind, Reach, Transition

MAX_ANSWERED = 10_000  # of which it is remembered, containers' included


def identity_of(standing: Standing) -> Identity:
    superblock = standing.superblock
    return standing.place, superblock.root, superblock.fstype, superblock.source


class Answered:
    """The mounts that have ever answered, also in an earlier run."""

    def __init__(self) -> None:
        self._all: set[Identity] = set()

    def __contains__(self, identity: Identity) -> bool:
        return identity in self._all

    def update(self, known: Iterable[Identity]) -> None:
        self._all.update(known)

    def note(self, watched: Watched, standing: Standing) -> None:
        """It has answered, and stands in this place."""
        # Not what a container serves itself: it can make new ones for ever.
        if standing.container is None or (not watched.is_fuse and len(self._all) < MAX_ANSWERED):
            self._all.add(identity_of(standing))


class Restored:
    """By identity, what was not ok. Times are of this run's clock."""

    def __init__(self) -> None:
        self._all: dict[Identity, Known] = {}

    def take(self, known: Mapping[Identity, Known]) -> None:
        self._all |= {i: k for i, k in known.items() if k.reach is Reach.STALE or k.readonly_since is not None}

    def resume(self, watched: Watched, standing: Standing, now: float) -> list[Transition]:
        """It stands in this place again: what is known of it counts, and is told as going on."""
        known = self._all.pop(identity_of(standing), None)
        if known is None or standing.show_only:
            return []
        out = []
        subject = subject_of(watched.superblock, [standing])
        if known.reach is Reach.STALE and known.since is not None and watched.health.reach not in ALARMED:
            out.append(Transition(Kind.STALE, Change.RESUMED, subject, now, known.since, known.cause, known.error))
            if watched.health.reach is Reach.OK:
                out.append(Transition(Kind.STALE, Change.ENDED, subject, now, known.since))
            else:
                watched.health.resume(known.since, known.cause, known.error, now)
                watched.next_at = now
        if known.readonly_since is not None and watched.readonly_since is None:
            watched.resume_readonly(standing, known.readonly_since)
            out.append(
                Transition(Kind.READONLY, Change.RESUMED, subject, now, known.readonly_since, error="became read-only")
            )
        return out


def known_of(watched: Watched, standing: Standing, *, answered: bool) -> Known:
    """What a later run should know. Times are of this run's clock."""
    health = watched.health
    stale = health.reach in ALARMED and not standing.show_only
    readonly = watched.readonly_since  # mostly none, and then the options need not be looked at
    if readonly is not None and not watched.is_unexpectedly_readonly(standing):
        readonly = None
    if not stale:
        reach = Reach.OK if health.reach is Reach.OK else Reach.UNKNOWN
        return Known(answered, reach, readonly_since=readonly)
    return Known(answered, Reach.STALE, health.failing_since, health.cause, health.error, readonly)
