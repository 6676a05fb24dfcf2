"""One incident: what one cause, as far as we can tell, has brought down, and how each part of it stands.

Values only: how transitions become incidents is decided in `incidents`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, replace

from watcher.core.growth import Gravity, Growth
from watcher.model import HOST, Cause, Kind, Place, Subject, Superblock

INSIDE = " in ct:"  # in the group of what a container serves itself
MAX_LEFT = 64  # places of which it is remembered that a dead mount has left them
WATCHER = "watcher"  # how the groups begin of what concerns the watcher itself
CHANNEL = "channel "  # how the source begins of a channel that cannot be told

SETTLED = 600.0  # seconds without a change after which what flapped does so no more

BY_PLACE = frozenset({Kind.VANISHED, Kind.MISSING})  # what is so at one place; all else holds wherever it stands

MemberKey = tuple[Kind, Superblock, tuple[Place, ...]]


class Condition(enum.StrEnum):
    """How a member of an incident stands."""

    DOWN = "down"
    OK = "ok"
    GONE = "gone"  # no longer mounted: not a recovery
    REMOUNTED = "remounted"
    FLAPPING = "flapping"  # as told, of what changes all the time; how it stands at the moment is no news


@dataclass(frozen=True, slots=True)
class Member:
    """One superblock's part in an incident."""

    kind: Kind
    subject: Subject
    condition: Condition
    since: float  # when it began to fail
    changed: float  # when it came into this condition
    cause: Cause | None = None
    error: str = ""
    stack: tuple[str, ...] = ()
    reason: str = ""
    context: str = ""
    slot: int = 0  # its number within the incident, kept when another mount takes its place
    split_from: int | None = None  # the slot of the member whose places these were, and which has others still
    flapping: bool = False
    flaps: int = 0  # changes while it does, or did
    growth: Growth | None = None  # what is written under its mount point meanwhile

    @property
    def key(self) -> MemberKey:
        by_place = self.kind in BY_PLACE or self.split_from is not None
        return self.kind, self.subject.superblock, self.subject.places if by_place else ()

    @property
    def told_as(self) -> Condition:
        return Condition.FLAPPING if self.flapping else self.condition

    @property
    def gravity(self) -> Gravity:
        """Of what is written under it, while it is down."""
        down = self.condition is Condition.DOWN and not self.flapping
        return self.growth.gravity if self.growth is not None and down else Gravity.QUIET

    def without(self, places: Collection[Place]) -> Member | None:
        """Of a member set apart, what is not in these places, where it stands again; None if nothing is left of it."""
        if self.split_from is None or not self.stands_at(places):
            return self
        rest = tuple(p for p in self.subject.places if p not in places)
        return replace(self, subject=replace(self.subject, places=rest)) if rest else None

    def held_all_of(self, other: Member) -> bool:
        """Whether each of the other's places was its own."""
        return bool(other.subject.places) and set(other.subject.places) <= set(self.subject.places)

    @property
    def is_on_host(self) -> bool:
        return any(place.namespace == HOST for place in self.subject.places)

    def stands_at(self, places: Collection[Place]) -> bool:
        return any(place in places for place in self.subject.places)


@dataclass(frozen=True, slots=True)
class Incident:
    """What one cause, as far as we can tell, has brought down."""

    number: int
    group: str
    server: str | None
    opened: float
    members: tuple[Member, ...]
    closed: float | None = None
    hushed: bool = False  # a silence held when it opened, and, if it is closed, when it closed

    @property
    def down(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.condition is Condition.DOWN and not m.flapping)

    @property
    def failing(self) -> tuple[Member, ...]:
        """What is down at the moment, be it that it flaps."""
        return tuple(m for m in self.members if m.condition is Condition.DOWN)

    @property
    def flapping(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.flapping)

    @property
    def is_own(self) -> bool:
        """Whether it is about the watcher itself."""
        return self.group.startswith(f"{WATCHER} ")

    def is_about(self, channel: str) -> bool:
        """Whether it is that this channel cannot be told: to be told through the others."""
        return self.group == f"{WATCHER} {CHANNEL}{channel}"

    @property
    def since(self) -> float:
        return min(m.since for m in self.members)

    def with_member(self, member: Member, now: float, *, replacing: MemberKey | None = None) -> Incident:
        """The incident with this member's new condition; closed when nothing of it is down any more."""
        target = replacing or member.key
        slot = next((m.slot for m in self.members if m.key == target), None)
        if slot is None:
            members = (*self.members, replace(member, slot=self._next_slot))
        else:
            taken = replace(member, slot=slot)
            members = tuple(taken if m.slot == slot else m for m in self.members)
        if member.condition is Condition.DOWN and member.kind not in BY_PLACE:
            members = tuple(kept for m in members if (kept := m.without(member.subject.places)) is not None)
        return replace(self, members=members).as_of(now)

    def as_of(self, now: float) -> Incident:
        """Open while something of it is down or flaps, else closed now, if it was open."""
        if any(m.condition is Condition.DOWN or m.flapping for m in self.members):
            return replace(self, closed=None)
        return replace(self, closed=now)

    def without_places(self, whole: Member, left: Member) -> Incident:
        """The incident with some places of a member apart, since the mount has left these only."""
        rest = tuple(p for p in whole.subject.places if p not in left.subject.places)
        if not rest:
            return self
        others = [replace(m, subject=replace(m.subject, places=rest)) if m is whole else m for m in self.members]
        for n, m in enumerate(others):
            if m.split_from == whole.slot and (m.condition, m.reason) == (left.condition, left.reason):
                # One that moves about, time and again, is no new member each time.
                places = tuple(dict.fromkeys((*m.subject.places, *left.subject.places)))[-MAX_LEFT:]
                others[n] = replace(m, subject=replace(m.subject, places=places), changed=left.changed)
                return replace(self, members=tuple(others))
        apart = replace(left, since=whole.since, slot=self._next_slot, split_from=whole.slot)
        return replace(self, members=(*others, apart))

    @property
    def _next_slot(self) -> int:
        return max((m.slot for m in self.members), default=-1) + 1
