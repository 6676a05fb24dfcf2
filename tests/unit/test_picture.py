"""All parts as one: what only their interplay, or the order of events, can get wrong."""

from __future__ import annotations

from tests.unit.mounts import ROOT, mount, timed_out, watching
from watcher.core.picture import Picture, Rules, merged
from watcher.core.places import superblock_of
from watcher.model import HOST, Container, NamespaceGone, StillWedged, TableRead, ThreadGone, Wedged

CT = Container("101", 1001, 5, "plex")
OWN = mount("/own", mount_id=71, device="0:71", fstype="fuse.sshfs", source="root@nas01:/own")
THREAD = Wedged(4000, 7, 4001)


def picture() -> Picture:
    started = Picture(Rules(watching(), watching(fstypes=["*"])))
    started.handle(TableRead(HOST, (ROOT,)), 0)
    return started


def inside(container: Container = CT) -> TableRead:
    root = ROOT._replace(device="7:1", source="/dev/loop1")
    return TableRead(container.namespace, (root, OWN), container)


def test_what_hangs_since_an_earlier_run_is_not_asked_though_its_container_is_found_later() -> None:
    after_restart = picture()
    after_restart.handle(StillWedged(superblock_of(OWN), THREAD, since=-100), 1)
    after_restart.handle(inside(), 2)
    assert after_restart.start_due(3) == []
    after_restart.handle(ThreadGone(THREAD), 4)
    assert [p.place.mount_point for p in after_restart.start_due(5)] == ["/own"]


def test_nor_when_its_container_has_been_started_again_over_it() -> None:
    running = picture()
    running.handle(inside(), 1)
    (probe,) = running.start_due(2)
    running.handle(timed_out(probe, 2.0, wedged=THREAD), 7)
    running.handle(NamespaceGone("ct:101", "container stopped"), 8)
    running.handle(inside(CT._replace(init_pid=1099, start_time=9)), 9)
    assert running.start_due(10) == []


def test_problems_of_several_parts_stand_beside_each_other() -> None:
    assert merged({"ct:1": "a"}, {"ct:1": "b", "ct:2": "c"}) == {"ct:1": "a; b", "ct:2": "c"}
