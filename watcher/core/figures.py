"""What the service counts: probes, sweeps, transitions, deliveries, readings of tables. Values in, readings out.

Costs some dictionary look-ups for each event. What it keeps of single mounts goes with them; all else is as many
numbers as there are kinds of things.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from watcher.model import (
    HOST,
    Event,
    Mount,
    NamespaceGone,
    Place,
    ProbeReport,
    TableRead,
    TableUnreadable,
    Transition,
    Verdict,
)

# Upper bounds in seconds; each factor of ten has a meaning: memory, a local network, a disk that spins up, trouble.
LATENCIES = (0.001, 0.01, 0.1, 1.0, 5.0)
SWEEPS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Reading(NamedTuple):
    """A distribution at one moment."""

    counts: tuple[int, ...]  # of values up to each bound, the last: of all
    total: float  # of all values


class Distribution:
    """How often values came to lie below each of some bounds."""

    __slots__ = ("_bounds", "_counts", "_reading", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._reading: Reading | None = None  # until the next value: it is read more often than values come

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value
        self._reading = None

    def reading(self) -> Reading:
        if self._reading is None:
            self._reading = Reading(tuple(accumulate(self._counts)), self._total)
        return self._reading


@dataclass(slots=True)
class _Answers:
    """Of the mount in one place."""

    mount: tuple[str, str]  # its type and source: another one is counted from nothing
    latency: Distribution = field(default_factory=lambda: Distribution(LATENCIES))


class Counts(NamedTuple):
    """All figures but those of single mounts, at one moment. They only grow while the service runs."""

    probes: Mapping[str, int]  # by verdict
    transitions: Mapping[tuple[str, str], int]  # by kind and change
    deliveries: Mapping[tuple[str, bool], int]  # by channel, and whether it was delivered
    reads: Mapping[str, int]  # of mount tables, by "host" and "containers"; the containers' that have changed
    unreadable: int  # namespaces whose table could not be read the last time
    read_at: float | None  # when the host's table was last read, by the clock that it was told with
    sweeps: Reading


class Figures:
    """Counts from the start of the service."""

    def __init__(self) -> None:
        self._probes = Counter({str(verdict): 0 for verdict in Verdict})
        self._transitions: Counter[tuple[str, str]] = Counter()
        self._deliveries: Counter[tuple[str, bool]] = Counter()
        self._reads = Counter({"host": 0, "containers": 0})
        self._unreadable: set[str] = set()
        self._read_at: float | None = None
        self._sweeps = Distribution(SWEEPS)
        self._answers: dict[str, dict[Place, _Answers]] = {}  # by namespace: of what is watched there

    # ---- what happened

    def event(self, event: Event) -> None:
        match event:
            case ProbeReport(probe=probe, verdict=verdict, latency=latency):
                self._probes[verdict] += 1
                answers = self._answers.get(probe.place.namespace, {}).get(probe.place)
                if answers is not None and latency is not None and verdict is Verdict.ANSWERED:
                    answers.latency.add(latency)
            case TableRead(namespace=namespace):
                if namespace != HOST:
                    self._reads["containers"] += 1
                self._unreadable.discard(namespace)
            case TableUnreadable(namespace=namespace):
                self._unreadable.add(namespace)
            case NamespaceGone(namespace=namespace):
                self._unreadable.discard(namespace)

    def watched(self, namespace: str, mounts: Mapping[Place, Mount]) -> None:
        """All that is watched in this namespace from now on."""
        before, now = self._answers.pop(namespace, {}), dict[Place, _Answers]()
        for place, mount in mounts.items():
            kept, what = before.get(place), (mount.fstype, mount.source)
            now[place] = kept if kept is not None and kept.mount == what else _Answers(what)
        if now:
            self._answers[namespace] = now

    def table_read(self, now: float) -> None:
        """The host's table could be read, changed or not."""
        self._reads["host"] += 1
        self._read_at = now
        self._unreadable.discard(HOST)

    def sweep(self, seconds: float) -> None:
        """A round of probes is over."""
        self._sweeps.add(seconds)

    def transition(self, transition: Transition) -> None:
        self._transitions[transition.kind, transition.change] += 1

    def delivery(self, channel: str, delivered: bool) -> None:
        """An attempt to tell a channel something has ended."""
        self._deliveries[channel, delivered] += 1

    # ---- for those who ask

    def counts(self, channels: Iterable[str]) -> Counts:
        """`channels`: those there are; the others are forgotten."""
        wanted = set(channels)
        self._deliveries = Counter({key: n for key, n in self._deliveries.items() if key[0] in wanted})
        return Counts(
            probes=dict(self._probes),
            transitions=dict(self._transitions),
            deliveries={(c, ok): self._deliveries[c, ok] for c in wanted for ok in (True, False)},
            reads=dict(self._reads),
            unreadable=len(self._unreadable),
            read_at=self._read_at,
            sweeps=self._sweeps.reading(),
        )

    def latency(self, place: Place) -> Reading | None:
        """Of the answers that came to probes at this place; None if it is not watched."""
        answers = self._answers.get(place.namespace, {}).get(place)
        return answers.latency.reading() if answers is not None else None
