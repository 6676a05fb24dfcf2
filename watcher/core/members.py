"""The members of an incident in words: which of them stands for all, and how their places are named and listed.

What a message says of them is for `messages`, its title, and `body`, the lines below that.
"""

from __future__ import annotations

from collections.abc import Sequence

from watcher.core.causes import member_words
from watcher.core.commands import pve_storage
from watcher.core.incident import Member
from watcher.core.wording import count, name, place_name, place_order
from watcher.model import HOST, Kind, Place, Subject

MAX_PLACES, MIN_PLACES = 6, 1  # lines of places; the rest is counted
MAX_ON_LINE = 4  # places on one line


def is_grave(members: Sequence[Member]) -> bool:
    return any(m.kind in (Kind.STALE, Kind.MISSING) for m in members)


def gravest(members: Sequence[Member]) -> Sequence[Member]:
    """What is stale, if anything is: the rest may have stood for weeks, and is not what people are woken for."""
    return [m for m in members if m.kind is Kind.STALE] or members


def first_of(members: Sequence[Member]) -> Member:
    """Of the gravest, the one that stands first in the list of places."""
    places = places_of(gravest(members))
    return places[0][1] if places else members[0]


def since_of(members: Sequence[Member]) -> float:
    return min(m.since for m in gravest(members))


def places_of(members: Sequence[Member]) -> list[tuple[Place, Member]]:
    """The host's first, and in the order in which people count, whichever probe came back first."""
    return sorted(((place, m) for m in members for place in m.subject.places), key=lambda pair: place_order(pair[0]))


def place_words(place: Place, subject: Subject) -> str:
    return place_name(place, dict(subject.names).get(place.namespace, ""))


def who(members: Sequence[Member], server: str | None) -> str:
    """The one place, or the server that they share."""
    places = places_of(members)
    if len(places) == 1:
        return place_words(places[0][0], places[0][1].subject)
    if server is not None:
        return name(server)
    return f"{place_words(places[0][0], places[0][1].subject)} and {len(places) - 1} more" if places else "mount"


def causes_of(members: Sequence[Member]) -> str:
    others = [m for m in members if m.kind is not Kind.STALE]
    words = list(dict.fromkeys(member_words(m) for m in [*gravest(members), *others]))
    return " / ".join(words[:3])


def place_lines(
    members: Sequence[Member], *, with_cause: bool = False, lead: str = "", most: int = MAX_PLACES
) -> list[str]:
    lines = []
    places = places_of(members)
    for place, member in places[:most]:
        cause = f" {member_words(member)}" if with_cause else ""
        text = lead + described(place, member) + cause + _left(member)
        lines.append(text[:1].upper() + text[1:])
    if len(places) > most:
        lines.append(f"and {count(len(places) - most, 'more mount')}")
    return lines


def _left(member: Member) -> str:
    """What is left on a full file system."""
    return f": {left}" if member.kind is Kind.FULL and (left := member.error.partition(": ")[2]) else ""


def described(place: Place, member: Member) -> str:
    text = place_words(place, member.subject)
    text = f"host {text}" if place.namespace == HOST else text
    return f"{text} (PVE storage {storage})" if (storage := pve_storage(place)) else text


def listed(members: Sequence[Member]) -> str:
    """Places on one line, the rest counted."""
    places = places_of(members)
    text = ", ".join(described(place, member) for place, member in places[:MAX_ON_LINE])
    return text if len(places) <= MAX_ON_LINE else f"{text} and {len(places) - MAX_ON_LINE} more"
