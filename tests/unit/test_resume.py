"""What a run takes up from the one before: incidents, what was stale, and clocks."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.mounts import answered, failed, mount, place, subject, table, timed_out, transition, watching
from watcher.core.incident import Condition, Incident
from watcher.core.incidents import Incidents
from watcher.core.known import Known
from watcher.core.outbox import Told, Topic, news_of
from watcher.core.resume import incidents_of
from watcher.core.saved import Saved, State
from watcher.core.tracker import Tracker
from watcher.model import Change, Kind, Probe, ProbeStarted, Reach, Transition

WALL = 1_800_000_000.0
NAS = mount("/mnt/nas", device="0:50")
IDENTITY = (place("/mnt/nas"), "/", "nfs4", "nas01:/data")
DOWN = {0: Condition.DOWN}


def incident(*changes: Change, at: float = 100.0, kind: Kind = Kind.STALE) -> Incident:
    incidents = Incidents()
    found = None
    for n, change in enumerate(changes):
        made = transition(change, subject("/mnt/nas"), at=at + n, kind=kind, reason="unmounted")
        found = incidents.apply(made, now=at + n, wall=WALL + at + n)
    assert found is not None
    return found


def saved(found: Incident, *told: Told, at: float = 130.0) -> Saved:
    entries = {(f"channel {n}", found.number): entry for n, entry in enumerate(told)}
    return Saved(State(incidents={found.number: found}, told=entries), "a boot", WALL + at)


def probes(tracker: Tracker, now: float) -> list[Probe]:
    due = tracker.due(now)
    for probe in due:
        tracker.handle(ProbeStarted(probe), now)
    return due


# ---- incidents


def test_what_was_unmounted_at_the_very_end_is_looked_at_again() -> None:
    gone = incident(Change.BEGAN, Change.GONE)
    [found] = incidents_of(saved(gone, Told(DOWN, WALL)), rebooted=True)
    assert (found.closed, [m.condition for m in found.members]) == (None, [Condition.DOWN])


def test_what_was_told_as_unmounted_or_went_long_before_stays_so() -> None:
    gone = incident(Change.BEGAN, Change.GONE)
    assert incidents_of(saved(gone, Told({0: Condition.GONE}, WALL)), rebooted=True) == [gone]
    assert incidents_of(saved(gone, Told(DOWN, WALL), at=1000.0), rebooted=True) == [gone]


def test_mounts_that_vanish_while_the_host_goes_down_are_no_news_after_it_is_up() -> None:
    vanished = incident(Change.BEGAN, kind=Kind.VANISHED)
    assert incidents_of(saved(vanished), rebooted=True) == []
    assert incidents_of(saved(vanished), rebooted=False) == [vanished]
    assert incidents_of(saved(vanished, Told(DOWN, WALL)), rebooted=True) == [vanished]


def test_it_is_the_same_incident_with_another_device_number() -> None:
    incidents = Incidents([incident(Change.BEGAN)])
    [old] = incidents
    assert incidents.is_unconfirmed(old)
    anew = subject("/mnt/nas", device="0:77")
    found = incidents.apply(transition(Change.RESUMED, anew, at=5.0, since=2.0), now=5.0, wall=WALL + 500)
    assert found is not None
    assert (found.number, len(found.members), found.members[0].subject) == (old.number, 1, anew)
    assert (found.since, incidents.is_unconfirmed(found)) == (old.since, False)
    assert news_of(found, Told(DOWN, WALL), group_wait=3.0) is None
    ended = incidents.apply(transition(Change.ENDED, anew, at=9.0), now=9.0, wall=WALL + 504)
    assert ended is not None
    news = news_of(ended, Told(DOWN, WALL), group_wait=3.0)
    assert (news is not None and news.topic, len(list(incidents))) == (Topic.RECOVERED, 1)


def test_what_is_not_seen_again_is_gone() -> None:
    incidents = Incidents([incident(Change.BEGAN)])
    [gone] = incidents.give_up(WALL + 200, ["host"])
    assert (gone.closed, gone.members[0].condition, gone.members[0].reason) == (
        WALL + 200,
        Condition.GONE,
        "unmounted",
    )
    assert incidents.give_up(WALL + 300, ["host"]) == []


def test_what_is_there_but_no_longer_watched_was_not_unmounted() -> None:
    incidents = Incidents([incident(Change.BEGAN)])
    [gone] = incidents.give_up(WALL + 200, ["host"], {place("/mnt/nas")})
    assert gone.members[0].reason == "no longer watched"


def test_what_has_vanished_stays_so_until_it_is_seen() -> None:
    incidents = Incidents([incident(Change.BEGAN, kind=Kind.VANISHED)])
    assert incidents.give_up(WALL + 200, ["host"]) == []
    assert len(incidents.open) == 1


def test_a_clock_that_is_set_leaves_what_happened_as_long_ago() -> None:
    incidents = Incidents([incident(Change.BEGAN)])
    [before] = incidents
    incidents.shift(-3600.0)
    [after] = incidents
    assert after == replace(
        before,
        opened=before.opened - 3600,
        members=(replace(before.members[0], since=before.since - 3600, changed=before.members[0].changed - 3600),),
    )


# ---- the tracker


def test_what_was_stale_is_so_until_it_has_answered_twice() -> None:
    tracker = Tracker(watching())
    tracker.restore({IDENTITY: Known(True, Reach.STALE, -500.0, None, "Stale file handle (ESTALE)")})
    [resumed] = tracker.handle(table(NAS), 10.0)
    assert (resumed.change, resumed.since, resumed.error) == (Change.RESUMED, -500.0, "Stale file handle (ESTALE)")
    [state] = tracker.snapshot()
    assert (state.status, state.since) == ("stale", -500.0)
    out: list[Transition] = []
    for now in (10.0, 11.0):
        [probe] = probes(tracker, now)
        out += tracker.handle(answered(probe, now), now)
    assert [t.change for t in out] == [Change.ENDED]


def test_what_was_stale_and_still_is_begins_nothing() -> None:
    tracker = Tracker(watching())
    tracker.restore({IDENTITY: Known(True, Reach.STALE, -500.0)})
    tracker.handle(table(NAS), 10.0)
    [probe] = probes(tracker, 10.0)
    assert tracker.handle(timed_out(probe, 10.0), 15.0) == []
    assert tracker.known()[IDENTITY].since == -500.0


def test_what_was_well_and_died_alarms_in_its_time() -> None:
    tracker = Tracker(watching())
    tracker.restore({IDENTITY: Known(True, Reach.OK)})
    assert tracker.handle(table(NAS), 10.0) == []
    [probe] = probes(tracker, 10.0)
    assert tracker.handle(failed(probe, 10.0), 10.0) == []


def test_unexpectedly_read_only_is_so_until_it_is_seen_writable() -> None:
    tracker = Tracker(watching())
    tracker.restore({IDENTITY: Known(True, Reach.OK, readonly_since=-100.0)})
    [resumed] = tracker.handle(table(NAS), 10.0)
    assert (resumed.kind, resumed.change, resumed.since) == (Kind.READONLY, Change.RESUMED, -100.0)
    assert tracker.known()[IDENTITY].readonly_since == -100.0
    [probe] = probes(tracker, 10.0)
    [ended] = tracker.handle(answered(probe, 10.0), 10.0)
    assert (ended.kind, ended.change) == (Kind.READONLY, Change.ENDED)


def test_what_had_vanished_ends_when_it_is_back() -> None:
    about = subject("/mnt/nas", device="0:9")
    tracker = Tracker(watching())
    tracker.restore({}, [(about, -50.0)])
    assert tracker.handle(table(NAS), 10.0) == []
    [probe] = probes(tracker, 10.0)
    [ended] = tracker.handle(answered(probe, 10.0), 10.0)
    assert (ended.kind, ended.change, ended.subject) == (Kind.VANISHED, Change.ENDED, about)
