"""One file system: where it stands, how it is asked, how full it is, and the transitions that lie in that."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from watcher.core.filesystems import Entry
from watcher.core.health import REFUSALS, describe_errno
from watcher.core.places import superblock_of
from watcher.core.schedule import VOID_RETRY, on_grid
from watcher.core.wording import size
from watcher.model import (
    Change,
    Kind,
    Place,
    Probe,
    ProbeReport,
    Stage,
    Subject,
    Superblock,
    Transition,
    Usage,
    Verdict,
    Wedged,
)

INTERVAL = 60.0  # seconds between two looks at a file system that nobody else asks
HYSTERESIS = 3.0  # percentage points below the threshold at which full ends
MAX_PAUSE = 30  # in units of VOID_RETRY, while another mount stands in its place
_ABSURD = 1 << 62  # bytes; f_blocks of all ones is how some file systems in trouble answer


@dataclass(slots=True, eq=False)
class Filesystem:
    """What is known of one file system, wherever it stands."""

    next_at: float  # when it is to be asked, if it is ours to ask
    entries: dict[Place, Entry] = field(default_factory=dict)
    usage: Usage | None = None
    error: str = ""  # why `usage` is not known
    asked: Probe | None = None  # by us, in flight
    wedged: Wedged | None = None
    judged: bool = False  # there was a verdict, good or bad
    fruitless: int = 0  # probes in a row that told nothing
    lost: set[Place] = field(default_factory=set)  # places that could not be walked to since the last answer
    refused_inside: bool = False  # to who asks from the user namespace of its container
    full_since: float | None = None
    told: Superblock | None = None  # the name under which it was told to be full
    words: str = ""  # how full it was when last seen

    @property
    def percent(self) -> float | None:
        """Of the whole size, as shown."""
        return 100 * self.usage.used / self.usage.total if self.usage else None

    @property
    def is_watched(self) -> bool:
        return any(e.watched for e in self.entries.values())

    # ---- asking

    def ways(self, absent: Collection[Place]) -> list[Entry]:
        """The places at which it may be asked, the best first."""
        ways = [e for p, e in self.entries.items() if p not in absent and not e.on_demand and not e.stands_still]
        return sorted(ways, key=lambda e: (e.place in self.lost, e.through_fuse))

    def probe(self, entry: Entry, timeout: float) -> Probe:
        """The question to ask at this place."""
        container, lane = entry.container, entry.place.namespace if entry.through_fuse else ""
        # Only who is in the container's user namespace sees, or can walk through, its own FUSE mounts.
        enters = entry.through_fuse and not self.refused_inside
        return Probe(
            superblock_of(entry.mount),
            entry.place,
            entry.mount.mount_id,
            timeout,
            root_pid=container.init_pid if container else 0,
            user_namespace=container.user_namespace if container and enters else 0,
            lane=lane,
        )

    def take(self, report: ProbeReport, now: float, absent: Collection[Place]) -> bool:
        """Take a report in; whether it says something of the capacity."""
        ours = self.asked == report.probe
        self.wedged = report.wedged or self.wedged
        if ours:
            self.asked = None
        elif report.verdict is not Verdict.ANSWERED and (not self.is_watched or report.stage is Stage.WALK):
            return False  # of the mount that stood there before; or another's way to it
        if report.verdict in (Verdict.VOID, Verdict.NOT_THIS_MOUNT):
            if ours:
                self._learned_nothing(report, now)
            return False
        if report.verdict is not Verdict.ANSWERED and ours and self._has_another_way(report, absent):
            self.next_at = now
            return False
        if ours and not report.probe.user_namespace and report.verdict is not Verdict.ANSWERED:
            self.refused_inside = False  # the host is none the wiser: ask inside again
        self.judged, self.fruitless = True, 0
        self.next_at = max(now, on_grid(report.started, INTERVAL))
        self.usage, self.error = _usage_of(report), _error_of(report)
        self.words = _words(self.usage) if self.usage else self.words
        if report.verdict is Verdict.ANSWERED:
            self.lost.clear()
        return True

    def _learned_nothing(self, report: ProbeReport, now: float) -> None:
        self.fruitless += 1
        pause = 1
        if report.verdict is Verdict.NOT_THIS_MOUNT or report.probe.lane:
            self.lost.add(report.probe.place)
        if report.verdict is Verdict.NOT_THIS_MOUNT:
            pause = min(self.fruitless, MAX_PAUSE)
        self.next_at = now + VOID_RETRY * pause
        if self.usage is None:
            self.error = report.note or "another mount stands in its place or in its way"

    def _has_another_way(self, report: ProbeReport, absent: Collection[Place]) -> bool:
        """Whether the failure is that of the place, or of who asked, and there is another."""
        if report.probe.user_namespace and report.errno in REFUSALS:
            self.refused_inside = True
            return True
        if report.stage is not Stage.WALK:
            return False
        self.lost.add(report.probe.place)
        if any(e.place not in self.lost for e in self.ways(absent)):
            return True
        self.lost = {report.probe.place}  # all are lost; the next probe tries another all the same
        return False

    # ---- transitions

    def judge(self, warn: float, now: float, *, margin: float = HYSTERESIS) -> list[Transition]:
        """Full (`warn` percent or more), or no longer so; it ends `margin` percentage points below."""
        percent, entries = self.percent, self._alarmed()
        if self.full_since is None:
            if percent is None or percent < warn or not entries:
                return []
            self.full_since = now
            return [self._transition(Change.BEGAN, entries, now)]
        if not entries:
            out = [self._transition(Change.GONE, self.entries.values(), now, reason="only shown from now on")]
        elif percent is not None and percent < warn - margin:
            out = [self._transition(Change.ENDED, entries, now, reason=f"below {warn:g} % again")]
        else:
            return []
        self.full_since = self.told = None
        return out

    def left(self, gone: Iterable[Entry], now: float, reason: str) -> list[Transition]:
        """It no longer stands in these places; with the last of them, what was told of it ends."""
        told = [e for e in gone if e.alarmed]
        if self.full_since is None or not told:
            return []
        if self._alarmed():
            return [self._transition(Change.LEFT, told, now, reason=reason)]
        out = [self._transition(Change.GONE, told, now, reason=reason)]
        self.full_since = self.told = None
        return out

    def resume(self, told: Subject, since: float, words: str) -> None:
        """It was told to be full in an earlier run, under this name."""
        self.full_since, self.told, self.words = since, told.superblock, words

    def told_again(self, now: float) -> list[Transition]:
        """It is full, and stands in more places than were told."""
        if self.full_since is None or not (entries := self._alarmed()):
            return []
        return [self._transition(Change.JOINED, entries, now)]

    def _alarmed(self) -> list[Entry]:
        return [e for e in self.entries.values() if e.alarmed]

    def _transition(self, change: Change, at: Iterable[Entry], now: float, *, reason: str = "") -> Transition:
        entries = list(at)
        first = entries[0].mount
        if self.told is None:
            self.told = superblock_of(first)
        names = {e.place.namespace: e.container.name for e in entries if e.container is not None}
        places = tuple(e.place for e in entries)
        subject = Subject(self.told, places, first.all_options, tuple(names.items()))
        since = now if self.full_since is None else self.full_since
        error = self.words if change in (Change.BEGAN, Change.JOINED) else ""
        return Transition(Kind.FULL, change, subject, now, since, error=error, reason=reason)


def _words(usage: Usage) -> str:
    # Never rounded up: 100 % means that nothing is left.
    return f"{100 * usage.used // usage.total} % full: {size(usage.available)} of {size(usage.total)} left"


def _usage_of(report: ProbeReport) -> Usage | None:
    usage = report.usage
    if report.verdict is not Verdict.ANSWERED or usage is None or not 0 < usage.total < _ABSURD:
        return None
    return usage


def _error_of(report: ProbeReport) -> str:
    if report.verdict is Verdict.TIMED_OUT:
        return f"no answer within {report.probe.timeout:g} s"
    return "" if report.verdict is Verdict.ANSWERED else describe_errno(report.errno or errno.EIO)
