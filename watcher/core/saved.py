"""What of the service outlives its process, as values, and what to write when it has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from watcher.core.incident import Incident
from watcher.core.known import Identity, Known
from watcher.core.outbox import Lately, Told
from watcher.model import Silence, Transition

K = TypeVar("K")
V = TypeVar("V")


class Served(NamedTuple):
    """A channel."""

    added: float  # what was over before then is none of its news
    failing_since: float | None = None
    told: float | None = None  # when it was last told anything


class Passed(NamedTuple):
    """An entry of the history."""

    at: float
    transition: Transition


@dataclass(frozen=True, slots=True)
class State:
    """All that is kept, the history apart."""

    incidents: Mapping[int, Incident] = field(default_factory=dict)
    channels: Mapping[str, Served] = field(default_factory=dict)
    told: Mapping[tuple[str, int], Told] = field(default_factory=dict)  # by channel and incident
    lately: Mapping[tuple[str, str], Lately] = field(default_factory=dict)  # by channel and group
    health: Mapping[Identity, Known] = field(default_factory=dict)
    silences: Mapping[str, Silence] = field(default_factory=dict)


class Saved(NamedTuple):
    """What an earlier run has left."""

    state: State = State()
    boot: str = ""  # in which it was written
    at: float = 0.0  # when


class Difference(NamedTuple, Generic[K, V]):
    """Of one table: rows to write, rows to remove."""

    put: dict[K, V]
    drop: set[K]


class Changes(NamedTuple):
    """What makes the rows of one state those of another."""

    incidents: Difference[int, Incident]
    channels: Difference[str, Served]
    told: Difference[tuple[str, int], Told]
    lately: Difference[tuple[str, str], Lately]
    health: Difference[Identity, Known]
    silences: Difference[str, Silence]

    def __bool__(self) -> bool:
        return any(d.put or d.drop for d in self)


def changes(before: State, after: State) -> Changes:
    return Changes(
        _difference(before.incidents, after.incidents),
        _difference(before.channels, after.channels),
        _difference(before.told, after.told),
        _difference(before.lately, after.lately),
        _difference(before.health, after.health),
        _difference(before.silences, after.silences),
    )


def _difference(before: Mapping[K, V], after: Mapping[K, V]) -> Difference[K, V]:
    missing = object()
    put = {k: v for k, v in after.items() if (old := before.get(k, missing)) is not v and old != v}
    return Difference(put, before.keys() - after.keys())
