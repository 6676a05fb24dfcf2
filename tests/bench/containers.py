"""Containers: who runs and what is mounted there, how soon a start or stop is known, a service at rest.

Fake containers with FUSE mounts that stand only inside, each container with a server of its own. Beside the look at
who runs stands what a simpler monitor does from the host: for each container a process that tells its init (`cat` in
place of `lxc-info`, which needs more).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

from tests.bench import gauges, inside, service
from tests.bench.report import Row, Section, about, seconds
from tests.bench.stage import Stage, Unavailable
from tests.bench.sweeps import Failed
from tests.fakes.cgroups import SessionCgroup
from tests.fakes.containers import Containers, FakeContainer
from tests.fakes.fuse import FuseMount
from watcher import procfs
from watcher.children import Children
from watcher.core.mountinfo import parse
from watcher.model import NamespaceGone, TableRead
from watcher.reading import FileReader
from watcher.sources.containers import ContainerTables

LIMIT = 30.0  # seconds for a start or stop to be known
PAUSE = 0.5  # seconds between two of them
POINT = "/mnt/bench"  # inside: no container of anybody else has mounts there
TARGET_SIZE = (200, 20)  # containers, mounts of each: what the targets are for
LOOK, SWEEP = seconds(0.03), seconds(0.4)

T = TypeVar("T")


class Inhabited(NamedTuple):
    """A running container and its FUSE mounts."""

    container: FakeContainer
    mounts: list[FuseMount]


@contextmanager
def _host(stage: Stage) -> Iterator[Containers]:
    """A host without mounts or containers yet. Raises Unavailable."""
    stage.mounts(0)  # each container would begin with a copy of them
    try:
        cgroup = SessionCgroup.enter()
    except OSError as e:
        raise Unavailable(f"needs a cgroup of its own: {e}") from None
    try:
        with Containers(Path(tempfile.mkdtemp(dir=stage.directory)), cgroup_path=cgroup.path) as lxc:
            yield lxc
    finally:
        cgroup.leave()


def _populate(lxc: Containers, count: int, mounts: int, *, user_namespace: bool = False) -> list[Inhabited]:
    """So many containers, each with so many mounts, no two of one superblock."""
    return [
        Inhabited(container, [_mount(container, number) for number in range(mounts)])
        for container in [
            lxc.start(name=f"bench{n}", name_in="lxc", user_namespace=user_namespace) for n in range(count)
        ]
    ]


def _mount(container: FakeContainer, number: int) -> FuseMount:
    return container.fuse.mount(f"{POINT}/share{number:02}", source=f"nas{number:02}:/export", fstype="fuse.sshfs")


def _tables(lxc: Containers, children: Children, *, names: bool = True) -> ContainerTables:
    host = parse(procfs.read("/proc/self/mountinfo"))
    return ContainerTables(
        proc="/proc",
        cgroup=lxc.cgroup_path,
        lxc_config=lxc.lxc_config_dirs if names else (),
        children=children,
        reader=FileReader(children),
        host_mounts=lambda: host,
    )


# ---- many containers


def section(stage: Stage, count: int, mounts: int, own: int, rounds: int) -> Section:
    """`count` containers with `mounts` each: none, and then `own` of them, in a user namespace of its own."""
    targets = (count, mounts) == TARGET_SIZE
    sweep_target = SWEEP if targets else None
    with _host(stage) as lxc:
        inhabited = _populate(lxc, count, mounts)
        rows = asyncio.run(_with_children(lambda children: _looks(lxc, children, inhabited, rounds, targets)))
        tables = asyncio.run(_with_children(lambda children: _tables_of(lxc, children, inhabited)))
        rows += inside.sweep_rows(tables, _paths(inhabited), rounds, sweep_target)
        _stop(inhabited[:own])
        inhabited[:own] = _populate(lxc, own, mounts, user_namespace=True)
        mixed = asyncio.run(_with_children(lambda children: _tables_of(lxc, children, inhabited)))
        label = f"one sweep, {own} of the containers in user namespaces of their own"
        rows.append(inside.mixed_row(label, mixed, rounds, sweep_target))
        rows += inside.judging_rows(tables, rounds)
    return f"{count:,} containers with {mounts} mounts each", rows


async def _with_children(work: Callable[[Children], Awaitable[T]]) -> T:
    children = Children()
    try:
        return await work(children)
    finally:
        children.close()


def _stop(inhabited: Sequence[Inhabited]) -> None:
    for container, _ in inhabited:
        container.begin_to_stop()
    for container, _ in inhabited:
        container.stop()


def _paths(inhabited: Sequence[Inhabited]) -> list[tuple[str, int, str]]:
    """Each mount as it is reached from the host: path, mount id, device."""
    return [
        (f"/proc/{container.init.pid}/root{mounted.mount_point}", mounted.mount_id, mounted.device)
        for container, mounts in inhabited
        for mounted in mounts
    ]


# ---- who runs, and their tables


async def _looks(
    lxc: Containers, children: Children, inhabited: Sequence[Inhabited], rounds: int, targets: bool
) -> list[Row]:
    first, cost, again, nameless = list[float](), list[float](), list[float](), list[float]()
    for _ in range(rounds):
        tables, cpu = _tables(lxc, children), gauges.cpu()
        first.append(await _look(tables))
        cost.append(gauges.cpu() - cpu)
        again.append(await _look(tables))
        nameless.append(await _look(_tables(lxc, children, names=False)))
    simple = [gauges.timed(lambda: _simple_look(lxc)) for _ in range(min(rounds, 3))]
    if any(found < len(inhabited) for _, found in simple):
        raise Failed(f"the simple way found {simple[0][1]} of {len(inhabited)} tables")
    inits = [container.init.pid for container, _ in inhabited]
    plain = [gauges.timed(lambda: _read_plainly(inits))[0] for _ in range(rounds)]
    return [
        Row(
            "who runs, their names and tables: a first look",
            seconds(median(first)),
            about(seconds(median(wall for wall, _ in simple)), "a process for each container"),
            target=LOOK if targets else None,
        ),
        Row("the same: processor time", seconds(median(cost))),
        Row("the same without their names", seconds(median(nameless))),
        Row(
            "another look, nothing has changed",
            seconds(median(again)),
            about(seconds(median(plain)), "pids known"),
        ),
    ]


async def _look(tables: ContainerTables) -> float:
    began = time.perf_counter()
    await tables.look()
    return time.perf_counter() - began


async def _tables_of(lxc: Containers, children: Children, inhabited: Sequence[Inhabited]) -> list[TableRead]:
    """The tables of these containers alone; raises Failed if a mount is missing there."""
    expected = {container.namespace: {m.mount_id for m in mounts} for container, mounts in inhabited}
    found = [n for n in await _tables(lxc, children).look() if isinstance(n, TableRead) and n.namespace in expected]
    complete = [t for t in found if expected[t.namespace] <= {m.mount_id for m in t.mounts}]
    if len(complete) != len(expected):
        raise Failed(f"ours: {len(complete)} of {len(expected)} tables are as they should be")
    return complete


def _simple_look(lxc: Containers) -> int:
    """A walk of /proc; for each container its command line, name, init and table; how many had mounts of ours."""
    found = 0
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or _content(f"/proc/{pid}/comm") != "lxc-start\n":
            continue
        words = _content(f"/proc/{pid}/cmdline").split("\0")
        _content(f"{lxc.lxc_path}/{words[-2] if len(words) > 1 else ''}/config")
        said = subprocess.run(["cat", f"/proc/{pid}/task/{pid}/children"], capture_output=True, text=True, check=False)
        found += any(f" {POINT}/" in line for init in said.stdout.split() for line in _plain_table(init))
    return found


def _content(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _plain_table(pid: str) -> list[str]:
    lines = _content(f"/proc/{pid}/mounts").splitlines()
    for line in lines:
        line.split()
    return lines


def _read_plainly(inits: Sequence[int]) -> None:
    """A walk of /proc for names alone, and these tables: what it takes at least to see who runs and what is mounted."""
    for pid in os.listdir("/proc"):
        if pid.isdecimal():
            _content(f"/proc/{pid}/comm")
    for init in inits:
        _plain_table(str(init))


# ---- starts and stops


def starts(stage: Stage, changes: int) -> Section:
    """`changes` containers start, each with a share of the host bound into it, and stop."""
    with _host(stage) as lxc:
        (share,) = stage.mounts(1)
        came, went = asyncio.run(_latencies(lxc, share.mount_point, changes))
    return f"A container starts or stops -> known (median of {changes})", [
        Row("from its first process until its mounts are known", seconds(median(came))),
        Row("the longest", seconds(max(came))),
        Row("from the death of its init until it is forgotten", seconds(median(went))),
        Row("the longest", seconds(max(went))),
    ]


async def _latencies(lxc: Containers, share: str, changes: int) -> tuple[list[float], list[float]]:
    news: asyncio.Queue[tuple[float, TableRead | NamespaceGone]] = asyncio.Queue()
    children = Children()
    consumer = asyncio.create_task(_consume(_tables(lxc, children), news))
    came, went = list[float](), list[float]()

    async def known(namespace: str, wanted: Callable[[TableRead | NamespaceGone], bool]) -> float:
        async with asyncio.timeout(LIMIT):
            while True:
                at, item = await news.get()
                if item.namespace == namespace and wanted(item):
                    return at

    try:
        for n in range(changes):
            await asyncio.sleep(PAUSE)
            began = time.monotonic()
            container = await asyncio.to_thread(lxc.start, name=f"bench{n}", name_in="lxc", binds={share: POINT})
            came.append(await known(container.namespace, _has_share) - began)
            await asyncio.sleep(PAUSE)
            began = time.monotonic()
            container.begin_to_stop()
            went.append(await known(container.namespace, lambda item: isinstance(item, NamespaceGone)) - began)
            await asyncio.to_thread(container.stop)
        return came, went
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        children.close()


def _has_share(item: TableRead | NamespaceGone) -> bool:
    return isinstance(item, TableRead) and any(m.mount_point == POINT for m in item.mounts)


async def _consume(tables: ContainerTables, news: asyncio.Queue[tuple[float, TableRead | NamespaceGone]]) -> None:
    """As the service does, at once."""
    async with aclosing(tables.events()) as events:
        async for item in events:
            if isinstance(item, TableRead | NamespaceGone):
                news.put_nowait((time.monotonic(), item))


# ---- the service at rest


def idle(stage: Stage, count: int, mounts: int, duration: float) -> Section:
    heading = f"The service at rest, {count} containers with {mounts} mounts each, defaults, over {duration:g} s"
    with _host(stage) as lxc:
        watched = [mounted for each in _populate(lxc, count, mounts) for mounted in each.mounts]
        paths = f'cgroup = "{lxc.cgroup_path}"\nlxc_config = {json.dumps(lxc.lxc_config_dirs)}\n'
        config = service.configuration(stage, include=f"{POINT}/*", paths=paths)
        rest = service.at_rest(config, watched, duration)
    return heading, service.rest_rows(rest, duration, share=0.5, memory=45e6)
