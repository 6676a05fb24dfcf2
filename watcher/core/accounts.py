"""An incident as an account for who asks, with the words of a message: the title, the cause and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from watcher.core.body import cause_and_advice, growing_words
from watcher.core.entries import place_id
from watcher.core.evidence import Evidence
from watcher.core.growth import Gravity
from watcher.core.incident import Incident, Member
from watcher.core.messages import headline
from watcher.core.times import Local, utc
from watcher.core.wording import first_place, place_order, printable
from watcher.model import Place

MAX_MEMBERS = 1000  # of one incident that are listed


def written_json(member: Member, now: float, local: Local) -> dict[str, Any] | None:
    """What is written under its mount point while it is away, in figures and in the words of a message."""
    growth = member.growth
    if growth is None or not member.subject.places or member.gravity is Gravity.QUIET:
        return None
    return {
        "namespace": growth.place.namespace,
        "target": printable(growth.place.mount_point),
        "disk": printable(growth.disk),
        "bytes": growth.bytes,
        "since": utc(growth.since),
        "checked_at": utc(growth.at),
        "full_in_seconds": round(growth.full_in) if growth.full_in is not None else None,
        "text": growing_words(member, now, local),
    }


def written_at(incidents: Iterable[Incident], now: float, local: Local) -> dict[Place, dict[str, Any]]:
    """The same of all that are open, by the place of the mount that is away."""
    found = {}
    for member in (m for incident in incidents for m in incident.down):
        if (written := written_json(member, now, local)) is not None:
            found[first_place(member.subject.places)] = written
    return found


def order(incident: Incident) -> tuple[bool, float, int]:
    """A key to sort by: open ones first, the newest in front."""
    return incident.closed is not None, -incident.opened, -incident.number


def incident_json(
    incident: Incident, host: str, *, silenced: bool, found: Evidence | None, now: float, local: Local
) -> dict[str, Any]:
    """`found`: what is known of its foremost mount."""
    cause, advice = cause_and_advice(incident, found)
    members = sorted(
        ((member, place) for member in incident.members for place in member.subject.places),
        key=lambda pair: place_order(pair[1]),
    )
    return {
        "id": incident.number,
        "server": printable(incident.server) if incident.server else None,
        "group": printable(incident.group),
        "opened": utc(incident.opened),
        "closed": utc(incident.closed) if incident.closed is not None else None,
        "silenced": silenced,
        "title": headline(incident, host, now=now, local=local),
        "members": [
            {
                "kind": member.kind.value,
                "place": printable(str(place)),
                "id": place_id(place),
                "source": printable(member.subject.source),
                "fstype": printable(member.subject.fstype),
                "condition": member.told_as.value,
                "since": utc(member.since),
                "cause": member.cause.value if member.cause else None,
                "error": printable(member.error) or None,
                "written_underneath": written_json(member, now, local)
                if member.growth is not None and place == first_place(member.subject.places)
                else None,
            }
            for member, place in members[:MAX_MEMBERS]
        ],
        "more_members": max(0, len(members) - MAX_MEMBERS),
        "cause": cause,
        "advice": advice,
    }
