"""What the prober reports of mounts inside containers, and how little of it a container can choose."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.fakes.containers import Containers, FakeContainer
from tests.fakes.fuse import HANG, OK, UNREAD, FuseMount, FuseServer, Mode, Statfs, delayed, fails
from tests.integration.looking import LIMIT, Asker, asker, probe, stuck_threads, table, until
from watcher import procfs
from watcher.core.mountinfo import parse
from watcher.core.places import superblock_of
from watcher.model import Place, Probe, ProbeReport, Stage, StillWedged, Superblock, ThreadGone, Verdict
from watcher.probing import child as probe_child
from watcher.probing.sweep import LANE_FULL, LANE_HANGS, MAX_PER_LANE, Sweep
from watcher.probing.wedged import WedgedNotes

pytestmark = pytest.mark.kernel

PRIVILEGES = pytest.mark.parametrize("user_namespace", [False, True], ids=["privileged", "unprivileged"])
SIZE = Statfs(blocks=1000, bfree=400, bavail=300, frsize=512)
Interpreter = Callable[[str], None]


def inside(ct: FakeContainer, mounted: FuseMount, *, timeout: float = 1.0, deep: bool = False) -> Probe:
    """One question to a mount of a container's own FUSE server, or to one of the host's that is bound into it."""
    namespace = procfs.namespace("/proc", ct.init.pid, "user") if ct.settings.user_namespace else 0
    return probe(mounted, timeout=timeout, deep=deep)._replace(
        place=Place(ct.namespace, mounted.mount_point),
        root_pid=ct.init.pid,
        user_namespace=namespace,
        lane=ct.namespace,
    )


def mount_many(ct: FakeContainer, count: int, mode: Mode) -> list[FuseMount]:
    return [ct.fuse.mount(f"/mnt/{mode.kind}-{n:02}", mode=mode) for n in range(count)]


def bound(ct: FakeContainer, path: str, *, timeout: float = 1.0) -> Probe:
    """One question to what stands at this path inside, as its mount table has it."""
    (mount,) = [m for m in parse(procfs.read(f"/proc/{ct.init.pid}/mountinfo")) if m.mount_point == path]
    namespace = procfs.namespace("/proc", ct.init.pid, "user") if ct.settings.user_namespace else 0
    return Probe(
        superblock_of(mount),
        Place(ct.namespace, path),
        mount.mount_id,
        timeout,
        root_pid=ct.init.pid,
        user_namespace=namespace,
        lane=ct.namespace,
    )


def leaders() -> list[int]:
    """The first processes of the sweeps that are under way."""
    name = os.fsencode(str(Path(probe_child.__file__).with_name("inside.py")))
    mine = procfs.children("/proc", os.getpid())
    return [pid for pid in mine if name in Path(f"/proc/{pid}/cmdline").read_bytes()]


def verdicts(asking: Asker) -> dict[Place, Verdict]:
    return {report.probe.place: report.verdict for report in asking.of(ProbeReport)}


# ---- answers


@PRIVILEGES
async def test_answer(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    """Of a mount that the host's table does not have, and, unprivileged, that would refuse the host's root."""
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount("/mnt/own", statfs=SIZE)
    assert mounted.mount_id not in {mount.mount_id for mount in table()}
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(inside(ct, mounted, deep=True))
        assert report.verdict is Verdict.ANSWERED
        assert report.usage == (1000 * 512, 600 * 512, 300 * 512)
        (report,) = await asking.ask(inside(ct, mounted)._replace(user_namespace=0))
        if user_namespace:
            assert (report.verdict, report.errno) == (Verdict.FAILED, errno.EACCES)
        else:
            assert report.verdict is Verdict.ANSWERED
        assert asking.notes() == []


@PRIVILEGES
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ESRCH, errno.ENOENT])
async def test_errno(lxc: Containers, tmp_path: Path, user_namespace: bool, code: int) -> None:
    """Also one that would mean something else if it came from /proc."""
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount("/mnt/own", mode=fails(code))
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(inside(ct, mounted))
    assert (report.verdict, report.stage, report.errno) == (Verdict.FAILED, Stage.STATFS, code)


@PRIVILEGES
async def test_server_killed(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount("/mnt/own")
    await asyncio.to_thread(ct.fuse.kill)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(inside(ct, mounted))
    assert (report.verdict, report.errno) == (Verdict.FAILED, errno.ENOTCONN)


@pytest.mark.parametrize("options", ["", "allow_other"])
async def test_mount_of_the_host_bound_into_a_container(
    fuse: FuseServer, lxc: Containers, mount_dir: Callable[..., bytes], tmp_path: Path, options: str
) -> None:
    """Who has entered the container is a stranger to it, unless it takes all."""
    shared = fuse.mount(mount_dir(), options=options)
    ct = lxc.start(user_namespace=True, binds={shared.mount_point: "/media"})
    async with asker(tmp_path / "run") as asking:
        (from_inside, from_outside) = [
            (await asking.ask(asked))[0]
            for asked in (bound(ct, "/media"), bound(ct, "/media")._replace(user_namespace=0))
        ]
    assert from_outside.verdict is Verdict.ANSWERED
    assert (from_inside.verdict, from_inside.errno) == (
        (Verdict.ANSWERED, None) if options else (Verdict.FAILED, errno.EACCES)
    )


@PRIVILEGES
@pytest.mark.parametrize("name", ["a\nb", "start 0 1 1\nok 0 1 1 1 1 1 1", "\udcff\udcfe", "a b\t\x1b[31m", "\\012"])
async def test_names(lxc: Containers, tmp_path: Path, user_namespace: bool, name: str) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount(f"/mnt/{name}")
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(inside(ct, mounted))
    assert report.verdict is Verdict.ANSWERED


# ---- silence


@PRIVILEGES
async def test_hangs_and_comes_back(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount("/mnt/own", mode=HANG)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(inside(ct, mounted, timeout=0.5))
        assert (report.verdict, report.stage) == (Verdict.TIMED_OUT, Stage.STATFS)
        assert any("fuse" in function for function in report.stack), report.stack
        assert report.wedged is not None
        assert report.wedged.start_time == procfs.start_time("/proc", report.wedged.pid)
        assert stuck_threads([report.wedged.pid]) == [report.wedged.tid]
        assert [note.name for note in asking.notes()] == [str(report.wedged.pid)]
        mounted.set(OK)
        await until(lambda: bool(asking.of(ThreadGone)), "end of the thread")
        assert asking.of(ThreadGone) == [ThreadGone(report.wedged)]
        assert asking.notes() == []
        (report,) = await asking.ask(inside(ct, mounted))
        assert report.verdict is Verdict.ANSWERED
        await until(lambda: asking.children.survivors == 0, "reaped children")


@PRIVILEGES
async def test_silence_that_can_be_killed(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount("/mnt/own", mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        for _ in range(3):
            (report,) = await asking.ask(inside(ct, mounted, timeout=0.3))
            assert (report.verdict, report.wedged) == (Verdict.TIMED_OUT, None)
        assert asking.notes() == []
        assert mounted.waiting() == 0


async def test_one_container_hangs_beside_others(
    fuse: FuseServer, lxc: Containers, mount_dir: Callable[..., bytes], tmp_path: Path
) -> None:
    """The host's mounts and the other containers' have their verdicts while one is still silent."""
    containers = [lxc.start(user_namespace=u) for u in (True, True, False)]
    hung = containers[0].fuse.mount("/mnt/hung", mode=HANG)
    dead = fuse.mount(mount_dir("dead"), mode=fails(errno.ESTALE))
    healthy = [inside(ct, ct.fuse.mount("/mnt/own"), timeout=LIMIT) for ct in containers]
    healthy += [probe(fuse.mount(mount_dir(f"{n}")), timeout=LIMIT) for n in range(5)]
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(
            asking.ask(inside(containers[0], hung, timeout=LIMIT), probe(dead, timeout=LIMIT), *healthy)
        )
        await until(lambda: len(asking.of(ProbeReport)) == 9, "all verdicts but one")
        assert not asked.done()
        hung.set(OK)
        of_hung, of_dead, *others = await asked
    assert of_hung.verdict is Verdict.ANSWERED
    assert (of_dead.verdict, of_dead.errno) == (Verdict.FAILED, errno.ESTALE)
    assert {report.verdict for report in others} == {Verdict.ANSWERED}


async def test_wedged_in_several_processes(
    fuse: FuseServer, lxc: Containers, mount_dir: Callable[..., bytes], tmp_path: Path
) -> None:
    """Each stuck thread is known by its own process, the first one's and the forked ones'."""
    containers = [lxc.start(user_namespace=u) for u in (True, True, False)]
    mounts = [ct.fuse.mount("/mnt/hung", mode=HANG) for ct in containers]
    on_host = fuse.mount(mount_dir(), mode=HANG)
    probes = [inside(ct, m, timeout=0.5) for ct, m in zip(containers, mounts, strict=True)]
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*probes, probe(on_host, timeout=0.5))
        stuck = [report.wedged for report in reports if report.wedged]
        assert len(stuck) == 4
        assert len({wedged.pid for wedged in stuck}) == 3
        assert sorted(stuck_threads({w.pid for w in stuck})) == sorted(w.tid for w in stuck)
        assert {note.wedged for note in WedgedNotes(str(tmp_path / "run")).read()} == set(stuck)
        mounts[1].set(OK)
        await until(lambda: bool(asking.of(ThreadGone)), "end of one thread")
        assert asking.of(ThreadGone) == [ThreadGone(stuck[1])]
        assert {note.wedged for note in WedgedNotes(str(tmp_path / "run")).read()} == {stuck[0], stuck[2], stuck[3]}
        for mounted in [*mounts, on_host]:
            mounted.set(OK)
        await until(lambda: len(asking.of(ThreadGone)) == 4, "end of all threads")
        assert asking.notes() == []


@PRIVILEGES
async def test_container_stops_while_it_is_asked(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount("/mnt/own", mode=HANG)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(inside(ct, mounted, timeout=LIMIT)))
        await asyncio.to_thread(mounted.wait_parked)
        await asyncio.to_thread(ct.stop)
        (report,) = await asked
    assert (report.verdict, report.errno) == (Verdict.FAILED, errno.ECONNABORTED)


@PRIVILEGES
@pytest.mark.parametrize("wedged", [False, True], ids=["pending", "wedged"])
async def test_silence_keeps_no_disk_of_a_dead_container_busy(
    fuse: FuseServer,
    lxc: Containers,
    mount_dir: Callable[..., bytes],
    tmp_path: Path,
    user_namespace: bool,
    wedged: bool,
) -> None:
    """What hangs is the host's, so the container's end does not free the thread; it frees the container's disk."""
    shared = fuse.mount(mount_dir(), options="allow_other")
    ct = lxc.start(user_namespace=user_namespace, rootfs="image", binds={shared.mount_point: "/media"})
    shared.set(HANG)
    assert ct.image is not None
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(bound(ct, "/media", timeout=0.5 if wedged else LIMIT)))
        await asyncio.to_thread(shared.wait_parked)
        if wedged:
            assert (await asked)[0].wedged is not None
        await asyncio.to_thread(ct.stop)
        image = ct.image
        await until(lambda: not image.in_use(), "free disk")
        assert shared.counters().parked == 1
        shared.set(OK)
        await asked


# ---- not there any more


@PRIVILEGES
async def test_container_has_stopped(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    ct, other = lxc.start(user_namespace=user_namespace), lxc.start(user_namespace=True)
    asked = [inside(ct, ct.fuse.mount("/mnt/own")), inside(other, other.fuse.mount("/mnt/own"))]
    await asyncio.to_thread(ct.stop)
    async with asker(tmp_path / "run") as asking:
        gone, there = await asking.ask(*asked)
    assert (gone.verdict, gone.stage) == (Verdict.NOT_THIS_MOUNT, Stage.WALK)
    assert there.verdict is Verdict.ANSWERED


async def test_pid_of_another(lxc: Containers, tmp_path: Path) -> None:
    """The namespace is not the one that was meant: the pid has been used again. Its mount is not even looked at."""
    ct, other = lxc.start(user_namespace=True), lxc.start(user_namespace=True)
    mounted = ct.fuse.mount("/mnt/own")
    asked = inside(ct, mounted)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(asked._replace(root_pid=other.init.pid))
        assert report.verdict is Verdict.NOT_THIS_MOUNT
        (report,) = await asking.ask(asked._replace(user_namespace=asked.user_namespace + 1))
        assert report.verdict is Verdict.NOT_THIS_MOUNT
        (report,) = await asking.ask(asked._replace(root_pid=os.getpid()))
        assert report.verdict is Verdict.NOT_THIS_MOUNT
    assert "STATFS" not in mounted.counters().requests


@pytest.fixture
def without_root(tmp_path: Path) -> Iterator[int]:
    """The pid of a process in a user namespace in which nobody is root."""
    command = ["unshare", "--user", "--mount", "--propagation", "unchanged", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdout
        assert process.stdout.read(1) == b"\n"
        try:
            yield process.pid
        finally:
            process.kill()


async def test_namespace_that_cannot_be_entered(lxc: Containers, tmp_path: Path, without_root: int) -> None:
    ct = lxc.start(user_namespace=True)
    there = inside(ct, ct.fuse.mount("/mnt/own"))
    barred = there._replace(
        place=Place("ct:barred", "/mnt/own"),
        lane="",
        root_pid=without_root,
        user_namespace=procfs.namespace("/proc", without_root, "user"),
    )
    async with asker(tmp_path / "run") as asking:
        of_barred, of_there = await asking.ask(barred, there)
    assert of_barred.verdict is Verdict.VOID
    assert of_barred.note == f"cannot enter the container's user namespace: {os.strerror(errno.EINVAL)}"
    assert of_there.verdict is Verdict.ANSWERED


async def test_no_permission_to_look_into_a_container(
    lxc: Containers, tmp_path: Path, interpreter: Interpreter
) -> None:
    """A unit that takes CAP_SYS_PTRACE away: said as what it is, and no mount is blamed."""
    ct = lxc.start()
    asked = inside(ct, ct.fuse.mount("/mnt/own"))
    interpreter('exec setpriv --bounding-set -sys_ptrace -- "$python" "$@"')
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(asked)
    assert report.verdict is Verdict.VOID
    assert report.note == f"cannot look into the container: {os.strerror(errno.EACCES)}"


# ---- hostile containers


@PRIVILEGES
@pytest.mark.parametrize("where", ["last", "ancestor"])
async def test_directory_swapped_for_a_symlink(
    fuse: FuseServer,
    lxc: Containers,
    mount_dir: Callable[..., bytes],
    tmp_path: Path,
    user_namespace: bool,
    where: str,
) -> None:
    """It leads to a mount of the host that hangs, by a path that the host has, too: nobody goes there."""
    trap = fuse.mount(mount_dir("trap/own"), mode=HANG)
    ct = lxc.start(user_namespace=user_namespace)
    mounted = ct.fuse.mount("/mnt/a/own")
    asked = inside(ct, mounted)
    if where == "ancestor":
        ct.rename("/mnt/a", "/mnt/b")  # takes the mount along
        ct.symlink(os.path.dirname(trap.mount_point), "/mnt/a")
    else:
        ct.umount("/mnt/a/own")
        ct.rmdir("/mnt/a/own")
        ct.symlink(trap.mount_point, "/mnt/a/own")
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(asked)
    assert (report.verdict, report.stage) == (Verdict.NOT_THIS_MOUNT, Stage.WALK)
    assert trap.counters().requests.get("STATFS", 0) == 0
    assert trap.waiting() == 0


@PRIVILEGES
async def test_over_mounted(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    below, above = ct.fuse.mount("/mnt/own"), ct.fuse.mount("/mnt/own")
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(inside(ct, below))
        assert report.verdict is Verdict.NOT_THIS_MOUNT
        (report,) = await asking.ask(inside(ct, above))
        assert report.verdict is Verdict.ANSWERED


@PRIVILEGES
async def test_no_way_up(
    fuse: FuseServer, lxc: Containers, mount_dir: Callable[..., bytes], tmp_path: Path, user_namespace: bool
) -> None:
    """No mount table has such names; if one had, they would not lead to the host's mount of this very id."""
    shared = fuse.mount(mount_dir())
    ct = lxc.start(user_namespace=user_namespace)
    ct.mkdir("/mnt/a")
    asked = inside(ct, shared)
    async with asker(tmp_path / "run") as asking:
        for path in (f"/../..{shared.mount_point}", f"/mnt/a/../../../..{shared.mount_point}", shared.mount_point):
            (report,) = await asking.ask(asked._replace(place=Place(ct.namespace, path)))
            assert report.verdict is Verdict.NOT_THIS_MOUNT
        own = inside(ct, ct.fuse.mount("/mnt/own"))
        for path in ("/mnt/a/../own", "/mnt/./own"):
            (report,) = await asking.ask(own._replace(place=Place(ct.namespace, path)))
            assert report.verdict is Verdict.NOT_THIS_MOUNT
        (report,) = await asking.ask(own._replace(place=Place(ct.namespace, "//mnt//own/")))
        assert report.verdict is Verdict.ANSWERED


# ---- lanes


@PRIVILEGES
async def test_lane(lxc: Containers, tmp_path: Path, user_namespace: bool) -> None:
    """Of ten mounts that hang four are asked, once; another container's mount does not notice."""
    ct, other = lxc.start(user_namespace=user_namespace), lxc.start(user_namespace=True)
    hung = mount_many(ct, 10, HANG)
    probes = [inside(ct, m, timeout=1.0) for m in hung]
    healthy = inside(other, other.fuse.mount("/mnt/own"))
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(*probes, healthy))
        await until(lambda: verdicts(asking) == {healthy.place: Verdict.ANSWERED}, "the healthy mount's answer alone")
        *reports, _ = await asked
        stuck = [report.wedged for report in reports if report.wedged]
        assert len(stuck) == MAX_PER_LANE
        assert [r.verdict for r in reports if r.wedged] == [Verdict.TIMED_OUT] * MAX_PER_LANE
        assert [(r.verdict, r.note) for r in reports if not r.wedged] == [(Verdict.VOID, LANE_HANGS)] * 6
        for _ in range(2):
            *reports, of_healthy = await asking.ask(*probes, healthy)
            assert {(report.verdict, report.note) for report in reports} == {(Verdict.VOID, LANE_FULL)}
            assert of_healthy.verdict is Verdict.ANSWERED
        assert sum(mounted.counters().parked for mounted in hung) == MAX_PER_LANE
        assert sorted(stuck_threads({w.pid for w in stuck})) == sorted(w.tid for w in stuck)
        for mounted in hung:
            mounted.set(OK)
        await until(lambda: len(asking.of(ThreadGone)) == MAX_PER_LANE, "freed threads")
        reports = await asking.ask(*probes)
        assert {report.verdict for report in reports} == {Verdict.ANSWERED}


async def test_lane_is_full_and_nobody_else_is_asked(
    lxc: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no child is started, not even in vain."""
    ct = lxc.start(user_namespace=True)
    hung = mount_many(ct, 5, HANG)
    async with asker(tmp_path / "run") as asking:
        await asking.ask(*(inside(ct, m, timeout=0.3) for m in hung))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
        reports = await asking.ask(*(inside(ct, m) for m in hung))
        assert {(report.verdict, report.note) for report in reports} == {(Verdict.VOID, LANE_FULL)}


async def test_lane_remembered_from_an_earlier_run(lxc: Containers, tmp_path: Path) -> None:
    ct = lxc.start(user_namespace=True)
    hung = mount_many(ct, 4, HANG)
    async with asker(tmp_path / "run") as first:
        reports = await first.ask(*(inside(ct, m, timeout=0.3) for m in hung[:3]))
        assert all(report.wedged for report in reports)
    async with asker(tmp_path / "run") as second:
        assert {note.lane for note in second.prober.recall()} == {ct.namespace}
        more = mount_many(ct, 3, UNREAD)
        reports = await second.ask(*(inside(ct, m, timeout=0.3) for m in more))
        assert sorted(report.verdict for report in reports) == [Verdict.TIMED_OUT, Verdict.VOID, Verdict.VOID]
        (report,) = await second.ask(inside(ct, hung[3], timeout=0.3))
        assert report.wedged is not None
        (report,) = await second.ask(inside(ct, hung[3]))
        assert (report.verdict, report.note) == (Verdict.VOID, LANE_FULL)
    async with asker(tmp_path / "run") as third:
        assert len(third.prober.recall()) == 4
        hung[0].set(OK)
        await until(lambda: bool(third.of(ThreadGone)), "end of one thread")
        (report,) = await third.ask(inside(ct, hung[0]))
        assert report.verdict is Verdict.ANSWERED


async def test_note_of_a_version_without_lanes(lxc: Containers, tmp_path: Path) -> None:
    ct = lxc.start(user_namespace=True)
    mounted = ct.fuse.mount("/mnt/own", mode=HANG)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(inside(ct, mounted, timeout=0.3))
        (path,) = asking.notes()
        record = json.loads(path.read_text())
        for thread in record["threads"]:
            del thread["lane"]
        path.write_text(json.dumps(record))
    async with asker(tmp_path / "run") as later:
        (note,) = later.prober.recall()
        assert (note.wedged, note.lane) == (report.wedged, "")
        (still,) = later.of(StillWedged)
        assert still.wedged == report.wedged


async def test_lane_over_sweeps_at_once(lxc: Containers, tmp_path: Path) -> None:
    ct = lxc.start(user_namespace=True)
    hung = mount_many(ct, 10, HANG)
    async with asker(tmp_path / "run") as asking:
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(
                asking.prober.sweep([inside(ct, m, timeout=1.0) for m in hung[:2]]),
                asking.prober.sweep([inside(ct, m, timeout=1.0) for m in hung[2:5]]),
                asking.prober.sweep([inside(ct, m, timeout=1.0) for m in hung[5:]]),
            )
        reports = asking.of(ProbeReport)
        assert len(reports) == 10
        assert len([report for report in reports if report.wedged]) == MAX_PER_LANE
        assert sum(mounted.counters().parked for mounted in hung) == MAX_PER_LANE


async def test_each_mount_of_a_lane_has_its_turn(lxc: Containers, tmp_path: Path) -> None:
    """However many hang, in whatever order they are named."""
    ct = lxc.start(user_namespace=True)
    hung, healthy = mount_many(ct, 8, UNREAD), mount_many(ct, 2, OK)
    probes = [inside(ct, m, timeout=0.2) for m in hung + healthy]
    wanted = {Place(ct.namespace, m.mount_point) for m in healthy}
    async with asker(tmp_path / "run") as asking:
        deadline = monotonic() + LIMIT
        while wanted and monotonic() < deadline:
            reports = await asking.ask(*probes)
            wanted -= {report.probe.place for report in reports if report.verdict is Verdict.ANSWERED}
            assert {report.note for report in reports if report.verdict is Verdict.VOID} <= {LANE_HANGS}
        assert wanted == set()


@PRIVILEGES
async def test_slow_container(
    fuse: FuseServer, lxc: Containers, mount_dir: Callable[..., bytes], tmp_path: Path, user_namespace: bool
) -> None:
    """All its mounts are asked in the end, but nobody waits for that: not the verdict on one of the host's."""
    ct = lxc.start(user_namespace=user_namespace)
    slow = mount_many(ct, 12, delayed(300))
    dead = probe(fuse.mount(mount_dir(), mode=UNREAD), timeout=1.0)
    async with asker(tmp_path / "run") as asking:
        of_dead, *reports = await asking.ask(dead, *(inside(ct, m, timeout=LIMIT) for m in slow))
        assert of_dead.verdict is Verdict.TIMED_OUT
        assert {report.verdict for report in reports} == {Verdict.ANSWERED}
        order = [report.probe.place for report in asking.of(ProbeReport)]
        assert order.index(dead.place) < len(order) - 1


def test_lane_in_two_processes() -> None:
    """Some of a container's mounts are asked from inside, some as the host: together they have no more threads."""
    outside = Probe(Superblock("0:1", "/", "fuse", "x"), Place("ct:1", "/a"), 1, 1.0, root_pid=7, lane="ct:1")
    within = outside._replace(user_namespace=5)
    sweep = Sweep([outside] * 5 + [within] * 5, 0.0)
    slots = {(job.probe.user_namespace, job.slots) for job in sweep.open.values()}
    assert slots == {(0, 2), (5, 2)}
    assert sweep.holds("ct:1") == MAX_PER_LANE
    sweep = Sweep([outside] * 5 + [within] * 5, 0.0, lambda lane: 1)
    assert {job.slots for job in sweep.open.values()} == {1}
    assert (len(sweep.open), len(sweep.late), sweep.holds("ct:1")) == (5, 5, 1)


# ---- many, and what is left of them


async def test_fifty_user_namespaces(lxc: Containers, tmp_path: Path, interpreter: Interpreter) -> None:
    """In one sweep, for one start of the interpreter."""
    containers = [await asyncio.to_thread(lxc.start, user_namespace=True) for _ in range(50)]
    probes = [inside(ct, ct.fuse.mount("/mnt/own"), timeout=10.0) for ct in containers]
    starts = tmp_path / "starts"
    interpreter(f'echo start >>{starts}; exec "$python" "$@"')
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*probes)
        assert {report.verdict for report in reports} == {Verdict.ANSWERED}
        assert starts.read_text().splitlines() == ["start"]
        await until(lambda: asking.children.survivors == 0, "reaped child")


async def hanging_sweep(asking: Asker, lxc: Containers) -> tuple[asyncio.Task[None], list[FuseMount], int, list[int]]:
    """Two containers whose probes wait, killable; the sweep, the mounts, its first process and those it forked."""
    containers = [lxc.start(user_namespace=True) for _ in range(2)]
    mounts = [ct.fuse.mount("/mnt/own", mode=UNREAD) for ct in containers]
    probes = [inside(ct, m, timeout=LIMIT) for ct, m in zip(containers, mounts, strict=True)]
    sweep = asyncio.create_task(asking.prober.sweep(probes))
    for mounted in mounts:
        await asyncio.to_thread(mounted.wait_waiting)
    (leader,) = leaders()
    forked = procfs.children("/proc", leader)
    assert len(forked) == 2
    return sweep, mounts, leader, forked


def ended(pids: list[int]) -> bool:
    # A zombie has ended; whose child it is by now, and when that one looks, is not ours to say.
    return not any(procfs.thread_exists("/proc", pid, pid) for pid in pids)


async def test_cancelled_sweep(lxc: Containers, tmp_path: Path) -> None:
    async with asker(tmp_path / "run") as asking:
        sweep, mounts, leader, forked = await hanging_sweep(asking, lxc)
        sweep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sweep
        await until(lambda: ended([leader, *forked]), "end of all processes")
        assert [mounted.waiting() for mounted in mounts] == [0, 0]


async def test_forked_processes_end_with_the_first(lxc: Containers, tmp_path: Path) -> None:
    async with asker(tmp_path / "run") as asking:
        sweep, mounts, leader, forked = await hanging_sweep(asking, lxc)
        os.kill(leader, signal.SIGKILL)
        await until(lambda: ended([leader, *forked]), "end of all processes")
        await until(lambda: [mounted.waiting() for mounted in mounts] == [0, 0], "end of the requests")
        await sweep
        assert {(r.verdict, r.note) for r in asking.of(ProbeReport)} == {(Verdict.VOID, "the probe process ended")}


async def test_forked_process_is_killed(lxc: Containers, tmp_path: Path) -> None:
    """Its own probe says nothing, at once; the other one goes on."""
    async with asker(tmp_path / "run") as asking:
        sweep, mounts, _, forked = await hanging_sweep(asking, lxc)
        os.kill(forked[0], signal.SIGKILL)
        await until(lambda: bool(asking.of(ProbeReport)), "a report")
        (report,) = asking.of(ProbeReport)
        assert (report.verdict, report.note) == (Verdict.VOID, "the probe process ended")
        assert not sweep.done()
        for mounted in mounts:
            mounted.set(OK)
        await sweep
        assert asking.of(ProbeReport)[1].verdict is Verdict.ANSWERED


async def test_descriptors_stay_constant(
    lxc: Containers, tmp_path: Path, descriptors: Callable[[], dict[int, str]]
) -> None:
    ct = lxc.start(user_namespace=True)
    probes = [inside(ct, ct.fuse.mount("/mnt/a")), inside(ct, ct.fuse.mount("/mnt/b", mode=UNREAD), timeout=0.2)]
    async with asker(tmp_path / "run") as asking:
        await asking.ask(*probes)
        await until(lambda: asking.children.survivors == 0, "reaped child")
        before = descriptors()
        for _ in range(3):
            await asking.ask(*probes)
        await until(lambda: asking.children.survivors == 0, "reaped children")
        assert len(descriptors()) <= len(before)
