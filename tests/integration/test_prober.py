"""What the prober reports of real mounts that answer, fail, are late or hang, and what it leaves behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.fakes.fuse import (
    ALL_ONES,
    HANG,
    MS_BIND,
    NO_INIT,
    OK,
    UNREAD,
    FuseMount,
    FuseServer,
    Mode,
    Statfs,
    delayed,
    fails,
)
from tests.fakes.fuse_server import mount, unmount
from tests.integration.looking import (
    LIMIT,
    ROOT,
    asker,
    mounts_at,
    probe,
    probe_children,
    probe_of,
    stuck_threads,
    until,
)
from watcher import procfs
from watcher.model import HOST, Place, ProbeReport, Stage, StillWedged, ThreadGone, Verdict
from watcher.probing.wedged import WedgedNotes

pytestmark = pytest.mark.kernel

MakeDir = Callable[..., bytes]
MNT_NOW = 0  # umount2(2) without MNT_DETACH: EBUSY while anything holds the mount


def mount_many(fuse: FuseServer, mount_dir: MakeDir, count: int, mode: Mode) -> list[FuseMount]:
    return [fuse.mount(mount_dir(f"{mode.kind}-{n:03}"), mode=mode) for n in range(count)]


# ---- answers


async def test_answer(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir(), statfs=Statfs(blocks=1000, bfree=400, bavail=300, frsize=512))
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted))
    assert report.verdict is Verdict.ANSWERED
    assert report.usage == (1000 * 512, 600 * 512, 300 * 512)
    assert report.readonly is False
    assert report.latency is not None
    assert asking.notes() == []


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.EHOSTDOWN, errno.ENOTCONN])
async def test_errno(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, code: int) -> None:
    mounted = fuse.mount(mount_dir(), mode=fails(code))
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted))
    assert (report.verdict, report.stage, report.errno) == (Verdict.FAILED, Stage.STATFS, code)


async def test_server_killed(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir())
    await asyncio.to_thread(fuse.kill)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted))
    assert (report.verdict, report.errno) == (Verdict.FAILED, errno.ENOTCONN)


async def test_server_killed_while_asked(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir(), mode=HANG)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(probe(mounted, timeout=LIMIT)))
        await asyncio.to_thread(mounted.wait_parked)
        await asyncio.to_thread(fuse.kill)
        (report,) = await asked
    # A request that was sent ends so, a new one with ENOTCONN.
    assert (report.verdict, report.errno) == (Verdict.FAILED, errno.ECONNABORTED)


async def test_mount_of_another_user_is_refused(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Its statfs "succeeds" with zeros without asking the server; that is no answer."""
    mounted = fuse.mount(mount_dir(), user_id=1000, group_id=1000)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted))
    assert (report.verdict, report.stage, report.errno) == (Verdict.FAILED, Stage.STATFS, errno.EACCES)


@pytest.mark.parametrize("blocks", [0, ALL_ONES])
async def test_odd_sizes_are_reported_as_they_are(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, blocks: int
) -> None:
    mounted = fuse.mount(mount_dir(), statfs=Statfs(blocks, blocks, blocks, 4096))
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted))
    assert report.verdict is Verdict.ANSWERED
    assert report.usage is not None
    assert (report.usage.total == 0) if blocks == 0 else (report.usage.total < 0 or report.usage.total > 2**62)


async def test_late_but_in_time(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir(), mode=delayed(400))
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted, timeout=10.0))
    assert report.verdict is Verdict.ANSWERED
    assert report.latency is not None
    assert 0.4 <= report.latency < 10.0


@pytest.mark.once
async def test_many_slow_ones_are_no_time_out(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """200 x 45 ms is more than the timeout if they are asked one after the other."""
    mounts = mount_many(fuse, mount_dir, 200, delayed(45))
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*(probe(m, timeout=3.0) for m in mounts))
    assert {report.verdict for report in reports} == {Verdict.ANSWERED}


# ---- silence


async def test_hangs_and_comes_back(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir(), mode=HANG)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted, timeout=0.5))
        assert (report.verdict, report.stage) == (Verdict.TIMED_OUT, Stage.STATFS)
        assert any("fuse" in function for function in report.stack), report.stack
        assert report.wedged is not None
        assert stuck_threads([report.wedged.pid]) == [report.wedged.tid]
        assert list(asking.prober.wedged) == [report.probe.superblock]
        assert [note.name for note in asking.notes()] == [str(report.wedged.pid)]
        mounted.set(OK)
        await until(lambda: bool(asking.of(ThreadGone)), "end of the thread")
        assert asking.of(ThreadGone) == [ThreadGone(report.wedged)]
        assert asking.prober.wedged == {}
        assert asking.notes() == []
        (report,) = await asking.ask(probe(mounted))
        assert report.verdict is Verdict.ANSWERED
        await until(lambda: asking.children.survivors == 0, "reaped children")


@pytest.mark.parametrize("mode", [UNREAD, NO_INIT])
async def test_silence_that_can_be_killed(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, mode: Mode) -> None:
    """A request that nobody has read, or that waits for INIT, leaves nothing behind, however often it is asked."""
    mounted = fuse.mount(mount_dir(), mode=mode)
    async with asker(tmp_path / "run") as asking:
        for _ in range(3):
            (report,) = await asking.ask(probe(mounted, timeout=0.3))
            assert (report.verdict, report.wedged) == (Verdict.TIMED_OUT, None)
            assert any("fuse" in function for function in report.stack), report.stack
        await until(lambda: asking.children.survivors == 0, "reaped children")
        assert asking.notes() == []
        if mode is UNREAD:
            mounted.set(OK)
            (report,) = await asking.ask(probe(mounted))
            assert report.verdict is Verdict.ANSWERED


@pytest.fixture
def no_processor() -> Iterator[Path]:
    """A control group that has a processor for a hundredth of the time, and whose other process wants that, too."""
    is_v2 = not os.path.exists("/sys/fs/cgroup/cpu")
    group = Path(f"/sys/fs/cgroup{'' if is_v2 else '/cpu'}/mountwatch-tests-{os.getpid()}")
    try:
        if is_v2:
            (group.parent / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
    except OSError as e:
        skip_or_fail(f"needs a control group with the cpu controller: {e.strerror}")
    try:
        limit = group / ("cpu.max" if is_v2 else "cpu.cfs_quota_us")
        if not is_v2:
            (group / "cpu.cfs_period_us").write_text("1000000")
        limit.write_text("10000 1000000" if is_v2 else "10000")
        with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as other:
            (group / "cgroup.procs").write_text(str(other.pid))
            yield group
            limit.write_text("max" if is_v2 else "-1")  # else the ends take their time, too
            other.kill()
    finally:
        while (group / "cgroup.procs").read_text():
            os.sched_yield()
        group.rmdir()


async def test_who_has_no_processor_to_die_on_does_not_hang(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, no_processor: Path
) -> None:
    mounted = fuse.mount(mount_dir(), mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(probe(mounted, timeout=1.0)))
        await asyncio.to_thread(mounted.wait_waiting)
        (child,) = probe_children()
        (no_processor / "cgroup.procs").write_text(str(child))
        (report,) = await asked
        assert report.verdict in (Verdict.TIMED_OUT, Verdict.VOID)  # as busy as the machine itself is
        assert report.wedged is None
        assert asking.notes() == []


async def test_hang_does_not_delay_the_others(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    hung = mount_many(fuse, mount_dir, 20, UNREAD)
    healthy = mount_many(fuse, mount_dir, 50, OK)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(*(probe(m, timeout=LIMIT) for m in hung + healthy)))
        await until(lambda: len(asking.of(ProbeReport)) == 50, "50 answers beside 20 that hang")
        assert not asked.done()
        for mounted in hung:
            mounted.set(OK)
        assert {report.verdict for report in await asked} == {Verdict.ANSWERED}


@pytest.mark.once
async def test_all_of_200_hang(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    wedging, killable = mount_many(fuse, mount_dir, 150, HANG), mount_many(fuse, mount_dir, 50, UNREAD)
    mixed = [m for pair in zip(wedging[:50], killable, strict=True) for m in pair] + wedging[50:]
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*(probe(m, timeout=2.0) for m in mixed))
        assert {report.verdict for report in reports} == {Verdict.TIMED_OUT}
        stuck = {report.wedged for report in reports if report.wedged}
        assert {r.probe.place.mount_point for r in reports if r.wedged} == {m.mount_point for m in wedging}
        (pid,) = {wedged.pid for wedged in stuck}  # one child
        assert set(stuck_threads([pid])) == {wedged.tid for wedged in stuck}
        assert len(asking.notes()) == 1
        for mounted in wedging:
            mounted.set(OK)
        await until(lambda: len(asking.of(ThreadGone)) == 150, "150 freed threads")
        assert {gone.wedged for gone in asking.of(ThreadGone)} == stuck
        await until(lambda: asking.children.survivors == 0 and not Path(f"/proc/{pid}").exists(), "reaped child")
        assert asking.notes() == []


async def test_neighbours_can_be_unmounted_at_once(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """One thread that cannot be killed keeps neither healthy nor killable mounts of its sweep busy."""
    wedged = fuse.mount(mount_dir("wedged"), mode=HANG)
    neighbours = mount_many(fuse, mount_dir, 5, OK) + mount_many(fuse, mount_dir, 5, UNREAD)
    late = fuse.mount(mount_dir("late"), mode=delayed(200))
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*(probe(m, timeout=1.0) for m in [wedged, late, *neighbours]))
        assert reports[0].wedged is not None
        for mounted in [late, *neighbours]:
            unmount(mounted.path, MNT_NOW)  # EBUSY fails the test
        assert stuck_threads([reports[0].wedged.pid]) == [reports[0].wedged.tid]
        wedged.set(OK)
        await until(lambda: bool(asking.of(ThreadGone)), "end of the thread")


@pytest.mark.parametrize("op", ["OPENDIR", "READDIR"])
async def test_deep_silence(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, op: str) -> None:
    mounted = fuse.mount(mount_dir())
    mounted.set(HANG, ops=[op])
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted, timeout=0.5))
        assert report.verdict is Verdict.ANSWERED
        (report,) = await asking.ask(probe(mounted, timeout=0.5, deep=True))
        assert (report.verdict, report.stage) == (Verdict.TIMED_OUT, Stage.DEEP)
        mounted.set(OK)
        await until(lambda: bool(asking.of(ThreadGone)), "end of the thread")
        (report,) = await asking.ask(probe(mounted, deep=True))
    assert report.verdict is Verdict.ANSWERED


@pytest.mark.parametrize("op", ["OPENDIR", "READDIR"])
async def test_deep_error(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, op: str) -> None:
    mounted = fuse.mount(mount_dir())
    mounted.set(fails(errno.EIO), ops=[op])
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted, deep=True))
    assert (report.verdict, report.stage, report.errno) == (Verdict.FAILED, Stage.DEEP, errno.EIO)


async def test_directory_that_may_not_be_opened(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir())
    mounted.set(fails(errno.EACCES), ops=["OPENDIR"])
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted, deep=True))
    assert report.verdict is Verdict.ANSWERED


async def test_file_as_mount_point(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir())
    target = tmp_path / "file"
    target.touch()
    mount(mounted.path + b"/one", os.fsencode(target), b"none", MS_BIND)
    try:
        (bound,) = mounts_at(target)
        async with asker(tmp_path / "run") as asking:
            (report,) = await asking.ask(probe_of(bound, deep=True))
        assert report.verdict is Verdict.ANSWERED
    finally:
        unmount(os.fsencode(target))


# ---- another mount, or none, where one was


async def test_lazily_unmounted(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """The directory underneath answers at once, and proves nothing."""
    mounted = fuse.mount(mount_dir())
    mounted.unmount()
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted))
    assert (report.verdict, report.stage, report.usage) == (Verdict.NOT_THIS_MOUNT, Stage.WALK, None)


async def test_covered(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    below = fuse.mount(mount_dir())
    above = fuse.mount(mount_dir())
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(below))
        assert report.verdict is Verdict.NOT_THIS_MOUNT
        (report,) = await asking.ask(probe(above))
        assert report.verdict is Verdict.ANSWERED


async def test_replaced_while_it_is_asked(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """The old mount's silence stays its own; the new one answers for itself."""
    old = fuse.mount(mount_dir(), mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(probe(old, timeout=1.0)))
        await asyncio.to_thread(old.wait_waiting)
        unmount(old.path)
        new = fuse.mount(mount_dir())
        (report,) = await asked
        assert (report.verdict, report.probe.mount_id) == (Verdict.TIMED_OUT, old.mount_id)
        assert new.mount_id != old.mount_id
        (report,) = await asking.ask(probe(old))
        assert report.verdict is Verdict.NOT_THIS_MOUNT
        (report,) = await asking.ask(probe(new))
        assert report.verdict is Verdict.ANSWERED


@pytest.mark.parametrize("where", ["last", "ancestor"])
async def test_planted_symlink(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, where: str) -> None:
    """A link in place of a directory of the path leads nowhere, not even to the very mount."""
    mounted = fuse.mount(mount_dir("real/deep/mnt"))
    if where == "last":
        os.symlink(mounted.path, tmp_path / "link")
        path = str(tmp_path / "link")
    else:
        os.symlink(tmp_path / "real", tmp_path / "link")
        path = str(tmp_path / "link/deep/mnt")
    asked = probe(mounted)._replace(place=Place(HOST, path))
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(asked)
    assert report.verdict in (Verdict.NOT_THIS_MOUNT, Verdict.FAILED)
    assert report.stage is Stage.WALK
    assert "STATFS" not in mounted.counters().requests


# ---- names

NAMES = {
    "space": b"a b  c ",
    "newline": b"a\nb",
    "tab": b"a\tb",
    "backslash": b"a\\b\\040",
    "octal look-alike": b"\\134\\012",
    "hash": b"#a#",
    "not UTF-8": b"\xff\xfe\x80",
    "cut UTF-8": b"a\xc3",
    "control": b"\x01\x1b[31m\x7f",
    "quotes": b"\"'`$(x)%s{}[]*?",
    "UTF-8": "ä→\U0001f600\u202e".encode(),
    "dash": b"a - b",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
async def test_names(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, name: bytes) -> None:
    mounted = fuse.mount(mount_dir(name), source="nas 01:/ex\tport\\x\n#")
    (listed,) = mounts_at(mounted.path)
    assert (listed.mount_id, listed.source) == (mounted.mount_id, mounted.source)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe_of(listed))
    assert report.verdict is Verdict.ANSWERED


async def test_long_path(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    room = 4000 - len(os.fsencode(tmp_path))
    name = "/".join("x" * 200 for _ in range(room // 201)) + "/" + "y" * (room % 201)
    mounted = fuse.mount(mount_dir(name))
    assert 3990 <= len(mounted.path) <= 4001
    (listed,) = mounts_at(mounted.path)
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe_of(listed))
    assert report.verdict is Verdict.ANSWERED


# ---- we are in trouble, not the mounts


async def test_stopped_child_blames_nobody(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """Our own canary is late: the machine gave the child no time."""
    mounted = fuse.mount(mount_dir(), mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(probe(mounted, timeout=2.0)))
        await asyncio.to_thread(mounted.wait_waiting)
        (child,) = probe_children()
        os.kill(child, signal.SIGSTOP)
        (report,) = await asked
        assert report.verdict is Verdict.VOID
        assert "slow" in report.note
        await until(lambda: asking.children.survivors == 0, "reaped child")


async def test_child_that_runs_again_in_time(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounted = fuse.mount(mount_dir(), mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(probe(mounted, timeout=LIMIT)))
        await asyncio.to_thread(mounted.wait_waiting)
        (child,) = probe_children()
        os.kill(child, signal.SIGSTOP)
        mounted.set(OK)
        await until(lambda: mounted.counters().requests.get("STATFS", 0) == 1, "an answered request")
        os.kill(child, signal.SIGCONT)
        (report,) = await asked
    assert report.verdict is Verdict.ANSWERED


async def test_killed_child(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    hung, healthy = fuse.mount(mount_dir("hung"), mode=UNREAD), fuse.mount(mount_dir("healthy"))
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(probe(hung, timeout=LIMIT), probe(healthy, timeout=LIMIT)))
        await asyncio.to_thread(hung.wait_waiting)
        await until(lambda: bool(asking.of(ProbeReport)), "the healthy one's answer")
        (child,) = probe_children()
        os.kill(child, signal.SIGKILL)
        of_hung, of_healthy = await asked
    assert (of_hung.verdict, of_hung.note) == (Verdict.VOID, "the probe process ended")
    assert of_healthy.verdict is Verdict.ANSWERED


async def test_killed_child_with_a_thread_that_cannot_die(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """No word comes from it any more, and no end of output either: the time decides, and the thread is known."""
    hung, killable = fuse.mount(mount_dir("hung"), mode=HANG), fuse.mount(mount_dir("killable"), mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.ask(probe(hung, timeout=2.0), probe(killable, timeout=2.0)))
        await asyncio.to_thread(hung.wait_parked)
        await asyncio.to_thread(killable.wait_waiting)
        (child,) = probe_children()
        os.kill(child, signal.SIGKILL)
        of_hung, of_killable = await asked
        assert (of_hung.verdict, bool(of_hung.wedged)) == (Verdict.TIMED_OUT, True)
        assert of_killable.verdict is Verdict.VOID
        hung.set(OK)
        await until(lambda: bool(asking.of(ThreadGone)), "end of the thread")


async def test_child_without_descriptors(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, interpreter: Callable[[str], None]
) -> None:
    """Enough to start, not enough to walk."""
    mounts = mount_many(fuse, mount_dir, 3, OK)
    interpreter('ulimit -n 4; exec "$python" "$@"')
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*(probe(m) for m in mounts))
    assert {(report.verdict, report.note) for report in reports} == {(Verdict.VOID, os.strerror(errno.EMFILE))}


async def test_child_without_threads(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, interpreter: Callable[[str], None]
) -> None:
    """EAGAIN from clone(2), which holds for ordinary users only."""
    mounts = mount_many(fuse, mount_dir, 3, OK)
    caps = "--inh-caps +dac_read_search --ambient-caps +dac_read_search --bounding-set -all,+dac_read_search"
    interpreter(f'exec setpriv --reuid 54321 --clear-groups {caps} prlimit --nproc=1 -- "$python" "$@"')
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*(probe(m) for m in mounts))
    assert {report.verdict for report in reports} == {Verdict.VOID}
    assert {report.note for report in reports} == {"can't start new thread"}


async def test_program_that_is_none(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter was upgraded away under a service that runs."""
    mounted = fuse.mount(mount_dir())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    async with asker(tmp_path / "run") as asking:
        (report,) = await asking.ask(probe(mounted))
    assert report.verdict is Verdict.VOID
    assert report.note == "cannot start a probe: No such file or directory"


SWEEP = """
import asyncio, os, resource, sys
sys.path.insert(0, sys.argv[1])
from watcher.children import Children
from watcher.model import Place, Probe, Superblock
from watcher.probing.prober import Prober
from watcher.probing.wedged import WedgedNotes

async def main():
    events, children = [], Children()
    prober = Prober(children, events.append, notes=WedgedNotes(sys.argv[2]))
    probes = [Probe(Superblock("0:1", "/", "proc", "proc"), Place("host", "/proc"), 1, 1.0) for _ in range(3)]
    held = []
    {limit}
    await prober.sweep(probes)
    await prober.sweep(probes)
    for fd in held:
        os.close(fd)
    for event in events:
        print(event.verdict, event.note)
    children.close()

asyncio.run(main())
"""
NO_DESCRIPTORS = """
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
"""
NO_PROCESSES = """
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    os.setresuid(54322, 54322, 54322)
"""


@pytest.mark.parametrize(
    ("limit", "code"), [(NO_DESCRIPTORS, errno.EMFILE), (NO_PROCESSES, errno.EAGAIN)], ids=["EMFILE", "EAGAIN"]
)
def test_no_child_can_be_started(tmp_path: Path, limit: str, code: int) -> None:
    """In a process of its own, which survives it and reports every probe as void."""
    program = SWEEP.replace("    {limit}", limit)
    command = [sys.executable, "-W", "error", "-c", program, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"void cannot start a probe: {os.strerror(code)}"] * 6
    assert done.returncode == 0


async def test_nobody_is_asked(tmp_path: Path) -> None:
    async with asker(tmp_path / "run") as asking:
        assert await asking.ask() == []


async def test_descriptors_stay_constant(
    fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path, descriptors: Callable[[], dict[int, str]]
) -> None:
    healthy, hung = fuse.mount(mount_dir("a")), fuse.mount(mount_dir("b"), mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        await asking.ask(probe(healthy), probe(hung, timeout=0.2))
        await until(lambda: asking.children.survivors == 0, "reaped child")
        before = descriptors()
        for _ in range(5):
            await asking.ask(probe(healthy), probe(hung, timeout=0.2))
        await until(lambda: asking.children.survivors == 0, "reaped children")
        assert len(descriptors()) <= len(before)


async def test_sweep_that_is_cancelled(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """As at shutdown: its child goes with it, unless the kernel holds it."""
    mounted = fuse.mount(mount_dir(), mode=UNREAD)
    async with asker(tmp_path / "run") as asking:
        asked = asyncio.create_task(asking.prober.sweep([probe(mounted, timeout=LIMIT)]))
        await asyncio.to_thread(mounted.wait_waiting)
        (child,) = probe_children()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        # A zombie has ended; whose child it is by now, and when that one looks, is not ours to say.
        await until(lambda: not procfs.thread_exists("/proc", child, child), "end of the child")


async def test_child_ends_with_its_parent(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """A service that is killed leaves no probe children in mounts that can be killed."""
    mounted = fuse.mount(mount_dir(), mode=UNREAD)
    program = SWEEP.replace("    {limit}", "").replace(
        "probes = [", f"probes = [Probe(Superblock('0:1', '/', 'fuse', 'x'), Place('host', {mounted.mount_point!r}), "
        f"{mounted.mount_id}, {LIMIT}), *[",
    ).replace("range(3)]", "range(3)]]")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", program, str(ROOT), str(tmp_path)], cwd="/") as parent:
        await asyncio.to_thread(mounted.wait_waiting)
        (child,) = probe_children(parent.pid)
        parent.kill()
        # A zombie has ended; whose child it is by now, and when that one looks, is not ours to say.
        await until(lambda: not procfs.thread_exists("/proc", child, child), "end of the child")


# ---- notes of what hangs


async def test_recall(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    """The next process knows the stuck thread, and hears of its end."""
    mounted = fuse.mount(mount_dir(), mode=HANG)
    async with asker(tmp_path / "run") as first:
        (report,) = await first.ask(probe(mounted, timeout=0.3))
        assert report.wedged is not None
    async with asker(tmp_path / "run") as second:
        (note,) = second.prober.recall()
        assert (note.superblock, note.wedged) == (report.probe.superblock, report.wedged)
        (still,) = second.of(StillWedged)
        assert (still.superblock, still.wedged) == (report.probe.superblock, report.wedged)
        assert abs(still.since - report.started) < 30.0  # another clock is off by more
        mounted.set(OK)
        await until(lambda: bool(second.of(ThreadGone)), "end of the thread")
        assert second.notes() == []
    async with asker(tmp_path / "run") as third:
        assert third.prober.recall() == []


async def test_notes_shrink_thread_by_thread(fuse: FuseServer, mount_dir: MakeDir, tmp_path: Path) -> None:
    mounts = mount_many(fuse, mount_dir, 3, HANG)
    async with asker(tmp_path / "run") as asking:
        reports = await asking.ask(*(probe(m, timeout=0.5) for m in mounts))
        notes = WedgedNotes(str(tmp_path / "run"))
        assert {note.wedged for note in notes.read()} == {report.wedged for report in reports}
        mounts[1].set(OK)
        await until(lambda: len(asking.of(ThreadGone)) == 1, "end of one thread")
        assert {note.wedged for note in notes.read()} == {reports[0].wedged, reports[2].wedged}
        for mounted in mounts:
            mounted.set(OK)
        await until(lambda: asking.notes() == [], "removed notes")
