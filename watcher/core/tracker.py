"""Every watched mount: events in, transitions out, probes due.

Brings what is watched in line with the mount tables; of the rest it composes `judge`, `due`, `departed` and
`restored`. It knows neither how tables are read, nor how probes are run, nor who is told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from watcher.core import due, ondemand
from watcher.core.departed import Departed
from watcher.core.filters import Filter, server_of
from watcher.core.health import ALARMED, Health
from watcher.core.judge import Judge
from watcher.core.known import Identity, Known
from watcher.core.places import Standing, arrange
from watcher.core.restored import Answered, Restored, identity_of, known_of
from watcher.core.roster import Roster
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
    StillWedged,
    Subject,
    Superblock,
    TableRead,
    TableUnreadable,
    ThreadGone,
    Tick,
    Transition,
    UseRead,
)

UNMOUNTED = "unmounted"


class Tracker:
    """Every watched mount of every namespace."""

    def __init__(self, chosen: Filter, *, grace_until: float = 0.0) -> None:
        """`grace_until`: nothing becomes stale before it."""
        self._filter = chosen
        self._grace_until = grace_until
        self._tables: dict[str, TableRead] = {}
        self._roster = Roster()
        self._left_out: dict[str, int] = {}
        self._departed = Departed()
        self._restored = Restored()
        self._answered = Answered()
        self._judge = Judge(self._roster, self._departed, self._answered, grace_until=grace_until)
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
                self._judge.started(event.probe, now)
            case ProbeReport():
                return self._judge.reported(event, now)
            case ThreadGone():
                self._judge.freed(event.wedged, now)
            case StillWedged():
                return self._judge.still_wedged(event, now)
            case Tick():
                return self._judge.elapsed(now) + self._departed.elapsed(now)
            case ExpectedRead():
                return self._expected(event, now)
            case UseRead():
                ondemand.note_use(due.due_if_used(self._roster, now), self._roster, event, now)
            case Overslept():
                self._judge.overslept()
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
        return {i for w in self._roster for s in w.standings if (i := identity_of(s)) in self._answered}

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
        return due.due(self._roster, now)

    def ask_now(self, place: Place, now: float) -> Asked | None:
        """Let the mount in this place be due at once; None if none is watched there."""
        return due.ask_now(self._roster, place, now)

    def superblocks(self) -> Collection[Superblock]:
        """All that are watched."""
        return {w.superblock for w in self._roster}

    def wants_use(self, now: float) -> bool:
        """Whether a UseRead is to come before `due` is asked."""
        return bool(due.due_if_used(self._roster, now))

    def next_due(self) -> float | None:
        """When `due`, a Tick or a UseRead next has something to do."""
        departed = self._departed.next_due()
        soonest = min(due.next_due(self._roster, self._grace_until), math.inf if departed is None else departed)
        return None if soonest == math.inf else soonest

    def take_rereads(self) -> set[str]:
        """The namespaces whose table must be read again soon, each named once."""
        return self._roster.take_doubted()

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
                elif there is None and reason == UNMOUNTED and not self._roster.is_absent(standing.place):
                    # A table that changes while it is read can miss a line: gone is what is gone twice.
                    absent.add(standing.place)
                else:
                    gone.append(standing)
            out += self._left(watched, gone, now, reason, replaced={s.place for s in gone if s.place in found})
            out += watched.show_only_changed(show_only, now)
        for standing in found.values():
            out += self._arrived(standing, now)
        self._roster.note_absent(namespace, absent)
        self._roster.rearranged(namespace)
        if frozen_now:
            self._judge.stood_still(namespace)
        self._roster.release_behind(namespace)
        return out + [t for watched in self._roster.inside(namespace) for t in watched.check_readonly(now)]

    def _note_left_out(self, namespace: str, count: int) -> None:
        self._left_out.pop(namespace, None)
        if count:
            self._left_out[namespace] = count

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
            self._answered.note(watched, standing)
            return watched.remounted(standing, since, now) + self._departed.answers(standing.place, now)
        if since is not None:
            watched.replaces_since = since
        # If it fails: there, too.
        return self._judge.failing(watched, now, Change.BEGAN if was_shown_only else Change.JOINED)

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


def _meant(transition: Transition) -> Transition:
    """What ends since it is meant so has not become writable."""
    if transition.change is not Change.ENDED:
        return transition
    return transition._replace(change=Change.GONE, reason="meant to be read-only")
