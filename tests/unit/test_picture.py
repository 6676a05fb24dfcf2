"""All parts as one: what only their interplay, or the order of events, can get wrong."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.mounts import ROOT, answered, failed, mount, timed_out, watching
from watcher.core.picture import Picture, Rules, merged
from watcher.core.places import superblock_of
from watcher.model import (
    HOST,
    Container,
    Expected,
    ExpectedRead,
    NamespaceGone,
    Place,
    Probe,
    StillWedged,
    TableRead,
    ThreadGone,
    Tick,
    Wedged,
)

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


NAS = mount("/mnt/nas", mount_id=41)
TABLES = ((ROOT,), (ROOT, NAS), (ROOT, NAS._replace(options="ro")), (ROOT, mount("/mnt/nas", device="0:60")))
STEPS = st.lists(
    st.tuples(st.sampled_from(["table", "container", "gone", "probe", "tick", "rules", "expected"]), st.integers(0, 3))
)


def step(what: str, which: int, on: Picture, now: float) -> None:
    if what == "table":
        on.handle(TableRead(HOST, TABLES[which]), now)
    elif what == "container":
        on.handle(inside(CT._replace(frozen=which == 1)), now)
    elif what == "gone":
        on.handle(NamespaceGone("ct:101", "container stopped"), now)
    elif what == "tick":
        on.handle(Tick(), now)
    elif what == "rules":
        on.configure(Rules(watching(), watching(fstypes=["*"]), missing_after=which), now)
    elif what == "expected":
        wanted = Expected(Place(HOST, "/mnt/gone"), "nas01:/gone", "nfs4", "/etc/fstab")
        on.handle(ExpectedRead((wanted,)[:which]), now)
    else:
        kinds: tuple[Callable[[Probe], object], ...] = (
            lambda p: on.handle(answered(p, now), now),
            lambda p: on.handle(failed(p, now), now),
            lambda p: on.handle(timed_out(p, now, wedged=THREAD), now),
            lambda p: on.ask_now(p.place, now),
        )
        for probe in on.start_due(now):
            kinds[which](probe)


@settings(max_examples=100)
@given(STEPS)
def test_who_looks_after_each_step_sees_what_who_looks_once_sees(steps: list[tuple[str, int]]) -> None:
    """What is kept between two looks is never old."""
    looked = picture()
    for n in range(len(steps)):
        once = picture()
        for m in range(n + 1):
            step(*steps[m], on=once, now=20.0 * m)
        step(*steps[n], on=looked, now=20.0 * n)
        assert looked.snapshot() == once.snapshot()
