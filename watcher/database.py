"""The state database on disk: opened for each load and each write, migrated, and moved aside when it is corrupt.

It may hang with its disk, so all of it runs in the thread of aiosqlite's connection, a daemon thread. How long to
wait, and what to do about trouble, is `store`'s matter.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import aiosqlite
import msgspec

from watcher.core.chronicle import Entry, entry_of
from watcher.core.incident import Incident
from watcher.core.known import Identity, Known
from watcher.core.outbox import Lately, Told
from watcher.core.saved import Changes, Passed, Saved, Served, State
from watcher.model import Cause, Place, Reach, Silence
from watcher.schema import VERSION, CorruptError, code_of, explained, key_of, opened, opened_or_made, version_of

MAX_HISTORY = 100_000  # entries: a container whose mounts die and come back all day must not fill the disk
KEEP = 90 * 86400.0  # seconds for which history, and mounts that are gone, are remembered


LAST_WORD = 1000  # milliseconds


class Database:
    """The file at `path`."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    async def load(self) -> Saved:
        """What was saved; nothing where there is no file yet. Raises StoreError."""
        try:
            async with self._connection(self._open_existing) as db:
                return await _read(db)
        except FileNotFoundError:
            return Saved()
        except (TypeError, ValueError, msgspec.ValidationError) as e:
            raise CorruptError(f"{self.path} holds what cannot be: {e}") from e

    async def write(
        self, changes: Changes, history: Sequence[Passed], *, boot: str, now: float, anew: bool = False
    ) -> None:
        """Write all of this, or nothing; `anew`: in place of what is told there so far. Raises StoreError."""
        async with self._connection(self._open_or_make) as db:
            await db.execute("BEGIN IMMEDIATE")
            for table in ("incidents", "channels", "told", "lately") if anew else ():
                await db.execute(f"DELETE FROM {table}")  # noqa: S608 - ours
            await _write(db, changes, now)
            await _append(db, history)
            await db.execute("DELETE FROM history WHERE at < ?", (now - KEEP,))
            await db.execute("DELETE FROM history WHERE rowid <= (SELECT max(rowid) FROM history) - ?", (MAX_HISTORY,))
            await db.execute("DELETE FROM health WHERE seen < ?", (now - KEEP,))
            await db.execute("DELETE FROM written")
            await db.execute("INSERT INTO written VALUES (?, ?)", (boot, now))
            await db.execute("COMMIT")

    async def history(self, since: float, limit: int) -> list[Entry]:
        """What was noted since then, the latest first, at most so many. Raises StoreError."""
        try:
            async with self._connection(self._open_existing) as db:
                rows = await _rows(db, "SELECT 1 FROM sqlite_master WHERE name = 'history'")
                if not rows:
                    return []
                return [
                    _entry(float(at), str(kind), str(change), json.loads(places), _text(source), _text(error))
                    for at, kind, change, places, source, error in await _rows(
                        db,
                        "SELECT at, kind, change, places, source, error FROM history WHERE at >= ? "
                        "ORDER BY at DESC, rowid DESC LIMIT ?",
                        (since, limit),
                    )
                ]
        except FileNotFoundError:
            return []
        except (TypeError, ValueError) as e:
            raise CorruptError(f"{self.path} holds what cannot be: {e}") from e

    @asynccontextmanager
    async def _connection(self, connect: Callable[[], sqlite3.Connection]) -> AsyncIterator[aiosqlite.Connection]:
        # Our own function to connect, so that all that may wait for the disk waits in the connection's thread.
        db = aiosqlite.Connection(connect, 64)
        thread = db if isinstance(db, Thread) else db._thread
        thread.daemon = True  # with a disk that hangs, it must not keep the process from ending
        try:
            try:
                async with db:
                    yield db
            finally:
                # Its thread has a last word for the loop, which must still be there to hear it.
                for _ in range(LAST_WORD):
                    if not thread.is_alive():
                        break
                    await asyncio.sleep(0.001)
        except FileNotFoundError:
            raise
        except (sqlite3.Error, OSError) as e:
            raise explained(self.path, e) from e

    def _open_existing(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise FileNotFoundError(self.path)
        try:
            return opened(self.path, "mode=rw")
        except sqlite3.OperationalError as e:
            # On a read-only file system there is no room for the files beside it, which WAL needs even to read.
            if code_of(e) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
            db = opened(self.path, "mode=ro&immutable=1", migrate=False)
            if version_of(db) != VERSION:
                db.close()
                raise  # it would have to be migrated first
            return db

    def _open_or_make(self) -> sqlite3.Connection:
        return opened_or_made(self.path)

    def move_aside(self, now: float) -> Path:
        """Give a corrupt file another name, with what lies beside it; the new name. Blocks; raises OSError."""
        stamp = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H%M%SZ}"
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):  # a newer file must not take these for its own
            beside = self.path.with_name(self.path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        return aside


# ---- reading


async def _read(db: aiosqlite.Connection) -> Saved:
    if not await _rows(db, "SELECT 1 FROM sqlite_master"):
        return Saved()  # empty, and on a disk that cannot be written
    incidents = {}
    for (body,) in await _rows(db, "SELECT body FROM incidents"):
        incident = msgspec.convert(json.loads(body), Incident)
        incidents[incident.number] = incident
    state = State(
        incidents=incidents,
        channels={name: Served(*row) for name, *row in await _rows(db, "SELECT * FROM channels")},
        told={
            (str(channel), int(number)): msgspec.convert(json.loads(body), Told, str_keys=True, strict=False)
            for channel, number, body in await _rows(db, "SELECT channel, incident, body FROM told")
            if number in incidents
        },
        lately={
            (str(channel), os.fsdecode(group)): Lately(int(times), float(at))
            for channel, group, times, at in await _rows(db, "SELECT channel, grp, times, at FROM lately")
        },
        health=dict(_health_of(row) for row in await _rows(db, "SELECT * FROM health")),
        silences={
            str(id): Silence(str(id), tuple(json.loads(patterns)), float(begins), float(ends), str(comment))
            for id, patterns, begins, ends, comment in await _rows(
                db, "SELECT id, patterns, begins, ends, comment FROM silences"
            )
        },
    )
    for boot, at in await _rows(db, "SELECT boot, at FROM written"):
        return Saved(state, str(boot), float(at))
    return Saved(state)


async def _rows(db: aiosqlite.Connection, statement: str, parameters: tuple[Any, ...] = ()) -> Sequence[Any]:
    return list(await db.execute_fetchall(statement, parameters))


def _entry(at: float, kind: str, change: str, places: list[Any], source: str, error: str) -> Entry:
    more = places.pop() if places and isinstance(places[-1], int) else 0  # see `_append`
    return Entry(at, kind, change, tuple(places), source, error, more)


def _text(name: bytes) -> str:
    return os.fsdecode(name)


def _health_of(row: Sequence[Any]) -> tuple[Identity, Known]:
    namespace, point, root, fstype, source, _, answered, reach, since, cause, error, readonly_since = row
    identity = (Place(str(namespace), os.fsdecode(point)), os.fsdecode(root), os.fsdecode(fstype), os.fsdecode(source))
    return identity, Known(
        bool(answered), Reach(reach), since, Cause(cause) if cause else None, os.fsdecode(error), readonly_since
    )


# ---- writing


def _json(value: object) -> str:
    return json.dumps(msgspec.to_builtins(value, str_keys=True), separators=(",", ":"))


_NOTE_HEALTH = """
INSERT INTO health VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    seen = excluded.seen, answered = max(answered, excluded.answered), reach = excluded.reach, since = excluded.since,
    cause = excluded.cause, error = excluded.error, readonly_since = excluded.readonly_since
"""
_DROP_HEALTH = """
DELETE FROM health
WHERE namespace = ? AND mount_point = ? AND root = ? AND fstype = ? AND source = ? AND NOT answered
"""
_FORGET_HEALTH = """
UPDATE health SET reach = 'unknown', since = NULL, cause = NULL, error = x'', readonly_since = NULL
WHERE namespace = ? AND mount_point = ? AND root = ? AND fstype = ? AND source = ?
"""


async def _write(db: aiosqlite.Connection, changes: Changes, now: float) -> None:
    async def put(statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        if rows := list(rows):
            await db.executemany(statement, rows)

    incidents, channels, told, lately, health, silences = changes
    await put("DELETE FROM incidents WHERE number = ?", ((n,) for n in incidents.drop))
    await put(
        "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?)",
        ((n, i.opened, i.closed, _json(i)) for n, i in incidents.put.items()),
    )
    await put("DELETE FROM channels WHERE name = ?", ((name,) for name in channels.drop))
    await put("INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?)", ((n, *c) for n, c in channels.put.items()))
    await put("DELETE FROM told WHERE channel = ? AND incident = ?", told.drop)
    await put("INSERT OR REPLACE INTO told VALUES (?, ?, ?)", ((*key, _json(t)) for key, t in told.put.items()))
    await put("DELETE FROM lately WHERE channel = ? AND grp = ?", ((c, os.fsencode(g)) for c, g in lately.drop))
    await put(
        "INSERT OR REPLACE INTO lately VALUES (?, ?, ?, ?)",
        ((channel, os.fsencode(group), *entry) for (channel, group), entry in lately.put.items()),
    )
    await put(_DROP_HEALTH, (key_of(identity) for identity in health.drop))
    await put(_FORGET_HEALTH, (key_of(identity) for identity in health.drop))
    await put(
        _NOTE_HEALTH,
        (
            (*key_of(i), now, k.answered, k.reach, k.since, k.cause, os.fsencode(k.error), k.readonly_since)
            for i, k in health.put.items()
        ),
    )
    await put("DELETE FROM silences WHERE id = ?", ((id,) for id in silences.drop))
    await put(
        "INSERT OR REPLACE INTO silences VALUES (?, ?, ?, ?, ?)",
        ((s.id, json.dumps(s.patterns), s.begins, s.ends, s.comment) for s in silences.put.values()),
    )


async def _append(db: aiosqlite.Connection, history: Sequence[Passed]) -> None:
    rows = [
        (
            entry.at,
            entry.kind,
            entry.change,
            os.fsencode(entry.source),
            os.fsencode(passed.transition.subject.fstype),
            json.dumps([*entry.places, *([entry.more] if entry.more else [])]),
            os.fsencode(entry.error),
        )
        for passed, entry in zip(history, map(entry_of, history), strict=True)
    ]
    if rows:
        await db.executemany("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
