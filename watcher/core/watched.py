"""One watched superblock: its places, its health, and the transitions that lie in their changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from watcher.core.filters import server_of
from watcher.core.health import ALARMED, Health
from watcher.core.mountinfo import is_mounted_readonly, is_readonly
from watcher.core.places import LXCFS, Standing
from watcher.core.schedule import VOID_RETRY
from watcher.model import (
    Change,
    Counters,
    Kind,
    Pace,
    Place,
    Probe,
    ProbeReport,
    Reach,
    Stage,
    Subject,
    Superblock,
    Transition,
    Wedged,
)

MAX_WAYS = 8  # tried in turn before a failure on the way counts as its own
# Their statfs is answered by something nearer than the data: also read the directory now and then.
_NEARER = ("ceph", "fuse")


@dataclass(slots=True)
class Watched:
    """What the tracker knows of one superblock."""

    superblock: Superblock
    health: Health
    next_at: float  # when it is to be asked again
    standings: list[Standing] = field(default_factory=list)
    asked: Probe | None = None  # in flight
    wedged: Wedged | None = None
    wedged_since: float | None = None
    deep_at: float = float("-inf")  # when the last deep probe was started
    fails_deep: bool = False  # its directory could not be read: only reading it shows that it is well again
    deferred: int = 0  # reports in a row not judged since a mount on the way may be to blame
    lost_way: set[Place] = field(default_factory=set)  # places that could not be walked to since the last answer
    void_note: str = ""  # why the last probe told nothing
    missed: int = 0  # times in a row that something else stood there
    replaces_since: float | None = None  # a dead mount stood in its place, failing since then
    writable: set[Place] = field(default_factory=set)  # places once seen writable, or meant to be
    readonly_since: float | None = None  # unexpectedly so
    voids: int = 0  # probes in a row that told nothing
    on_host: bool = False  # it stands, or stood, in a place of the host's
    refused_inside: bool = False  # to who asks from the user namespace of its container
    used: bool = False  # since it was last judged, where that decides whether it is asked (`ondemand`)
    counters: Counters | None = None  # of its use, as last read

    @property
    def is_fuse(self) -> bool:
        return self.superblock.fstype.startswith("fuse")

    @property
    def is_of_container(self) -> bool:
        """A container's own FUSE file system: its server runs inside, and what it says of itself is hearsay."""
        return self.is_fuse and not self.on_host and self.superblock.fstype != LXCFS

    @property
    def server(self) -> str | None:
        return None if self.is_of_container else server_of(self.superblock.fstype, self.superblock.source)

    @property
    def pace(self) -> Pace:
        """Its place's; of several, the host's, else the least patient one: no container's rules hold for others."""
        if len(self.standings) == 1:
            return self.standings[0].pace
        return min(self.standings, key=lambda s: (s.container is not None, s.pace.alarm_after)).pace

    @property
    def show_only(self) -> bool:
        return all(s.show_only for s in self.standings)

    def wants_deep(self, now: float) -> bool:
        nearer = self.superblock.fstype.split(".")[0] in _NEARER
        return nearer and (self.fails_deep or now - self.deep_at >= self.pace.deep_interval)

    def way(self, reachable: Iterable[Standing]) -> Standing | None:
        """The place to ask at: one that a walk has not failed to reach, if there is any; the host's before others."""

        def reluctance(standing: Standing) -> tuple[bool, bool, bool, bool]:
            readonly = is_mounted_readonly(standing.mount)  # there it cannot be told whether the rest is, too
            return standing.place in self.lost_way, standing.container is not None, bool(standing.lane), readonly

        return min(reachable, key=reluctance, default=None)

    def probe(self, standing: Standing, *, deep: bool) -> Probe:
        """The question to ask at this place."""
        container, mount, timeout = standing.container, standing.mount, standing.pace.timeout
        if container is None:
            return Probe(self.superblock, standing.place, mount.mount_id, timeout, deep)
        # Only who is in the container's user namespace sees its own FUSE mounts; of the host's, only who is not.
        enter = container.user_namespace if self.is_of_container and not self.refused_inside else 0
        return Probe(
            self.superblock, standing.place, mount.mount_id, timeout, deep, container.init_pid, enter, standing.lane
        )

    # ---- probes that are no verdict on it

    def missed_at(self, place: Place, now: float) -> None:
        """Something else stood there: another place first, and with patience."""
        self.missed += 1
        self.lost_way.add(place)
        self.next_at = now + min(self.missed, 10) * VOID_RETRY / 2

    def learned_nothing(self, report: ProbeReport, now: float) -> None:
        self.health.void()
        self.voids, self.void_note = self.voids + 1, report.note
        self.next_at = now + VOID_RETRY
        if report.probe.lane:
            self.lost_way.add(report.probe.place)  # its container's threads all hang; another can perhaps be asked

    def has_another_way(self, report: ProbeReport, reachable: Iterable[Standing]) -> bool:
        """Whether the probe failed on the way only, and there is another way."""
        if report.stage is not Stage.WALK:
            self.lost_way.clear()
            return False
        self.lost_way.add(report.probe.place)
        if len(self.lost_way) < MAX_WAYS and any(s.place not in self.lost_way for s in reachable):
            return True
        self.lost_way = {report.probe.place}  # all are lost; the next probe tries another all the same
        return False

    # ---- where it stands

    def join(self, standing: Standing) -> None:
        """It stands in this place, too."""
        self.standings.append(standing)
        self.on_host = self.on_host or standing.container is None

    def leave(self, standing: Standing) -> None:
        """It no longer stands in this place."""
        self.standings.remove(standing)
        self.lost_way.discard(standing.place)
        self.writable.discard(standing.place)

    # ---- transitions

    def failing(self, now: float, change: Change = Change.BEGAN) -> list[Transition]:
        """That it is stale, at all the places where it stands now; nothing if it is not, or only shown."""
        health = self.health
        if health.reach not in ALARMED or self.show_only or not self.standings:
            return []
        since = health.failing_since if health.failing_since is not None else now
        subject = subject_of(self.superblock, self.standings)
        return [Transition(Kind.STALE, change, subject, now, since, health.cause, health.error, health.stack)]

    def changed_from(self, before: Reach, now: float) -> list[Transition]:
        """What lies in a step of the health from `before`, if it is one that matters."""
        reach = self.health.reach
        if reach is before or self.show_only:
            return []
        subject = subject_of(self.superblock, self.standings)
        if reach in ALARMED and before not in ALARMED:
            return self.failing(now)
        if reach is not Reach.OK:
            return []
        replaced, self.replaces_since = self.replaces_since, None
        if before in ALARMED:
            return [Transition(Kind.STALE, Change.ENDED, subject, now, now)]
        if replaced is not None:
            return [Transition(Kind.STALE, Change.REMOUNTED, subject, now, replaced)]
        return []

    def check_readonly(self, now: float) -> list[Transition]:
        """Unexpectedly read-only, or no longer so."""
        unexpected = [s for s in self.standings if self.is_unexpectedly_readonly(s)]
        self.writable.update(s.place for s in self.standings if not self.is_readonly(s))
        if self.show_only or bool(unexpected) == (self.readonly_since is not None):
            return []
        if unexpected:
            self.readonly_since = now
            subject = subject_of(self.superblock, unexpected)
            return [Transition(Kind.READONLY, Change.BEGAN, subject, now, now, error="became read-only")]
        since, self.readonly_since = self.readonly_since, None
        return [Transition(Kind.READONLY, Change.ENDED, subject_of(self.superblock, self.standings), now, since or now)]

    def resume_readonly(self, standing: Standing, since: float) -> None:
        """It was unexpectedly read-only in an earlier run, and is until it is seen writable."""
        self.readonly_since = since
        self.writable.add(standing.place)
        self.health.readonly = True

    def remounted(self, standing: Standing, since: float | None, now: float) -> list[Transition]:
        """It stands, and is good, where a dead mount stood that had failed since then."""
        if since is None or standing.show_only:
            return []
        return [Transition(Kind.STALE, Change.REMOUNTED, subject_of(self.superblock, [standing]), now, since)]

    def show_only_changed(self, before: bool, now: float) -> list[Transition]:
        """The rules have changed: what is stale already is told from now on, or ends being told."""
        if not self.standings or self.show_only == before:
            return []
        if self.show_only:
            return self.gone(self.standings, now, "only shown from now on", told=True)
        return self.failing(now)

    def gone(self, gone: list[Standing], now: float, reason: str, *, told: bool = False) -> list[Transition]:
        """These places are gone; with the last of them, what was told of it ends, and that is no recovery."""
        if all(s.show_only for s in gone) and not told:
            return []
        subject, out = subject_of(self.superblock, gone), []
        change = Change.LEFT if self.standings and not told else Change.GONE
        if self.health.reach in ALARMED and self.health.failing_since is not None:
            out.append(Transition(Kind.STALE, change, subject, now, self.health.failing_since, reason=reason))
        if self.readonly_since is not None and change is Change.GONE:
            out.append(Transition(Kind.READONLY, Change.GONE, subject, now, self.readonly_since, reason=reason))
            self.readonly_since = None
        return out

    # ---- read-only

    def note_intent(self, place: Place, readonly: bool | None) -> None:
        """Who wants it mounted says how. Not if nobody does: then what was seen counts."""
        if readonly is True:
            self.writable.discard(place)
        elif readonly is False:
            self.writable.add(place)

    def is_readonly(self, standing: Standing) -> bool:
        return is_readonly(standing.mount) or bool(self.health.readonly)

    def is_unexpectedly_readonly(self, standing: Standing) -> bool:
        """It was writable here before, or the mount says rw and the superblock ro."""
        if not self.is_readonly(standing):
            return False
        return standing.place in self.writable or not is_mounted_readonly(standing.mount)


def subject_of(superblock: Superblock, standings: Iterable[Standing]) -> Subject:
    listed = list(standings)
    options = ",".join((listed[0].mount.options, listed[0].mount.super_options))
    names = {s.place.namespace: s.container.name for s in listed if s.container is not None}
    return Subject(superblock, tuple(s.place for s in listed), options, tuple(names.items()))
