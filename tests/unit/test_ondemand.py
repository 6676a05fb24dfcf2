"""Mounts on autofs triggers with an idle time-out: asked while others use them, and so that they can idle out."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.mounts import Loop, answered, error, mount, silent, table, timed_out, void, watch, watching
from watcher.core.ondemand import NOT_ASKED
from watcher.core.places import superblock_of
from watcher.core.tracker import Tracker
from watcher.model import (
    Change,
    Container,
    Event,
    Kind,
    Probe,
    ProbeReport,
    ProbeStarted,
    ThreadGone,
    Tick,
    UseRead,
    Wedged,
)

TRIGGER = mount("/net", mount_id=30, device="0:30", fstype="autofs", source="auto", super_options="rw,timeout=300")
NAS = mount("/net/nas", parent=30, root="/a")
SIBLING = mount("/net/sib", mount_id=45, parent=30, root="/b")  # of the same file system: they share their counters
OTHER = mount("/net/other", mount_id=46, parent=30, device="0:60", source="nas02:/x")
SB = superblock_of(NAS)
BEGAN, ENDED, GONE = ((Kind.STALE, change) for change in (Change.BEGAN, Change.ENDED, Change.GONE))
WEDGED = Wedged(1, 1, 1)


def asked(loop: Loop, since: float = 0.0, point: str = "/net/nas") -> list[float]:
    """When it was asked."""
    return [round(at, 2) for at, probe in loop.asked if at >= since and probe.place.mount_point == point]


def known() -> Loop:
    """It has been asked once, after somebody has mounted it, and is idle by now (t = 60)."""
    loop = watch(TRIGGER, NAS)
    loop.run(60)
    assert asked(loop) == [0]
    return loop


def hung() -> Loop:
    """Somebody hangs in it; alarmed (t = 120)."""
    loop = known()
    loop.answers[SB] = silent
    loop.calls[NAS.device] += 1
    loop.run(60)
    assert loop.changes() == [BEGAN]
    return loop


# ---- nobody there


def test_it_is_asked_once_and_then_only_looked_at() -> None:
    loop = known()
    loop.run(3600)
    assert asked(loop) == [0]
    assert loop.states()["/net/nas"].status == "ok"
    assert loop.read_at == [float(at) for at in range(0, 3660 + 1, 10)]


def test_a_server_that_dies_while_nobody_is_there_is_nobodys_matter() -> None:
    loop = known()
    loop.answers[SB] = silent
    loop.run(3600)
    assert asked(loop) == [0]
    assert loop.transitions == []


def test_idling_out_is_no_loss() -> None:
    loop = known()
    loop.mounted(TRIGGER)
    loop.run(60)
    loop.mounted(TRIGGER, NAS._replace(mount_id=50, device="0:70"))
    loop.run(60)
    assert loop.transitions == []
    assert len(asked(loop)) == 2


def test_a_refusal_is_not_asked_on() -> None:
    loop = watch(TRIGGER, NAS)
    loop.answers[SB] = error(errno.EACCES)
    loop.run(600)
    assert asked(loop) == [0]
    assert loop.states()["/net/nas"].status == "denied"


# ---- somebody there


def test_who_uses_it_has_it_asked_within_an_interval() -> None:
    loop = known()
    loop.run(3)
    loop.calls[NAS.device] += 1
    loop.run(600)
    assert asked(loop, 1) == [70]


def test_while_it_is_used_it_is_asked_at_the_usual_pace() -> None:
    loop = known()
    for _ in range(10):
        loop.calls[NAS.device] += 1
        loop.run(10)
    assert asked(loop, 61) == [70.0 + 10 * n for n in range(10)]


def test_a_use_while_it_is_being_asked_is_not_lost() -> None:
    loop = known()
    loop.calls[NAS.device] += 1
    loop.run(10.005)  # the probe is out
    loop.calls[NAS.device] += 1
    loop.run(30)
    assert asked(loop, 61) == [70, 80]


def test_who_hangs_in_it_is_told_of_and_so_is_the_recovery() -> None:
    loop = hung()
    assert loop.transitions[0].since == 70
    loop.run(600)
    # Nothing more is counted: it is asked because it fails.
    assert len(asked(loop, 120)) > 600 / 16
    del loop.answers[SB]
    loop.run(30)
    assert loop.changes() == [BEGAN, ENDED]
    loop.run(600)
    assert len(asked(loop, 751)) == 0, "and then it may idle out"


def test_a_short_failure_leaves_no_trace() -> None:
    loop = known()
    loop.answers[SB] = error(errno.EIO)
    loop.calls[NAS.device] += 1
    loop.run(12)
    assert loop.states()["/net/nas"].status == "slow"
    del loop.answers[SB]
    loop.run(600)
    assert loop.transitions == []
    assert len(asked(loop, 61)) == 2


def test_a_dead_one_that_is_taken_away_is_gone() -> None:
    loop = hung()
    loop.mounted(TRIGGER)
    loop.run(1)
    assert loop.changes() == [BEGAN, GONE]


def test_a_probe_that_told_nothing_is_repeated() -> None:
    loop = known()
    answers = iter([void, void])

    def nothing_twice(probe: Probe, now: float) -> tuple[ProbeReport, float]:
        return next(answers, answered)(probe, now), 0.01

    loop.answers[SB] = nothing_twice
    loop.calls[NAS.device] += 1
    loop.run(600)
    assert len(asked(loop, 61)) == 3


def test_what_hangs_for_good_is_asked_again_when_its_thread_ends() -> None:
    loop = known()
    loop.answers[SB] = lambda probe, now: (timed_out(probe, now, wedged=WEDGED), probe.timeout)
    loop.calls[NAS.device] += 1
    loop.run(120)
    assert loop.changes() == [BEGAN]
    del loop.answers[SB]
    loop.handle(ThreadGone(WEDGED))
    loop.run(30)
    assert loop.changes() == [BEGAN, ENDED]


# ---- one file system in several places


def test_one_is_asked_for_all_that_share_their_counters() -> None:
    """Else whoever is in one of a server's homes would keep all of them."""
    loop = watch(TRIGGER, NAS, SIBLING, OTHER)
    loop.run(5)
    loop.calls[NAS.device] += 1
    loop.run(600)
    assert [asked(loop, 1, m.mount_point) for m in (NAS, SIBLING, OTHER)] == [[], [10], []]


def test_if_that_one_fails_the_others_are_asked_too() -> None:
    loop = watch(TRIGGER, NAS, SIBLING)
    loop.run(5)
    for one in (NAS, SIBLING):
        loop.answers[superblock_of(one)] = silent
    loop.calls[NAS.device] += 1
    loop.run(100)
    assert {p.mount_point for t in loop.transitions for p in t.subject.places} == {"/net/nas", "/net/sib"}
    loop.answers.clear()
    loop.run(100)
    assert loop.changes() == [BEGAN, BEGAN, ENDED, ENDED]
    loop.run(600)
    assert asked(loop, 205) == asked(loop, 205, "/net/sib") == []


def test_what_is_asked_in_any_case_is_asked_for_it() -> None:
    always = mount("/mnt/nas", mount_id=7, root="/c")
    loop = watch(TRIGGER, NAS, always)
    for _ in range(20):
        loop.calls[NAS.device] += 1
        loop.run(10)
    assert asked(loop) == [0]
    assert len(asked(loop, point="/mnt/nas")) >= 20


def test_where_another_place_leads_to_it_that_one_is_asked() -> None:
    loop = watch(TRIGGER, NAS, NAS._replace(mount_point="/srv/bind", mount_id=50, parent_id=1))
    loop.run(60)
    assert asked(loop) == []
    assert len(asked(loop, point="/srv/bind")) >= 6
    assert loop.read_at == []


# ---- what is never asked


@pytest.mark.parametrize("fstype", ["cifs", "fuse.sshfs", "ceph"])
def test_what_has_no_counters_is_not_asked(fstype: str) -> None:
    loop = watch(TRIGGER, NAS._replace(fstype=fstype))
    loop.run(600)
    assert (loop.asked, loop.read_at) == ([], [])
    assert (loop.states()["/net/nas"].status, loop.states()["/net/nas"].error) == ("denied", NOT_ASKED)


def test_what_the_counters_do_not_list_is_not_asked() -> None:
    tracker = Tracker(watching())
    tracker.handle(table(TRIGGER, NAS), 0)
    for now in range(0, 100, 10):
        tracker.handle(Tick(), now)
        assert tracker.wants_use(now)
        tracker.handle(UseRead({"/net": ("1",), "/": ("2",)}), now)
        assert tracker.due(now) == []
        assert tracker.next_due() == now + 10


def test_one_pass_asks_nothing() -> None:
    """It reads no counters, and one look would tell nothing."""
    tracker = Tracker(watching())
    tracker.handle(table(TRIGGER, NAS), 0)
    assert tracker.due(100) == []
    assert [s.error for s in tracker.snapshot()] == [NOT_ASKED]


def test_what_a_container_has_on_a_trigger_is_not_asked() -> None:
    loop = watch()
    loop.contained(Container("101", 5, 5), TRIGGER, NAS)
    loop.calls[NAS.device] += 1
    loop.run(60)
    assert (loop.asked, loop.read_at) == ([], [])


# ---- whatever happens

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "dies", "errs", "refuses", "lives", "remount", "nothing"]),
        st.sampled_from([0.02, 1.0, 7.0, 31.0, 400.0]),
    ),
    max_size=25,
)
ASKED_WITHIN = 16.0  # seconds: a probe out for 5 s, then the longest pause there is


@settings(deadline=None)
@given(STEPS)
def test_asked_for_a_reason_and_never_in_vain(steps: list[tuple[str, float]]) -> None:
    """The first time, or after a use, or on from a probe that brought no good answer."""
    present = NAS
    loop = watch(TRIGGER, present)
    readings: list[UseRead] = []

    def check(event: Event) -> None:
        if isinstance(event, UseRead):
            readings.append(event)
        if isinstance(event, ProbeStarted):
            new = event.probe.superblock not in [probe.superblock for _, probe in loop.asked]
            used = len(readings) > 1 and readings[-1] != readings[-2]
            assert new or used or loop.states()["/net/nas"].status in ("slow", "stale"), "asked without a reason"

    loop.before_event = check
    loop.run(1)
    for number, (step, seconds) in enumerate(steps):
        before = len(loop.asked)
        match step:
            case "use":
                loop.calls[present.device] += 1
            case "dies":
                loop.answers[superblock_of(present)] = silent
            case "errs":
                loop.answers[superblock_of(present)] = error(errno.EIO)
            case "refuses":
                loop.answers[superblock_of(present)] = error(errno.EACCES)
            case "lives":
                loop.answers.pop(superblock_of(present), None)
            case "remount":
                present = present._replace(device=f"0:{1000 + number}")
                loop.mounted(TRIGGER, present)
        loop.run(seconds)
        if step in ("use", "remount") and seconds >= 31:
            assert len(loop.asked) > before, "used, and not asked"
        status = loop.states()["/net/nas"].status
        if status in ("slow", "stale"):
            assert loop.now - loop.asked[-1][0] <= ASKED_WITHIN, "fails, and is not asked any more"
        if seconds >= 31 and superblock_of(present) not in loop.answers:
            assert status == "ok", "nobody has told the recovery"
        if seconds == 400:
            assert status != "slow"
    assert not [t for t in loop.transitions if t.kind is Kind.VANISHED]
