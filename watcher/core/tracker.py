"""The whole picture: events in, transitions out, probes due.

It composes `places`, `watched`, `schedule` and `departed`, and knows neither how tables are read, nor
how probes are run, nor who is told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from watcher.core import ondemand
from watcher.core.departed import Departed
from watcher.core.filters import Filter, server_of
from watcher.core.health import ALARMED, FAILING, REFUSALS, Health
from watcher.core.mountinfo import is_mounted_readonly
from watcher.core.places import Standing, arrange
from watcher.core.restored import Restored, identity_of, known_of
from watcher.core.roster import MAX_WEDGED, Roster, may_ask
from watcher.core.saved import Identity, Known
from watcher.core.schedule import VOID_RETRY, next_probe
from watcher.core.showing import show
from watcher.core.watched import Watched, subject_of
from watcher.model import (
    Asked,
    Change,
    Event,
    ExpectedRead,
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
    Subject,
    Superblock,
    TableRead,
    TableUnreadable,
    ThreadGone,
    Tick,
    Transition,
    UseRead,
    Verdict,
    Wedged,
)

MAX_ANSWERED = 10_000  # of which it is remembered, containers' included
MAX_DEFERRED = 3  # reports in a row that wait for the verdict on a mount on the way
SLACK = 0.05  # seconds: probes due this soon join the sweep that starts now
UNMOUNTED = "unmounted"
SETTLED = frozenset({Reach.OK, Reach.DENIED})  # until somebody uses it again


class Tracker:
    """Every watched mount of every namespace."""

    def __init__(self, chosen: Filter, *, grace_until: float = 0.0) -> None:
        """`grace_until`: nothing becomes stale before it."""
        self._filter = chosen
        self._grace_until = grace_until
        self._tables: dict[str, TableRead] = {}
        self._roster = Roster()
        self._left_out: dict[str, int] = {}
        self._absent: set[Place] = set()  # gone by one reading of the table, not yet by a second
        self._departed = Departed()
        self._restored = Restored()
        self._answered: set[Identity] = set()  # ever, also in an earlier run
        self._rereads: set[str] = set()
        self._meant_readonly: dict[Place, bool] = {}  # by who wants it mounted

    # ---- what the shell asks

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in; give what changed by it."""
        match event:
            case TableRead():
                self._tables[event.namespace] = event
                return self._arrange(event.namespace, now, UNMOUNTED)
            case NamespaceGone():
                self._tables[event.namespace] = TableRead(event.namespace, ())
                out = self._arrange(event.namespace, now, event.reason)
                del self._tables[event.namespace]
                return out + self._departed.namespace_gone(event.namespace, now, event.reason)
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
            case ExpectedRead():
                return self._expected(event, now)
            case UseRead():
                ondemand.note_use(self._idle(now), self._roster, event, now)
            case Overslept():
                # What still hangs in a wedged thread has been looked at; of the rest the time tells nothing.
                for watched in self._roster:
                    if watched.wedged is None:
                        watched.health.void()
            case TableUnreadable():
                pass  # the last table stands until it can be read again
        return []

    def configure(self, chosen: Filter, now: float) -> list[Transition]:
        """Watch by other rules from now on; what was known of a mount stays known."""
        self._filter = chosen
        out = [t for namespace in list(self._tables) for t in self._arrange(namespace, now, "no longer watched")]
        for watched in self._roster:
            watched.next_at = min(watched.next_at, now + watched.pace.interval)
        return out

    def restore_answered(self, known: Iterable[Identity]) -> None:
        """Mounts that an earlier run has seen answer."""
        self._answered.update(known)

    def restore(self, known: Mapping[Identity, Known], missed: Iterable[tuple[Subject, float]] = ()) -> None:
        """What an earlier run knew, by this run's clock. `missed`: what had vanished, and since when."""
        self.restore_answered(i for i, k in known.items() if k.answered)
        self._restored.take(known)
        for subject, since in missed:
            self._departed.restore(subject, since)

    def answered(self) -> set[Identity]:
        """The mounts standing now that have ever answered."""
        return self._answered & {identity_of(s) for w in self._roster for s in w.standings}

    def known(self) -> dict[Identity, Known]:
        """What a later run should know of the mounts standing now, by this run's clock."""
        return {
            identity: known_of(w, s, answered=identity in self._answered)
            for w in self._roster
            for s in w.standings
            for identity in (identity_of(s),)
        }

    def due(self, now: float) -> list[Probe]:
        """The probes to start now."""
        probes = []
        crowded = self._roster.crowded()
        for watched in self._roster:
            # Only what is well joins early: what fails is judged by the time since it was asked first.
            slack = 0.0 if watched.health.reach in FAILING else SLACK
            if watched.next_at > now + slack or not may_ask(watched, crowded) or self._roster.is_frozen(watched, now):
                continue
            if standing := watched.way(self._roster.reachable(watched, self._absent)):
                probes.append(watched.probe(standing, deep=watched.wants_deep(now)))
        return probes

    def ask_now(self, place: Place, now: float) -> Asked | None:
        """Let the mount in this place be due at once; None if none is watched there."""
        found = ((w, s) for w in self._roster.inside(place.namespace) for s in w.standings if s.place == place)
        watched, standing = next(found, (None, None))
        if watched is None or standing is None:
            return None
        if watched.wedged is not None:
            return Asked(False, "an earlier probe still hangs in it; it is asked again once that has ended")
        if watched.asked is not None:
            return Asked(True)
        if not may_ask(watched, self._roster.crowded()):
            return Asked(False, f"not probed: {MAX_WEDGED} probes hang already")
        if (over := self._roster.behind(standing)) is not None:
            return Asked(False, f"a mount in front of it fails: {over.standings[0].place}")
        if self._roster.is_frozen(watched, now):
            return Asked(False, "its container is frozen (a backup does that)")
        if not self._roster.reachable(watched, self._absent):
            return Asked(False, ondemand.NOT_ASKED if standing.idles_out else "it is about to be unmounted")
        watched.next_at = now
        return Asked(True)

    def superblocks(self) -> Collection[Superblock]:
        """All that are watched."""
        return {w.superblock for w in self._roster}

    def wants_use(self, now: float) -> bool:
        """Whether a UseRead is to come before `due` is asked."""
        return bool(self._idle(now))

    def next_due(self) -> float | None:
        """When `due`, a Tick or a UseRead next has something to do."""
        due = self._departed.next_due()
        soonest = math.inf if due is None else due
        crowded = self._roster.crowded()
        for watched in self._roster:
            if (overdue := watched.health.overdue_at(watched.pace, self._grace_until)) is not None:
                soonest = min(soonest, overdue)
            # Whether it may be asked costs more to know, and of most it is of no interest.
            if watched.next_at >= soonest or not may_ask(watched, crowded):
                continue
            if self._roster.reachable(watched, self._absent) or ondemand.is_idle(watched):
                soonest = min(soonest, max(watched.next_at, self._roster.thaws_at(watched) or 0.0))
        return None if soonest == math.inf else soonest

    def take_rereads(self) -> set[str]:
        """The namespaces whose table must be read again soon, each named once."""
        wanted, self._rereads = self._rereads, set()
        return wanted

    def snapshot(self) -> list[MountState]:
        """Every watched place as it stands now."""
        crowded = self._roster.crowded()
        return [show(self._roster, w, s, crowded=crowded) for w in self._roster for s in w.standings]

    def kin(self, superblocks: Collection[Superblock]) -> list[MountState]:
        """As `snapshot`, of these and of the other mounts of their servers."""
        servers = {server_of(s.fstype, s.source) for s in superblocks} - {None}
        crowded = self._roster.crowded()
        return [
            show(self._roster, w, s, crowded=crowded)
            for w in self._roster
            if w.superblock in superblocks or server_of(w.superblock.fstype, w.superblock.source) in servers
            for s in w.standings
        ]

    def places(self, namespace: str) -> dict[Place, Mount]:
        """What is watched in this namespace."""
        return {
            s.place: s.mount
            for watched in self._roster.inside(namespace)
            for s in watched.standings
            if s.place.namespace == namespace
        }

    def namespaces(self) -> list[str]:
        """Those whose tables are known."""
        return list(self._tables)

    def left_out(self) -> dict[str, int]:
        """By namespace: mounts that are not watched since there are too many."""
        return dict(self._left_out)

    def _idle(self, now: float) -> list[Watched]:
        """What is due if it has been used."""
        crowded = self._roster.crowded()
        return [w for w in self._roster if w.next_at <= now and ondemand.is_idle(w) and may_ask(w, crowded)]

    # ---- tables

    def _arrange(self, namespace: str, now: float, reason: str) -> list[Transition]:
        """Bring what is watched in line with the namespace's table; `reason` is why mounts may be gone."""
        table = self._tables[namespace]
        frozen_now = self._roster.note_container(namespace, table.container, now)
        arrangement = arrange(namespace, table.mounts, self._filter, table.container)
        self._note_left_out(namespace, arrangement.left_out)
        found = {s.place: s for s in arrangement.standings}
        out: list[Transition] = []
        absent: set[Place] = set()
        for watched in self._roster.inside(namespace):
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
        self._roster.rearranged(namespace)
        inside = self._roster.inside(namespace)
        if frozen_now:
            self._stand_still(inside)
        self._roster.release_behind(namespace)
        return out + [t for watched in inside for t in watched.check_readonly(now)]

    def _note_left_out(self, namespace: str, count: int) -> None:
        self._left_out.pop(namespace, None)
        if count:
            self._left_out[namespace] = count

    def _stand_still(self, inside: list[Watched]) -> None:
        """Their container was frozen: what its own file systems did just before may have been that already."""
        for watched in inside:
            if self._roster.thaws_at(watched) is not None:
                watched.health.void()
                watched.health.forget_failure()

    def _arrived(self, standing: Standing, now: float) -> list[Transition]:
        watched = self._roster.get(standing.superblock)
        if watched is None:
            health = Health(answered=identity_of(standing) in self._answered)
            watched = Watched(standing.superblock, health, now)
        elif watched.lost_way:
            watched.next_at = now  # another way to it
        was_shown_only = bool(watched.standings) and watched.show_only
        self._roster.join(watched, standing)
        watched.note_intent(standing.place, self._meant_readonly.get(standing.place))
        since = self._departed.replaced(standing.place, now)
        if resumed := self._restored.resume(watched, standing, now):
            return resumed
        if watched.health.reach is Reach.OK:
            # Another place of what is known to be good: the answer is there already.
            self._note_answer(watched, standing)
            return watched.remounted(standing, since, now) + self._departed.answers(standing.place, now)
        if since is not None:
            watched.replaces_since = since
        # If it fails: there, too.
        return self._failing(watched, now, Change.BEGAN if was_shown_only else Change.JOINED)

    def _note_answer(self, watched: Watched, standing: Standing) -> None:
        # Not what a container serves itself: it can make new ones for ever.
        if standing.container is None or (not watched.is_fuse and len(self._answered) < MAX_ANSWERED):
            self._answered.add(identity_of(standing))

    def _left(
        self, watched: Watched, gone: list[Standing], now: float, reason: str, *, replaced: set[Place]
    ) -> list[Transition]:
        """A mount no longer stands in these places, or, in the `replaced` ones, something else does."""
        health, out = watched.health, list[Transition]()
        was_good = reason == UNMOUNTED and health.reach is Reach.OK
        for standing in gone:
            place = standing.place
            self._roster.leave(watched, standing)
            if health.reach in ALARMED and health.failing_since is not None:
                self._departed.died(place, health.failing_since, now)
            elif was_good and place not in replaced and not standing.show_only and not standing.idles_out:
                out += self._departed.vanished(place, subject_of(watched.superblock, [standing]), now)
        return out + watched.gone(gone, now, reason) if gone else out

    def _expected(self, event: ExpectedRead, now: float) -> list[Transition]:
        """What is meant to be written to, or not to be, whatever was seen of it."""
        meant = {e.place: e.readonly for e in reversed(event.expected) if e.readonly is not None}
        changed = {p for p in meant.keys() | self._meant_readonly.keys() if meant.get(p) != self._meant_readonly.get(p)}
        self._meant_readonly, out = meant, list[Transition]()
        for watched in self._roster if changed else ():
            if any(s.place in changed for s in watched.standings):
                for standing in watched.standings:
                    watched.note_intent(standing.place, self._meant_readonly.get(standing.place))
                out += [_meant(t) for t in watched.check_readonly(now)]
        return out

    # ---- probes

    def _started(self, probe: Probe, now: float) -> None:
        if watched := self._roster.get(probe.superblock):
            watched.asked = probe
            if probe.deep:
                watched.deep_at = now

    def _reported(self, report: ProbeReport, now: float) -> list[Transition]:
        probe = report.probe
        watched = self._roster.get(probe.superblock)
        if watched is None:
            return []  # unmounted meanwhile
        if report.wedged is not None:
            watched.wedged, watched.wedged_since = report.wedged, report.started
        if watched.asked != probe:
            return []  # of the mount that stood there before
        watched.asked = None
        if report.verdict is Verdict.NOT_THIS_MOUNT:
            self._rereads.add(probe.place.namespace)
            watched.missed_at(probe.place, now)
            return []
        still = report.verdict is not Verdict.ANSWERED and self._roster.is_frozen(watched, now)
        if report.verdict is Verdict.VOID or still:
            watched.learned_nothing(report, now)
            return []
        watched.missed, watched.voids, watched.void_note = 0, 0, ""
        if probe.user_namespace and report.errno in REFUSALS and not watched.refused_inside:
            watched.refused_inside = True  # a bind of the host's own, perhaps: ask as the host
            watched.next_at = now
            return []
        if not probe.user_namespace and report.verdict is not Verdict.ANSWERED:
            watched.refused_inside = False  # the host is none the wiser: ask inside again
        if self._is_blamed_on_the_way(watched, report):
            watched.health.void()
            watched.next_at = now + VOID_RETRY
            return []
        if watched.has_another_way(report, self._roster.reachable(watched, self._absent)):
            watched.next_at = now  # its other places may still be reached
            return []
        if report.verdict is not Verdict.ANSWERED:
            watched.fails_deep = report.stage is Stage.DEEP
        elif probe.deep:
            watched.fails_deep = False
        return self._judged(watched, report, now)

    def _judged(self, watched: Watched, report: ProbeReport, now: float) -> list[Transition]:
        health, before = watched.health, watched.health.reach
        asked_at = next((s for s in watched.standings if s.place == report.probe.place), None)
        if asked_at is not None and is_mounted_readonly(asked_at.mount):
            report = replace(report, readonly=None)  # statfs tells of the mount as well: nothing of other places
        health.observe(report, watched.pace, now, self._grace_until)
        watched.next_at = next_probe(
            health.reach, watched.pace, started=report.started, now=now, failing_since=health.failing_since
        )
        watched.used = health.reach not in SETTLED
        out = self._changed(watched, before, now)
        if health.reach is Reach.OK and before is not Reach.OK:
            for standing in watched.standings:
                self._note_answer(watched, standing)
                out += self._departed.answers(standing.place, now)
            if before in ALARMED:
                self._hurry_kin(watched, now)
            for kin in self._roster.of_same_name(watched):
                out += self._failing(kin, now, Change.JOINED)  # what is left of it is another matter now
        if health.reach is not before and health.reach in FAILING:
            for namespace in {s.place.namespace for s in watched.standings}:
                self._roster.release_behind(namespace)
        return out + watched.check_readonly(now)

    def _changed(self, watched: Watched, before: Reach, now: float) -> list[Transition]:
        return [self._explained(t, watched) for t in watched.changed_from(before, now)]

    def _failing(self, watched: Watched, now: float, change: Change) -> list[Transition]:
        return [self._explained(t, watched) for t in watched.failing(now, change)]

    def _explained(self, transition: Transition, watched: Watched) -> Transition:
        return replace(transition, context=self._roster.context(watched))

    def _is_blamed_on_the_way(self, watched: Watched, report: ProbeReport) -> bool:
        """Whether the probe did not get there while a mount that it had to cross fails, or may be about to."""
        if report.stage is not Stage.WALK:
            watched.deferred = 0
            return False
        below = [b for s in watched.standings if s.place == report.probe.place for b in s.below]
        ahead = [over for b in below if (over := self._roster.get(b)) is not None and over is not watched]
        if any(over.wedged or over.health.reach in FAILING for over in ahead):
            return True
        watched.deferred += 1
        return watched.deferred <= MAX_DEFERRED and any(over.asked for over in ahead)

    def _freed(self, wedged: Wedged, now: float) -> None:
        for watched in self._roster:
            if watched.wedged == wedged:
                watched.wedged = watched.wedged_since = None
                watched.next_at = now

    def _still_wedged(self, event: StillWedged, now: float) -> list[Transition]:
        watched = self._roster.get(event.superblock)
        if watched is None or watched.wedged is not None or watched.health.reach not in (Reach.UNKNOWN, Reach.STALE):
            return []
        watched.wedged, watched.wedged_since = event.wedged, event.since
        if (before := watched.health.reach) is Reach.STALE:
            return []  # known from an earlier run
        watched.health.fail_since(event.since, "an earlier probe still hangs in it")
        watched.health.elapse(watched.pace, now, self._grace_until)
        return self._changed(watched, before, now)

    def _elapsed(self, now: float) -> list[Transition]:
        out = []
        for watched in self._roster:
            before = watched.health.reach
            watched.health.elapse(watched.pace, now, self._grace_until)
            out += self._changed(watched, before, now)
        return out + self._departed.elapsed(now)

    def _hurry_kin(self, recovered: Watched, now: float) -> None:
        """When a mount is back, ask at once what it stood in front of, and the other mounts of its server."""
        server = recovered.server
        for watched in self._roster:
            if watched.next_at <= now or watched.health.reach not in (Reach.STALE, Reach.SUSPECT, Reach.UNKNOWN):
                continue
            kin = server is not None and server == watched.server
            if kin or any(recovered.superblock in s.below for s in watched.standings):
                watched.next_at = now


def _meant(transition: Transition) -> Transition:
    """What ends since it is meant so has not become writable."""
    if transition.change is not Change.ENDED:
        return transition
    return replace(transition, change=Change.GONE, reason="meant to be read-only")
