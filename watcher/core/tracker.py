"""The whole picture: events in, transitions out, probes due.

It composes `places`, `health` and `schedule` and owns nothing that they could. It does not know
how tables are read, how probes are run, or who is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from watcher.core.filters import Filter
from watcher.core.health import ALARMED, FAILING, Health
from watcher.core.places import Standing, arrange
from watcher.core.schedule import VOID_RETRY, next_probe
from watcher.model import (
    Cause,
    Change,
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
    Reach,
    Stage,
    StillWedged,
    Subject,
    Superblock,
    TableRead,
    TableUnreadable,
    ThreadGone,
    Tick,
    Transition,
    Verdict,
    Wedged,
)

MAX_WEDGED = 64  # stuck threads in all, above which mounts never asked before are left alone
REMEMBER_DEPARTED = 600.0  # how long a dead mount that was taken away is remembered, to say "remounted"
SLACK = 0.05  # probes due this soon join the sweep that starts now
# Their statfs is answered by something nearer than the data: also read the directory now and then.
_NEARER = ("ceph", "fuse")


@dataclass(slots=True)
class _Watched:
    """One superblock and all that belongs to it."""

    standings: list[Standing]
    health: Health
    next_at: float
    asked: Probe | None = None  # in flight
    wedged: Wedged | None = None
    wedged_since: float | None = None
    deep_at: float = float("-inf")  # when the last deep probe was started
    lost_way: set[Place] = field(default_factory=set)  # places that could not be walked to since the last answer
    missed: int = 0  # times in a row that something else stood there
    replaces_since: float | None = None  # a dead mount stood in its place, failing since then
    writable: set[Place] = field(default_factory=set)  # places once seen writable
    readonly_since: float | None = None  # unexpectedly so

    @property
    def pace(self) -> Pace:
        return self.standings[0].pace

    @property
    def show_only(self) -> bool:
        return all(s.show_only for s in self.standings)


class Tracker:
    """Every watched mount of every namespace."""

    def __init__(self, chosen: Filter, *, grace_until: float = 0.0) -> None:
        self._filter = chosen
        self._grace_until = grace_until
        self._tables: dict[str, tuple[Mount, ...]] = {}
        self._watched: dict[Superblock, _Watched] = {}
        self._absent: set[Place] = set()  # gone by one reading of the table, not yet by a second
        self._departed: dict[Place, tuple[float, float]] = {}  # dead mounts taken away: (when, failing since)
        self._vanished: dict[Place, tuple[float, Subject]] = {}  # good mounts taken away
        self._answered: set[tuple[Place, str, str, str]] = set()
        self._rereads: set[str] = set()

    # ---- what the shell asks

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in; give what changed by it."""
        out: list[Transition] = []
        match event:
            case TableRead():
                out = self._table_read(event, now)
            case NamespaceGone():
                self._tables.pop(event.namespace, None)
                out = self._arrange(event.namespace, (), now, event.reason)
            case ProbeStarted():
                out = self._started(event.probe, now)
            case ProbeReport():
                out = self._reported(event, now)
            case ThreadGone():
                out = self._freed(event.wedged, now)
            case StillWedged():
                out = self._still_wedged(event, now)
            case TableUnreadable():
                pass  # the last table stands until it can be read again
            case Tick():
                out = self._elapsed(now)
        return out

    def configure(self, chosen: Filter, now: float) -> list[Transition]:
        """Watch by other rules from now on; what was known of a mount stays known."""
        self._filter = chosen
        out: list[Transition] = []
        for namespace, mounts in list(self._tables.items()):
            out += self._arrange(namespace, mounts, now, "no longer watched", confirmed=True)
        return out

    def restore_answered(self, known: Iterable[tuple[Place, str, str, str]]) -> None:
        """Mounts (place, root, fstype, source) that an earlier run has seen answer."""
        self._answered.update(known)

    def due(self, now: float) -> list[Probe]:
        """The probes to start now."""
        probes = []
        stuck = sum(1 for w in self._watched.values() if w.wedged)
        for superblock, watched in self._watched.items():
            if watched.next_at > now + SLACK or not self._may_ask(watched, stuck):
                continue
            standing = self._way_to(watched)
            if standing is None:
                continue
            deep = superblock.fstype.split(".")[0] in _NEARER and now - watched.deep_at >= standing.pace.deep_interval
            probes.append(Probe(superblock, standing.place, standing.mount.mount_id, standing.pace.timeout, deep))
        return probes

    def next_due(self) -> float | None:
        """When `due` or a Tick next has something to do."""
        times = []
        stuck = sum(1 for w in self._watched.values() if w.wedged)
        for watched in self._watched.values():
            if (overdue := watched.health.overdue_at(watched.pace, self._grace_until)) is not None:
                times.append(overdue)
            if self._may_ask(watched, stuck) and self._way_to(watched) is not None:
                times.append(watched.next_at)
        return min(times, default=None)

    def take_rereads(self) -> set[str]:
        """The namespaces whose table must be read again soon, each named once."""
        wanted, self._rereads = self._rereads, set()
        return wanted

    def snapshot(self) -> list[MountState]:
        """Every watched place as it stands now."""
        stuck = sum(1 for w in self._watched.values() if w.wedged)
        return [self._state(w, s, stuck) for w in self._watched.values() for s in w.standings]

    def answered(self) -> set[tuple[Place, str, str, str]]:
        """What `restore_answered` of the next run wants to know: of the mounts that stand now."""
        return {
            _identity(s)
            for w in self._watched.values()
            for s in w.standings
            if w.health.answered or _identity(s) in self._answered
        }

    def watches(self, superblock: Superblock) -> bool:
        return superblock in self._watched

    # ---- events

    def _table_read(self, event: TableRead, now: float) -> list[Transition]:
        self._tables[event.namespace] = event.mounts
        return self._arrange(event.namespace, event.mounts, now, "unmounted")

    def _arrange(
        self, namespace: str, mounts: tuple[Mount, ...], now: float, reason: str, *, confirmed: bool = False
    ) -> list[Transition]:
        found = arrange(namespace, mounts, self._filter)
        by_place = {s.place: s for s in found}
        confirmed = confirmed or reason not in ("unmounted",)
        out: list[Transition] = []
        absent = set()
        for superblock, watched in list(self._watched.items()):
            kept: list[Standing] = []
            for standing in watched.standings:
                place = standing.place
                now_there = by_place.get(place)
                if place.namespace != namespace:
                    kept.append(standing)
                elif now_there is not None and now_there.superblock == superblock:
                    kept.append(now_there)
                    del by_place[place]
                elif now_there is None and not confirmed and place not in self._absent:
                    # Gone by one reading only: a table that changes while it is read can miss a line.
                    absent.add(place)
                    kept.append(standing)
                else:
                    out += self._left(watched, standing, superblock, now, reason, replaced=now_there is not None)
            if kept:
                watched.standings = kept
            else:
                out += self._gone(watched, superblock, now, reason)
                del self._watched[superblock]
        for standing in by_place.values():
            self._arrived(standing, now)
        self._absent = {p for p in self._absent if p.namespace != namespace} | absent
        if absent:
            self._rereads.add(namespace)
        for watched in self._watched.values():
            out += self._check_readonly(watched, now)
        self._release_behind()
        self._departed = {p: d for p, d in self._departed.items() if now - d[0] < REMEMBER_DEPARTED}
        return out

    def _arrived(self, standing: Standing, now: float) -> None:
        watched = self._watched.get(standing.superblock)
        if watched is None:
            health = Health(answered=_identity(standing) in self._answered)
            watched = self._watched[standing.superblock] = _Watched([], health, next_at=now)
        elif watched.lost_way:
            watched.next_at = now  # another way to it
        watched.standings.append(standing)
        if departed := self._departed.pop(standing.place, None):
            watched.replaces_since = departed[1]

    def _left(
        self, watched: _Watched, standing: Standing, superblock: Superblock, now: float, reason: str, *, replaced: bool
    ) -> list[Transition]:
        """A mount no longer stands in this place."""
        place, health = standing.place, watched.health
        watched.lost_way.discard(place)
        watched.writable.discard(place)
        if health.reach in ALARMED and health.failing_since is not None:
            self._departed[place] = (now, health.failing_since)
        elif not replaced and reason == "unmounted" and health.reach is Reach.OK and not standing.show_only:
            subject = _subject(superblock, [standing])
            self._vanished[place] = (now, subject)
            return [Transition(Kind.VANISHED, Change.BEGAN, subject, now, now, Cause.VANISHED, "no longer mounted")]
        return []

    def _gone(self, watched: _Watched, superblock: Superblock, now: float, reason: str) -> list[Transition]:
        """The last place of a superblock is gone."""
        health, out = watched.health, []
        if watched.show_only:
            return []
        subject = _subject(superblock, watched.standings)
        if health.reach in ALARMED and health.failing_since is not None:
            out.append(Transition(Kind.STALE, Change.GONE, subject, now, health.failing_since, reason=reason))
        if watched.readonly_since is not None:
            out.append(Transition(Kind.READONLY, Change.GONE, subject, now, watched.readonly_since, reason=reason))
        return out

    def _started(self, probe: Probe, now: float) -> list[Transition]:
        if watched := self._watched.get(probe.superblock):
            watched.asked = probe
            if probe.deep:
                watched.deep_at = now
        return []

    def _reported(self, report: ProbeReport, now: float) -> list[Transition]:
        probe = report.probe
        watched = self._watched.get(probe.superblock)
        if watched is None:
            return []  # unmounted meanwhile
        watched.asked = None
        if report.wedged is not None:
            watched.wedged, watched.wedged_since = report.wedged, report.started
        health, pace = watched.health, watched.pace
        if report.verdict is Verdict.NOT_THIS_MOUNT:
            self._rereads.add(probe.place.namespace)
            watched.missed += 1
            watched.next_at = now + min(watched.missed, 10) * VOID_RETRY / 2
            return []
        if report.verdict is Verdict.VOID:
            health.void()
            watched.next_at = now + VOID_RETRY
            return []
        watched.missed = 0
        if report.stage is Stage.WALK:
            watched.lost_way.add(probe.place)
            if self._way_to(watched, fresh=True) is not None:
                watched.next_at = now  # its other places may still be reached
                return []
        else:
            watched.lost_way.clear()
        before = health.reach
        health.observe(report, pace, now, self._grace_until)
        out = self._changed(watched, probe.superblock, before, now)
        self._release_behind()
        if before in ALARMED and health.reach is Reach.OK:
            self._hurry_kin(watched, now)
        watched.next_at = next_probe(
            health.reach, pace, started=report.started, now=now, failing_since=health.failing_since
        )
        return out + self._check_readonly(watched, now)

    def _freed(self, wedged: Wedged, now: float) -> list[Transition]:
        for watched in self._watched.values():
            if watched.wedged == wedged:
                watched.wedged = watched.wedged_since = None
                watched.next_at = now
        return []

    def _still_wedged(self, event: StillWedged, now: float) -> list[Transition]:
        watched = self._watched.get(event.superblock)
        if watched is None or watched.wedged is not None:
            return []
        watched.wedged, watched.wedged_since = event.wedged, event.since
        before = watched.health.reach
        watched.health.fail_since(event.since, "an earlier probe still hangs in it")
        watched.health.elapse(watched.pace, now, self._grace_until)
        return self._changed(watched, event.superblock, before, now)

    def _elapsed(self, now: float) -> list[Transition]:
        out = []
        for superblock, watched in self._watched.items():
            before = watched.health.reach
            watched.health.elapse(watched.pace, now, self._grace_until)
            out += self._changed(watched, superblock, before, now)
        return out

    # ---- judgement

    def _changed(self, watched: _Watched, superblock: Superblock, before: Reach, now: float) -> list[Transition]:
        """The transition that lies in a step of the health, if it is one that matters."""
        health = watched.health
        if watched.show_only or health.reach is before:
            return []
        subject = _subject(superblock, watched.standings)
        out: list[Transition] = []
        if health.reach is Reach.STALE and before not in ALARMED:
            since = health.failing_since if health.failing_since is not None else now
            out.append(
                Transition(Kind.STALE, Change.BEGAN, subject, now, since, health.cause, health.error, health.stack)
            )
        elif health.reach is Reach.OK:
            if before in ALARMED:
                out.append(Transition(Kind.STALE, Change.ENDED, subject, now, now))
            elif watched.replaces_since is not None:
                out.append(Transition(Kind.STALE, Change.REMOUNTED, subject, now, watched.replaces_since))
            watched.replaces_since = None
            for standing in watched.standings:
                if vanished := self._vanished.pop(standing.place, None):
                    out.append(Transition(Kind.VANISHED, Change.ENDED, vanished[1], now, vanished[0]))
        return out

    def _check_readonly(self, watched: _Watched, now: float) -> list[Transition]:
        """Unexpectedly read-only: it was writable here before, or the mount says rw and the superblock ro."""
        unexpected = [s for s in watched.standings if self._is_unexpectedly_readonly(watched, s)]
        watched.writable.update(s.place for s in watched.standings if not _is_readonly(s.mount, watched.health))
        if watched.show_only or bool(unexpected) == (watched.readonly_since is not None):
            return []
        superblock = watched.standings[0].superblock
        if unexpected:
            watched.readonly_since = now
            subject = _subject(superblock, unexpected)
            return [Transition(Kind.READONLY, Change.BEGAN, subject, now, now, error="became read-only")]
        since, watched.readonly_since = watched.readonly_since, None
        subject = _subject(superblock, watched.standings)
        return [Transition(Kind.READONLY, Change.ENDED, subject, now, since or now)]

    @staticmethod
    def _is_unexpectedly_readonly(watched: _Watched, standing: Standing) -> bool:
        mount, health = standing.mount, watched.health
        if not _is_readonly(mount, health):
            return False
        return standing.place in watched.writable or "ro" not in mount.options.split(",")

    def _may_ask(self, watched: _Watched, stuck: int) -> bool:
        if watched.asked is not None or watched.wedged is not None:
            return False
        return stuck < MAX_WEDGED or watched.health.reach is not Reach.UNKNOWN

    def _way_to(self, watched: _Watched, *, fresh: bool = False) -> Standing | None:
        """The place to ask at: the first that nothing dead lies in front of."""
        open_ones = [s for s in watched.standings if not s.idles_out and self._behind(s) is None]
        for standing in open_ones:
            if standing.place not in watched.lost_way and standing.place not in self._absent:
                return standing
        if fresh:
            return None
        return next((s for s in open_ones if s.place not in self._absent), None)

    def _behind(self, standing: Standing) -> Superblock | None:
        for superblock in standing.below:
            over = self._watched.get(superblock)
            if over and superblock != standing.superblock and (over.wedged or over.health.reach in FAILING):
                return superblock
        return None

    def _release_behind(self) -> None:
        """What only fails because a mount above it does is not judged."""
        for watched in self._watched.values():
            if watched.health.reach is Reach.SUSPECT and all(self._behind(s) for s in watched.standings):
                watched.health.forget_failure()

    def _hurry_kin(self, recovered: _Watched, now: float) -> None:
        """When a mount is back, ask at once those that it stood in front of, and those of the same source."""
        host = recovered.standings[0].superblock.source.partition(":")[0]
        for watched in self._watched.values():
            if watched.asked or watched.health.reach not in (Reach.STALE, Reach.SUSPECT, Reach.UNKNOWN):
                continue
            if watched.standings[0].superblock.source.partition(":")[0] == host or any(
                s.below for s in watched.standings
            ):
                watched.next_at = min(watched.next_at, now)

    # ---- showing

    def _state(self, watched: _Watched, standing: Standing, stuck: int) -> MountState:
        health, behind = watched.health, self._behind(standing)
        readonly = _is_readonly(standing.mount, health)
        unexpected = self._is_unexpectedly_readonly(watched, standing)
        reach, error = health.reach, health.error
        status = _STATUS[reach]
        blocker: Place | None = None
        if behind is not None and (reach not in ALARMED or watched.lost_way):
            blocker = self._watched[behind].standings[0].place
            reach, status, error = Reach.UNKNOWN, "unknown", f"behind {blocker}"
        elif standing.idles_out and reach is Reach.UNKNOWN:
            reach, status = Reach.DENIED, "denied"
            error = "mounted on demand with an idle time-out: not asked, so that it can idle out"
        elif reach is Reach.UNKNOWN and stuck >= MAX_WEDGED:
            error = f"not probed: {stuck} probes hang already"
        elif reach is Reach.UNKNOWN and watched.missed > 2:
            error = "another mount stands in its place or in its way"
        elif status == "ok" and readonly:
            status = "readonly"
        failing = reach in FAILING
        return MountState(
            place=standing.place,
            mount=standing.mount,
            reach=reach,
            status=status,
            cause=health.cause if failing else None,
            error=error,
            since=health.failing_since if failing else health.reached_at,
            latency=health.latency if reach is Reach.OK else None,
            usage=health.usage if reach is Reach.OK else None,
            readonly=readonly,
            unexpected_readonly=unexpected,
            show_only=standing.show_only,
            behind=blocker,
            stacked=standing.stacked,
            stack=health.stack,
            wedged_since=watched.wedged_since,
        )


_STATUS = {
    Reach.UNKNOWN: "unknown",
    Reach.OK: "ok",
    Reach.SUSPECT: "slow",
    Reach.STALE: "stale",
    Reach.RECOVERING: "stale",
    Reach.DENIED: "denied",
}


def _identity(standing: Standing) -> tuple[Place, str, str, str]:
    """What a mount is over a reboot, where device numbers are dealt anew."""
    s = standing.superblock
    return standing.place, s.root, s.fstype, s.source


def _subject(superblock: Superblock, standings: Iterable[Standing]) -> Subject:
    listed = list(standings)
    return Subject(
        superblock,
        tuple(s.place for s in listed),
        ",".join((listed[0].mount.options, listed[0].mount.super_options)) if listed else "",
    )


def _is_readonly(mount: Mount, health: Health) -> bool:
    if "ro" in mount.options.split(",") or "ro" in mount.super_options.split(","):
        return True
    return bool(health.readonly)
