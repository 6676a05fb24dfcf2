"""All that is judged, as one: mounts, what lies under them, what is missing, and how full they are.

Passes events to each part and puts together what they say; judges nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from watcher.core.capacity import Capacity
from watcher.core.filters import Filter
from watcher.core.local import Local
from watcher.core.missing import Missing
from watcher.core.tracker import Tracker
from watcher.core.underneath import Underneath
from watcher.core.wording import count
from watcher.model import (
    Asked,
    Event,
    MountState,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    StillWedged,
    TableRead,
    ThreadGone,
    Transition,
    Wedged,
)


class Rules(NamedTuple):
    """What is judged, and by which measure."""

    watched: Filter
    any_type: Filter  # what may be looked at for its capacity
    warn: float = 90.0  # percent from which on a file system is full
    local: bool = True  # whether local disks are watched
    missing_after: float = 30.0  # seconds
    capacity: bool = False  # whether anybody wants to know how full they are


class Picture:
    """What the shell drives: events in, transitions out, probes due."""

    def __init__(self, rules: Rules, *, grace_until: float = 0.0) -> None:
        """`grace_until`: nothing becomes stale before it."""
        self.tracker = Tracker(rules.watched, grace_until=grace_until)
        self.capacity = Capacity(rules.watched, rules.any_type, warn=rules.warn, wanted=rules.capacity)
        self.missing = Missing(rules.watched, after=rules.missing_after, grace_until=grace_until)
        self.local = Local(rules.watched, rules.any_type, wanted=rules.local)
        self._underneath = Underneath(rules.watched)
        self._wedged: dict[Wedged, StillWedged] = {}
        self._shown: tuple[MountState, ...] | None = None  # as `snapshot` gave it, until something happens

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in; give what changed by it."""
        self._shown = None
        out = self._pass_on(event, now)
        match event:
            case ProbeReport(probe=probe, wedged=Wedged() as wedged):
                self._wedged[wedged] = StillWedged(probe.superblock, wedged, event.started)
            case StillWedged():
                self._wedged[event.wedged] = event
            case ThreadGone():
                self._wedged.pop(event.wedged, None)
            case TableRead():
                # What holds a thread already may come only now: a container is found, or is started again.
                out += [t for still in list(self._wedged.values()) for t in self._pass_on(still, now)]
        return out

    def _pass_on(self, event: Event, now: float) -> list[Transition]:
        return [
            *self.tracker.handle(event, now),
            *self._underneath.handle(event, now),
            *self.missing.handle(event, now),
            *self.local.handle(event, now),
            *self.capacity.handle(event, now),
        ]

    def configure(self, rules: Rules, now: float) -> list[Transition]:
        """Judge by other rules from now on."""
        self._shown = None
        return [
            *self.tracker.configure(rules.watched, now),
            *self._underneath.configure(rules.watched, now),
            *self.missing.configure(rules.watched, now, after=rules.missing_after),
            *self.local.configure(rules.watched, rules.any_type, now, wanted=rules.local),
            *self.capacity.configure(rules.watched, rules.any_type, now, warn=rules.warn, wanted=rules.capacity),
        ]

    def wants_use(self, now: float) -> bool:
        """Whether a UseRead is to come before `start_due`."""
        return self.tracker.wants_use(now)

    def start_due(self, now: float) -> Sequence[Probe]:
        """The probes to start now; they count as started."""
        probes = self.tracker.due(now) + self.capacity.due(now)
        for probe in probes:
            self.handle(ProbeStarted(probe), now)
        return probes

    def ask_now(self, place: Place, now: float) -> Asked | None:
        """Let this place be probed at once; None if it is not watched."""
        if (asked := self.tracker.ask_now(place, now)) is not None:
            return asked
        if any(state.place == place for part in (self._underneath, self.missing) for state in part.snapshot()):
            return Asked(False, "it is not mounted, so there is nothing to ask; its mount table is watched")
        if any(state.place == place for state in self.local.snapshot()):
            return Asked(False, "a local disk is not asked, so that none is woken; the kernel tells how it is")
        return None

    def next_due(self) -> float | None:
        """When `start_due` or a Tick next has something to do."""
        times = (self.tracker.next_due(), self.capacity.next_due(), self.missing.next_due())
        return min((t for t in times if t is not None), default=None)

    def take_rereads(self) -> set[str]:
        """The namespaces whose table must be read again soon, each named once."""
        return self.tracker.take_rereads() | self._underneath.take_rereads() | self.capacity.take_rereads()

    def table(self, namespace: str) -> TableRead | None:
        """A namespace's mount table as last read."""
        return self.capacity.table(namespace)

    def snapshot(self) -> tuple[MountState, ...]:
        """Every place as it stands now; the very same until something happens, however often it is asked for."""
        if self._shown is None:
            parts = (self.tracker, self._underneath, self.missing, self.local)
            self._shown = tuple(state for part in parts for state in part.snapshot())
        return self._shown

    def problems(self) -> dict[str, str]:
        """By namespace: what is not watched, and why."""
        left_out = {
            namespace: f"{count(number, 'more mount')} not watched, since there are too many"
            for namespace, number in self.tracker.left_out().items()
        }
        return merged(left_out, self.capacity.problems())


def merged(*sources: Mapping[str, str]) -> dict[str, str]:
    """Problems by namespace, of several parts."""
    out: dict[str, list[str]] = {}
    for source in sources:
        for namespace, words in source.items():
            out.setdefault(namespace, []).append(words)
    return {namespace: "; ".join(words) for namespace, words in out.items()}
