"""Which mounts are down and back all the time: they flap from some change on, and until they have held still.

Counts changes, and marks the members of an incident. What is told of that is for `outbox`.
"""

from __future__ import annotations

from dataclasses import replace

from watcher.core.incident import BY_PLACE, INSIDE, SETTLED, Condition, Incident, Member
from watcher.model import Change, Kind, Transition

FLAPS, WINDOW = 5, 600.0  # more changes than this in so many seconds: it flaps
_COUNTED = frozenset({Change.BEGAN, Change.ENDED, Change.REMOUNTED})


class Turns:
    """When each mount has changed lately, in seconds since the epoch."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, ...], tuple[float, ...]] = {}
        self._prune_at = 0.0  # when those that have not since are forgotten

    def note(
        self, changed: Incident, before: Incident | None, transition: Transition, after: Condition, at: float
    ) -> Incident:
        """The incident as it is by this transition, `before` as it was; what has come into `after` may flap by it."""
        if transition.change not in _COUNTED or transition.kind is Kind.WATCHER:
            return changed
        known = {m.slot: m for m in before.members} if before is not None else {}
        key = _key(transition, changed.group)
        turns = (*(t for t in self._all.get(key, ()) if at - t <= WINDOW), at)[-FLAPS - 1 :]
        self._all[key] = turns
        if at >= self._prune_at:
            self._all = {k: times for k, times in self._all.items() if at - times[-1] <= WINDOW}
            self._prune_at = at + WINDOW
        members = []
        for member in changed.members:
            old = known.get(member.slot)
            if member is old or member.condition is not after:
                members.append(member)
            elif old is not None and old.flapping:
                members.append(replace(member, flapping=True, flaps=old.flaps + 1, since=old.since))
            elif len(turns) > FLAPS:
                members.append(replace(member, flapping=True, flaps=len(turns)))
            else:
                members.append(member)
        return replace(changed, members=tuple(members)).as_of(at)

    def shift(self, seconds: float) -> None:
        """The clock was set."""
        self._all = {key: tuple(t + seconds for t in times) for key, times in self._all.items()}


def settled(incident: Incident, wall: float) -> Incident:
    """What has flapped and has held still for long enough is what it is by now; the same incident if nothing has."""
    members = tuple(_settled(m) if m.flapping and wall - m.changed >= SETTLED else m for m in incident.members)
    return incident if members == incident.members else replace(incident, members=members).as_of(wall)


def _settled(member: Member) -> Member:
    return replace(member, flapping=False, since=member.changed if member.condition is Condition.DOWN else member.since)


def _key(transition: Transition, group: str) -> tuple[str, ...]:
    """What the changes of one mount are counted under; device numbers change with each new mount."""
    subject = transition.subject
    _, root, fstype, source = subject.superblock
    # Several FUSE mounts may name one source: each is counted for itself.
    where = [str(p) for p in (subject.places if transition.kind in BY_PLACE else sorted(subject.places)[:1])]
    return transition.kind, root, fstype, source, group if INSIDE in group else "", *where
