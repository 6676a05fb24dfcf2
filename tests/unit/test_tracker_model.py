"""The tracker over a simulated machine: whatever happens to mounts, what it says must be possible."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.mounts import ROOT, Loop, answered, failed, mount, other_mount, table, timed_out, void, watching
from watcher.core.mountinfo import is_below
from watcher.core.places import superblock_of
from watcher.core.tracker import Tracker
from watcher.model import (
    HOST,
    Change,
    Event,
    Kind,
    Mount,
    Pace,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    Reach,
    Stage,
    Superblock,
    ThreadGone,
    Transition,
    Verdict,
    Wedged,
)

pytestmark = pytest.mark.timeout(900)  # thousands of steps, on a machine that may have others to do

PACE = Pace()
ASKED_WITHIN = 31.0  # seconds: a probe out for 8 s, then the longest pause there is, and something over
SLOTS = ("/mnt/a", "/mnt/a/b", "/mnt/c")
BIND = "/srv/bind"  # of what stands at /mnt/c


@dataclass
class Past:
    """What was seen of one superblock since it was mounted."""

    begun: set[Kind | Place] = field(default_factory=set)  # of what vanished: the place
    failing: list[ProbeReport] = field(default_factory=list)  # since the last good answer
    good: list[tuple[float, ProbeReport]] = field(default_factory=list)  # since the last failure: when it came
    out: bool = False  # a probe is in flight
    wedged: Wedged | None = None
    ready_since: float = 0.0  # since when it can be asked
    places: int = 1


class Machine(RuleBasedStateMachine):
    """Mounts at three directories, one below another, and a bind mount."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop(Tracker(watching(pace=PACE)))
        self.loop.before_event = self.note_event
        self.loop.after_event = self.check_transitions
        self.mode: dict[Superblock, str] = {}
        self.past: dict[Superblock, Past] = {}
        self.numbers = iter(range(100, 10**9))
        self.late = 0.0

    # ---- the machine

    @initialize()
    def start(self) -> None:
        self.loop.mounted()

    @property
    def mounts(self) -> list[Mount]:
        return self.loop.mounts

    def at(self, point: str) -> Mount | None:
        return next((m for m in self.mounts if m.mount_point == point), None)

    def answer(self, asked: Probe, now: float) -> tuple[ProbeReport, float]:
        """What the probe will bring, by how things stand when it starts."""
        ahead = [m for m in self.mounts if is_below(asked.place.mount_point, m.mount_point)]
        if any(self.mode[superblock_of(m)] in ("silent", "wedged") for m in ahead):
            return timed_out(asked, now, stage=Stage.WALK), asked.timeout + self.late
        if any(self.mode[superblock_of(m)] != "good" for m in ahead):
            return failed(asked, now, stage=Stage.WALK), 0.01
        there = self.at(asked.place.mount_point)
        if there is None or there.mount_id != asked.mount_id:
            return other_mount(asked, now), 0.01
        match self.mode[asked.superblock]:
            case "good":
                return answered(asked, now), 0.02
            case "eio":
                return failed(asked, now), 0.02
            case "refused":
                return failed(asked, now, errno.EACCES), 0.02
            case "lost":
                return failed(asked, now, errno.ENOENT, stage=Stage.WALK), 0.02
            case "void":
                return void(asked, now), 3.0
            case "wedged":
                thread = Wedged(1, 1, next(self.numbers))
                return timed_out(asked, now, wedged=thread), asked.timeout + self.late
            case mode:
                assert mode == "silent"
                return timed_out(asked, now), asked.timeout + self.late

    def fresh(self, point: str, mode: str) -> Mount:
        number = next(self.numbers)
        parent = self.at("/mnt/a") if point == "/mnt/a/b" else None
        made = mount(
            point,
            mount_id=number,
            parent=parent.mount_id if parent else ROOT.mount_id,
            device=f"0:{number}",
            source=f"nas0{len(point) % 2}:{point}",
        )
        self.mode[superblock_of(made)] = mode
        self.past[superblock_of(made)] = Past(ready_since=self.loop.now)
        self.loop.answers[superblock_of(made)] = self.answer
        return made

    def changed(self, mounts: list[Mount]) -> None:
        self.loop.mounts = mounts
        for one in mounts:
            self.past[superblock_of(one)].places = sum(1 for m in mounts if superblock_of(m) == superblock_of(one))
        self.loop.later(0.05, None)

    # ---- what happens to it

    modes = st.sampled_from(["good", "good", "silent", "wedged", "eio", "refused", "lost", "void"])

    @rule(point=st.sampled_from(SLOTS), mode=modes)
    def mounts_anew(self, point: str, mode: str) -> None:
        """Mount there, in place of what stands there; that takes along what stands below it."""
        kept = [m for m in self.mounts if m.mount_point != point and not is_below(m.mount_point, point)]
        if point == "/mnt/c":
            kept = [m for m in kept if m.mount_point != BIND]
        self.changed([*kept, self.fresh(point, mode)])

    @rule(point=st.sampled_from((*SLOTS, BIND)))
    def unmounts(self, point: str) -> None:
        self.changed([m for m in self.mounts if m.mount_point != point and not is_below(m.mount_point, point)])

    @precondition(lambda self: self.at("/mnt/c") and not self.at(BIND))
    @rule()
    def binds(self) -> None:
        original = self.at("/mnt/c")
        assert original is not None
        self.changed([*self.mounts, original._replace(mount_point=BIND, mount_id=next(self.numbers))])

    @rule(point=st.sampled_from(SLOTS))
    def gets_another_id(self, point: str) -> None:
        """As after `mount --move` and back: the same superblock in the same place."""
        if (there := self.at(point)) and not [m for m in self.mounts if m.parent_id == there.mount_id]:
            again = there._replace(mount_id=next(self.numbers))
            self.changed([again if m is there else m for m in self.mounts])

    @precondition(lambda self: self.loop.mounts)
    @rule(data=st.data(), mode=modes)
    def server_changes(self, data: st.DataObject, mode: str) -> None:
        chosen = superblock_of(data.draw(st.sampled_from(self.mounts)))
        self.mode[chosen] = mode

    @precondition(lambda self: self.loop.mounts)
    @rule(data=st.data())
    def a_reading_misses_a_line(self, data: st.DataObject) -> None:
        """One: that a second one misses it too is as good as gone."""
        self.loop.handle(table(*self.mounts))
        missed = data.draw(st.sampled_from(self.mounts))
        self.loop.handle(table(*(m for m in self.mounts if m is not missed)))
        self.loop.run(0.06)

    @rule(data=st.data())
    def a_thread_ends(self, data: st.DataObject) -> None:
        hanging = [past.wedged for past in self.past.values() if past.wedged]
        if hanging:
            self.loop.handle(ThreadGone(data.draw(st.sampled_from(hanging))))

    @rule(late=st.sampled_from([0.0, 0.2, 3.0]))
    def reports_come_late(self, late: float) -> None:
        self.late = late

    @rule(seconds=st.sampled_from([0.06, 0.5, 1.0, 4.0, 6.0, 21.0, 60.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.run(min(5.0, end - self.loop.now))
            self.check_asked()

    @rule()
    def all_is_well_again(self) -> None:
        """Then everything is ok soon, and nothing remains open."""
        self.late = 0.0
        for superblock, past in self.past.items():
            self.mode[superblock] = "good"
            if past.wedged:
                self.loop.handle(ThreadGone(past.wedged))
        self.time_passes(60.0)
        for past in list(self.past.values()):
            if past.wedged:  # by a probe that was out
                self.loop.handle(ThreadGone(past.wedged))
        self.time_passes(60.0)
        states = {s.place.mount_point: s.status for s in self.loop.tracker.snapshot()}
        assert states == {m.mount_point: "ok" for m in self.mounts}
        still = {matter for past in self.past.values() for matter in past.begun}
        assert still.isdisjoint({Kind.STALE, *(Place(HOST, m.mount_point) for m in self.mounts)})

    # ---- what must hold

    def note_event(self, event: Event) -> None:
        match event:
            case ProbeStarted(probe):
                past = self.past[probe.superblock]
                assert not past.out, "two probes at once"
                assert past.wedged is None, "asked while a probe hangs in it"
                past.out = True
            case ProbeReport(probe):
                past = self.past[probe.superblock]
                past.out = False
                if self.is_watched(probe.superblock):
                    self.note_report(past, event)
            case ThreadGone(thread):
                for past in self.past.values():
                    if past.wedged == thread:
                        past.wedged, past.ready_since = None, self.loop.now
            case _:
                pass

    def note_report(self, past: Past, report: ProbeReport) -> None:
        if report.wedged:
            past.wedged = report.wedged
        if report.verdict is Verdict.ANSWERED:
            past.good.append((self.loop.now, report))
            past.failing.clear()
        elif report.verdict in (Verdict.FAILED, Verdict.TIMED_OUT):
            if report.stage is not Stage.WALK or (past.places == 1 and not self.has_others_on_the_way(report)):
                past.good.clear()
            past.failing.append(report)

    def has_others_on_the_way(self, report: ProbeReport) -> bool:
        """Whether a walk that fails may be another mount's failure."""
        return any(is_below(report.probe.place.mount_point, m.mount_point) for m in self.mounts)

    def is_watched(self, superblock: Superblock) -> bool:
        return any(superblock_of(s.mount) == superblock for s in self.loop.tracker.snapshot())

    def check_transitions(self, transitions: list[Transition]) -> None:
        for t in transitions:
            past = self.past[t.subject.superblock]
            matter = t.subject.places[0] if t.kind is Kind.VANISHED else t.kind
            if t.change is Change.BEGAN:
                assert matter not in past.begun, "alarmed twice"
                past.begun.add(matter)
                if t.kind is Kind.STALE:
                    self.check_alarm(t, past)
            elif t.change is Change.REMOUNTED:
                assert t.kind not in past.begun, "remounted is what stands in the place of another"
                assert past.good
            elif t.change in (Change.JOINED, Change.LEFT):
                assert matter in past.begun, "goes on, and never began"
            else:
                assert matter in past.begun, "ended what never began"
                past.begun.remove(matter)
                if (t.kind, t.change) == (Kind.STALE, Change.ENDED):
                    starts = [report.started for _, report in past.good]
                    assert len(starts) >= 2, "ended without two good probes"
                    assert starts[-1] - starts[0] >= 0.9, "two good probes, but not a second apart"

    def check_alarm(self, t: Transition, past: Past) -> None:
        assert past.failing, "alarmed although the last answer was good"
        lasted = self.loop.now - past.failing[0].started
        silent = all(r.verdict is Verdict.TIMED_OUT for r in past.failing)
        assert lasted >= (PACE.alarm_after if silent else PACE.alarm_after_error) - 1e-6, "alarmed too soon"
        assert t.since >= past.failing[0].started
        assert t.at == self.loop.now

    def check_asked(self) -> None:
        """Whatever stands there and can be asked is asked, however it has fared."""
        now = self.loop.now
        ready: set[Superblock] = set()
        standing = {(m.mount_point, m.mount_id) for m in self.mounts}
        states = self.loop.tracker.snapshot()
        failing = [
            s.place.mount_point
            for s in states
            # What fails and then tells nothing is shown as unknown, and still stands in the way.
            if s.status in ("slow", "stale") or s.wedged_since is not None or self.past[superblock_of(s.mount)].failing
        ]
        for state in states:
            point = state.place.mount_point
            if (point, state.mount.mount_id) in standing and not any(is_below(point, other) for other in failing):
                ready.add(superblock_of(state.mount))
        last = {probe.superblock: at for at, probe in self.loop.asked}
        for superblock, past in self.past.items():
            if superblock not in ready or past.wedged or past.out or self.mode[superblock] in ("silent", "wedged"):
                past.ready_since = now
            elif self.is_watched(superblock):
                waited = now - max(last.get(superblock, 0.0), past.ready_since)
                assert waited <= ASKED_WITHIN, "not asked any more"

    @invariant()
    def what_is_shown_is_possible(self) -> None:
        due = self.loop.tracker.next_due()
        assert due is None or due >= 0
        for state in self.loop.tracker.snapshot():
            past = self.past[superblock_of(state.mount)]
            if state.reach in (Reach.STALE, Reach.RECOVERING):
                assert Kind.STALE in past.begun, "shown as stale, never told"
                assert state.since is not None
            if state.status == "ok":
                assert past.good
                assert Kind.STALE not in past.begun
            assert (state.status == "unknown") >= (state.behind is not None)


TestTracker = Machine.TestCase
TestTracker.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining takes too long
)
