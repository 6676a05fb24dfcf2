"""What the word of a probe, or its silence, makes of a watched mount, and what that changes for others.

Where mounts stand is the tracker's matter; when one is asked next is `schedule`'s, how one observation moves
its health `health`'s.
"""

from __future__ import annotations

from watcher.core.departed import Departed
from watcher.core.health import ALARMED, FAILING, REFUSALS
from watcher.core.mountinfo import is_mounted_readonly
from watcher.core.restored import Answered
from watcher.core.roster import Roster
from watcher.core.schedule import VOID_RETRY, next_probe
from watcher.core.watched import Watched
from watcher.model import (
    Change,
    Probe,
    ProbeReport,
    Reach,
    Stage,
    StillWedged,
    Transition,
    Verdict,
    Wedged,
)

MAX_DEFERRED = 3  # reports in a row that wait for the verdict on a mount on the way
SETTLED = frozenset({Reach.OK, Reach.DENIED})  # until somebody uses it again


class Judge:
    """Of every mount on the roster."""

    def __init__(self, roster: Roster, departed: Departed, answered: Answered, *, grace_until: float) -> None:
        """`grace_until`: nothing becomes stale before it."""
        self._roster = roster
        self._departed = departed
        self._answered = answered
        self._grace_until = grace_until

    def started(self, probe: Probe, now: float) -> None:
        """It is being asked."""
        if watched := self._roster.get(probe.superblock):
            watched.asked = probe
            if probe.deep:
                watched.deep_at = now

    def reported(self, report: ProbeReport, now: float) -> list[Transition]:
        """A probe has ended."""
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
            self._roster.doubt(probe.place.namespace)
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
        if watched.has_another_way(report, self._roster.reachable(watched)):
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
            report = report._replace(readonly=None)  # statfs tells of the mount as well: nothing of other places
        health.observe(report, watched.pace, now, self._grace_until)
        watched.next_at = next_probe(
            health.reach, watched.pace, started=report.started, now=now, failing_since=health.failing_since
        )
        watched.used = health.reach not in SETTLED
        out = self._changed(watched, before, now)
        if health.reach is Reach.OK and before is not Reach.OK:
            for standing in watched.standings:
                self._answered.note(watched, standing)
                out += self._departed.answers(standing.place, now)
            if before in ALARMED:
                self._hurry_kin(watched, now)
            for kin in self._roster.of_same_name(watched):
                out += self.failing(kin, now, Change.JOINED)  # what is left of it is another matter now
        if health.reach is not before and health.reach in FAILING:
            for namespace in {s.place.namespace for s in watched.standings}:
                self._roster.release_behind(namespace)
        return out + watched.check_readonly(now)

    def failing(self, watched: Watched, now: float, change: Change) -> list[Transition]:
        """That it is stale, if it is, with what the host's own mount of it says of that."""
        return [self._explained(t, watched) for t in watched.failing(now, change)]

    def _changed(self, watched: Watched, before: Reach, now: float) -> list[Transition]:
        return [self._explained(t, watched) for t in watched.changed_from(before, now)]

    def _explained(self, transition: Transition, watched: Watched) -> Transition:
        return transition._replace(context=self._roster.context(watched))

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

    def freed(self, wedged: Wedged, now: float) -> None:
        """What hung there has ended."""
        for watched in self._roster:
            if watched.wedged == wedged:
                watched.wedged = watched.wedged_since = None
                watched.next_at = now

    def still_wedged(self, event: StillWedged, now: float) -> list[Transition]:
        """A probe of an earlier run hangs in it."""
        watched = self._roster.get(event.superblock)
        if watched is None or watched.wedged is not None or watched.health.reach not in (Reach.UNKNOWN, Reach.STALE):
            return []
        watched.wedged, watched.wedged_since = event.wedged, event.since
        if (before := watched.health.reach) is Reach.STALE:
            return []  # known from an earlier run
        watched.health.fail_since(event.since, "an earlier probe still hangs in it")
        watched.health.elapse(watched.pace, now, self._grace_until)
        return self._changed(watched, before, now)

    def elapsed(self, now: float) -> list[Transition]:
        """What has had no good answer for too long by now."""
        out = []
        for watched in self._roster:
            before = watched.health.reach
            watched.health.elapse(watched.pace, now, self._grace_until)
            out += self._changed(watched, before, now)
        return out

    def overslept(self) -> None:
        """We stood still: the time that has passed says nothing of them."""
        for watched in self._roster:
            if watched.wedged is None:  # what still hangs in a wedged thread has been looked at
                watched.health.void()

    def stood_still(self, namespace: str) -> None:
        """Its container was frozen: what its own file systems did just before may have been that already."""
        for watched in self._roster.inside(namespace):
            if self._roster.thaws_at(watched) is not None:
                watched.health.void()
                watched.health.forget_failure()

    def _hurry_kin(self, recovered: Watched, now: float) -> None:
        """When a mount is back, ask at once what it stood in front of, and the other mounts of its server."""
        server = recovered.server
        for watched in self._roster:
            if watched.next_at <= now or watched.health.reach not in (Reach.STALE, Reach.SUSPECT, Reach.UNKNOWN):
                continue
            kin = server is not None and server == watched.server
            if kin or any(recovered.superblock in s.below for s in watched.standings):
                watched.next_at = now
