"""Transitions grouped into incidents: one per server or superblock, not one per mount.

Times are seconds since the epoch, since an incident may outlive the process. What is told of an
incident, to whom and when, is decided in `outbox`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from watcher.core.filters import server_of
from watcher.model import HOST, Cause, Change, Kind, Place, Subject, Superblock, Transition

INSIDE = " in ct:"  # in the group of what a container serves itself
MAX_LEFT = 64  # places of which it is remembered that a dead mount has left them
WATCHER = "watcher"  # the group of what concerns the watcher itself

MemberKey = tuple[Kind, Superblock, tuple[Place, ...]]


class Condition(enum.StrEnum):
    """How a member of an incident stands."""

    DOWN = "down"
    OK = "ok"
    GONE = "gone"  # no longer mounted: not a recovery
    REMOUNTED = "remounted"


_AFTER = {
    Change.BEGAN: Condition.DOWN,
    Change.ENDED: Condition.OK,
    Change.JOINED: Condition.DOWN,
    Change.GONE: Condition.GONE,
    Change.LEFT: Condition.GONE,
    Change.REMOUNTED: Condition.REMOUNTED,
}


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

    @property
    def key(self) -> MemberKey:
        # What has vanished did so at one place; everything else holds for all places of the superblock.
        by_place = self.kind is Kind.VANISHED or self.split_from is not None
        return self.kind, self.subject.superblock, self.subject.places if by_place else ()

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

    @property
    def down(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.condition is Condition.DOWN)

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
        if member.condition is Condition.DOWN and member.kind is not Kind.VANISHED:
            members = tuple(kept for m in members if (kept := m.without(member.subject.places)) is not None)
        still_down = any(m.condition is Condition.DOWN for m in members)
        return replace(self, members=members, closed=None if still_down else now)

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


def group_of(subject: Subject, kind: Kind) -> tuple[str, str | None]:
    """(group, server): what shares a cause. A container's FUSE mount cannot claim a server of the host's."""
    if kind is Kind.WATCHER:
        return WATCHER, None
    server = server_of(subject.fstype, subject.source)
    inside = {p.namespace for p in subject.places}
    if subject.fstype.startswith("fuse") and len(inside) == 1 and HOST not in inside:
        # One message for all that a container serves itself, whatever it calls that.
        return f"{'full' if kind is Kind.FULL else 'fuse'}{INSIDE}{inside.pop().removeprefix('ct:')}", None
    if kind is Kind.FULL:
        # A disk can be full for weeks, and nothing else that happens to its server has to do with it.
        return f"full {' '.join(subject.superblock)}", None
    if subject.fstype.startswith("fuse") and HOST not in inside:
        return f"superblock {' '.join(subject.superblock)}", None  # lxcfs: the host's, in several containers
    if server is not None:
        return f"server {server}", server
    return "superblock " + " ".join(subject.superblock), None


def _namespaces(member: Member) -> set[str]:
    return {place.namespace for place in member.subject.places}


class Incidents:
    """The incidents that are open, or closed but not yet told to everyone."""

    def __init__(self, incidents: Iterable[Incident] = (), *, join_within: float = 0.0) -> None:
        """`join_within`: seconds in which mounts without a server, but of one type and cause, are one incident."""
        self.join_within = join_within
        self._all = {i.number: i for i in incidents}
        self._last = max(self._all, default=0)

    def __iter__(self) -> Iterator[Incident]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    @property
    def open(self) -> list[Incident]:
        return [i for i in self._all.values() if i.closed is None]

    def apply(self, transition: Transition, *, now: float, wall: float) -> Incident | None:
        """Take a transition in; give the incident that changed. `now` is the transition's clock, `wall` the epoch."""
        at = wall - (now - transition.at)
        member = Member(
            transition.kind,
            transition.subject,
            _AFTER[transition.change],
            since=wall - (now - transition.since),
            changed=at,
            cause=transition.cause,
            error=transition.error,
            stack=transition.stack,
            reason=transition.reason,
            context=transition.context,
        )
        match transition.change:
            case Change.BEGAN:
                changed: Incident | None = self._began(member, at)
            case Change.JOINED:
                changed = self._joined(member, at)
            case Change.LEFT:
                changed = self._left(member, at)
            case _:
                changed = self._ended(member, at)
        if changed is not None:
            self._all[changed.number] = changed
        return changed

    def _began(self, member: Member, at: float) -> Incident:
        group, server = group_of(member.subject, member.kind)
        for incident in self._all.values():
            # Mounted anew in the place of a dead one, and dead itself: the same trouble goes on. Not if it stands
            # elsewhere, too, or a container has put something else there: it would be taken for told.
            for old in incident.members:
                if old.kind is not member.kind or not old.held_all_of(member):
                    continue
                if incident.group != group and not member.is_on_host:
                    continue
                if old.condition is Condition.GONE:
                    return incident.with_member(replace(member, since=old.since), at, replacing=old.key)
                if old.condition is not Condition.DOWN and incident.closed is None:
                    return incident.with_member(member, at, replacing=old.key)
        for incident in self.open:
            if incident.group == group:
                return incident.with_member(member, at)
        for incident in self.open:
            if self._is_one_trouble(incident, member, server, at):
                return incident.with_member(member, at)
        self._last += 1
        return Incident(self._last, group, server, at, (member,))

    def _is_one_trouble(self, incident: Incident, member: Member, server: str | None, at: float) -> bool:
        """Whether this is most likely the same matter, though no server says so: sixty rclone mounts die as one."""
        first = incident.members[0]
        return (
            server is None
            and incident.server is None
            and at - incident.opened < self.join_within
            and (first.kind, first.cause, first.subject.fstype) == (member.kind, member.cause, member.subject.fstype)
            and _namespaces(first) == _namespaces(member)
            and member.kind is not Kind.WATCHER
        )

    def _joined(self, member: Member, at: float) -> Incident | None:
        for incident, old in self._down(member):
            return incident.with_member(replace(member, changed=old.changed), at)
        return None

    def _left(self, member: Member, at: float) -> Incident | None:
        for incident, old in self._down(member):
            return incident.without_places(old, member)
        return None

    def _down(self, member: Member) -> Iterator[tuple[Incident, Member]]:
        for incident in self.open:
            for old in incident.members:
                if old.key == member.key and old.condition is Condition.DOWN:
                    yield incident, old

    def _ended(self, member: Member, at: float) -> Incident | None:
        for incident in self._all.values():
            for old in incident.members:
                same = old.key == member.key and old.condition is Condition.DOWN
                moved = (
                    member.condition is Condition.REMOUNTED
                    and old.condition is Condition.GONE
                    and old.kind is member.kind
                    and old.stands_at(member.subject.places)
                )
                if same or moved:
                    kept = replace(old, condition=member.condition, changed=at, reason=member.reason or old.reason)
                    return incident.with_member(kept, at)
        return None  # what was never told of does not end

    def drop(self, number: int) -> None:
        """Forget an incident of which everyone knows the end."""
        self._all.pop(number, None)
