"""What has happened, as entries for those who ask: the history's, and one for each change as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from watcher.core.saved import Passed
from watcher.core.times import utc
from watcher.core.wording import place_order, printable
from watcher.model import Cause

MAX_PLACES = 64  # of one entry that are listed
MAX_NAMED = 4096  # characters of all their names but the first: a container has as many as it likes, a path long each


class Entry(NamedTuple):
    """One change that was noted."""

    at: float  # seconds since the epoch
    kind: str
    change: str
    places: tuple[str, ...]  # "/mnt/x", "ct:101:/mnt/x"; none of what concerns the watcher itself
    source: str
    error: str  # or, of what ended, the reason
    more: int = 0  # places that are not listed


def entry_of(passed: Passed) -> Entry:
    transition = passed.transition
    places = tuple(str(place) for place in sorted(transition.subject.places, key=place_order))
    listed = _listed(places)
    return Entry(
        passed.at,
        transition.kind.value,
        transition.change.value,
        places[:listed],
        transition.subject.source,
        transition.error or transition.reason,
        len(places) - listed,
    )


def _listed(places: Sequence[str]) -> int:
    """How many of them are listed."""
    length = 0
    for number, place in enumerate(places[1:MAX_PLACES], 1):
        length += len(place)
        if length > MAX_NAMED:
            return number
    return min(len(places), MAX_PLACES)


def entry_json(entry: Entry) -> dict[str, Any]:
    places = [printable(place) for place in entry.places[: _listed(entry.places)]]  # what is on disk may be older
    return {
        "at": utc(entry.at),
        "kind": entry.kind,
        "change": entry.change,
        "place": places[0] if places else None,
        "places": places,
        "more_places": entry.more + len(entry.places) - len(places),
        "source": printable(entry.source) or None,
        "error": printable(entry.error) or None,
    }


def change_json(passed: Passed) -> dict[str, Any]:
    """The same with what the history does not keep."""
    cause: Cause | None = passed.transition.cause
    return entry_json(entry_of(passed)) | {"cause": cause.value if cause else None}


def newest_first(stored: Iterable[Entry], unwritten: Iterable[Passed], *, since: float, limit: int) -> list[Entry]:
    """Both as one: what is being written just now may be in either, or in both."""
    fresh = [entry_of(passed) for passed in unwritten]
    key = {(e.at, e.kind, e.change, e.source, frozenset(e.places)) for e in fresh}
    old = [e for e in stored if (e.at, e.kind, e.change, e.source, frozenset(e.places)) not in key]
    merged = sorted([*old, *fresh[::-1]], key=lambda e: -e.at)  # stable: what came last at one moment stays in front
    return [e for e in merged if e.at >= since][:limit]
