"""What an earlier run has left, as this run takes it up: no trace of its own end, and times of our clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from watcher.core.incident import BY_PLACE, Condition, Incident, Member
from watcher.core.known import Known
from watcher.core.reasons import LOST, SEES_DISK
from watcher.core.saved import Saved
from watcher.model import Kind, Subject

SHUTDOWN = 60.0  # seconds before the end of a run in which a host that is shut down unmounts and stops


def incidents_of(saved: Saved, *, rebooted: bool) -> list[Incident]:
    """The incidents as they were before the host, or the watcher, was shut down: that itself is no news."""
    out = []
    for incident in saved.state.incidents.values():
        told = [t for (_, number), t in saved.state.told.items() if number == incident.number]
        late = incident.opened > saved.at - SHUTDOWN
        if rebooted and late and not told and all(m.kind in BY_PLACE for m in incident.members):
            continue
        members = tuple(
            replace(m, condition=Condition.DOWN, reason="")
            if _went_at_the_end(m, saved.at) and not any(t.conditions.get(m.slot) is Condition.GONE for t in told)
            else m
            for m in incident.members
        )
        if members != incident.members:
            incident = replace(incident, members=members, closed=None)
        out.append(incident)
    return out


def _went_at_the_end(member: Member, end: float) -> bool:
    return member.condition is Condition.GONE and member.changed > end - SHUTDOWN and member.split_from is None


def missed(incidents: Iterable[Incident], clock: Callable[[float], float]) -> Iterator[tuple[Subject, float]]:
    """What has vanished, and since when. `clock`: seconds since the epoch to this run's clock."""
    for member in _down(incidents, Kind.VANISHED):
        if member.error.startswith((SEES_DISK, *LOST)):
            continue  # told from the tables alone, again
        yield member.subject, clock(member.since)


def missing(incidents: Iterable[Incident], clock: Callable[[float], float]) -> Iterator[tuple[Subject, float]]:
    """What should have been mounted and was not, and since when."""
    return ((member.subject, clock(member.since)) for member in _down(incidents, Kind.MISSING))


def full(incidents: Iterable[Incident], clock: Callable[[float], float]) -> Iterator[tuple[Subject, float, str]]:
    """What is full, since when, and how full."""
    for member in _down(incidents, Kind.FULL):
        yield member.subject, clock(member.since), member.error


def _down(incidents: Iterable[Incident], kind: Kind) -> Iterator[Member]:
    return (m for i in incidents for m in i.down if m.kind is kind)


def on_clock(known: Known, clock: Callable[[float], float]) -> Known:
    """With its times on another clock."""
    since, readonly = known.since, known.readonly_since
    return known._replace(
        since=None if since is None else clock(since), readonly_since=None if readonly is None else clock(readonly)
    )
