"""How full file systems are: which mounts count, who asks them, and when full begins and ends."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

import pytest

from tests.unit.mounts import failed, mount, other_mount, probe, timed_out, void, watching
from watcher.core.capacity import MAX_FRUITLESS, MAX_WEDGED, Capacity, CapacityState
from watcher.core.filesystems import MAX_ENTRIES
from watcher.core.filters import Filter
from watcher.core.fullness import INTERVAL
from watcher.core.incident import Condition
from watcher.core.incidents import Incidents
from watcher.core.messages import Message, Sender, compose
from watcher.core.outbox import News, Topic
from watcher.model import (
    HOST,
    Change,
    Container,
    Kind,
    Mount,
    NamespaceGone,
    Overslept,
    Pace,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    Stage,
    StillWedged,
    Subject,
    TableRead,
    ThreadGone,
    Tick,
    Transition,
    Usage,
    Verdict,
    Wedged,
)

GIB = 1 << 30
EVERYTHING = watching(fstypes=["*"])
BEGAN, ENDED, GONE, LEFT = Change.BEGAN, Change.ENDED, Change.GONE, Change.LEFT
_NUMBERS = count(100)
ARR = Container("105", 4711, 99, "arr", user_namespace=4026532000)
PLEX = Container("101", 4700, 98, "plex", user_namespace=4026531999)


def disk(
    point: str = "/",
    device: str = "252:5",
    *,
    mount_id: int | None = None,
    parent: int = 1,
    root: str = "/",
    fstype: str = "ext4",
    source: str = "/dev/mapper/pve-disk",
    options: str = "rw,relatime",
    super_options: str = "rw",
) -> Mount:
    """A local ext4, other than as said."""
    number = next(_NUMBERS) if mount_id is None else mount_id
    return Mount(number, parent, device, root, point, options, fstype, source, super_options)


def fuse(point: str, device: str = "0:70", mount_id: int = 70, parent: int = 1, fstype: str = "fuse.sshfs") -> Mount:
    return mount(point, device=device, mount_id=mount_id, parent=parent, fstype=fstype, source="me@nas01:/x")


def inside(container: Container, *mounts: Mount) -> TableRead:
    """The table of a container: its root, pseudo file systems and these."""
    root = disk(mount_id=1, parent=0, device=f"252:{container.ctid}")
    proc = mount("/proc", mount_id=2, device="0:22", fstype="proc", source="proc")
    given = mounts if any(m.mount_point == "/" for m in mounts) else (root, *mounts)
    return TableRead(container.namespace, (*given, proc), container)


def used(percent: float, total: int = 100 * GIB) -> Usage:
    taken = round(total * percent / 100)
    return Usage(total, taken, total - taken)


@dataclass
class Loop:
    """The shell's part: hands over what is due, and answers as `answer` says."""

    capacity: Capacity = field(default_factory=lambda: Capacity(watching(), EVERYTHING))
    now: float = 600.0
    answer: Callable[[Probe], ProbeReport] = lambda asked: ProbeReport(
        asked, Verdict.ANSWERED, 600.0, latency=0.001, usage=used(50)
    )
    transitions: list[Transition] = field(default_factory=list)

    def handle(self, *events: TableRead | NamespaceGone | ProbeReport | ThreadGone | StillWedged) -> list[Transition]:
        out = [t for event in events for t in self.capacity.handle(event, self.now)]
        self.transitions += out
        return out

    def start(self) -> list[Probe]:
        """What is due now, started and not answered."""
        due = self.capacity.due(self.now)
        for asked in due:
            assert self.capacity.handle(ProbeStarted(asked), self.now) == []
        return due

    def turn(self) -> list[Probe]:
        """One sweep: what is due now is asked and answered."""
        due = self.start()
        for asked in due:
            self.handle(self.answer(asked)._replace(started=self.now))
        return due

    def next_turn(self) -> list[Probe]:
        due = self.capacity.next_due()
        assert due is not None
        assert due > self.now
        self.now = due
        return self.turn()

    def fill(self, percent: float) -> list[Transition]:
        """From the next sweep on everything is so full; the transitions of that sweep."""
        self.answer = lambda asked: ProbeReport(asked, Verdict.ANSWERED, self.now, latency=0.001, usage=used(percent))
        before = len(self.transitions)
        if self.turn() == []:
            self.next_turn()
        return self.transitions[before:]

    def states(self) -> dict[str, CapacityState]:
        return {str(s.place): s for s in self.capacity.snapshot()}


def looking(*events: TableRead, chosen: Filter | None = None, eligible: Filter = EVERYTHING) -> Loop:
    loop = Loop(Capacity(chosen or watching(), eligible))
    loop.handle(*events)
    return loop


def filled(percent: float, device: str = "8:1") -> Callable[[Probe], ProbeReport]:
    """An answer: this device is so full, all others are nearly empty."""

    def answer(asked: Probe) -> ProbeReport:
        share = percent if asked.superblock.device == device else 5
        return ProbeReport(asked, Verdict.ANSWERED, 0.0, latency=0.001, usage=used(share))

    return answer


def places(transition: Transition) -> list[str]:
    return [str(place) for place in transition.subject.places]


# ---- which mounts count


def listed(*mounts: Mount) -> list[str]:
    return [s.place.mount_point for s in looking(inside(ARR, *mounts)).capacity.snapshot()]


def test_a_containers_file_systems_are_listed_its_root_included_and_the_kernels_own_are_not() -> None:
    pseudo = ["proc", "sysfs", "tmpfs", "cgroup2", "devpts", "nsfs", "nullfs", "fuse.lxcfs", "fuse.portal", "overlay"]
    others = [mount(f"/p{n}", fstype=t, device=f"0:{n}", mount_id=200 + n) for n, t in enumerate(pseudo)]
    assert listed(*others, disk("/data", "252:9"), mount("/nas"), fuse("/cloud")) == ["/", "/data", "/nas", "/cloud"]


@pytest.mark.parametrize("fstype", ["overlay", "tmpfs", "fuse.fuse-overlayfs", "zfs"])
def test_the_root_counts_whatever_it_is(fstype: str) -> None:
    assert listed(disk(mount_id=1, parent=0, fstype=fstype)) == ["/"]


def test_of_the_host_only_what_is_watched() -> None:
    loop = looking(TableRead(HOST, (disk(mount_id=1, parent=0), disk("/local"), mount("/mnt/nas"))))
    assert list(loop.states()) == ["/mnt/nas"]
    assert loop.turn() == []


def test_what_is_hidden_under_another_mount_is_none() -> None:
    over = disk("/data", "252:8", mount_id=60, parent=50)
    assert listed(disk("/data", "252:7", mount_id=50), over) == ["/", "/data"]


def test_what_nobody_may_ask_is_left_alone() -> None:
    loop = looking(inside(ARR, disk("/cold", "252:9")), eligible=watching(fstypes=["*"], exclude=["ct:105:/cold"]))
    assert list(loop.states()) == ["ct:105:/"]


def test_binds_of_what_is_listed_already_are_none_of_their_own() -> None:
    whole, part = disk("/data", "252:9", root="/srv"), disk("/www", "252:9", root="/srv/www")
    twin, file = disk("/again", "252:9", root="/srv"), disk("/etc/hosts", "252:9", root="/srv/hosts")
    beside = disk("/other", "252:9", root="/home")
    assert listed(file, part, twin, whole, beside) == ["/", "/again", "/other"]


def test_a_container_with_very_many_is_cut_and_it_is_said() -> None:
    many = [disk(f"/{n}", f"7:{n}", mount_id=1000 + n) for n in range(10_000)]
    loop = looking(inside(ARR, *many), inside(PLEX))
    assert [s.place.namespace for s in loop.capacity.snapshot()].count("ct:105") == MAX_ENTRIES
    assert "ct:105:/" in loop.states()
    assert list(loop.capacity.problems()) == ["ct:105"]
    assert len(loop.turn()) == MAX_ENTRIES + 1
    loop.handle(inside(ARR, *many[:5]))
    assert loop.capacity.problems() == {}


# ---- who asks, and how


def test_one_probe_for_all_places_of_a_file_system() -> None:
    bound = disk("/media", "8:1", root="/tank/media")
    loop = looking(inside(PLEX, bound), inside(ARR, bound, disk("/music", "8:1", root="/tank/music")))
    asked = loop.turn()
    assert sorted(p.superblock.device for p in asked) == ["252:101", "252:105", "8:1"]
    assert [str(p) for p, s in loop.states().items() if s.usage == used(50)] == list(loop.states())
    assert len(loop.states()) == 5


@pytest.mark.parametrize(
    ("fstype", "super_options", "probes"), [("xfs", "rw", 1), ("xfs", "rw,attr2,prjquota", 2), ("9p", "rw", 2)]
)
def test_directories_that_may_answer_differently_are_asked_each(fstype: str, super_options: str, probes: int) -> None:
    parts = [
        disk(f"/{d}", "8:1", root=f"/{d}", fstype=fstype, super_options=super_options, mount_id=300 + n)
        for n, d in enumerate("ab")
    ]
    loop = looking(inside(ARR, *parts))
    assert [p.superblock.device for p in loop.turn()].count("8:1") == probes


def test_how_a_container_is_asked() -> None:
    pace = Pace(timeout=2.0)
    below = disk("/cloud/disk", "252:7", mount_id=71, parent=70)
    loop = looking(inside(ARR, fuse("/cloud"), below), chosen=watching(fstypes=["nfs4"], pace=pace))
    asked = {p.place.mount_point: p for p in loop.turn()}
    assert {point: (p.root_pid, p.user_namespace, p.lane) for point, p in asked.items()} == {
        "/": (4711, 0, ""),
        "/cloud": (4711, ARR.user_namespace, "ct:105"),
        "/cloud/disk": (4711, ARR.user_namespace, "ct:105"),
    }
    assert {(p.timeout, p.deep) for p in asked.values()} == {(2.0, False)}
    assert asked["/cloud"].mount_id == 70


def test_who_is_refused_inside_the_user_namespace_asks_from_outside() -> None:
    loop = looking(inside(ARR, fuse("/cloud")), chosen=watching(fstypes=["nfs4"]))
    loop.answer = lambda asked: failed(asked, 0, errno.EACCES)
    assert [p.user_namespace for p in loop.turn() if p.lane] == [ARR.user_namespace]
    assert [p.user_namespace for p in loop.turn()] == [0]
    assert loop.turn() == []
    assert loop.states()["ct:105:/cloud"].error == "Permission denied (EACCES)"


def test_every_minute_and_not_while_a_probe_is_out() -> None:
    loop = looking(inside(ARR))
    assert len(loop.start()) == 1
    assert loop.start() == []
    assert loop.capacity.next_due() is None
    loop = looking(inside(ARR))
    loop.turn()
    began = loop.now
    loop.next_turn()
    loop.next_turn()
    assert loop.now - began == pytest.approx(2 * INTERVAL, abs=0.1 * INTERVAL)


def test_what_the_tracker_asks_is_not_asked_again_and_its_reports_serve() -> None:
    nas = mount("/nas")
    loop = looking(inside(ARR, nas), TableRead(HOST, (nas._replace(mount_point="/mnt/nas"),)))
    assert [p.place.mount_point for p in loop.turn()] == ["/"]
    report = ProbeReport(probe(nas), Verdict.ANSWERED, loop.now, usage=used(93))
    [began] = loop.handle(report)
    assert (began.kind, began.change, sorted(places(began))) == (Kind.FULL, BEGAN, ["/mnt/nas", "ct:105:/nas"])
    assert loop.states()["ct:105:/nas"].usage == used(93)
    assert loop.handle(timed_out(probe(nas), loop.now)) == []
    assert (loop.states()["/mnt/nas"].usage, loop.states()["/mnt/nas"].error) == (None, "no answer within 5 s")


def test_a_watched_local_file_system_is_known_by_its_device() -> None:
    loop = looking(inside(ARR, disk("/data", "8:1", root="/tank")), chosen=watching(fstypes=["*"]))
    assert loop.turn() == []
    asked = probe(disk("/srv", "8:1", root="/"))
    loop.handle(ProbeReport(asked, Verdict.ANSWERED, loop.now, usage=used(20)))
    assert loop.states()["ct:105:/data"].usage == used(20)


def test_a_report_on_what_stood_on_the_same_device_before_says_nothing() -> None:
    loop = looking(inside(ARR, disk("/data", "8:1")))
    loop.handle(ProbeReport(probe(mount(device="8:1", fstype="xfs")), Verdict.ANSWERED, loop.now, usage=used(99)))
    assert (loop.states()["ct:105:/data"].usage, loop.transitions) == (None, [])


def test_a_failure_of_a_probe_that_was_not_asked_for_says_nothing() -> None:
    loop = looking(inside(ARR))
    [asked] = loop.turn()
    loop.handle(timed_out(asked, loop.now))
    assert loop.states()["ct:105:/"].usage == used(50)


def test_a_namespace_without_its_container_is_not_asked() -> None:
    table = inside(ARR)
    loop = looking(TableRead(table.namespace, table.mounts))
    assert (loop.turn(), loop.states()) == ([], {})


def test_time_alone_changes_nothing() -> None:
    loop = looking(inside(ARR))
    loop.fill(95)
    assert [loop.capacity.handle(event, 1e9) for event in (Tick(), Overslept())] == [[], []]
    assert loop.states()["ct:105:/"].full


def test_unwanted_nothing_is_asked_nor_kept() -> None:
    loop = Loop(Capacity(watching(), EVERYTHING, wanted=False))
    loop.handle(inside(ARR, mount("/nas")))
    assert (loop.turn(), loop.capacity.next_due(), loop.capacity.snapshot()) == ([], None, [])
    assert loop.handle(ProbeReport(probe(), Verdict.ANSWERED, loop.now, usage=used(99))) == []
    assert loop.capacity.configure(watching(), EVERYTHING, loop.now, wanted=True) == []
    assert [p.place.mount_point for p in loop.turn()] == ["/"]


def test_what_would_be_kept_from_idling_out_is_not_asked() -> None:
    trigger = mount("/data", mount_id=50, fstype="autofs", source="systemd-1", device="0:44")
    loop = looking(inside(ARR, trigger, disk("/data", "8:1", mount_id=51, parent=50)))
    assert [p.place.mount_point for p in loop.turn()] == ["/"]
    assert "on demand" in loop.states()["ct:105:/data"].error


def test_a_frozen_containers_own_fuse_is_not_asked() -> None:
    chosen = watching(fstypes=["nfs4"])
    loop = looking(inside(ARR._replace(frozen=True), fuse("/cloud")), chosen=chosen)
    assert [p.place.mount_point for p in loop.turn()] == ["/"]
    assert "frozen" in loop.states()["ct:105:/cloud"].error
    loop.handle(inside(ARR, fuse("/cloud")))
    assert [p.place.mount_point for p in loop.turn()] == ["/cloud"]
    assert loop.states()["ct:105:/cloud"].error == ""


# ---- what goes wrong


@pytest.mark.parametrize(
    ("report", "error"),
    [
        (timed_out, "no answer within 5 s"),
        (lambda asked, started: failed(asked, started, errno.ESTALE), "Stale file handle (ESTALE)"),
        (lambda asked, started: ProbeReport(asked, Verdict.ANSWERED, started, usage=Usage(0, 0, 0)), ""),
        (lambda asked, started: ProbeReport(asked, Verdict.ANSWERED, started, usage=Usage(-4096, 0, 0)), ""),
        (lambda asked, started: ProbeReport(asked, Verdict.ANSWERED, started, usage=Usage(1 << 75, 1 << 75, 0)), ""),
    ],
)
def test_no_capacity_is_no_alarm_and_no_recovery(report: Callable[[Probe, float], ProbeReport], error: str) -> None:
    loop = looking(inside(ARR))
    assert [t.change for t in loop.fill(95)] == [BEGAN]
    loop.answer = lambda asked: report(asked, loop.now)
    loop.next_turn()
    state = loop.states()["ct:105:/"]
    assert (state.usage, state.error, len(loop.transitions)) == (None, error, 1)
    assert loop.fill(94) == []
    assert [t.change for t in loop.fill(10)] == [ENDED]


def test_what_holds_a_thread_is_left_alone_until_the_thread_is_gone() -> None:
    loop, wedged = looking(inside(ARR)), Wedged(1, 2, 3)
    loop.answer = lambda asked: timed_out(asked, loop.now, wedged=wedged)
    loop.turn()
    assert loop.capacity.next_due() is None
    loop.now += 10 * INTERVAL
    assert loop.turn() == []
    loop.handle(ThreadGone(Wedged(1, 2, 4)))
    assert loop.turn() == []
    loop.handle(ThreadGone(wedged))
    assert len(loop.turn()) == 1


def test_what_an_earlier_run_left_hanging_is_left_alone() -> None:
    loop = looking(inside(ARR))
    [asked] = loop.capacity.due(loop.now)
    loop.handle(StillWedged(asked.superblock, Wedged(1, 2, 3), 0.0))
    assert (loop.turn(), loop.capacity.unsettled()) == ([], [])
    assert "hangs" in loop.states()["ct:105:/"].error


def test_with_very_many_threads_stuck_the_unknown_is_left_alone() -> None:
    loop = looking(*(inside(Container(str(n), n, n)) for n in range(MAX_WEDGED)))
    loop.answer = lambda asked: timed_out(asked, loop.now, wedged=Wedged(asked.root_pid, 2, 3))
    assert len(loop.turn()) == MAX_WEDGED
    loop.handle(inside(ARR))
    assert loop.turn() == []
    assert loop.states()["ct:105:/"].error.startswith("not probed")
    loop.handle(ThreadGone(Wedged(7, 2, 3)))
    assert sorted(str(p.place) for p in loop.start()) == ["ct:105:/", "ct:7:/"]


def test_a_probe_that_tells_nothing_is_repeated_soon_but_one_pass_does_not_wait_for_ever() -> None:
    loop = looking(inside(ARR))
    loop.answer = lambda asked: void(asked, loop.now)
    loop.turn()
    for _ in range(MAX_FRUITLESS - 1):
        assert loop.capacity.unsettled() == [Place("ct:105", "/")]
        before = loop.now
        loop.next_turn()
        assert loop.now - before == 2.0
    assert loop.capacity.unsettled() == []
    assert loop.states()["ct:105:/"].error == "this machine was too slow to judge it"


def test_another_mount_in_its_place_has_the_table_read_again_and_another_place_asked() -> None:
    bound = disk("/media", "8:1", root="/tank")
    loop = looking(inside(PLEX, bound), inside(ARR, bound))
    loop.turn()
    loop.answer = lambda asked: other_mount(asked, loop.now) if asked.superblock.device == "8:1" else failed(asked, 0)
    [first] = [p for p in loop.next_turn() if p.superblock.device == "8:1"]
    assert loop.capacity.take_rereads() == {first.place.namespace}
    assert loop.capacity.take_rereads() == set()
    [second] = loop.next_turn()
    assert second.superblock == first.superblock
    assert second.place.namespace != first.place.namespace


def test_what_fails_on_the_way_is_asked_elsewhere_at_once() -> None:
    bound = disk("/media", "8:1", root="/tank")
    loop = looking(inside(PLEX, bound), inside(ARR, bound))
    loop.answer = lambda asked: failed(asked, loop.now, errno.EACCES, stage=Stage.WALK)
    first = [p.place for p in loop.turn() if p.superblock.device == "8:1"]
    second = [p.place for p in loop.turn()]
    assert sorted(place.namespace for place in first + second) == ["ct:101", "ct:105"]
    assert loop.turn() == []
    assert loop.states()["ct:105:/media"].error == "Permission denied (EACCES)"


def test_one_pass_waits_for_what_it_can_still_learn() -> None:
    loop = looking(inside(ARR, mount("/nas")))
    assert loop.capacity.unsettled() == [Place("ct:105", "/")]
    [asked] = loop.start()
    assert loop.capacity.unsettled() == [Place("ct:105", "/")]
    loop.handle(ProbeReport(asked, Verdict.ANSWERED, loop.now, usage=used(1)))
    assert loop.capacity.unsettled() == []


# ---- full


def test_full_begins_at_the_threshold_and_ends_three_points_below() -> None:
    loop = looking(inside(ARR))
    assert loop.fill(89.9) == []
    [began] = loop.fill(90)
    assert (began.kind, began.change, began.since, began.error) == (
        *(Kind.FULL, BEGAN, loop.now),
        "90 % full: 10.0 GiB of 100 GiB left",
    )
    assert began.subject.names == (("ct:105", "arr"),)
    assert (loop.fill(99.99), loop.fill(90), loop.fill(89), loop.fill(87)) == ([], [], [], [])
    assert loop.states()["ct:105:/"].full
    since = began.since
    [ended] = loop.fill(86.9)
    assert (ended.change, ended.since, ended.reason) == (ENDED, since, "below 90 % again")
    assert ended.subject.superblock == began.subject.superblock
    assert loop.fill(89.9) == []
    assert not loop.states()["ct:105:/"].full


def test_a_hundred_percent_is_not_said_too_early() -> None:
    [began] = looking(inside(ARR)).fill(99.99)
    assert began.error.startswith("99 % full: ")


def test_one_transition_for_all_places() -> None:
    media, music = disk("/media", "8:1", root="/tank/media"), disk("/music", "8:1", root="/tank/music")
    loop = looking(inside(PLEX, media))
    loop.answer = filled(95)
    loop.turn()
    [began] = loop.transitions
    assert places(began) == ["ct:101:/media"]
    [again] = loop.handle(inside(ARR, music))
    assert (again.change, places(again), again.since) == (
        Change.JOINED,
        ["ct:101:/media", "ct:105:/music"],
        began.since,
    )
    assert dict(again.subject.names) == {"ct:101": "plex", "ct:105": "arr"}
    [left] = loop.handle(NamespaceGone("ct:101", "container stopped"))
    assert (left.change, places(left), left.reason) == (LEFT, ["ct:101:/media"], "container stopped")
    [gone] = loop.handle(NamespaceGone("ct:105", "container stopped"))
    assert (gone.change, places(gone), gone.since) == (GONE, ["ct:105:/music"], began.since)
    assert {t.subject.superblock for t in loop.transitions} == {began.subject.superblock}
    assert loop.states() == {}


def test_unmounted_is_what_is_gone_twice() -> None:
    data = disk("/data", "8:1")
    loop = looking(inside(ARR, data))
    loop.answer = filled(95)
    loop.turn()
    assert loop.handle(inside(ARR)) == []
    assert loop.capacity.take_rereads() == {"ct:105"}
    assert loop.handle(inside(ARR, data)) == []
    assert loop.handle(inside(ARR)) == []
    [gone] = loop.handle(inside(ARR))
    assert (gone.change, gone.reason) == (GONE, "unmounted")
    assert loop.handle(inside(ARR)) == []
    assert list(loop.states()) == ["ct:105:/"]


def test_what_was_not_full_goes_without_a_word() -> None:
    loop = looking(inside(ARR, disk("/data", "8:1")))
    loop.turn()
    loop.handle(inside(ARR), NamespaceGone("ct:105", "container stopped"))
    assert (loop.transitions, loop.capacity.take_rereads(), loop.capacity.next_due()) == ([], set(), None)


@pytest.mark.parametrize(
    ("fstype", "options"),
    [("squashfs", "ro"), ("iso9660", "ro"), ("erofs", "ro"), ("fuse.squashfuse", "ro"), ("udf", "ro,nosuid")],
)
def test_images_are_listed_and_never_full(fstype: str, options: str) -> None:
    chosen = watching(fstypes=["nfs4"])
    loop = looking(inside(ARR, disk("/image", "7:1", fstype=fstype, options=options)), chosen=chosen)
    loop.fill(100)
    [began] = loop.transitions
    assert places(began) == ["ct:105:/"]
    state = loop.states()["ct:105:/image"]
    assert (state.readonly, state.full, state.usage) == (True, False, used(100))


def test_a_writable_udf_can_be_full() -> None:
    loop = looking(inside(ARR, disk("/disc", "7:1", fstype="udf")))
    assert len(loop.fill(100)) == 2


def test_what_is_only_shown_is_never_full() -> None:
    chosen = watching(fstypes=["nfs4"], show_only=["fuse.sshfs"])
    loop = looking(inside(ARR, fuse("/cloud")), chosen=chosen)
    assert [places(t) for t in loop.fill(100)] == [["ct:105:/"]]
    out = loop.capacity.configure(watching(fstypes=["nfs4"]), EVERYTHING, loop.now)
    assert [(t.change, places(t)) for t in out] == [(BEGAN, ["ct:105:/cloud"])]
    out = loop.capacity.configure(chosen, EVERYTHING, loop.now)
    assert [(t.change, places(t), t.reason) for t in out] == [(GONE, ["ct:105:/cloud"], "only shown from now on")]


def test_another_threshold_judges_anew() -> None:
    loop = looking(inside(ARR))
    loop.fill(93)
    [ended] = loop.capacity.configure(watching(), EVERYTHING, loop.now, warn=95)
    assert (ended.change, ended.reason) == (ENDED, "below 95 % again")
    [began] = loop.capacity.configure(watching(), EVERYTHING, loop.now, warn=92.5)
    assert (began.change, began.error) == (BEGAN, "93 % full: 7.00 GiB of 100 GiB left")
    [gone] = loop.capacity.configure(watching(), EVERYTHING, loop.now, warn=92.5, wanted=False)
    assert (gone.change, gone.reason) == (GONE, "no longer watched")


# ---- told


def told(transitions: Sequence[Transition], topic: Topic) -> Message:
    incidents = Incidents()
    incident = [incidents.apply(t, now=t.at, wall=t.at) for t in transitions][-1]
    assert incident is not None
    now = transitions[-1].at
    zone = UTC
    return compose(
        News(incident, topic, now), 0, Sender("pve3", "mail"), now=now, local=lambda t: datetime.fromtimestamp(t, zone)
    )


def test_the_message_says_what_is_full_where_and_what_is_left() -> None:
    loop = looking(inside(ARR))
    loop.fill(93)
    message = told(loop.transitions, Topic.PROBLEM)
    assert f"[{message.type}] {message.title}\n{message.body}" == "\n".join(
        [
            "[warning] 🟠 pve3: CT 105 arr / 93 % FULL",
            "Since 00:10:00 UTC",
            "CT 105 arr /: 7.00 GiB of 100 GiB left",
            "/dev/mapper/pve-disk; ext4",
            "Quiet: watcher silence ct:105:/ --for 2h",
        ]
    )
    loop.fill(20)
    message = told(loop.transitions, Topic.RECOVERED)
    assert f"[{message.type}] {message.title}\n{message.body}" == "\n".join(
        ["[success] 🟢 pve3: CT 105 arr / below 90 % again after 1 min (00:10–00:11)", "Ok: CT 105 arr /"]
    )


def test_the_message_of_a_shared_file_system_lists_its_places() -> None:
    bound = disk("/media", "8:1", root="/tank")
    loop = looking(inside(PLEX, bound), inside(ARR, bound))
    loop.answer = filled(95)
    loop.turn()
    message = told(loop.transitions, Topic.PROBLEM)
    assert message.title == "🟠 pve3: CT 101 plex /media and 1 more 95 % FULL, 2 mounts"
    lines = message.body.splitlines()
    assert lines[1:3] == [f"CT {c} /media: 5.00 GiB of 100 GiB left" for c in ("101 plex", "105 arr")]


def test_the_end_of_a_stopped_container_is_no_recovery() -> None:
    loop = looking(inside(ARR))
    loop.fill(93)
    loop.handle(NamespaceGone("ct:105", "container stopped"))
    message = told(loop.transitions, Topic.CLOSED)
    assert message.title.startswith("⚪ pve3: CT 105 arr / container stopped after ")


def test_one_member_of_an_incident_from_begin_to_end_whatever_places_come_and_go() -> None:
    bound = disk("/media", "8:1", root="/tank")
    loop, incidents = looking(inside(PLEX, bound)), Incidents()
    loop.answer = filled(95)
    loop.turn()
    loop.handle(inside(ARR, bound._replace(source="/dev/other")), NamespaceGone("ct:101", "container stopped"))
    loop.turn()
    loop.answer = filled(50)
    loop.next_turn()
    for transition in loop.transitions:
        incidents.apply(transition, now=loop.now, wall=loop.now)
    [incident] = incidents
    assert incident.closed is not None
    assert Condition.OK in {m.condition for m in incident.members}


def test_names_from_a_container_are_escaped() -> None:
    evil = disk("/a\n\x1b[31m@everyone", "7:1", source="x\n<b>")
    container = ARR._replace(name="arr\n@here")
    loop = looking(inside(container, evil))
    loop.fill(95)
    message = told([t for t in loop.transitions if "7:1" in t.subject.superblock], Topic.PROBLEM)
    for text in ("\x1b", "@everyone", "@here", "arr\n"):
        assert text not in message.title + message.body
    assert len(message.body.splitlines()) == 3


def test_a_subject_has_all_that_people_need() -> None:
    [began] = looking(inside(ARR)).fill(95)
    subject: Subject = began.subject
    assert (subject.fstype, subject.source, subject.options) == ("ext4", "/dev/mapper/pve-disk", "rw,relatime,rw")
