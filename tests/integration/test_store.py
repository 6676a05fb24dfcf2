"""The state on real disks: kept, and what becomes of it when the disk is full, read-only, locked or corrupt."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from time import time

import pytest

from tests.fakes.fuse import HANG, OK, FuseServer
from tests.fakes.fuse_server import mount, unmount
from tests.unit.mounts import subject, transition
from watcher import database as database_module
from watcher import store as store_module
from watcher.core.chronicle import entry_json
from watcher.core.incident import Condition, Incident
from watcher.core.incidents import Incidents
from watcher.core.known import Known
from watcher.core.outbox import Lately, Told
from watcher.core.saved import Saved, Served, State
from watcher.model import HOST, Cause, Change, Kind, Place, Reach, Silence
from watcher.schema import STEPS, VERSION
from watcher.store import Store

MS_REMOUNT, MS_RDONLY = 32, 1
LIMIT = 60.0
WALL = 1_800_000_000.0


def incident(point: str = "/mnt/a\udcff\n") -> Incident:
    incidents = Incidents()
    about = subject(point, Place("ct:101", "/data"), names=[("ct:101", "plex")])
    made = incidents.apply(transition(Change.BEGAN, about, at=10.0, stack=["fuse_statfs"]), now=10.0, wall=WALL)
    assert made is not None
    return made


def full_state() -> State:
    return State(
        incidents={1: incident(), 7: replace(incident("/mnt/b"), number=7, closed=WALL + 5, hushed=True)},
        channels={"phone": Served(WALL, None, WALL + 3), "mail": Served(WALL + 1, WALL + 2)},
        told={("phone", 1): Told({0: Condition.DOWN, 3: Condition.OK}, WALL, 2)},
        lately={("phone", "fuse in ct:9\udcfe"): Lately(3, WALL)},
        health={
            (Place(HOST, "/mnt/a\udcff\n"), "/", "nfs4", "nas01:/\udcfe"): Known(
                True, Reach.STALE, WALL, Cause.STALE_HANDLE, "Stale \udcff", None
            ),
            (Place(HOST, "/mnt/b"), "/", "nfs4", "nas01:/b"): Known(True, Reach.OK, readonly_since=WALL),
        },
    )


@asynccontextmanager
async def running(path: Path, state: State | None = None) -> AsyncIterator[tuple[Store, Saved]]:
    """A store that writes behind, as in the daemon."""
    store = Store(str(path), boot="this boot")
    saved = await store.load()
    if state is not None:
        store.keep(lambda: state)
    task = asyncio.create_task(store.run())
    try:
        yield store, saved
    finally:
        task.cancel()
        await asyncio.wait([task])
        await store.close()


async def until_trouble(store: Store, words: str) -> None:
    async with asyncio.timeout(LIMIT):
        while words not in store.trouble:
            await asyncio.sleep(0.02)


async def until_well(store: Store) -> None:
    async with asyncio.timeout(LIMIT):
        while store.trouble:
            await asyncio.sleep(0.02)


async def kept(path: Path) -> State:
    """What a later run finds."""
    return (await Store(str(path), boot="another").load()).state


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "RETRY", 0.3)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = Path(tempfile.mkdtemp(prefix="w"))
    mount(b"none", os.fsencode(path), b"tmpfs", 0, b"size=256k,mode=700")
    try:
        yield path
    finally:
        unmount(os.fsencode(path))
        path.rmdir()


# ---- what is kept


async def test_all_that_is_kept_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.db"
    silence = Silence("a1", ("/mnt/*", "server:nas01"), WALL, WALL + 60, "NAS upgrade")
    async with running(path, full_state()) as (store, saved):
        assert saved == Saved()
        await store.put_silence(silence)
        await store.put_silence(silence._replace(id="b2"))
        await store.drop_silence("b2")
        await store.recorded()
    found = await Store(str(path), boot="x").load()
    assert found.state == replace(full_state(), silences={"a1": silence})
    assert (found.boot, time() - found.at < 60) == ("this boot", True)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert os.listdir(path.parent) == ["state.db"]


async def test_what_is_no_more_leaves_no_row_but_that_a_mount_has_answered(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with running(path, full_state()) as (store, _):
        await store.recorded()
    async with running(path, State()) as (store, _):
        await store.recorded()
    found = await kept(path)
    assert replace(found, health={}) == State()
    assert set(found.health.values()) == {Known(answered=True)}


async def test_the_history_is_written_and_pruned(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with running(path) as (store, _):
        store.note(transition(Change.BEGAN, subject("/mnt/a\udcff")), time() - 91 * 86400)
        store.note(transition(Change.ENDED, subject("/mnt/a\udcff")), time() - 89 * 86400)
        await store.recorded()
        await store.recorded()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT kind, change, places FROM history").fetchall() == [
            ("stale", "ended", '["/mnt/a\\udcff"]')
        ]


async def test_one_entry_of_many_long_names_is_small(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    many = subject("/mnt/a", *(Place("ct:101", "/" + "\1" * 4000 + str(n)) for n in range(200)))
    async with running(path) as (store, _):
        store.note(transition(Change.BEGAN, many), time())
        await store.recorded()
        [entry], complete = await store.history(0, 10)
    assert (entry.places[0], len(entry.places), entry.more, complete) == ("/mnt/a", 2, 199, True)
    assert len(json.dumps(entry_json(entry))) < 32_768
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT length(places) < 32768 FROM history").fetchall() == [(1,)]


async def test_what_containers_make_and_unmake_all_day_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "MAX_HISTORY", 10)
    path = tmp_path / "state.db"
    for n in range(3):
        mounts = {(Place("ct:101", f"/x{n}.{k}"), "/", "fuse.x", "x"): Known(reach=Reach.OK) for k in range(10)}
        async with running(path, State(health=mounts)) as (store, _):
            for _ in range(10):
                store.note(transition(Change.BEGAN), time())
            await store.recorded()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM history").fetchone() == (10,)
        assert db.execute("SELECT count(*) FROM health").fetchone() == (10,)


async def test_without_a_disk_it_is_all_in_memory() -> None:
    store = Store(None, boot="")
    assert await store.load() == Saved()
    await store.put_silence(Silence("a", (), 0, 1))
    await store.recorded()
    await store.close()
    assert (len(await store.silences()), store.trouble) == (1, "")


# ---- what can be wrong with it


async def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path, hasty: None) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    async with running(path, full_state()) as (store, saved):
        await store.recorded()
        assert saved == Saved()
        assert "newer version of watcher" in store.trouble
        assert path.read_bytes() == before
        path.unlink()
        await until_well(store)
    assert await kept(path) == full_state()


async def test_channels_of_an_earlier_version_are_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        for statement in (*STEPS[0], *STEPS[1], "PRAGMA user_version = 2"):
            db.execute(statement)
        db.execute("INSERT INTO channels VALUES ('phone', 1.5, NULL)")
        db.commit()
    assert (await kept(path)).channels == {"phone": Served(1.5)}


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    async with running(path, full_state()) as (store, _):
        await store.recorded()
        assert "another program" in store.trouble
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", [0, 100, 5000])
async def test_a_corrupt_file_is_moved_aside_and_a_new_one_begun(tmp_path: Path, where: int) -> None:
    path = tmp_path / "state.db"
    async with running(path, full_state()) as (store, _):
        await store.recorded()
    content = bytearray(path.read_bytes())
    content[where : where + 3000] = b"\xa5" * 3000
    path.write_bytes(content)
    async with running(path, full_state()) as (store, saved):
        assert saved == Saved()
        assert "corrupt" in store.trouble
        await store.recorded()
        [aside] = [name for name in os.listdir(tmp_path) if "corrupt" in name]
        assert aside in store.trouble
        assert (tmp_path / aside).read_bytes() == content
    assert await kept(path) == full_state()


async def test_one_that_becomes_corrupt_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = full_state()
    async with running(path, state) as (store, _):
        await store.recorded()
        path.write_bytes(b"rubbish" * 1000)
        store.note(transition(Change.BEGAN), time())
        await until_trouble(store, "corrupt")
        async with asyncio.timeout(LIMIT):
            while not path.exists():
                await asyncio.sleep(0.02)
        await store.recorded()
    assert await kept(path) == state


async def test_while_another_holds_a_lock_it_goes_on_in_memory_and_returns(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    async with running(path, full_state()) as (store, _):
        await store.recorded()
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            await store.put_silence(Silence("a", ("*",), 0, 1))
            await until_trouble(store, "locked by another process")
            monkeypatch.setattr(store_module, "PATIENCE", 10 * LIMIT)
            async with asyncio.timeout(LIMIT):  # nobody who tells something waits for it
                await store.recorded()
        finally:
            other.close()
        await until_well(store)
    assert list((await kept(path)).silences) == ["a"]


async def test_what_is_locked_at_the_start_gives_back_its_silences_later(tmp_path: Path, hasty: None) -> None:
    path = tmp_path / "state.db"
    async with running(path, full_state()) as (store, _):
        await store.put_silence(Silence("a", ("*",), 0, 1))
        await store.put_silence(Silence("b", ("*",), 0, 1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    now = replace(full_state(), incidents={2: replace(incident(), number=2)}, told={})
    async with running(path, now) as (store, saved):
        assert (saved, "locked" in store.trouble) == (Saved(), True)
        await store.drop_silence("b")
        other.close()
        await until_well(store)
        assert [s.id for s in await store.silences()] == ["a"]
    found = await kept(path)
    assert (found.incidents, found.told, list(found.silences)) == (now.incidents, {}, ["a"])


@pytest.mark.kernel
async def test_a_full_disk(small_disk: Path, hasty: None) -> None:
    path = small_disk / "state.db"
    state = full_state()
    async with running(path, state) as (store, _):
        await store.recorded()
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(b"x" * 300_000)
        await store.put_silence(Silence("a", ("*",), 0, 1, "x" * 20_000))
        await until_trouble(store, "the disk is full")
        filler.unlink()
        await until_well(store)
    assert list((await kept(path)).silences) == ["a"]


@pytest.mark.kernel
async def test_a_disk_that_becomes_read_only(small_disk: Path, hasty: None) -> None:
    path = small_disk / "state.db"
    async with running(path, full_state()) as (store, _):
        await store.recorded()
        mount(b"none", os.fsencode(small_disk), b"tmpfs", MS_REMOUNT | MS_RDONLY)
        await store.put_silence(Silence("a", ("*",), 0, 1))
        await until_trouble(store, "ead-only")
        # A start on it: what was known is read all the same.
        assert await kept(path) == full_state()
        mount(b"none", os.fsencode(small_disk), b"tmpfs", MS_REMOUNT)
        await until_well(store)
    assert list((await kept(path)).silences) == ["a"]


async def test_what_cannot_be_written_for_a_bug_does_not_pass_for_written(
    tmp_path: Path, hasty: None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.db"
    async with running(path) as (store, _):
        await store.put_silence(Silence("a", ("*",), 0, 1, "\ud800"))  # which no database takes
        await store.recorded()
        assert store.trouble.startswith("a bug (see the log); it goes on in memory")
        await store.drop_silence("a")
        await until_well(store)
        await store.put_silence(Silence("b", ("*",), 0, 1))
        await store.recorded()
    assert list((await kept(path)).silences) == ["b"]
    assert [r.message for r in caplog.records if r.exc_info] == ["state: cannot be kept"]  # once


async def test_what_a_directory_stands_in_the_way_of(tmp_path: Path, hasty: None) -> None:
    path = tmp_path / "file" / "state.db"
    path.parent.write_text("")
    async with running(path, full_state()) as (store, _):
        await store.recorded()
        await until_trouble(store, "File exists")
        path.parent.unlink()
        await until_well(store)
    assert await kept(path) == full_state()


def test_kinds_are_what_they_were() -> None:
    """A rename of these would make states on disk unreadable."""
    assert {*Kind, *Condition, *Reach, *Cause} >= {"stale", "down", "gone", "remounted", "denied", "timeout"}


@pytest.mark.kernel
async def test_a_disk_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, fuse: FuseServer, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LIMIT", 0.6)
    monkeypatch.setattr(store_module, "PATIENCE", 0.3)
    directory = tmp_path / "disk"
    directory.mkdir()
    disk = fuse.mount(str(directory), mode=HANG)
    store = Store(str(directory / "state.db"), boot="")
    assert await store.load() == Saved()
    assert "does not answer within" in store.trouble
    async with asyncio.timeout(LIMIT):
        for _ in range(3):
            await store.recorded()
            await store.close()
    assert "does not answer within" in store.trouble
    disk.set(OK)  # which ends the call that hangs: this file system takes no files, but it answers
    task = asyncio.create_task(store.run())
    await until_trouble(store, "state.db: ")
    task.cancel()
    await asyncio.wait([task])
