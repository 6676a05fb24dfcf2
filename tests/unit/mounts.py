"""Plain objects for the tests of the core: mounts, tables, reports, and the service's probe loop in simulated time.

Judges nothing itself: what the tracker does with these is for the tests to say.
"""

from __future__ import annotations

import errno
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from watcher.core.filters import Filter
from watcher.core.places import superblock_of
from watcher.core.tracker import Tracker
from watcher.model import (
    HOST,
    Cause,
    Change,
    Container,
    Event,
    Kind,
    Mount,
    MountState,
    NamespaceGone,
    Pace,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    Stage,
    Subject,
    Superblock,
    TableRead,
    Tick,
    Transition,
    Usage,
    UseRead,
    Verdict,
    Wedged,
)

REMOTE = ("nfs", "nfs4", "cifs", "ceph", "fuse", "fuse.*")
SOME_USAGE = Usage(1000 << 30, 400 << 30, 600 << 30)


def mount(
    point: str = "/mnt/nas",
    *,
    mount_id: int = 40,
    parent: int = 1,
    device: str = "0:50",
    root: str = "/",
    options: str = "rw,relatime",
    fstype: str = "nfs4",
    source: str = "nas01:/data",
    super_options: str = "rw,vers=4.2,hard",
) -> Mount:
    """An NFS mount, other than as said."""
    return Mount(mount_id, parent, device, root, point, options, fstype, source, super_options)


ROOT = mount("/", mount_id=1, parent=0, device="8:1", fstype="ext4", source="/dev/sda1", super_options="rw")


def table(*mounts: Mount, namespace: str = HOST) -> TableRead:
    """A whole table: an ordinary root and these."""
    return TableRead(namespace, (ROOT, *mounts))


def watching(
    *,
    fstypes: Sequence[str] = REMOTE,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    show_only: Sequence[str] = (),
    pace: Pace | None = None,
    overrides: Sequence[tuple[Sequence[str], Mapping[str, float]]] = (),
) -> Filter:
    return Filter(
        fstypes=fstypes,
        include=include,
        exclude=exclude,
        show_only=show_only,
        pace=pace or Pace(),
        overrides=overrides,
    )


def place(point: str = "/mnt/nas", namespace: str = HOST) -> Place:
    return Place(namespace, point)


def probe(of: Mount | None = None, *, timeout: float = 5.0, namespace: str = HOST) -> Probe:
    of = of or mount()
    return Probe(superblock_of(of), Place(namespace, of.mount_point), of.mount_id, timeout)


def answered(
    asked: Probe, started: float, *, usage: Usage | None = SOME_USAGE, readonly: bool = False, latency: float = 0.001
) -> ProbeReport:
    return ProbeReport(asked, Verdict.ANSWERED, started, latency=latency, usage=usage, readonly=readonly)


def failed(asked: Probe, started: float, number: int = errno.EIO, *, stage: Stage = Stage.STATFS) -> ProbeReport:
    return ProbeReport(asked, Verdict.FAILED, started, latency=0.001, stage=stage, errno=number)


def timed_out(
    asked: Probe,
    started: float,
    *,
    stage: Stage = Stage.STATFS,
    wedged: Wedged | None = None,
    stack: Sequence[str] = (),
) -> ProbeReport:
    return ProbeReport(asked, Verdict.TIMED_OUT, started, stage=stage, wedged=wedged, stack=tuple(stack))


def other_mount(asked: Probe, started: float) -> ProbeReport:
    return ProbeReport(asked, Verdict.NOT_THIS_MOUNT, started, stage=Stage.WALK)


def void(asked: Probe, started: float) -> ProbeReport:
    return ProbeReport(asked, Verdict.VOID, started, note="this machine was too slow to judge it")


def subject(
    *points: str | Place,
    source: str = "nas01:/data",
    fstype: str = "nfs4",
    device: str = "0:50",
    options: str = "rw,relatime,rw,vers=4.2,hard",
    names: Iterable[tuple[str, str]] = (),
) -> Subject:
    places = tuple(Place(HOST, p) if isinstance(p, str) else p for p in points or ("/mnt/nas",))
    return Subject(Superblock(device, "/", fstype, source), places, options, tuple(names))


def transition(
    change: Change,
    about: Subject | None = None,
    *,
    at: float = 0.0,
    since: float | None = None,
    kind: Kind = Kind.STALE,
    cause: Cause | None = Cause.TIMEOUT,
    error: str = "no answer within 5 s",
    stack: Sequence[str] = (),
    reason: str = "",
) -> Transition:
    began = change is Change.BEGAN
    return Transition(
        kind,
        change,
        about or subject(),
        at,
        at if since is None else since,
        cause if began else None,
        error if began else "",
        tuple(stack),
        reason,
    )


# How a superblock answers in `Loop`: a function of the probe and the time at which it starts, giving the report and
# how many seconds later it comes.
Answer = Callable[[Probe, float], tuple[ProbeReport, float]]


def good(asked: Probe, now: float) -> tuple[ProbeReport, float]:
    return answered(asked, now), 0.01


def silent(asked: Probe, now: float) -> tuple[ProbeReport, float]:
    return timed_out(asked, now), asked.timeout


def error(number: int) -> Answer:
    return lambda asked, now: (failed(asked, now, number), 0.01)


def no_answer_inside(asked: Probe, now: float) -> tuple[ProbeReport, float]:
    """Refuses who asks from a user namespace of its own."""
    return (failed(asked, now, errno.EACCES) if asked.user_namespace else answered(asked, now)), 0.01


@dataclass
class Loop:
    """The service's probe loop (`daemon.Daemon._probe`) on a clock of its own.

    Mounts answer as `answers` says, by superblock; `good` where it says nothing. A table that the tracker wants to read
    again is read 0.05 s later. After each turn the tracker must not want the very same turn again.
    """

    tracker: Tracker
    now: float = 0.0
    mounts: list[Mount] = field(default_factory=list)
    inside: dict[str, TableRead] = field(default_factory=dict)
    answers: dict[Superblock, Answer] = field(default_factory=dict)
    transitions: list[Transition] = field(default_factory=list)
    asked: list[tuple[float, Probe]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)  # by device: what others have called there
    read_at: list[float] = field(default_factory=list)  # when the tracker wanted to know of them
    before_event: Callable[[Event], None] = lambda event: None
    after_event: Callable[[list[Transition]], None] = lambda transitions: None
    _queue: list[tuple[float, int, Event | None]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def handle(self, event: Event) -> list[Transition]:
        self.before_event(event)
        out = self.tracker.handle(event, self.now)
        self.transitions += out
        self.after_event(out)
        return out

    def mounted(self, *mounts: Mount) -> list[Transition]:
        """These are mounted now, and nothing else."""
        self.mounts = list(mounts)
        return self.handle(table(*mounts))

    def contained(self, container: Container, *mounts: Mount) -> list[Transition]:
        """These are mounted in a container now, and nothing else."""
        root = ROOT._replace(device="7:1", source="/dev/loop1")
        self.inside[container.namespace] = TableRead(container.namespace, (root, *mounts), container)
        return self.handle(self.inside[container.namespace])

    def stopped(self, container: Container) -> list[Transition]:
        self.inside.pop(container.namespace, None)
        return self.handle(NamespaceGone(container.namespace, "container stopped"))

    def later(self, delay: float, event: Event | None) -> None:
        """An event that comes in `delay` seconds; None is a reading of the table as it is by then."""
        heapq.heappush(self._queue, (self.now + delay, next(self._order), event))

    def run(self, seconds: float) -> None:
        """Let time pass, doing what is due."""
        end = self.now + seconds
        while True:
            for namespace in self.tracker.take_rereads():
                self.later(0.05, None if namespace == HOST else self.inside.get(namespace))
            due = self.tracker.next_due()
            times = [t for t in (due, self._queue[0][0] if self._queue else None) if t is not None]
            if not times or min(times) > end:
                self.now = end
                return
            self.now = max(self.now, min(times))
            if self._queue and self._queue[0][0] <= self.now:
                event = heapq.heappop(self._queue)[2]
                self.handle(table(*self.mounts) if event is None else event)
            else:
                self._turn()

    def _turn(self) -> None:
        self.handle(Tick())
        if self.tracker.wants_use(self.now):
            self.read_at.append(self.now)
            self.handle(UseRead({m.mount_point: (str(self.calls[m.device]),) for m in self.mounts}))
        for asked in self.tracker.due(self.now):
            self.handle(ProbeStarted(asked))
            self.asked.append((self.now, asked))
            report, delay = self.answers.get(asked.superblock, good)(asked, self.now)
            self.later(delay, report)
        again = self.tracker.next_due()
        assert again is None or again > self.now, "no progress: the loop would spin"

    def states(self) -> dict[str, MountState]:
        """By mount point."""
        return {s.place.mount_point: s for s in self.tracker.snapshot()}

    def changes(self) -> list[tuple[Kind, Change]]:
        return [(t.kind, t.change) for t in self.transitions]


def watch(*mounts: Mount, chosen: Filter | None = None, grace_until: float = 0.0, now: float = 0.0) -> Loop:
    """A loop over a tracker that has just read a table with these mounts."""
    loop = Loop(Tracker(chosen or watching(), grace_until=grace_until), now)
    loop.mounted(*mounts)
    return loop
