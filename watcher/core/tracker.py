"""The whole picture: events in, transitions out, probes due.

It composes `places`, `watched`, `schedule` and `departed`, and knows neither how tables are read, nor
how probes are run, nor who is told.
"""

from __future__ import annotations

from collections.abc import Iterable

from watcher.core.departed import Departed
from watcher.core.filters import Filter
from watcher.core.health import ALARMED, FAILING, Health
from watcher.core.places import Standing, arrange
from watcher.core.schedule import VOID_RETRY, next_probe
from watcher.core.showing import state_of
from watcher.core.watched import Watched, subject_of
from watcher.model import (
    Event,
    Mount,
    MountState,
    NamespaceGone,
    Overslept,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    Reach,
    Stage,
    StillWedged,
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
MAX_MISSED = 2  # times in a row that another mount answered in its place, after which it is unknown
MAX_DEFERRED = 3  # reports in a row that wait for the verdict on a mount on the way
SLACK = 0.05  # seconds: probes due this soon join the sweep that starts now
UNMOUNTED = "unmounted"

Identity = tuple[Place, str, str, str]  # place, root, fstype, source: what a mount is over a reboot


class Tracker:
    """Every watched mount of every namespace."""

    def __init__(self, chosen: Filter, *, grace_until: float = 0.0) -> None:
        """`grace_until`: nothing becomes stale before it."""
        self._filter = chosen
        self._grace_until = grace_until
        self._tables: dict[str, tuple[Mount, ...]] = {}
        self._watched: dict[Superblock, Watched] = {}
        self._absent: set[Place] = set()  # gone by one reading of the table, not yet by a second
        self._departed = Departed()
        self._answered: set[Identity] = set()  # ever, also in an earlier run
        self._rereads: set[str] = set()

    # ---- what the shell asks

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in; give what changed by it."""
        match event:
            case TableRead():
                self._tables[event.namespace] = event.mounts
                return self._arrange(event.namespace, now, UNMOUNTED)
            case NamespaceGone():
                self._tables[event.namespace] = ()
                out = self._arrange(event.namespace, now, event.reason)
                del self._tables[event.namespace]
                return out
            case ProbeStarted():
                self._started(event.probe, now)
            case ProbeReport():
                return self._reported(event, now)
            case ThreadGone():
                self._freed(event.wedged, now)
            case StillWedged():
                return self._still_wedged(event, now)
            case Tick():
                return self._elapsed(now)
            case Overslept():
                # What still hangs in a wedged thread has been looked at; of the rest the time tells nothing.
                for watched in self._watched.values():
                    if watched.wedged is None:
                        watched.health.void()
            case TableUnreadable():
                pass  # the last table stands until it can be read again
        return []

    def configure(self, chosen: Filter, now: float) -> list[Transition]:
        """Watch by other rules from now on; what was known of a mount stays known."""
        self._filter = chosen
        out = [t for namespace in list(self._tables) for t in self._arrange(namespace, now, "no longer watched")]
        for watched in self._watched.values():
            watched.next_at = min(watched.next_at, now + watched.pace.interval)
        return out

    def restore_answered(self, known: Iterable[Identity]) -> None:
        """Mounts that an earlier run has seen answer."""
        self._answered.update(known)

    def answered(self) -> set[Identity]:
        """The mounts standing now that have ever answered."""
        return self._answered & {_identity(s) for w in self._watched.values() for s in w.standings}

    def due(self, now: float) -> list[Probe]:
        """The probes to start now."""
        probes = []
        crowded = self._crowded()
        for watched in self._watched.values():
            # Only what is well joins early: what fails is judged by the time since it was asked first.
            slack = 0.0 if watched.health.reach in FAILING else SLACK
            if watched.next_at > now + slack or not _may_ask(watched, crowded):
                continue
            if standing := watched.way(self._reachable(watched)):
                deep = watched.wants_deep(now)
                pace, mount = standing.pace, standing.mount
                probes.append(Probe(watched.superblock, standing.place, mount.mount_id, pace.timeout, deep))
        return probes

    def next_due(self) -> float | None:
        """When `due` or a Tick next has something to do."""
        times = []
        crowded = self._crowded()
        for watched in self._watched.values():
            if (overdue := watched.health.overdue_at(watched.pace, self._grace_until)) is not None:
                times.append(overdue)
            if _may_ask(watched, crowded) and watched.way(self._reachable(watched)):
                times.append(watched.next_at)
        return min(times, default=None)

    def take_rereads(self) -> set[str]:
        """The namespaces whose table must be read again soon, each named once."""
        wanted, self._rereads = self._rereads, set()
        return wanted

    def snapshot(self) -> list[MountState]:
        """Every watched place as it stands now."""
        crowded = self._crowded()
        return [self._state(w, s, crowded) for w in self._watched.values() for s in w.standings]

    # ---- tables

    def _arrange(self, namespace: str, now: float, reason: str) -> list[Transition]:
        """Bring what is watched in line with the namespace's table; `reason` is why mounts may be gone."""
        found = {s.place: s for s in arrange(namespace, self._tables[namespace], self._filter)}
        out: list[Transition] = []
        absent: set[Place] = set()
        for watched in list(self._watched.values()):
            show_only, gone = watched.show_only, list[Standing]()
            for standing in [s for s in watched.standings if s.place.namespace == namespace]:
                there = found.get(standing.place)
                if there is not None and there.superblock == watched.superblock:
                    watched.standings[watched.standings.index(standing)] = found.pop(standing.place)
                elif there is None and reason == UNMOUNTED and standing.place not in self._absent:
                    # A table that changes while it is read can miss a line: gone is what is gone twice.
                    absent.add(standing.place)
                else:
                    gone.append(standing)
            out += self._left(watched, gone, now, reason, replaced={s.place for s in gone if s.place in found})
            out += watched.show_only_changed(show_only, now)
        for standing in found.values():
            out += self._arrived(standing, now)
        self._absent = {p for p in self._absent if p.namespace != namespace} | absent
        if absent:
            self._rereads.add(namespace)
        self._release_behind()
        return out + [t for watched in self._watched.values() for t in watched.check_readonly(now)]

    def _arrived(self, standing: Standing, now: float) -> list[Transition]:
        watched = self._watched.get(standing.superblock)
        if watched is None:
            health = Health(answered=_identity(standing) in self._answered)
            watched = self._watched[standing.superblock] = Watched(standing.superblock, health, now)
        elif watched.lost_way:
            watched.next_at = now  # another way to it
        watched.standings.append(standing)
        since = self._departed.replaced(standing.place, now)
        if watched.health.reach is Reach.OK:
            # Another place of what is known to be good: the answer is there already.
            self._answered.add(_identity(standing))
            return watched.remounted(standing, since, now) + self._departed.answers(standing.place, now)
        if since is not None:
            watched.replaces_since = since
        return []

    def _left(
        self, watched: Watched, gone: list[Standing], now: float, reason: str, *, replaced: set[Place]
    ) -> list[Transition]:
        """A mount no longer stands in these places, or, in the `replaced` ones, something else does."""
        health, out = watched.health, list[Transition]()
        was_good = reason == UNMOUNTED and health.reach is Reach.OK
        for standing in gone:
            place = standing.place
            watched.leave(standing)
            if health.reach in ALARMED and health.failing_since is not None:
                self._departed.died(place, health.failing_since, now)
            elif was_good and place not in replaced and not standing.show_only:
                out += self._departed.vanished(place, subject_of(watched.superblock, [standing]), now)
        if not watched.standings:
            out += watched.gone(gone, now, reason)
            del self._watched[watched.superblock]
        return out

    # ---- probes

    def _started(self, probe: Probe, now: float) -> None:
        if watched := self._watched.get(probe.superblock):
            watched.asked = probe
            if probe.deep:
                watched.deep_at = now

    def _reported(self, report: ProbeReport, now: float) -> list[Transition]:
        probe = report.probe
        watched = self._watched.get(probe.superblock)
        if watched is None:
            return []  # unmounted meanwhile
        if report.wedged is not None:
            watched.wedged, watched.wedged_since = report.wedged, report.started
        if watched.asked != probe:
            return []  # of the mount that stood there before
        watched.asked = None
        if report.verdict is Verdict.NOT_THIS_MOUNT:
            self._rereads.add(probe.place.namespace)
            watched.missed += 1
            watched.next_at = now + min(watched.missed, 10) * VOID_RETRY / 2
            return []
        if report.verdict is Verdict.VOID:
            watched.health.void()
            watched.void_note = report.note
            watched.next_at = now + VOID_RETRY
            return []
        watched.missed, watched.void_note = 0, ""
        if self._is_blamed_on_the_way(watched, report):
            watched.health.void()
            watched.next_at = now + VOID_RETRY
            return []
        if self._lost_way(watched, report):
            watched.next_at = now  # its other places may still be reached
            return []
        if report.verdict is not Verdict.ANSWERED:
            watched.fails_deep = report.stage is Stage.DEEP
        elif probe.deep:
            watched.fails_deep = False
        return self._judged(watched, report, now)

    def _judged(self, watched: Watched, report: ProbeReport, now: float) -> list[Transition]:
        health, before = watched.health, watched.health.reach
        health.observe(report, watched.pace, now, self._grace_until)
        watched.next_at = next_probe(
            health.reach, watched.pace, started=report.started, now=now, failing_since=health.failing_since
        )
        out = watched.changed_from(before, now)
        if health.reach is Reach.OK and before is not Reach.OK:
            for standing in watched.standings:
                self._answered.add(_identity(standing))
                out += self._departed.answers(standing.place, now)
            if before in ALARMED:
                self._hurry_kin(watched, now)
        if health.reach is not before:
            self._release_behind()
        return out + watched.check_readonly(now)

    def _is_blamed_on_the_way(self, watched: Watched, report: ProbeReport) -> bool:
        """Whether the probe did not get there while a mount that it had to cross fails, or may be about to."""
        if report.stage is not Stage.WALK:
            watched.deferred = 0
            return False
        below = [b for s in watched.standings if s.place == report.probe.place for b in s.below]
        ahead = [over for b in below if (over := self._watched.get(b)) is not None and over is not watched]
        if any(over.wedged or over.health.reach in FAILING for over in ahead):
            return True
        watched.deferred += 1
        return watched.deferred <= MAX_DEFERRED and any(over.asked for over in ahead)

    def _lost_way(self, watched: Watched, report: ProbeReport) -> bool:
        """Whether the probe failed on the way only, and there is another way."""
        if report.stage is not Stage.WALK:
            watched.lost_way.clear()
            return False
        watched.lost_way.add(report.probe.place)
        if any(s.place not in watched.lost_way for s in self._reachable(watched)):
            return True
        watched.lost_way = {report.probe.place}  # all are lost; the next probe tries another all the same
        return False

    def _freed(self, wedged: Wedged, now: float) -> None:
        for watched in self._watched.values():
            if watched.wedged == wedged:
                watched.wedged = watched.wedged_since = None
                watched.next_at = now

    def _still_wedged(self, event: StillWedged, now: float) -> list[Transition]:
        watched = self._watched.get(event.superblock)
        if watched is None or watched.wedged is not None:
            return []
        watched.wedged, watched.wedged_since = event.wedged, event.since
        before = watched.health.reach
        watched.health.fail_since(event.since, "an earlier probe still hangs in it")
        watched.health.elapse(watched.pace, now, self._grace_until)
        return watched.changed_from(before, now)

    def _elapsed(self, now: float) -> list[Transition]:
        out = []
        for watched in self._watched.values():
            before = watched.health.reach
            watched.health.elapse(watched.pace, now, self._grace_until)
            out += watched.changed_from(before, now)
        return out

    def _hurry_kin(self, recovered: Watched, now: float) -> None:
        """When a mount is back, ask at once what it stood in front of, and the other mounts of its server."""
        server = recovered.server
        for watched in self._watched.values():
            if watched.next_at <= now or watched.health.reach not in (Reach.STALE, Reach.SUSPECT, Reach.UNKNOWN):
                continue
            kin = server is not None and server == watched.server
            if kin or any(recovered.superblock in s.below for s in watched.standings):
                watched.next_at = now

    # ---- what may be asked

    def _crowded(self) -> bool:
        return sum(1 for w in self._watched.values() if w.wedged) >= MAX_WEDGED

    def _reachable(self, watched: Watched) -> list[Standing]:
        """The places at which it may be asked."""
        return [
            s for s in watched.standings if not s.idles_out and s.place not in self._absent and self._behind(s) is None
        ]

    def _behind(self, standing: Standing) -> Watched | None:
        """The failing mount that a walk to it would cross."""
        for superblock in standing.below:
            over = self._watched.get(superblock)
            if over and superblock != standing.superblock and (over.wedged or over.health.reach in FAILING):
                return over
        return None

    def _release_behind(self) -> None:
        """What only fails because a mount in front of it does is not judged."""
        for watched in self._watched.values():
            if watched.health.reach is Reach.SUSPECT and all(self._behind(s) for s in watched.standings):
                watched.health.forget_failure()

    def _state(self, watched: Watched, standing: Standing, crowded: bool) -> MountState:
        over = self._behind(standing)
        if over and watched.health.reach in ALARMED and not watched.lost_way:
            over = None  # it failed by itself before
        reason = ""
        if crowded and watched.health.reach is Reach.UNKNOWN:
            reason = f"not probed: {MAX_WEDGED} probes hang already"
        elif watched.missed > MAX_MISSED and watched.health.reach in (Reach.UNKNOWN, Reach.OK):
            reason = "another mount stands in its place or in its way"
        elif watched.health.reach is Reach.UNKNOWN:
            reason = watched.void_note
        return state_of(watched, standing, over.standings[0].place if over else None, reason)


def _may_ask(watched: Watched, crowded: bool) -> bool:
    if watched.asked is not None or watched.wedged is not None:
        return False
    return not (crowded and watched.health.reach is Reach.UNKNOWN)


def _identity(standing: Standing) -> Identity:
    superblock = standing.superblock
    return standing.place, superblock.root, superblock.fstype, superblock.source
