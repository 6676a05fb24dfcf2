from __future__ import annotations

import errno

import pytest

from tests.unit.mounts import (
    SOME_USAGE,
    Loop,
    answered,
    error,
    failed,
    good,
    mount,
    other_mount,
    place,
    silent,
    table,
    timed_out,
    void,
    watch,
    watching,
)
from watcher.core.incidents import Incidents
from watcher.core.places import superblock_of
from watcher.core.roster import MAX_WEDGED
from watcher.core.tracker import Tracker
from watcher.model import (
    HOST,
    Cause,
    Change,
    Expected,
    ExpectedRead,
    Kind,
    NamespaceGone,
    Pace,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    Reach,
    Stage,
    StillWedged,
    TableRead,
    TableUnreadable,
    ThreadGone,
    Tick,
    Usage,
    Wedged,
)

BEGAN, ENDED, GONE, REMOUNTED = (
    (Kind.STALE, change) for change in (Change.BEGAN, Change.ENDED, Change.GONE, Change.REMOUNTED)
)
LOST, FOUND = (Kind.VANISHED, Change.BEGAN), (Kind.VANISHED, Change.ENDED)

NAS = mount("/mnt/nas")
SB = superblock_of(NAS)
AGAIN = mount("/mnt/nas", mount_id=60, device="0:60")  # mounted anew in its place
OTHER = mount("/mnt/other", mount_id=41, device="0:51", source="nas02:/other")
BIND = mount("/srv/bind", mount_id=42)  # the same file system elsewhere
BELOW = mount("/mnt/nas/sub", mount_id=43, parent=40, device="0:52", source="nas02:/sub")
THREAD = Wedged(1000, 5, 1001)


def wedging(asked: Probe, now: float) -> tuple[ProbeReport, float]:
    """Hangs for good, on the same thread whenever."""
    return timed_out(asked, now, wedged=THREAD), asked.timeout


def no_way(asked: Probe, now: float) -> tuple[ProbeReport, float]:
    return failed(asked, now, errno.ENOENT, stage=Stage.WALK), 0.01


def starts(loop: Loop) -> list[float]:
    return [round(at, 3) for at, _ in loop.asked]


def dead(*mounts: tuple[str, ...], after: float = 12.0) -> Loop:
    """NAS was good and has become stale."""
    loop = watch(NAS)
    loop.run(after)
    loop.answers[SB] = error(errno.EIO)
    loop.run(30)
    assert loop.changes() == [BEGAN]
    return loop


# ---- when it is asked


def test_a_new_mount_is_asked_at_once() -> None:
    loop = watch(NAS, now=3.3)
    [asked] = loop.tracker.due(3.3)
    assert asked == Probe(SB, place(), NAS.mount_id, 5.0)
    assert loop.tracker.next_due() == 3.3
    loop.handle(ProbeStarted(asked))
    assert loop.tracker.due(3.3) == []
    assert loop.tracker.next_due() is None  # until its report


def test_nothing_to_watch_is_nothing_to_do() -> None:
    loop = watch()
    assert (loop.tracker.due(0), loop.tracker.next_due(), loop.tracker.snapshot()) == ([], None, [])


def test_healthy_mounts_are_asked_every_interval_in_one_sweep() -> None:
    loop = watch(NAS, now=1)
    loop.run(4)
    loop.mounted(NAS, OTHER)
    loop.run(30)
    assert starts(loop) == [1, 5, 10, 10, 20, 20, 30, 30]
    assert loop.transitions == []


def test_suspect_is_asked_more_often() -> None:
    loop = watch(NAS, chosen=watching(pace=Pace(alarm_after_error=60)))
    loop.answers[SB] = error(errno.EIO)
    loop.run(21)
    assert starts(loop) == [0, 5, 10, 15, 20]
    assert loop.states()["/mnt/nas"].status == "slow"


def test_long_dead_is_held_less() -> None:
    loop = watch(NAS)
    loop.answers[SB] = silent
    loop.run(400)
    gaps = [b - a for a, b in zip(starts(loop), starts(loop)[1:], strict=False)]
    assert set(gaps[:60]) == {5}
    assert set(gaps[62:]) == {15}


def test_deep_probes_only_where_statfs_proves_little_and_seldom() -> None:
    sshfs = mount("/mnt/ssh", mount_id=50, device="0:59", fstype="fuse.sshfs", source="u@nas03:/")
    loop = watch(NAS, sshfs)
    loop.run(125)
    deep = [(at, p.superblock.fstype) for at, p in loop.asked if p.deep]
    assert deep == [(0, "fuse.sshfs"), (60, "fuse.sshfs"), (120, "fuse.sshfs")]


def test_each_mount_at_its_own_pace() -> None:
    slow = watching(overrides=[(["/mnt/other"], {"interval": 60.0, "timeout": 15.0})])
    loop = watch(NAS, OTHER, chosen=slow)
    loop.run(59)
    assert [(at, p.timeout) for at, p in loop.asked if p.place == place("/mnt/other")] == [(0, 15.0)]
    assert len(loop.asked) == 7


def test_void_probes_are_repeated_soon_and_judge_nothing() -> None:
    loop = watch(NAS)
    loop.run(1)
    loop.answers[SB] = lambda asked, now: (void(asked, now), 0.01)
    loop.run(60)
    assert loop.transitions == []
    assert starts(loop)[1:4] == [10, 12.01, 14.02]


# ---- stale and back


def test_silence() -> None:
    loop = watch(NAS)
    loop.run(12)
    loop.answers[SB] = silent
    loop.run(40)
    [began] = loop.transitions
    assert (began.kind, began.change) == BEGAN
    assert (began.since, began.at) == (20, 40)  # 20 s after the start of the first probe that failed
    assert (began.cause, began.error) == (Cause.TIMEOUT, "no answer within 5 s")
    assert (began.subject.superblock, began.subject.places) == (SB, (place(),))
    assert began.subject.options == "rw,relatime,rw,vers=4.2,hard"


@pytest.mark.parametrize("patience", [12.0, 20.0, 23.0])
def test_silence_is_judged_by_the_clock_where_no_report_comes(patience: float) -> None:
    """Its thread hangs, so it cannot be asked again."""
    loop = watch(NAS, chosen=watching(pace=Pace(alarm_after=patience)))
    loop.answers[SB] = wedging
    loop.run(60)
    [began] = loop.transitions
    assert (began.since, began.at) == (0, patience)
    assert starts(loop) == [0]


def test_errors() -> None:
    loop = watch(NAS)
    loop.run(12)
    loop.answers[SB] = error(errno.ESTALE)
    loop.run(30)
    [began] = loop.transitions
    assert (began.since, round(began.at, 2)) == (20, 25.01)
    assert (began.cause, began.error) == (Cause.STALE_HANDLE, "Stale file handle (ESTALE)")


def test_dead_before_we_came() -> None:
    loop = watch(NAS)
    loop.answers[SB] = error(errno.EIO)
    loop.run(10)
    assert loop.changes() == [BEGAN]


def test_ok_at_first_sight_is_silent() -> None:
    loop = watch(NAS)
    loop.run(60)
    assert loop.transitions == []
    state = loop.states()["/mnt/nas"]
    assert (state.reach, state.status, state.usage, state.latency) == (Reach.OK, "ok", SOME_USAGE, 0.001)


def test_grace_after_boot() -> None:
    loop = watch(NAS, OTHER, grace_until=60)
    loop.answers[SB], loop.answers[superblock_of(OTHER)] = silent, error(errno.EIO)
    loop.run(59.9)
    assert loop.transitions == []
    loop.run(7)
    assert [(t.subject.source, t.since) for t in loop.transitions] == [("nas01:/data", 0), ("nas02:/other", 0)]


def test_recovery_takes_two_good_probes() -> None:
    loop = dead()
    loop.answers[SB] = good
    loop.run(20)
    ended = loop.transitions[-1]
    assert loop.changes() == [BEGAN, ENDED]
    goods = [at for at, _ in loop.asked if at > 42]
    assert goods[1] - goods[0] == pytest.approx(1.01)  # a second after the first answer came
    assert ended.at == pytest.approx(goods[1] + 0.01)
    assert loop.states()["/mnt/nas"].status == "ok"


def test_shown_as_stale_until_the_second_good_probe() -> None:
    loop = dead()
    loop.answers[SB] = good
    while loop.states()["/mnt/nas"].reach is Reach.STALE:
        loop.run(0.25)
    state = loop.states()["/mnt/nas"]
    assert (state.reach, state.status) == (Reach.RECOVERING, "stale")


def test_one_good_probe_between_failures_is_no_recovery() -> None:
    loop = dead()
    turns = iter([good, error(errno.EIO)] * 50)
    loop.answers[SB] = lambda asked, now: next(turns)(asked, now)
    loop.run(60)
    assert loop.changes() == [BEGAN]


def test_a_soft_mounts_error_after_silence_is_no_recovery() -> None:
    loop = watch(NAS)
    loop.answers[SB] = silent
    loop.run(30)
    loop.answers[SB] = error(errno.EIO)
    loop.run(60)
    assert loop.changes() == [BEGAN]


def test_denied_is_shown_and_not_alarmed() -> None:
    loop = watch(NAS)
    loop.answers[SB] = error(errno.EACCES)
    loop.run(120)
    state = loop.states()["/mnt/nas"]
    assert loop.transitions == []
    assert (state.status, state.error) == ("denied", "Permission denied (EACCES)")
    assert starts(loop)[:3] == [0, 10, 20]


def test_denied_after_it_has_answered_in_an_earlier_run_is_stale() -> None:
    first = watch(NAS)
    first.run(1)
    loop = Loop(Tracker(watching()))
    loop.tracker.restore_answered(first.tracker.answered())
    loop.answers[superblock_of(AGAIN)] = error(errno.EACCES)
    loop.mounted(AGAIN)  # after a reboot devices have other numbers
    loop.run(10)
    assert loop.changes() == [BEGAN]
    assert loop.transitions[0].cause is Cause.REFUSED


def test_denied_after_it_has_answered_and_was_mounted_anew_is_stale() -> None:
    """No restart of ours between: what is known over a restart is known without one."""
    loop = watch(NAS)
    loop.run(12)
    loop.mounted()
    loop.run(1)
    loop.answers[superblock_of(AGAIN)] = error(errno.EACCES)
    loop.mounted(AGAIN)
    loop.run(30)
    assert BEGAN in loop.changes()


def test_answered_names_what_stands() -> None:
    loop = watch(NAS, OTHER)
    loop.answers[superblock_of(OTHER)] = error(errno.EACCES)
    loop.run(1)
    assert loop.tracker.answered() == {(place(), "/", "nfs4", "nas01:/data")}


def test_size_of_zero_where_there_was_a_size() -> None:
    loop = watch(NAS)
    loop.run(12)
    loop.answers[SB] = lambda asked, now: (answered(asked, now, usage=Usage(0, 0, 0)), 0.01)
    loop.run(30)
    assert [(t.change, t.cause) for t in loop.transitions] == [(Change.BEGAN, Cause.IMPLAUSIBLE)]


# ---- threads that hang


def test_a_wedged_mount_is_left_alone_until_its_thread_is_gone() -> None:
    loop = watch(NAS)
    loop.answers[SB] = wedging
    loop.run(100)
    assert starts(loop) == [0]
    assert loop.states()["/mnt/nas"].wedged_since == 0
    loop.handle(ThreadGone(Wedged(1000, 6, 1001)))  # the pid, used again by another
    assert loop.tracker.due(loop.now) == []
    loop.answers[SB] = good
    loop.handle(ThreadGone(THREAD))
    assert loop.states()["/mnt/nas"].wedged_since is None
    loop.run(1.2)
    assert starts(loop)[1:] == [100, 101.01]
    assert loop.changes() == [BEGAN, ENDED]


def test_hanging_since_an_earlier_run() -> None:
    loop = watch(NAS, now=1000)
    out = loop.handle(StillWedged(SB, THREAD, 900.0))
    assert [(t.kind, t.change, t.since, t.cause) for t in out] == [(*BEGAN, 900.0, Cause.TIMEOUT)]
    loop.run(60)
    assert loop.asked == []
    assert loop.states()["/mnt/nas"].wedged_since == 900


def test_hanging_since_just_now() -> None:
    loop = watch(NAS, now=1000)
    assert loop.handle(StillWedged(SB, THREAD, 995.0)) == []
    loop.run(30)
    assert [(t.change, t.since, t.at) for t in loop.transitions] == [(Change.BEGAN, 995, 1015)]


def test_hanging_in_what_is_mounted_no_more() -> None:
    assert watch(NAS).handle(StillWedged(superblock_of(OTHER), THREAD, 0.0)) == []


def test_what_is_mounted_in_the_place_of_a_wedged_one_is_asked() -> None:
    loop = watch(NAS)
    loop.answers[SB] = wedging
    loop.run(30)
    loop.mounted(AGAIN)
    loop.run(5)
    assert loop.asked[-1][1].superblock == superblock_of(AGAIN)
    assert loop.changes() == [BEGAN, GONE, REMOUNTED]


def test_not_more_threads_than_the_limit_hang() -> None:
    many = [mount(f"/m/{n}", mount_id=100 + n, device=f"0:{100 + n}") for n in range(MAX_WEDGED)]
    loop = watch(*many)
    for n, one in enumerate(many):
        loop.answers[superblock_of(one)] = lambda asked, now, n=n: (  # type: ignore[misc]
            timed_out(asked, now, wedged=Wedged(9, 9, n)),
            5.0,
        )
    loop.run(30)
    loop.mounted(*many, NAS)
    loop.run(60)
    assert len(loop.asked) == MAX_WEDGED
    assert "not probed" in loop.states()["/mnt/nas"].error
    loop.handle(ThreadGone(Wedged(9, 9, 0)))
    loop.run(1)
    assert loop.states()["/mnt/nas"].status == "ok"


def test_what_was_asked_before_goes_on_being_asked_however_many_hang() -> None:
    many = [mount(f"/m/{n}", mount_id=100 + n, device=f"0:{100 + n}") for n in range(MAX_WEDGED)]
    loop = watch(NAS, *many)
    for n, one in enumerate(many):
        loop.answers[superblock_of(one)] = lambda asked, now, n=n: (  # type: ignore[misc]
            timed_out(asked, now, wedged=Wedged(9, 9, n)),
            5.0,
        )
    loop.run(100)
    assert len([at for at, p in loop.asked if p.superblock == SB]) == 11


# ---- places


def test_places_of_one_superblock_share_a_probe_and_an_alarm() -> None:
    loop = watch(NAS, BIND)
    loop.answers[SB] = error(errno.EIO)
    loop.run(7)
    assert len(loop.asked) == 2
    [began] = loop.transitions
    assert began.subject.places == (place(), place("/srv/bind"))
    assert {s.status for s in loop.states().values()} == {"stale"}


def test_a_way_that_fails_is_the_places_fault() -> None:
    loop = watch(NAS, BIND)
    loop.answers[SB] = lambda asked, now: (no_way if asked.place == place() else good)(asked, now)
    loop.run(60)
    assert loop.transitions == []
    assert [p.place.mount_point for _, p in loop.asked[:3]] == ["/mnt/nas", "/srv/bind", "/mnt/nas"]
    assert loop.asked[1][0] == pytest.approx(0.01)  # the next place at once


def test_without_any_way_it_fails() -> None:
    loop = watch(NAS, BIND)
    loop.answers[SB] = no_way
    loop.run(15)
    assert loop.changes() == [BEGAN]


def test_every_way_is_tried_again() -> None:
    """All ways were lost for a while, and only the second one comes back."""
    loop = watch(NAS, BIND)
    loop.answers[SB] = no_way
    loop.run(15)
    loop.answers[SB] = lambda asked, now: (no_way if asked.place == place() else good)(asked, now)
    loop.run(60)
    assert loop.changes() == [BEGAN, ENDED]


def test_a_new_place_is_a_new_way() -> None:
    loop = watch(NAS)
    loop.answers[SB] = lambda asked, now: (no_way if asked.place == place() else good)(asked, now)
    loop.run(15)
    loop.mounted(NAS, BIND)
    loop.run(5)
    assert loop.changes() == [BEGAN, (Kind.STALE, Change.JOINED), ENDED]


def test_another_mount_in_its_place_asks_for_the_table() -> None:
    loop = watch(NAS)
    loop.run(1)
    [asked] = loop.tracker.due(20)
    loop.handle(ProbeStarted(asked))
    loop.handle(other_mount(asked, 20.0))
    assert loop.tracker.take_rereads() == {HOST}
    assert loop.tracker.take_rereads() == set()
    assert loop.transitions == []


def test_it_is_no_loop_if_another_mount_stays_there() -> None:
    loop = watch(NAS)
    loop.answers[SB] = lambda asked, now: (other_mount(asked, now), 0.01)
    loop.run(100)
    assert loop.transitions == []
    assert 10 < len(loop.asked) < 25
    assert "another mount" in loop.states()["/mnt/nas"].error


def test_what_cannot_be_asked_any_more_is_not_shown_as_ok() -> None:
    """The table says that it stands there, every probe that something else does."""
    loop = watch(NAS)
    loop.run(12)
    loop.answers[SB] = lambda asked, now: (other_mount(asked, now), 0.01)
    loop.run(300)
    assert loop.states()["/mnt/nas"].status != "ok"


# ---- one below the other


def test_what_lies_below_a_dead_mount_is_neither_asked_nor_alarmed() -> None:
    loop = watch(NAS, BELOW)
    loop.run(12)
    loop.answers[SB] = error(errno.EIO)
    loop.answers[superblock_of(BELOW)] = lambda asked, now: (timed_out(asked, now, stage=Stage.WALK), 5.0)
    loop.run(60)
    assert [t.subject.superblock for t in loop.transitions] == [SB]
    state = loop.states()["/mnt/nas/sub"]
    assert (state.status, state.behind, state.error) == ("unknown", place(), "behind /mnt/nas")
    assert [at for at, p in loop.asked if p.place == place("/mnt/nas/sub") and at > 21] == []
    loop.answers.clear()
    loop.run(15)
    assert loop.states()["/mnt/nas/sub"].status == "ok"
    assert loop.changes() == [BEGAN, ENDED]


def test_the_lower_one_may_fail_first() -> None:
    """Its report comes before that of the mount in front of it."""
    loop = watch(NAS, BELOW)
    loop.run(12)
    loop.answers[SB] = lambda asked, now: (timed_out(asked, now), 5.5)
    loop.answers[superblock_of(BELOW)] = lambda asked, now: (timed_out(asked, now, stage=Stage.WALK), 5.0)
    loop.run(60)
    assert [t.subject.superblock for t in loop.transitions] == [SB]


def test_dead_by_itself_stays_stale_behind_another() -> None:
    loop = watch(NAS, BELOW)
    loop.answers[superblock_of(BELOW)] = error(errno.ESTALE)
    loop.run(30)
    loop.answers[SB] = error(errno.EIO)
    loop.run(30)
    assert loop.states()["/mnt/nas/sub"].status == "stale"
    loop.answers.clear()
    loop.run(30)
    assert loop.changes() == [BEGAN, BEGAN, ENDED, ENDED]


def test_another_place_of_what_lies_below_is_asked() -> None:
    elsewhere = BELOW._replace(mount_point="/srv/sub", mount_id=44, parent_id=1)
    loop = watch(NAS, BELOW, elsewhere)
    loop.answers[SB] = error(errno.EIO)
    loop.run(60)
    assert {p.place.mount_point for at, p in loop.asked if at > 1} == {"/mnt/nas", "/srv/sub"}
    assert loop.states()["/srv/sub"].status == "ok"


def test_when_a_server_is_back_its_other_mounts_are_asked_at_once() -> None:
    kin = mount("/mnt/kin", mount_id=70, device="0:70", source="nas01:/kin")
    loop = watch(NAS, kin)
    loop.answers[SB] = loop.answers[superblock_of(kin)] = silent
    loop.run(400)  # by now asked every 15 s only
    loop.answers.clear()
    loop.run(25)
    ends = [t.at for t in loop.transitions if t.change is Change.ENDED]
    assert len(ends) == 2


# ---- mounted and unmounted


def test_gone_is_what_is_gone_twice() -> None:
    loop = dead()
    out = loop.mounted()
    assert out == []
    assert loop.tracker.take_rereads() == {HOST}
    assert "/mnt/nas" in loop.states()
    assert loop.tracker.due(loop.now + 60) == []  # not asked while it is unclear
    [gone] = loop.mounted()
    assert (gone.kind, gone.change, gone.reason, gone.since) == (*GONE, "unmounted", 20)
    assert loop.states() == {}


def test_a_line_missed_once_changes_nothing() -> None:
    loop = watch(NAS)
    loop.run(12)
    loop.mounted()
    loop.mounted(NAS)
    loop.run(60)
    assert loop.transitions == []
    loop.mounted()
    assert "/mnt/nas" in loop.states()  # the count starts anew


def test_a_good_mount_that_goes_has_vanished() -> None:
    loop = watch(NAS)
    loop.run(12)
    loop.mounted()
    loop.run(1)
    [lost] = loop.transitions
    assert (lost.kind, lost.change, lost.cause) == (*LOST, Cause.VANISHED)
    loop.mounted(AGAIN)
    loop.run(1)
    assert loop.changes() == [LOST, FOUND]
    assert loop.transitions[1].subject == lost.subject


def test_one_of_two_places_vanishes_and_comes_back() -> None:
    loop = watch(NAS, BIND)
    loop.run(12)
    loop.mounted(NAS)
    loop.run(1)
    assert [(t.kind, t.change, t.subject.places) for t in loop.transitions] == [(*LOST, (place("/srv/bind"),))]
    loop.mounted(NAS, BIND)
    loop.run(20)
    assert loop.changes() == [LOST, FOUND]


def test_two_places_of_one_superblock_vanish_and_one_comes_back() -> None:
    """Neither report takes the place of the other, and the return of one does not end both."""
    loop, incidents = watch(NAS, BIND), Incidents()

    def missing() -> set[Place]:
        for transition in loop.transitions:
            incidents.apply(transition, now=loop.now, wall=loop.now)
        loop.transitions.clear()
        return {place for incident in incidents for member in incident.down for place in member.subject.places}

    loop.run(12)
    loop.mounted()
    loop.run(1)
    assert missing() == {place(), place("/srv/bind")}
    loop.mounted(BIND)
    loop.run(20)
    assert missing() == {place()}


def test_what_vanishes_again_before_it_was_asked_is_the_same_matter() -> None:
    """Nobody was told that it is back; and what was told of it first must end too."""
    loop = watch(NAS, BIND)
    loop.run(12)
    loop.mounted(NAS)
    loop.run(1)
    loop.mounted(NAS, BIND)  # known to be good by its other place, so not asked before 20
    loop.run(1)
    loop.mounted(NAS)
    loop.run(1)
    assert loop.changes() in ([LOST], [LOST, FOUND, LOST])
    loop.mounted(NAS, BIND)
    loop.run(20)
    assert loop.changes() in ([LOST, FOUND], [LOST, FOUND] * 2)


def test_a_replaced_good_mount_has_not_vanished() -> None:
    loop = watch(NAS)
    loop.run(12)
    loop.mounted(AGAIN)
    loop.run(5)
    assert loop.transitions == []
    assert loop.states()["/mnt/nas"].status == "ok"


def test_the_same_mount_with_another_id_is_the_same() -> None:
    loop = dead()
    loop.mounted(NAS._replace(mount_id=99))
    loop.run(10)
    assert loop.changes() == [BEGAN]
    assert loop.asked[-1][1].mount_id == 99


def test_remounted() -> None:
    loop = dead()
    loop.mounted()
    loop.run(2)
    loop.mounted(AGAIN)
    loop.run(2)
    assert loop.changes() == [BEGAN, GONE, REMOUNTED]
    assert (loop.transitions[2].since, loop.transitions[2].subject.superblock.device) == (20, "0:60")


def test_remounted_at_once() -> None:
    """Both within one reading of the table."""
    loop = dead()
    loop.mounted(AGAIN)
    loop.run(2)
    assert loop.changes() == [BEGAN, GONE, REMOUNTED]


def test_remounted_by_a_bind_of_what_is_known_to_be_good() -> None:
    loop = watch(NAS, OTHER)
    loop.answers[SB] = error(errno.EIO)
    loop.run(20)
    loop.mounted(OTHER._replace(mount_point="/mnt/nas", mount_id=61), OTHER)
    loop.run(15)
    assert loop.changes() == [BEGAN, GONE, REMOUNTED]


def test_remounted_and_dead_again() -> None:
    loop = dead()
    loop.answers[superblock_of(AGAIN)] = error(errno.EIO)
    loop.mounted(AGAIN)
    loop.run(20)
    assert loop.changes() == [BEGAN, GONE, BEGAN]
    loop.answers.clear()
    loop.run(20)
    assert loop.changes() == [BEGAN, GONE, BEGAN, ENDED]


def test_mounted_long_after_is_not_remounted() -> None:
    loop = dead()
    loop.mounted()
    loop.run(601)
    loop.mounted(AGAIN)
    loop.run(20)
    assert loop.changes() == [BEGAN, GONE]


def test_suspect_and_unmounted_is_nobodys_business() -> None:
    loop = watch(NAS)
    loop.answers[SB] = silent
    loop.run(12)
    loop.mounted()
    loop.run(60)
    assert loop.transitions == []


def test_a_container_that_stops_takes_its_mounts_along_at_once() -> None:
    loop = watch()
    loop.handle(TableRead("ct:101", (mount("/data"),)))
    loop.answers[SB] = error(errno.EIO)
    loop.run(10)
    [gone] = loop.handle(NamespaceGone("ct:101", "container stopped"))
    assert (gone.change, gone.reason) == (Change.GONE, "container stopped")
    assert loop.states() == {}


def test_a_table_of_one_namespace_says_nothing_of_another() -> None:
    loop = watch(NAS)
    loop.handle(TableRead("ct:101", (mount("/data", device="0:70"),)))
    for _ in range(3):
        loop.handle(table(namespace="ct:101"))
    assert list(loop.states()) == ["/mnt/nas"]


def test_a_table_that_cannot_be_read_leaves_all_as_it_was() -> None:
    loop = watch(NAS)
    loop.run(1)
    assert loop.handle(TableUnreadable(HOST, "EIO")) == []
    assert loop.states()["/mnt/nas"].status == "ok"


def test_a_report_of_what_is_gone_is_nothing() -> None:
    loop = watch(NAS)
    [asked] = loop.tracker.due(0)
    loop.handle(ProbeStarted(asked))
    loop.mounted()
    loop.mounted()
    assert loop.handle(failed(asked, 0.0)) == []


def test_a_late_report_of_the_mount_before_frees_no_second_probe() -> None:
    """Unmounted and mounted again while the probe is out: NFS hands out the same superblock."""
    loop = watch(NAS)
    [first] = loop.tracker.due(0)
    loop.handle(ProbeStarted(first))
    loop.mounted()
    loop.mounted()
    loop.mounted(NAS._replace(mount_id=99))
    [second] = loop.tracker.due(0)
    loop.handle(ProbeStarted(second))
    loop.now = 5.0
    loop.handle(timed_out(first, 0.0))
    assert loop.tracker.due(60.0) == []  # the second is still out


# ---- read-only

RO_MOUNT = NAS._replace(options="ro,relatime")
RO_SUPER = NAS._replace(super_options="ro,vers=4.2,hard")
RO = [(Kind.READONLY, change) for change in (Change.BEGAN, Change.ENDED, Change.GONE)]


def test_meant_to_be_readonly_is_only_shown() -> None:
    loop = watch(RO_MOUNT)
    loop.run(30)
    state = loop.states()["/mnt/nas"]
    assert loop.transitions == []
    assert (state.status, state.readonly, state.unexpected_readonly) == ("readonly", True, False)


def test_readonly_beneath_a_writable_mount_is_unexpected() -> None:
    loop = watch(RO_SUPER)
    loop.run(30)
    assert loop.changes() == RO[:1]
    assert loop.states()["/mnt/nas"].unexpected_readonly


@pytest.mark.parametrize("changed", [RO_MOUNT, RO_SUPER])
def test_readonly_that_was_writable(changed: object) -> None:
    loop = watch(NAS)
    loop.run(30)
    assert isinstance(changed, type(NAS))
    loop.mounted(changed)
    loop.run(30)
    assert loop.changes() == RO[:1]
    loop.mounted(NAS)
    loop.run(30)
    assert loop.changes() == RO[:2]


def test_readonly_as_the_answer_says() -> None:
    loop = watch(NAS)
    loop.run(12)
    loop.answers[SB] = lambda asked, now: (answered(asked, now, readonly=True), 0.01)
    loop.run(60)
    loop.answers.clear()
    loop.run(20)
    assert loop.changes() == RO[:2]


def test_readonly_and_unmounted() -> None:
    loop = watch(RO_SUPER)
    loop.run(5)
    loop.mounted()
    loop.run(1)
    assert RO[2] in loop.changes()


WANTED = Expected(place(), "nas01:/data", "nfs4", "/etc/fstab", readonly=False)
READONLY_MOUNT = mount(options="ro,relatime", super_options="ro,vers=4.2")


def test_readonly_though_it_is_wanted_for_writing_whichever_is_known_first() -> None:
    loop = watch(READONLY_MOUNT)
    loop.run(5)
    assert loop.changes() == []
    loop.handle(ExpectedRead((WANTED,)))
    assert loop.changes() == [(Kind.READONLY, Change.BEGAN)]
    assert loop.states()["/mnt/nas"].unexpected_readonly
    loop.handle(ExpectedRead((WANTED._replace(readonly=True),)))
    assert loop.changes()[1:] == [(Kind.READONLY, Change.GONE)]  # not "writable again"
    assert loop.transitions[-1].reason == "meant to be read-only"

    loop = watch()
    loop.handle(ExpectedRead((WANTED,)))
    loop.mounted(READONLY_MOUNT)
    assert loop.changes() == [(Kind.READONLY, Change.BEGAN)]


def test_what_is_meant_to_be_readonly_or_not_said_is_only_shown() -> None:
    for meant in (True, None):
        loop = watch(READONLY_MOUNT)
        loop.handle(ExpectedRead((WANTED._replace(readonly=meant),)))
        loop.run(5)
        assert loop.changes() == []


# ---- shown only, other rules


def test_shown_only_is_asked_and_never_told() -> None:
    loop = watch(NAS, chosen=watching(show_only=["nfs4"]))
    for answer in (good, error(errno.EIO), good, silent):
        loop.answers[SB] = answer
        loop.run(60)
    assert loop.states()["/mnt/nas"].status == "stale"
    loop.mounted(RO_SUPER)
    loop.run(30)
    loop.mounted()
    loop.run(30)
    assert loop.transitions == []


def test_rules_that_leave_a_dead_mount_out_end_its_matter() -> None:
    loop = dead()
    [gone] = loop.tracker.configure(watching(exclude=["/mnt/nas"]), loop.now)
    assert (gone.change, gone.reason) == (Change.GONE, "no longer watched")
    assert loop.states() == {}


def test_rules_that_leave_a_good_mount_out_say_nothing() -> None:
    loop = watch(NAS)
    loop.run(12)
    assert loop.tracker.configure(watching(exclude=["*"]), loop.now) == []
    assert loop.tracker.next_due() is None


def test_what_was_known_stays_known_under_other_rules() -> None:
    loop = dead()
    assert loop.tracker.configure(watching(pace=Pace(timeout=1)), loop.now) == []
    assert loop.states()["/mnt/nas"].status == "stale"
    loop.run(10)
    assert loop.asked[-1][1].timeout == 1


def test_rules_that_add_a_mount_have_it_asked_at_once() -> None:
    loop = watch(NAS, chosen=watching(exclude=["*"]))
    loop.run(5)
    loop.tracker.configure(watching(), loop.now)
    loop.run(1)
    assert starts(loop) == [5]


def test_a_dead_mount_that_shall_only_be_shown_ends_its_matter() -> None:
    """Else its incident stays open for ever: nothing more is told of it."""
    loop = dead()
    out = loop.tracker.configure(watching(show_only=["/mnt/nas"]), loop.now)
    loop.answers.clear()
    loop.run(60)
    assert [t.change for t in [*out, *loop.transitions[1:]]] in ([Change.GONE], [Change.ENDED])


def test_a_dead_mount_that_was_only_shown_alarms_once_it_shall_be_told() -> None:
    loop = watch(NAS, chosen=watching(show_only=["/mnt/nas"]))
    loop.answers[SB] = error(errno.EIO)
    loop.run(60)
    out = loop.tracker.configure(watching(), loop.now)
    loop.run(60)
    assert [t.change for t in [*out, *loop.transitions]] == [Change.BEGAN]


# ---- odd moments


def test_a_tick_without_need_is_nothing() -> None:
    loop = watch(NAS)
    assert loop.handle(Tick()) == []
    loop.run(12)
    assert loop.handle(Tick()) == []


def test_stacked_mounts_are_counted() -> None:
    loop = watch(NAS, AGAIN._replace(parent_id=NAS.mount_id))
    loop.run(1)
    [state] = loop.tracker.snapshot()
    assert (state.stacked, state.mount.mount_id) == (2, 60)


def test_joining_a_sweep_does_not_delay_an_alarm() -> None:
    """A probe that joins its neighbour's sweep may start a little sooner after the first failure than 5 s."""
    loop = watch(NAS, OTHER)
    delays = iter([0.04])  # until its thread starts, the first time; none after that

    def eio(asked: Probe, now: float) -> tuple[ProbeReport, float]:
        delay = next(delays, 0.0) if asked.superblock == SB else 0.0
        return failed(asked, now + delay), delay + 0.001

    loop.answers[SB] = loop.answers[superblock_of(OTHER)] = eio
    loop.run(30)
    assert [t.at - t.since for t in loop.transitions] == [pytest.approx(5, abs=0.1)] * 2
