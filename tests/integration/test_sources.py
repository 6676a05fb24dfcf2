"""The event sources, within this process: real mounts, real files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest

from tests.fakes.fuse import MS_RDONLY, FuseServer
from watcher.model import HOST, TableRead, TableUnreadable
from watcher.sources.inotify import FileChanges, WatchError
from watcher.sources.mount_table import Changes, tables

LIMIT = 60.0

Descriptors = Callable[[], dict[int, str]]
Tables = AsyncGenerator[TableRead | TableUnreadable, None]


def watch_tables(proc: str = "/proc", wanted: asyncio.Event | None = None) -> Tables:
    return cast("Tables", tables(proc, wanted or asyncio.Event()))


async def next_of(source: AsyncIterator[TableRead | TableUnreadable]) -> TableRead:
    async with asyncio.timeout(LIMIT):
        event = await anext(source)
    assert isinstance(event, TableRead)
    return event


def mount_points(event: TableRead) -> set[str]:
    return {mount.mount_point for mount in event.mounts}


async def turns_of_the_loop(count: int = 100) -> None:
    """Enough for a descriptor that is ready all the time to call back."""
    for _ in range(count):
        await asyncio.sleep(0)


# ---- the mount table


@pytest.mark.kernel
async def test_the_table_comes_at_once_and_after_each_change(
    fuse: FuseServer, mount_dir: Callable[..., bytes], descriptors: Descriptors
) -> None:
    path = mount_dir()
    before = descriptors()
    async with aclosing(watch_tables()) as source:
        first = await next_of(source)
        assert first.namespace == HOST
        assert os.fsdecode(path) not in mount_points(first)

        mounted = fuse.mount(path, source="nas01:/export", fstype="fuse.test")
        [line] = [m for m in (await next_of(source)).mounts if m.mount_point == mounted.mount_point]
        assert (line.mount_id, line.device) == (mounted.mount_id, mounted.device)
        assert (line.fstype, line.source) == ("fuse.test", "nas01:/export")

        mounted.remount(MS_RDONLY)
        [line] = [m for m in (await next_of(source)).mounts if m.mount_point == mounted.mount_point]
        assert "ro" in line.super_options.split(",")

        mounted.unmount()
        assert mounted.mount_point not in mount_points(await next_of(source))
    assert descriptors() == before


@pytest.mark.kernel
async def test_of_many_changes_the_last_is_not_lost(fuse: FuseServer, mount_dir: Callable[..., bytes]) -> None:
    paths = [mount_dir(f"n{number}") for number in range(40)]
    wanted = {os.fsdecode(path) for path in paths}
    async with aclosing(watch_tables()) as source:
        await next_of(source)
        reads = 0
        mounting = asyncio.create_task(asyncio.to_thread(lambda: [fuse.mount(path) for path in paths]))
        while not wanted <= mount_points(await next_of(source)):
            reads += 1
        assert reads <= len(paths)
        mounts = await mounting
        mounts[0].unmount()
        assert wanted - mount_points(await next_of(source)) == {mounts[0].mount_point}


@pytest.mark.kernel
async def test_a_table_that_was_asked_for_comes_unchanged(fuse: FuseServer, mount_dir: Callable[..., bytes]) -> None:
    wanted = asyncio.Event()
    async with aclosing(watch_tables(wanted=wanted)) as source:
        first = await next_of(source)
        wanted.set()
        assert await next_of(source) == first
        assert not wanted.is_set()
        mounted = fuse.mount(mount_dir())
        assert mounted.mount_point in mount_points(await next_of(source))


@pytest.mark.kernel
async def test_a_change_wakes_the_loop_once(fuse: FuseServer, mount_dir: Callable[..., bytes]) -> None:
    path = mount_dir()
    changes = Changes("/proc")
    try:
        await turns_of_the_loop()
        changes.changed.clear()  # what the start of the epoll reports, if anything
        await turns_of_the_loop()
        assert not changes.changed.is_set()
        fuse.mount(path)
        async with asyncio.timeout(LIMIT):
            await changes.changed.wait()
        changes.changed.clear()
        await turns_of_the_loop()
        assert not changes.changed.is_set()
    finally:
        changes.close()


@pytest.mark.kernel
async def test_a_table_that_cannot_be_read_is_data(tmp_path: Path, descriptors: Descriptors) -> None:
    (tmp_path / "self").symlink_to("/proc/self")
    before = descriptors()
    wanted = asyncio.Event()
    async with aclosing(watch_tables(str(tmp_path), wanted)) as source:
        await next_of(source)
        (tmp_path / "self").unlink()
        wanted.set()
        async with asyncio.timeout(LIMIT):
            assert await anext(source) == TableUnreadable(HOST, "No such file or directory")
        (tmp_path / "self").symlink_to("/proc/self")
        wanted.set()
        await next_of(source)
    assert descriptors() == before


# ---- our own files


async def watch(path: Path) -> FileChanges:
    return FileChanges(str(path))


async def changed(changes: FileChanges) -> None:
    async with asyncio.timeout(LIMIT):
        await changes.next()


async def test_a_file_is_seen_to_change_however_it_is_written(tmp_path: Path, descriptors: Descriptors) -> None:
    file = tmp_path / "config.toml"
    before = descriptors()
    changes = await watch(file)
    try:
        file.write_text("created")
        await changed(changes)
        file.write_text("in place")
        await changed(changes)
        (tmp_path / "new").write_text("replaced")
        (tmp_path / "new").rename(file)
        await changed(changes)
        file.rename(tmp_path / "old")
        await changed(changes)
        (tmp_path / "old").rename(file)
        await changed(changes)
        file.unlink()
        await changed(changes)
        (tmp_path / "..new").symlink_to("one")
        (tmp_path / "..new").rename(tmp_path / "..data")  # as Kubernetes swaps a whole directory
        await changed(changes)
    finally:
        changes.close()
    assert descriptors() == before


async def test_a_burst_is_one_change_and_other_files_are_none(tmp_path: Path) -> None:
    file, other = tmp_path / "config.toml", tmp_path / "other.toml"
    changes, of_other = await watch(file), await watch(other)
    try:
        for number in range(20):
            file.write_text(str(number))
        await changed(changes)
        waiting = asyncio.create_task(changes.next())
        other.write_text("")
        await changed(of_other)  # so that both have read the same event
        assert not waiting.done()
        file.write_text("again")
        async with asyncio.timeout(LIMIT):
            await waiting
    finally:
        changes.close()
        of_other.close()


async def test_a_change_between_two_looks_is_not_lost(tmp_path: Path) -> None:
    file, other = tmp_path / "config.toml", tmp_path / "other.toml"
    changes, of_other = await watch(file), await watch(other)
    try:
        file.write_text("while nobody waits")
        other.write_text("")
        await changed(of_other)
        await changed(changes)
    finally:
        changes.close()
        of_other.close()


async def test_a_directory_that_cannot_be_watched_says_why(tmp_path: Path, descriptors: Descriptors) -> None:
    (tmp_path / "file").touch()
    before = descriptors()
    for path in (tmp_path / "none" / "config.toml", tmp_path / "file" / "config.toml"):
        with pytest.raises(WatchError, match=str(path.parent)):
            await watch(path)
    assert descriptors() == before
