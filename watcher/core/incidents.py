"""Transitions grouped into incidents: one per server or superblock, not one per mount.

Times are seconds since the epoch, since an incident may outlive the process. What belongs together is for `grouping`
to say, what flaps for `flapping`; what is told of an incident, to whom and when, is decided in `outbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

from watcher.core import flapping
from watcher.core.grouping import group_of, is_one_trouble, is_same_matter
from watcher.core.growth import Growth
from watcher.core.incident import BY_PLACE, Condition, Incident, Member
from watcher.core.reasons import LOST, SEES_DISK
from watcher.model import Change, Kind, Place, Transition

_AFTER = {
    Change.BEGAN: Condition.DOWN,
    Change.ENDED: Condition.OK,
    Change.JOINED: Condition.DOWN,
    Change.RESUMED: Condition.DOWN,
    Change.GONE: Condition.GONE,
    Change.LEFT: Condition.GONE,
    Change.REMOUNTED: Condition.REMOUNTED,
}


def _shifted(member: Member, seconds: float) -> Member:
    growth = member.growth.shifted(seconds) if member.growth is not None else None
    return replace(member, since=member.since + seconds, changed=member.changed + seconds, growth=growth)


def nothing_is_silenced(incident: Incident) -> bool:
    return False


class Incidents:
    """The incidents that are open, or closed but not yet told to everyone."""

    def __init__(self, incidents: Iterable[Incident] = (), *, join_within: float = 0.0, last: int = 0) -> None:
        """`join_within`: seconds in which mounts without a server, but of one type and cause, are one incident.

        `last`: new ones have higher numbers than this.
        """
        self.join_within = join_within
        self._turns = flapping.Turns()
        self.silenced: Callable[[Incident], bool] = nothing_is_silenced
        self._all = {i.number: i for i in incidents}
        self._last = max(last, *self._all, 0)
        # Down when an earlier run ended, and not seen since: the incident's number, the member's slot.
        self._unconfirmed = {
            (i.number, m.slot) for i in self._all.values() for m in i.failing if m.kind is not Kind.WATCHER
        }

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
            case Change.BEGAN if self._is_told_otherwise(member):
                changed: Incident | None = None
            case Change.BEGAN | Change.RESUMED:
                changed = self._resumed(member, at) or self._began(member, at)
            case Change.JOINED:
                changed = self._joined(member, at)
            case Change.LEFT:
                changed = self._left(member, at)
            case _:
                changed = self._ended(member, at)
        if changed is not None:
            before = self._all.get(changed.number)
            changed = self._noting_silence(self._turns.note(changed, before, transition, member.condition, at))
            self._confirm(changed)
            self._all[changed.number] = changed
        return changed

    def _is_told_otherwise(self, member: Member) -> bool:
        """Whether it is told already that nothing is mounted there: vanished, and missing, are one matter."""
        return member.kind in BY_PLACE and any(
            old.kind in BY_PLACE and old.kind is not member.kind and old.held_all_of(member)
            for incident in self.open
            for old in incident.failing
        )

    def is_unconfirmed(self, incident: Incident) -> bool:
        """Whether some of it was down when an earlier run ended, and nobody knows how it stands now."""
        return bool(self._unconfirmed) and any((incident.number, m.slot) in self._unconfirmed for m in incident.failing)

    def holds(self, transition: Transition) -> bool:
        """Whether it is about something that is told to be down already."""
        return any(
            m.condition is Condition.DOWN and is_same_matter(m, transition.kind, transition.subject)
            for i in self.open
            for m in i.members
        )

    def give_up(
        self, wall: float, namespaces: Collection[str], mounted: Collection[Place] = frozenset()
    ) -> list[Incident]:
        """What was down in an earlier run and has not been seen again is gone.

        `namespaces`: those that are there; `mounted`: places where there is something, watched or not.
        """
        out = []
        for number, slot in sorted(self._unconfirmed):
            incident = self._all.get(number)
            for member in incident.failing if incident is not None else ():
                if incident is None or member.slot != slot:
                    continue
                there = any(place.namespace in namespaces for place in member.subject.places)
                if member.kind in BY_PLACE and there:
                    if not member.error.startswith((SEES_DISK, *LOST)):
                        continue  # still not mounted
                    ended = replace(member, condition=Condition.OK, changed=wall, flapping=False)
                else:
                    unwatched = member.kind is Kind.FULL or member.stands_at(mounted)
                    reason = "no longer watched" if unwatched else "unmounted"
                    reason = reason if there else "container stopped"
                    ended = replace(member, condition=Condition.GONE, changed=wall, reason=reason, flapping=False)
                incident = self._noting_silence(incident.with_member(ended, wall, replacing=member.key))
                self._all[number] = incident
                out.append(incident)
        self._unconfirmed.clear()
        return out

    def shift(self, seconds: float) -> None:
        """The clock was set: all of it happened as long ago as before."""
        for incident in self._all.values():
            members = tuple(_shifted(m, seconds) for m in incident.members)
            closed = None if incident.closed is None else incident.closed + seconds
            shifted = replace(incident, opened=incident.opened + seconds, closed=closed, members=members)
            self._all[incident.number] = shifted
        self._turns.shift(seconds)

    def settle(self, wall: float) -> list[Incident]:
        """What has flapped and has held still for long enough is what it is by now."""
        out = []
        for incident in self.open:
            if (settled := flapping.settled(incident, wall)) is not incident:
                self._all[incident.number] = self._noting_silence(settled)
                out.append(self._all[incident.number])
        return out

    def note_growth(self, number: int, slot: int, growth: Growth | None) -> bool:
        """What is written under a member that is down; whether that changes anything."""
        incident = self._all.get(number)
        if incident is None or incident.closed is not None:
            return False
        members = tuple(
            replace(m, growth=growth) if m.slot == slot and m.condition is Condition.DOWN else m
            for m in incident.members
        )
        if members == incident.members:
            return False
        self._all[number] = replace(incident, members=members)
        return True

    def _confirm(self, changed: Incident) -> None:
        before = self._all.get(changed.number)
        known = {m.slot: m for m in before.members} if before is not None else {}
        for member in changed.members:
            if known.get(member.slot) is not member:
                self._unconfirmed.discard((changed.number, member.slot))

    def _resumed(self, member: Member, at: float) -> Incident | None:
        """It was down in an earlier run, and still is: the same trouble, in whatever places it stands by now."""
        for incident in self.open if self._unconfirmed else ():
            for old in incident.failing:
                known = (incident.number, old.slot) in self._unconfirmed
                if known and is_same_matter(old, member.kind, member.subject):
                    kept = replace(old, subject=member.subject, context=member.context or old.context)
                    return incident.with_member(kept, at, replacing=old.key)
        return None

    def _noting_silence(self, incident: Incident) -> Incident:
        """What begins and ends within a silence is never told."""
        before = self._all.get(incident.number)
        begins = before is None or (before.closed is not None and incident.closed is None)
        if not begins and (incident.closed is None or not incident.hushed):
            return incident
        return replace(incident, hushed=self.silenced(incident))

    def _began(self, member: Member, at: float) -> Incident:
        group, server = group_of(member.subject, member.kind)
        for incident in self._all.values():
            # Mounted anew in the place of a dead one, and dead itself: the same trouble goes on. Not if it stands
            # elsewhere, too, or a container has put something else there: it would be taken for told.
            for old in incident.members:
                if old.condition is Condition.DOWN or old.kind is not member.kind or not old.held_all_of(member):
                    continue
                if incident.group != group and not member.is_on_host:
                    continue
                if old.condition is Condition.GONE:
                    return incident.with_member(replace(member, since=old.since), at, replacing=old.key)
                if incident.closed is None:
                    return incident.with_member(member, at, replacing=old.key)
        for incident in self.open:
            if incident.group == group:
                return incident.with_member(member, at)
        for incident in self.open:
            if is_one_trouble(incident, member, server, at, self.join_within):
                return incident.with_member(member, at)
        self._last += 1
        return Incident(self._last, group, server, at, (member,))

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
