from __future__ import annotations

import errno

from tests.unit.mounts import (
    Loop,
    answered,
    error,
    failed,
    good,
    mount,
    no_answer_inside,
    other_mount,
    silent,
    watch,
    watching,
)
from watcher.core.incident import Condition
from watcher.core.incidents import Incidents
from watcher.core.outbox import Topic, news_of, told_now
from watcher.core.places import MAX_PLACES, superblock_of
from watcher.core.roster import ALONE, FROZEN_LIMIT, OLD
from watcher.core.tracker import Tracker
from watcher.model import (
    HOST,
    Change,
    Container,
    Kind,
    MountState,
    Place,
    Probe,
    ProbeReport,
    Transition,
    Verdict,
)

CT1 = Container("101", 1001, 5, "plex")
CT2 = Container("102", 1002, 6, "arr", user_namespace=4026532001)
CT3 = Container("103", 1003, 7, "web")
BEGAN, JOINED, ENDED, LEFT, GONE, REMOUNTED = (
    (Kind.STALE, change)
    for change in (Change.BEGAN, Change.JOINED, Change.ENDED, Change.LEFT, Change.GONE, Change.REMOUNTED)
)

NAS = mount("/mnt/nas")
SB = superblock_of(NAS)
BIND = mount("/media", mount_id=70)  # of NAS, in a container
OWN = mount("/own", mount_id=71, device="0:71", fstype="fuse.sshfs", source="root@nas01:/own")
OWN_SB = superblock_of(OWN)


def at(loop: Loop, namespace: str, point: str) -> MountState:
    return next(s for s in loop.tracker.snapshot() if s.place == Place(namespace, point))


def last_probe(loop: Loop) -> Probe:
    return loop.asked[-1][1]


# ---- one superblock, one probe, one matter


def test_a_share_of_the_host_in_fifty_containers_is_one_probe_at_the_host() -> None:
    loop = watch(NAS)
    for n in range(50):
        loop.contained(Container(f"{200 + n}", 2000 + n, 1, f"ct{n}"), BIND)
    loop.run(9)
    assert len(loop.asked) == 1
    assert last_probe(loop).place.namespace == HOST
    loop.answers[SB] = silent
    loop.run(40)
    (alarm,) = [t for t in loop.transitions if t.change is Change.BEGAN]
    assert len(alarm.subject.places) == 51
    assert dict(alarm.subject.names)["ct:207"] == "ct7"
    assert loop.changes() == [BEGAN]
    loop.answers[SB] = good
    loop.run(15)
    assert loop.changes() == [BEGAN, ENDED]


def test_without_a_place_on_the_host_it_is_asked_in_a_container() -> None:
    loop = watch()
    loop.contained(CT1, BIND)
    loop.run(1)
    probe = last_probe(loop)
    assert (probe.place, probe.root_pid, probe.user_namespace, probe.lane) == (Place("ct:101", "/media"), 1001, 0, "")


def test_a_fuse_mount_of_an_unprivileged_container_is_asked_from_inside() -> None:
    loop = watch()
    loop.contained(CT2, OWN)
    loop.run(1)
    probe = last_probe(loop)
    assert (probe.root_pid, probe.user_namespace, probe.lane) == (1002, 4026532001, "ct:102")


def test_what_a_container_has_of_the_host_is_not_asked_from_inside() -> None:
    """An sshfs of the host's that was unmounted there, and is still bound in a container."""
    loop = watch(OWN._replace(mount_point="/mnt/own"))
    loop.contained(CT2, OWN)
    loop.run(1)
    assert last_probe(loop).place.namespace == HOST
    loop.mounted()
    loop.run(12)
    probe = last_probe(loop)
    assert (probe.place.namespace, probe.user_namespace) == ("ct:102", 0)


def test_refused_inside_it_is_asked_as_the_host() -> None:
    loop = watch()
    loop.answers[OWN_SB] = no_answer_inside
    loop.contained(CT2, OWN)
    loop.run(1)
    assert [p.user_namespace for _, p in loop.asked] == [4026532001, 0]
    assert at(loop, "ct:102", "/own").status == "ok"


def test_below_a_fuse_mount_of_a_container_everything_can_hang_at_its_will() -> None:
    below = mount("/own/sub", mount_id=72, parent=71, device="0:72")
    loop = watch()
    loop.contained(CT1, OWN, below)
    loop.run(1)
    assert {p.place.mount_point: p.lane for _, p in loop.asked} == {"/own": "ct:101", "/own/sub": "ct:101"}


# ---- containers come and go


def test_a_stopped_container_is_forgotten_silently() -> None:
    loop = watch(NAS)
    loop.contained(CT1, BIND, OWN)
    loop.run(30)
    loop.stopped(CT1)
    loop.run(30)
    assert loop.transitions == []
    assert [s.place for s in loop.tracker.snapshot()] == [Place(HOST, "/mnt/nas")]
    assert loop.tracker.namespaces() == [HOST]


def test_the_matter_of_a_stopped_container_is_closed_and_that_is_no_recovery() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.answers[OWN_SB] = error(errno.ENOTCONN)
    loop.run(30)
    (end,) = loop.stopped(CT1)
    assert (end.kind, end.change, end.reason) == (Kind.STALE, Change.GONE, "container stopped")
    assert loop.changes() == [BEGAN, GONE]


def test_restarted_with_a_mount_that_works_it_is_remounted() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.answers[OWN_SB] = error(errno.ENOTCONN)
    loop.run(30)
    loop.stopped(CT1)
    loop.contained(CT1._replace(init_pid=1099, start_time=99), OWN._replace(device="0:99"))
    loop.run(5)
    assert loop.changes() == [BEGAN, GONE, REMOUNTED]
    assert last_probe(loop).root_pid == 1099


def test_who_joins_and_leaves_a_dead_share() -> None:
    loop = watch(NAS)
    loop.answers[SB] = silent
    loop.run(40)
    loop.contained(CT1, BIND)
    loop.stopped(CT1)
    assert loop.changes() == [BEGAN, JOINED, LEFT]
    loop.answers[SB] = good
    loop.run(20)
    assert loop.changes() == [BEGAN, JOINED, LEFT, ENDED]


def test_one_tables_news_is_no_other_ones_matter() -> None:
    loop = watch(NAS)
    loop.contained(CT1, BIND)
    loop.contained(CT2, OWN)
    loop.run(5)
    loop.contained(CT2)  # gone by one reading
    assert loop.tracker.take_rereads() == {"ct:102"}
    loop.contained(CT2)  # and by a second
    assert {s.place.namespace for s in loop.tracker.snapshot()} == {HOST, "ct:101"}


# ---- what vanishes inside


VANISHED = (Kind.VANISHED, Change.BEGAN)


def test_what_vanishes_in_a_container_is_said_when_it_stays_away() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.run(5)
    loop.contained(CT1)
    loop.run(15)
    assert loop.changes() == []
    loop.run(10)
    assert loop.changes() == [VANISHED]
    loop.contained(CT1, OWN)
    loop.run(5)
    assert loop.changes() == [VANISHED, (Kind.VANISHED, Change.ENDED)]


def test_a_container_that_unmounts_and_stops_is_forgotten_silently() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.run(5)
    loop.contained(CT1)
    loop.run(5)
    loop.stopped(CT1)
    loop.run(100)
    assert loop.changes() == []


def test_a_container_that_stops_later_ends_what_was_said_of_it() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.run(5)
    loop.contained(CT1)
    loop.run(30)
    loop.stopped(CT1)
    assert loop.changes() == [VANISHED, (Kind.VANISHED, Change.GONE)]
    assert loop.transitions[-1].reason == "container stopped"


def test_a_container_cannot_use_up_what_is_remembered_of_the_host() -> None:
    loop = watch(NAS)
    for start in range(0, 1000, 250):
        loop.contained(
            CT1,
            *[
                OWN._replace(mount_point=f"/m/{n}", mount_id=500 + n, device=f"1:{n}")
                for n in range(start, start + 250)
            ],
        )
        loop.run(12)
        loop.contained(CT1)
        loop.run(1)
    loop.run(30)
    assert 0 < len(loop.transitions) <= 64
    loop.transitions.clear()
    loop.mounted()
    loop.run(1)
    assert loop.changes() == [VANISHED]


# ---- host ok, container old


def incidents_of(transitions: list[Transition]) -> Incidents:
    incidents = Incidents()
    for t in transitions:
        incidents.apply(t, now=t.at, wall=t.at)
    return incidents


def test_remounted_on_the_host_while_a_container_keeps_the_dead_one() -> None:
    loop = watch(NAS)
    loop.contained(CT1, BIND)
    loop.answers[SB] = error(errno.ESTALE)
    loop.run(30)
    told = told_now(next(iter(incidents_of(loop.transitions))), loop.now)
    loop.mounted(NAS._replace(device="0:99", mount_id=99))
    loop.run(15)
    assert loop.changes() == [BEGAN, LEFT, REMOUNTED, JOINED]
    assert loop.transitions[-1].context == OLD
    (incident,) = incidents_of(loop.transitions)
    assert {m.subject.places: m.condition for m in incident.members} == {
        (Place("ct:101", "/media"),): Condition.DOWN,
        (Place(HOST, "/mnt/nas"),): Condition.REMOUNTED,
    }
    news = news_of(incident, told, group_wait=3)
    assert news is not None
    assert news.topic is Topic.PARTIAL
    assert news_of(incident, told_now(incident, loop.now), group_wait=3) is None
    assert at(loop, "ct:101", "/media").context == OLD
    loop.stopped(CT1)
    (incident,) = incidents_of(loop.transitions)
    assert incident.closed is not None


def test_that_a_container_stops_is_no_news_of_a_share_that_is_dead_elsewhere_too() -> None:
    loop = watch(NAS)
    loop.contained(CT1, BIND)
    loop.answers[SB] = silent
    loop.run(40)
    told = told_now(next(iter(incidents_of(loop.transitions))), loop.now)
    loop.stopped(CT1)
    (incident,) = incidents_of(loop.transitions)
    assert news_of(incident, told, group_wait=3) is None
    loop.contained(CT1, BIND)
    (incident,) = incidents_of(loop.transitions)
    assert [m.subject.places for m in incident.members] == [(Place(HOST, "/mnt/nas"), Place("ct:101", "/media"))]
    assert news_of(incident, told, group_wait=3) is None


LXCFS_BINDS = [
    mount(f"/proc/{name}", mount_id=80 + n, device="0:80", root=f"/proc/{name}", fstype="fuse.lxcfs", source="lxcfs")
    for n, name in enumerate(("cpuinfo", "meminfo", "stat"))
]


def test_lxcfs_is_one_place_in_each_container_and_one_matter_with_the_host() -> None:
    host = mount("/var/lib/lxcfs", mount_id=50, device="0:80", fstype="fuse.lxcfs", source="lxcfs")
    loop = watch(host)
    loop.contained(CT1, *LXCFS_BINDS)
    loop.contained(CT2, *LXCFS_BINDS)
    loop.run(5)
    assert len(loop.asked) == 1
    assert sorted(s.place for s in loop.tracker.snapshot()) == [
        Place("ct:101", "/proc/cpuinfo"),
        Place("ct:102", "/proc/cpuinfo"),
        Place(HOST, "/var/lib/lxcfs"),
    ]


def test_lxcfs_restarted_on_the_host_leaves_dead_binds() -> None:
    host = mount("/var/lib/lxcfs", mount_id=50, device="0:99", fstype="fuse.lxcfs", source="lxcfs")
    loop = watch(host)
    loop.contained(CT1, *LXCFS_BINDS)
    loop.contained(CT2, *LXCFS_BINDS)
    loop.answers[superblock_of(LXCFS_BINDS[0])] = error(errno.ENOTCONN)
    loop.run(1)
    assert at(loop, "ct:101", "/proc/cpuinfo").context == OLD  # before it is judged: by the tables alone
    loop.run(30)
    (alarm,) = loop.transitions
    assert (alarm.context, alarm.subject.places) == (
        OLD, (Place("ct:101", "/proc/cpuinfo"), Place("ct:102", "/proc/cpuinfo")),
    )  # fmt: skip


def test_an_nfs_mount_of_the_containers_own_is_not_old() -> None:
    loop = watch(NAS._replace(super_options="rw,vers=4.2,clientaddr=10.0.0.1"))
    own = BIND._replace(device="0:70", super_options="rw,vers=4.2,clientaddr=10.0.0.101")
    loop.contained(CT1, own)
    loop.contained(CT2, BIND._replace(device="0:71"))
    loop.contained(CT3, BIND._replace(device="0:72", super_options="rw,vers=4.2,clientaddr=10.0.0.1"))
    loop.run(5)
    assert at(loop, "ct:101", "/media").context == ""  # privileged: it can mount NFS itself
    assert at(loop, "ct:102", "/media").context == OLD  # unprivileged: it has it from the host
    assert at(loop, "ct:103", "/media").context == OLD  # mounted with the host's address
    loop.answers[superblock_of(own)] = error(errno.ESTALE)
    loop.run(20)
    assert [t.context for t in loop.transitions] == [ALONE]


# ---- what a container says of itself is hearsay


def test_a_container_cannot_join_the_hosts_incidents() -> None:
    fake = OWN._replace(fstype="fuse.sshfs", source="root@nas01:/films")
    real = mount("/srv/films", mount_id=44, device="0:44", fstype="fuse.sshfs", source="root@nas01:/films")
    loop = watch(real, NAS)
    loop.contained(CT1, fake)
    for m in (fake, real, NAS):
        loop.answers[superblock_of(m)] = error(errno.EIO)
    loop.run(40)
    incidents = incidents_of(loop.transitions)
    assert sorted((i.group, len(i.members)) for i in incidents) == [("fuse in ct:101", 1), ("server nas01", 2)]
    assert [i.server for i in incidents if i.group.startswith("fuse")] == [None]


def test_all_that_a_container_serves_itself_is_one_incident() -> None:
    loop = watch()
    own = [
        OWN._replace(mount_point=f"/own/{n}", mount_id=200 + n, device=f"0:{200 + n}", source=f"h{n}:/x")
        for n in range(30)
    ]
    loop.contained(CT1, *own)
    for n, m in enumerate(own):
        loop.answers[superblock_of(m)] = error(errno.EIO if n % 2 else errno.ENOTCONN)
    loop.run(40)
    assert len(incidents_of(loop.transitions)) == 1


def test_only_so_many_mounts_of_a_container_are_watched() -> None:
    many = [OWN._replace(mount_point=f"/m/{n}", mount_id=1000 + n, device=f"1:{n}") for n in range(MAX_PLACES + 44)]
    loop = watch(*[m._replace(mount_point=f"/host{m.mount_point}") for m in many])
    loop.contained(CT1, *many)
    states = loop.tracker.snapshot()
    assert sum(s.place.namespace == "ct:101" for s in states) == MAX_PLACES
    assert sum(s.place.namespace == HOST for s in states) == len(many)
    assert loop.tracker.left_out() == {"ct:101": 44}
    loop.contained(CT1)
    loop.contained(CT1)
    assert loop.tracker.left_out() == {}


def test_a_place_that_leads_elsewhere_does_not_spoil_the_others() -> None:
    """A container swaps the directory on the way: asked at another place, whatever it does."""
    loop = watch()
    loop.contained(CT1, BIND)
    loop.contained(CT2, BIND)

    def swapped(asked: Probe, now: float) -> tuple[ProbeReport, float]:
        return (other_mount if asked.place.namespace == "ct:101" else answered)(asked, now), 0.01

    loop.answers[SB] = swapped
    loop.run(60)
    assert {s.status for s in loop.tracker.snapshot()} == {"ok"}
    loop.answers[SB] = error(errno.ESTALE)
    loop.run(30)
    assert loop.changes() == [BEGAN]


def test_one_refusal_from_inside_is_no_verdict_for_ever() -> None:
    loop = watch()
    loop.contained(CT2, OWN)
    loop.run(12)
    loop.answers[OWN_SB] = error(errno.EACCES)
    loop.run(20)
    loop.answers[OWN_SB] = lambda asked, now: (
        answered(asked, now) if asked.user_namespace else failed(asked, now, errno.EACCES),
        0.01,
    )
    loop.run(15)
    assert at(loop, "ct:102", "/own").status == "ok"


def test_a_container_whose_probes_are_not_let_through_hides_no_other_ones_mount() -> None:
    """An old mount of the host's in two containers, of which one has all its threads hanging."""
    own = OWN._replace(mount_point="/mnt/own")
    loop = watch(own)
    loop.contained(CT1, OWN)
    loop.contained(CT3, OWN)
    loop.run(1)
    loop.mounted()

    def crowded(asked: Probe, now: float) -> tuple[ProbeReport, float]:
        if asked.place.namespace == "ct:101":
            return ProbeReport(asked, Verdict.VOID, now, note="full"), 0.01
        return failed(asked, now, errno.ENOTCONN), 0.01

    loop.answers[OWN_SB] = crowded
    loop.run(60)
    assert BEGAN in loop.changes()


def test_read_only_in_one_container_is_not_read_only_in_the_other() -> None:
    loop = watch()
    loop.contained(CT1, BIND._replace(options="ro,relatime"))
    loop.contained(CT3, BIND)
    loop.answers[SB] = lambda asked, now: (answered(asked, now, readonly=asked.place.namespace == "ct:101"), 0.01)
    loop.run(30)
    assert [at(loop, ns, "/media").status for ns in ("ct:101", "ct:103")] == ["readonly", "ok"]
    loop.contained(CT3)
    loop.run(30)
    loop.contained(CT3, BIND)
    loop.run(30)
    assert [t for t in loop.transitions if t.kind is Kind.READONLY] == []


def test_what_a_container_put_in_the_place_of_its_dead_mount_is_not_taken_for_told() -> None:
    """It binds the host's share where its own dead mount was told of; then the share dies."""
    loop = watch(NAS)
    loop.contained(CT1, OWN)
    loop.answers[OWN_SB] = error(errno.EIO)
    loop.run(30)
    loop.contained(CT1, BIND._replace(mount_point="/own"))
    loop.answers[SB] = silent
    loop.run(60)
    incidents = incidents_of(loop.transitions)
    assert sorted((i.group, i.closed is None) for i in incidents) == [("fuse in ct:101", False), ("server nas01", True)]


def test_a_mount_that_moves_about_is_one_member_not_one_for_each_place() -> None:
    loop = watch(NAS)
    loop.answers[SB] = silent
    loop.run(40)
    for n in range(300):
        loop.contained(CT1, BIND._replace(mount_point=f"/m/{n}"))
    (incident,) = incidents_of(loop.transitions)
    assert len(incident.members) == 2
    assert all(len(m.subject.places) <= 65 for m in incident.members)


# ---- frozen


FROZEN = CT1._replace(frozen=True)


def test_a_frozen_container_is_not_judged() -> None:
    loop = watch()
    loop.contained(CT1, OWN, BIND)
    loop.run(12)
    loop.answers[OWN_SB] = silent
    loop.run(15)
    assert at(loop, "ct:101", "/own").status == "slow"
    loop.contained(FROZEN, OWN, BIND)
    loop.run(FROZEN_LIMIT - 60)
    assert loop.transitions == []
    assert (at(loop, "ct:101", "/own").status, at(loop, "ct:101", "/media").status) == ("denied", "ok")
    asked = [p.superblock for at, p in loop.asked if at > 30]
    assert OWN_SB not in asked
    assert SB in asked  # served by the kernel: it answers whoever is frozen
    loop.contained(CT1, OWN, BIND)
    loop.answers[OWN_SB] = good
    loop.run(1)
    assert at(loop, "ct:101", "/own").status == "ok"
    assert loop.transitions == []


def test_after_the_thaw_the_full_patience_holds() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.run(12)
    loop.answers[OWN_SB] = silent
    loop.run(16)
    loop.contained(FROZEN, OWN)
    loop.run(100)
    loop.contained(CT1, OWN)
    thawed = loop.now
    loop.run(40)
    (alarm,) = loop.transitions
    assert alarm.at - thawed >= 20


def test_what_was_dead_before_stays_so_while_frozen_and_ends_with_the_container() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.answers[OWN_SB] = error(errno.EIO)
    loop.run(30)
    loop.contained(FROZEN, OWN)
    loop.run(30)
    state = at(loop, "ct:101", "/own")
    assert (state.status, state.error) == ("stale", "Input/output error (EIO)")
    loop.stopped(CT1)
    assert loop.changes() == [BEGAN, GONE]


def test_frozen_for_too_long_it_is_judged() -> None:
    loop = watch()
    loop.contained(FROZEN, OWN)
    loop.answers[OWN_SB] = silent
    loop.run(FROZEN_LIMIT - 1)
    assert loop.asked == []
    loop.run(40)
    assert loop.changes() == [BEGAN]


def test_the_hosts_own_are_judged_whoever_is_frozen() -> None:
    lxcfs = LXCFS_BINDS[0]
    loop = watch()
    loop.contained(FROZEN, lxcfs)
    loop.answers[superblock_of(lxcfs)] = error(errno.ENOTCONN)
    loop.run(30)
    assert loop.changes() == [BEGAN]


# ---- probes that are not allowed


def test_what_is_never_asked_is_not_said_to_be_ok_for_ever() -> None:
    loop = watch()
    loop.contained(CT1, OWN)
    loop.run(12)

    def crowded(asked: Probe, now: float) -> tuple[ProbeReport, float]:
        return ProbeReport(asked, Verdict.VOID, now, note="4 probes hang in this container already"), 0.01

    loop.answers[OWN_SB] = crowded
    loop.run(30)
    state = at(loop, "ct:101", "/own")
    assert (state.status, state.error) == ("unknown", "4 probes hang in this container already")
    assert loop.transitions == []


def test_names_come_with_the_table() -> None:
    tracker = Tracker(watching())
    loop = Loop(tracker)
    loop.contained(CT1._replace(name=""), BIND)
    loop.contained(CT1, BIND)
    (state,) = tracker.snapshot()
    assert state.container == CT1
