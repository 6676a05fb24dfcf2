"""An incident as an account for who asks, with the words of a message: the title, the cause and what to do."""

from __future__ import annotations

from typing import Any

from watcher.core.entries import place_id, utc
from watcher.core.evidence import Evidence
from watcher.core.incident import Incident
from watcher.core.messages import Local, cause_and_advice, headline
from watcher.core.wording import place_order, printable

MAX_MEMBERS = 1000  # of one incident that are listed


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
            }
            for member, place in members[:MAX_MEMBERS]
        ],
        "more_members": max(0, len(members) - MAX_MEMBERS),
        "cause": cause,
        "advice": advice,
    }
