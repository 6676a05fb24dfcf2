"""Which containers run, and their mount tables: fake LXC containers, real namespaces, cgroups and processes.

/proc shows other sessions' containers, too: all that is asserted is asserted of those of the test.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from time import monotonic

import pytest

from tests.fakes.container import FakeContainer
from tests.fakes.containers import Containers
from tests.fakes.fuse import HANG, OK, FuseServer
from tests.fakes.loop_image import first_free
from watcher import procfs, reading
from watcher.children import Children
from watcher.core.mountinfo import parse
from watcher.model import Container, NamespaceGone, TableRead, TableUnreadable
from watcher.reading import FileReader
from watcher.sources import containers as containers_module
from watcher.sources import inquiries
from watcher.sources import running as running_module
from watcher.sources.claims import Claims
from watcher.sources.containers import CONTESTED, STOPPED, ContainerTables
from watcher.sources.inotify import CgroupChanges
from watcher.sources.monitors import Monitors

pytestmark = pytest.mark.kernel

LIMIT = 60.0
NEVER = 1e6

News = TableRead | NamespaceGone | TableUnreadable
Descriptors = Callable[[], dict[int, str]]


@pytest.fixture
def tables(lxc: Containers, children: Children) -> ContainerTables:
    return tables_of(lxc, children)


def tables_of(lxc: Containers, children: Children, proc: str = "/proc") -> ContainerTables:
    return ContainerTables(
        proc=proc,
        cgroup=lxc.cgroup_path or "/nonexistent",
        lxc_config=lxc.lxc_config_dirs,
        children=children,
        reader=FileReader(children),
        host_mounts=lambda: parse(procfs.read("/proc/self/mountinfo")),
    )


async def look(tables: ContainerTables, *of: FakeContainer) -> list[News]:
    """What one look tells of these containers."""
    async with asyncio.timeout(LIMIT):
        return only(await tables.look(), of)


def only(news: Iterable[News], of: Iterable[FakeContainer]) -> list[News]:
    namespaces = {ct.namespace for ct in of}
    return [item for item in news if item.namespace in namespaces]


def table(item: News) -> TableRead:
    assert isinstance(item, TableRead)
    return item


def container(item: News) -> Container:
    found = table(item).container
    assert found is not None
    return found


def mount_points(item: News) -> set[str]:
    return {mount.mount_point for mount in table(item).mounts}


def gone(ct: FakeContainer, reason: str = STOPPED) -> NamespaceGone:
    return NamespaceGone(ct.namespace, reason)


# ---- a look


async def test_a_look_finds_a_container_and_its_table(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start(name="plex")
    [item] = await look(tables, ct)
    assert container(item) == Container(ct.ctid, ct.init.pid, ct.init.start_time, "plex")
    assert table(item).mounts == parse(Path(f"/proc/{ct.init.pid}/mountinfo").read_bytes())
    assert ct.namespace not in tables.problems


async def test_the_table_comes_again_if_it_changed_or_is_wanted(lxc: Containers, tables: ContainerTables) -> None:
    ct, other = lxc.start(), lxc.start()
    assert len(await look(tables, ct, other)) == 2
    assert await look(tables, ct, other) == []
    ct.mount("nas01:/export", "/media", "tmpfs")
    [changed] = await look(tables, ct, other)
    assert "/media" in mount_points(changed)
    tables.want([ct.namespace, "ct:none", "host"])
    assert await look(tables, ct, other) == [changed]
    assert await look(tables, ct, other) == []


@pytest.mark.parametrize("cgroup", [True, False])
@pytest.mark.parametrize("foreground", [True, False])
async def test_the_id_from_control_group_or_title(
    lxc: Containers, tables: ContainerTables, cgroup: bool, foreground: bool
) -> None:
    cts = [lxc.start(cgroup=cgroup, foreground=foreground) for _ in range(3)]
    assert {container(item).init_pid for item in await look(tables, *cts)} == {ct.init.pid for ct in cts}


async def test_an_id_that_is_none_is_said(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start(cgroup=False, argv=["lxc-start", "-n", "../../etc"])
    assert await look(tables, ct) == []
    assert f"process {ct.monitor.pid} (lxc-start) names no container" in tables.problems["containers"]
    ct.stop()
    await look(tables)
    assert f"process {ct.monitor.pid} " not in tables.problems.get("containers", "")


@pytest.mark.parametrize("where", ["lxc", "pve"])
async def test_the_name_from_either_configuration(lxc: Containers, tables: ContainerTables, where: str) -> None:
    ct = lxc.start(name="plex", name_in="lxc" if where == "lxc" else "pve")
    nameless = lxc.start()
    assert {container(item).name for item in await look(tables, ct, nameless)} == {"plex", ""}
    assert {ct.namespace, nameless.namespace}.isdisjoint(tables.problems)


async def test_a_user_namespace_of_its_own(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start(user_namespace=True)
    [item] = await look(tables, ct)
    assert container(item).user_namespace == os.stat(f"/proc/{ct.init.pid}/ns/user").st_ino


async def test_who_only_looks_like_a_monitor_is_none(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    title = ["lxc-start", "-F", "-n", ct.ctid]
    lxc.pretend(title, uid=1000)
    lxc.pretend(title, user_namespace=True)
    lxc.pretend(title)  # its child is in our own pid namespace
    lxc.pretend(title, children=0)
    lxc.pretend(title, children=3)
    lxc.pretend(title, comm="lxc-stop")
    ct.pretend(title)
    [item] = await look(tables, ct)
    assert container(item).init_pid == ct.init.pid
    assert ct.namespace not in tables.problems


async def test_two_claimants_of_an_id_are_both_not_believed(lxc: Containers, tables: ContainerTables) -> None:
    first = lxc.start()
    await look(tables, first)
    second = lxc.start(first.ctid, cgroup=False)
    assert await look(tables, first) == [gone(first, CONTESTED)]
    pids = sorted([first.monitor.pid, second.monitor.pid])
    assert tables.problems[first.namespace].endswith(f"processes {pids[0]}, {pids[1]}")
    assert await look(tables, first) == []
    second.stop()
    [item] = await look(tables, first)
    assert container(item).init_pid == first.init.pid
    assert first.namespace not in tables.problems


async def test_a_monitor_without_a_child_claims_nothing(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    starting = lxc.start(ct.ctid, cgroup=False, hold="no-child")
    [item] = await look(tables, ct)
    assert container(item).init_pid == ct.init.pid
    ct.stop()
    starting.release()
    ended, started = await look(tables, ct)
    assert ended == gone(ct)
    assert container(started).init_pid == starting.init.pid


async def test_the_hosts_table_is_not_taken_for_a_containers(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start(hold="before-pivot")
    assert await look(tables, ct) == []
    ct.release()
    [item] = await look(tables, ct)
    assert table(item).mounts == parse(Path(f"/proc/{ct.init.pid}/mountinfo").read_bytes())


async def test_another_init_is_another_container(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    await look(tables, ct)
    for start_again in (ct.restart, ct.reboot):
        start_again()
        ended, started = await look(tables, ct)
        assert ended == gone(ct)
        assert container(started).init_pid == ct.init.pid
    ct.stop()
    assert await look(tables, ct) == [gone(ct)]
    assert await look(tables, ct) == []


@pytest.mark.cgroups
async def test_a_frozen_container_is_said_to_be(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    [item] = await look(tables, ct)
    assert not container(item).frozen
    for do, frozen in ((ct.freeze, True), (ct.thaw, False)):
        do()
        [item] = await look(tables, ct)
        assert container(item).frozen is frozen


async def test_of_a_huge_table_only_the_first_part_is_read(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    ct.run([("mount", "x" * 4000, "/mnt", "tmpfs", 0, "") for _ in range(270)])
    [item] = await look(tables, ct)
    whole = parse(Path(f"/proc/{ct.init.pid}/mountinfo").read_bytes())
    assert table(item).mounts == whole[: len(table(item).mounts)]
    assert 200 < len(table(item).mounts) < len(whole)
    assert "larger than 1 MiB" in tables.problems[ct.namespace]
    ct.run([("umount", "/mnt", 0) for _ in range(100)])
    [item] = await look(tables, ct)
    assert ct.namespace not in tables.problems


@pytest.mark.once
async def test_containers_that_come_and_go_while_they_are_read(lxc: Containers, tables: ContainerTables) -> None:
    """Nothing raises, and what is told is told in order."""
    cts = [lxc.start() for _ in range(4)]
    over = threading.Event()

    def come_and_go() -> None:
        for number in range(60):
            ct = cts[number % 4]
            [ct.restart, ct.reboot, ct.restart][number % 3]()
        over.set()

    working = asyncio.create_task(asyncio.to_thread(come_and_go))
    known: dict[str, Container] = {}
    while not over.is_set():
        for item in await look(tables, *cts):
            if isinstance(item, NamespaceGone):
                del known[item.namespace]
            else:
                known.setdefault(item.namespace, container(item))
                assert known[item.namespace].init_pid == container(item).init_pid
    await working
    tables.want(ct.namespace for ct in cts)
    pids = {container(item).init_pid for item in await look(tables, *cts) if not isinstance(item, NamespaceGone)}
    assert pids == {ct.init.pid for ct in cts}


# ---- what must be asked


class OtherProc:
    """A /proc in which some files of processes are missing."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        directory.mkdir()
        (directory / "self").symlink_to("/proc/self")

    def show(self, pid: int, *names: str) -> None:
        (self.path / str(pid)).mkdir(exist_ok=True)
        for name in names:
            (self.path / str(pid) / name).symlink_to(f"/proc/{pid}/{name}")


async def test_lxc_is_asked_where_the_kernel_lists_no_children(
    lxc: Containers, children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct, proc = lxc.start(cgroup=False), OtherProc(tmp_path / "proc")
    proc.show(ct.monitor.pid, "comm", "stat", "status", "ns", "cmdline", "cgroup")
    proc.show(ct.init.pid, "comm", "stat", "status", "ns", "cgroup", "mountinfo")
    lxc_info = tmp_path / "bin" / "lxc-info"
    lxc_info.parent.mkdir()
    lxc_info.write_text("#!/bin/sh\nexit 1\n")
    lxc_info.chmod(0o755)
    monkeypatch.setenv("PATH", f"{lxc_info.parent}:{os.environ['PATH']}")
    tables = tables_of(lxc, children, str(proc.path))
    assert await look(tables, ct) == []
    assert f"the init process of container {ct.ctid}" in tables.problems["containers"]
    lxc_info.write_text(f'#!/bin/sh\n[ "$*" = "-p -H -n {ct.ctid}" ] && echo {ct.init.pid}\n')
    [item] = await look(tables, ct)
    assert container(item).init_pid == ct.init.pid
    assert tables.problems == {}
    lxc_info.write_text("#!/bin/sh\necho 0; exit 1\n")
    assert await look(tables, ct) == []  # known already


async def test_a_title_that_cannot_be_read_is_tried_again(lxc: Containers, children: Children, tmp_path: Path) -> None:
    ct, proc = lxc.start(cgroup=False), OtherProc(tmp_path / "proc")
    proc.show(ct.monitor.pid, "comm", "stat", "status", "ns", "task")
    proc.show(ct.init.pid, "comm", "stat", "status", "ns", "cgroup", "mountinfo")
    tables = tables_of(lxc, children, str(proc.path))
    assert await look(tables, ct) == []
    assert tables.problems == {"containers": f"the command line of process {ct.monitor.pid} (lxc-start) cannot be read"}
    proc.show(ct.monitor.pid, "cmdline")
    assert len(await look(tables, ct)) == 1
    assert tables.problems == {}


async def test_a_command_line_that_hangs_holds_up_no_other(
    lxc: Containers, children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiries, "LIMIT", 1.0)
    words = ["lxc-start", "", "a\nb", "\udcff\x1b[31m", "x" * 10_000]
    odd, proc = lxc.pretend(words), OtherProc(tmp_path / "proc")
    proc.show(odd.pid, "cmdline")
    (proc.path / "1").mkdir()
    os.mkfifo(proc.path / "1/cmdline")  # nobody ever writes
    (proc.path / "2").mkdir()
    found = await inquiries.cmdlines(children, str(proc.path), [1, odd.pid, 2, 3])
    assert found == {odd.pid: b"".join(os.fsencode(word) + b"\0" for word in words)}


async def test_of_several_children_the_first_process_is_init(
    lxc: Containers, children: Children, tmp_path: Path
) -> None:
    ct, proc = lxc.start(), OtherProc(tmp_path / "proc")
    other = ct.pretend(["lxc-attach"], comm="lxc-attach", children=0)
    proc.show(ct.monitor.pid, "comm", "stat", "status", "ns", "cmdline", "cgroup")
    for pid in (ct.init.pid, other.pid):
        proc.show(pid, "comm", "stat", "status", "ns", "cgroup", "mountinfo")
    task = proc.path / f"{ct.monitor.pid}/task/{ct.monitor.pid}"
    task.mkdir(parents=True)
    (task / "children").write_text(f"{other.pid} {ct.init.pid} {os.getpid()} 4194304 ")
    [item] = await look(tables_of(lxc, children, str(proc.path)), ct)
    assert container(item).init_pid == ct.init.pid


async def test_a_table_that_cannot_be_read_is_data(lxc: Containers, children: Children, tmp_path: Path) -> None:
    ct, proc = lxc.start(cgroup=False), OtherProc(tmp_path / "proc")
    proc.show(ct.monitor.pid, "comm", "stat", "status", "ns", "task", "cmdline")
    proc.show(ct.init.pid, "comm", "stat", "status", "ns", "cgroup")
    (tmp_path / "proc" / str(ct.init.pid) / "mountinfo").mkdir()  # EISDIR
    tables = tables_of(lxc, children, str(proc.path))
    assert await look(tables, ct) == [TableUnreadable(ct.namespace, "Is a directory")]
    assert await look(tables, ct) == []
    (tmp_path / "proc" / str(ct.init.pid) / "mountinfo").rmdir()
    proc.show(ct.init.pid, "mountinfo")
    assert mount_points((await look(tables, ct))[0]) >= {"/", "/proc"}


async def test_without_processes_to_see_it_is_said(lxc: Containers, children: Children, tmp_path: Path) -> None:
    tables = tables_of(lxc, children, str(tmp_path / "none"))
    assert await tables.look() == []
    assert "none/self/ns/mnt: No such file" in tables.problems["containers"]


async def test_an_ordinary_user_is_told_why_nothing_is_seen(lxc: Containers, children: Children) -> None:
    lxc.start()
    libc = ctypes.CDLL(None, use_errno=True)
    set_ids = {"x86_64": 117, "aarch64": 147}[os.uname().machine]  # setresuid, of this thread alone
    said: list[str] = []

    def as_nobody() -> None:
        assert libc.syscall(set_ids, 65534, 65534, 65534) == 0
        claims = Claims("/proc", children)
        claims.walk()
        assert claims.sort() == {}
        said.extend(claims.problems)

    try:
        thread = threading.Thread(target=as_nobody)
        thread.start()
        thread.join(LIMIT)
    finally:
        libc.prctl(4, 1)  # PR_SET_DUMPABLE, which the change of ids took from all of us
    assert said == ["lxc-start is running, but without more privilege its containers cannot be seen"]


async def test_a_slow_walk_sees_what_is_new_and_keeps_what_is_not(lxc: Containers) -> None:
    monitors = Monitors("/proc")

    def found() -> set[int]:
        return {monitor.pid for monitor in monitors.walk(slow=True)}

    first = lxc.start()
    assert first.monitor.pid in found()
    second = lxc.start()
    for _ in range(3):
        assert {first.monitor.pid, second.monitor.pid} <= found()
    first.stop()
    assert first.monitor.pid not in found()
    # Who changes its name when it has been seen twice is found by a full walk.
    late = subprocess.Popen(
        ["bash", "-c", "read; echo -n lxc-start >/proc/self/comm; read; echo; read"], stdin=PIPE, stdout=PIPE
    )
    with late:
        assert late.stdin is not None
        assert late.stdout is not None
        found(), found()
        late.stdin.write(b"\n\n")
        late.stdin.flush()
        late.stdout.readline()
        assert late.pid not in found()
        assert any(late.pid in found() for _ in range(20))
        late.kill()


async def test_the_name_in_a_directory_that_hangs(
    lxc: Containers, fuse: FuseServer, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LIMIT", 0.5)
    pmxcfs = fuse.mount(os.fsencode(lxc.pve_path), mode=HANG, fstype="fuse")
    tables = tables_of(lxc, children)
    cts = [lxc.start() for _ in range(20)]
    named = lxc.start(name="plex", name_in="lxc")
    items = await look(tables, *cts, named)
    assert sorted(container(item).name for item in items) == [""] * 20 + ["plex"]
    for ct in cts:
        assert "its name is not known" in tables.problems[ct.namespace]
    assert named.namespace not in tables.problems
    pmxcfs.set(OK)


# ---- events


class Watching:
    """The news of some containers, as they come."""

    def __init__(self, tables: ContainerTables) -> None:
        self.tables = tables
        self._news: asyncio.Queue[News] = asyncio.Queue()

    async def run(self) -> None:
        async with aclosing(self.tables.events()) as events:
            async for item in events:
                self._news.put_nowait(item)

    async def next(self, *of: FakeContainer) -> News:
        async with asyncio.timeout(LIMIT):
            while True:
                if found := only([await self._news.get()], of):
                    return found[0]

    async def until(self, condition: Callable[[News], bool], *of: FakeContainer) -> News:
        """The first of their news for which this holds: a container's mounts may come in several tables."""
        while not condition(item := await self.next(*of)):
            pass
        return item


@asynccontextmanager
async def watch(tables: ContainerTables) -> AsyncIterator[Watching]:
    watching = Watching(tables)
    task = asyncio.create_task(watching.run())
    try:
        yield watching
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()


async def back_to(before: dict[int, str], descriptors: Descriptors) -> None:
    """Wait until no descriptor is left; a child that was killed keeps one for a moment."""
    async with asyncio.timeout(LIMIT):
        while descriptors() != before:
            await asyncio.sleep(0.01)


@pytest.fixture
def no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is seen is seen by events."""
    monkeypatch.setattr(containers_module, "SLOW_WALK", NEVER)
    monkeypatch.setattr(running_module, "ROUND", NEVER)


def runs(ct: FakeContainer) -> Callable[[News], bool]:
    """Whether the news are the whole table of the container as it is now."""
    return lambda item: (
        isinstance(item, TableRead)
        and container(item).init_pid == ct.init.pid
        and item.mounts == parse(Path(f"/proc/{ct.init.pid}/mountinfo").read_bytes())
    )


@pytest.mark.cgroups
@pytest.mark.usefixtures("no_rounds")
async def test_starts_and_stops_are_events(lxc: Containers, tables: ContainerTables, descriptors: Descriptors) -> None:
    there = lxc.start(name="there")
    before = descriptors()
    async with watch(tables) as watching:
        item = await watching.until(runs(there), there)
        assert container(item).name == "there"
        started = await asyncio.to_thread(lxc.start, name="plex")
        await watching.until(lambda item: container(item).name == "plex", started)
        await asyncio.to_thread(started.stop)
        assert await watching.until(lambda item: not isinstance(item, TableRead), started) == gone(started)
        for start_again in (there.restart, there.reboot):
            await asyncio.to_thread(start_again)
            assert await watching.until(lambda item: not isinstance(item, TableRead), there) == gone(there)
            await watching.until(runs(there), there)
        await asyncio.to_thread(there.stop)
        assert await watching.until(lambda item: not isinstance(item, TableRead), there) == gone(there)
    async with asyncio.timeout(LIMIT):
        while descriptors().keys() - before.keys():
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("no_rounds")
async def test_the_end_of_init_is_an_event_by_itself(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start(cgroup=False)
    async with watch(tables) as watching:
        await watching.until(runs(ct), ct)
        await asyncio.to_thread(ct.kill_init)
        assert await watching.until(lambda item: not isinstance(item, TableRead), ct) == gone(ct)


async def test_without_control_groups_the_slow_walk_finds_it(
    lxc: Containers, tables: ContainerTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers_module, "SLOW_WALK", 0.05)
    monkeypatch.setattr(running_module, "ROUND", 0.05)
    async with watch(tables) as watching:
        ct = await asyncio.to_thread(lxc.start, cgroup=False)
        await watching.until(runs(ct), ct)
        ct.mount("nas01:/export", "/media", "tmpfs")
        await watching.until(lambda item: "/media" in mount_points(item), ct)


@pytest.mark.cgroups
@pytest.mark.usefixtures("no_rounds")
async def test_what_is_mounted_late_in_a_start_is_seen(lxc: Containers, tables: ContainerTables) -> None:
    async with watch(tables) as watching:
        ct = await asyncio.to_thread(lxc.start, hold="before-pivot")
        other = await asyncio.to_thread(lxc.start)
        await watching.until(runs(other), other)
        ct.release()
        await watching.until(runs(ct), ct)


@pytest.mark.cgroups
@pytest.mark.usefixtures("no_rounds")
async def test_freezing_and_thawing_are_events(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    async with watch(tables) as watching:
        await watching.until(lambda item: not container(item).frozen, ct)
        for do, frozen in ((ct.freeze, True), (ct.thaw, False), (ct.freeze, True)):
            await asyncio.to_thread(do)
            await watching.until(lambda item, frozen=frozen: container(item).frozen is frozen, ct)  # type: ignore[misc]
        await asyncio.to_thread(ct.thaw)


@pytest.mark.usefixtures("no_rounds")
async def test_a_wanted_table_comes_unchanged(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    async with watch(tables) as watching:
        first = await watching.until(runs(ct), ct)
        tables.want([ct.namespace])
        assert await watching.next(ct) == first


async def test_a_slow_name_does_not_delay_the_table(
    lxc: Containers, fuse: FuseServer, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers_module, "SLOW_WALK", 0.2)
    monkeypatch.setattr(containers_module, "NAME_RETRY", 0.0)
    ct = lxc.start(name="plex", name_in="pve")
    pmxcfs = fuse.mount(os.fsencode(lxc.pve_path), fstype="fuse", mode=HANG)
    async with watch(tables_of(lxc, children)) as watching:
        assert container(await watching.next(ct)).name == ""
        pmxcfs.set(OK)
        pmxcfs.unmount()
        await watching.until(lambda item: container(item).name == "plex", ct)


async def test_closed_events_can_be_opened_again(
    lxc: Containers, tables: ContainerTables, descriptors: Descriptors
) -> None:
    ct = lxc.start()
    before = descriptors()
    for _ in range(2):
        async with watch(tables) as watching:
            await watching.until(runs(ct), ct)
            assert descriptors() != before
        await back_to(before, descriptors)


@pytest.mark.cgroups
@pytest.mark.once
async def test_no_descriptor_is_left_of_many_containers(
    lxc: Containers, tables: ContainerTables, descriptors: Descriptors
) -> None:
    before = descriptors()
    async with watch(tables) as watching:
        ct = await asyncio.to_thread(lxc.start)
        await watching.until(runs(ct), ct)
        one = len(descriptors())
        for number in range(200):
            await asyncio.to_thread(ct.reboot if number % 4 else ct.restart)
            if number % 10 == 0:
                await watching.until(runs(ct), ct)
        await watching.until(runs(ct), ct)
        assert len(descriptors()) < one + 100  # not the same, for other sessions' containers come and go
        await asyncio.to_thread(ct.stop)
    await back_to(before, descriptors)


@pytest.mark.usefixtures("no_rounds")
async def test_a_dead_containers_disk_is_free_at_once(lxc: Containers, tables: ContainerTables) -> None:
    try:
        first_free()
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"no loop devices: {e}")
    async with watch(tables) as watching:
        for _ in range(10):
            ct = lxc.start(rootfs="image", cgroup=False)
            tables._came_or_went()  # without control groups nobody says so
            await watching.until(runs(ct), ct)
            await asyncio.to_thread(ct.stop)
            assert ct.image is not None
            async with asyncio.timeout(LIMIT):  # another session may just be reading that table, too
                while not ct.image.detach():
                    await asyncio.sleep(0.01)


async def test_a_costly_table_is_read_less_often(lxc: Containers, tables: ContainerTables) -> None:
    ct = lxc.start()
    ct.run([("mount", "x" * 4000, "/mnt", "tmpfs", 0, "") for _ in range(200)])
    await look(tables, ct)
    running = tables._running[ct.namespace]
    running.wanted, running.read_at = True, 0.0
    began = monotonic()
    assert running.read(None) is not None
    ended = monotonic()
    tables.want([ct.namespace])
    longest = max(running_module.WANTED_AFTER, running_module.READ_SHARE * (ended - began))
    assert ended < running.due <= ended + longest


# ---- control groups


@pytest.mark.cgroups
async def test_changes_of_control_groups(lxc: Containers, descriptors: Descriptors) -> None:
    root = Path(lxc.cgroup_path)
    before = descriptors()
    came_or_went, froze = asyncio.Queue[None](), asyncio.Queue[str]()
    changes = CgroupChanges(f"{root}/", came_or_went=lambda: came_or_went.put_nowait(None), froze=froze.put_nowait)
    made: list[Path] = []

    async def told(*names: str, remove: bool = False) -> int:
        """How often a change is told, after which another that is told for sure has been."""
        for name in names:
            (root / name).rmdir() if remove else (root / name).mkdir()
            made.append(root / name)
        (root / "lxc.payload.end").mkdir()
        (root / "lxc.payload.end").rmdir()
        count = -2
        async with asyncio.timeout(LIMIT):
            while not (count >= 0 and came_or_went.empty()):
                await came_or_went.get()
                count += 1
        return count

    try:
        assert await told("lxc", "user.slice", "lxc.pivot") == 1
        changes.watch_directories()
        assert await told("lxc/1", "user.slice/lxc", "lxc/lxc.pivot") == 1
        events = str(root / "lxc/1/cgroup.events")
        changes.follow({events, str(root / "none/cgroup.events"), str(root / "a\udcff/cgroup.events")})
        for state in "10":
            (root / "lxc/1/cgroup.freeze").write_text(state)
        async with asyncio.timeout(LIMIT):
            await told("lxc/1/x")
            (root / "lxc/1/x/cgroup.freeze").write_text("1")
        # Its control group goes and comes again: it is another file.
        assert await told("lxc/1/x", "lxc/1", remove=True) == 1
        assert await told("lxc/1") == 1
        changes.follow({events})
        sleeper = subprocess.Popen(["sleep", "60"])
        try:
            (root / "lxc/1/cgroup.procs").write_text(str(sleeper.pid))
            async with asyncio.timeout(LIMIT):
                assert await froze.get() == events  # "populated 1"
        finally:
            sleeper.kill()
            sleeper.wait()
        changes.follow(set())
    finally:
        changes.close()
        for path in sorted(set(made), reverse=True):
            if path.is_dir():
                path.rmdir()
    assert descriptors() == before
