"""The tables of the state database, the steps to them from each version before, and how it is opened.

All of it blocks: the service calls it in the thread of a connection. Paths and sources are BLOBs, since they need
not be UTF-8; what has a structure of its own is JSON in ASCII.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from watcher.core.known import Identity

# By the version (PRAGMA user_version) that a database has, the statements that make the next one of it.
STEPS: Final[dict[int, tuple[str, ...]]] = {
    0: (
        """
        CREATE TABLE answered (
            namespace TEXT NOT NULL, mount_point BLOB NOT NULL, root BLOB NOT NULL, fstype BLOB NOT NULL,
            source BLOB NOT NULL, seen REAL NOT NULL,
            PRIMARY KEY (namespace, mount_point, root, fstype, source)
        ) WITHOUT ROWID
        """,
    ),
    1: (
        """
        CREATE TABLE health (
            namespace TEXT NOT NULL, mount_point BLOB NOT NULL, root BLOB NOT NULL, fstype BLOB NOT NULL,
            source BLOB NOT NULL, seen REAL NOT NULL, answered INTEGER NOT NULL DEFAULT 0,
            reach TEXT NOT NULL DEFAULT 'unknown', since REAL, cause TEXT, error BLOB NOT NULL DEFAULT x'',
            readonly_since REAL,
            PRIMARY KEY (namespace, mount_point, root, fstype, source)
        ) WITHOUT ROWID
        """,
        """
        INSERT INTO health (namespace, mount_point, root, fstype, source, seen, answered)
            SELECT namespace, mount_point, root, fstype, source, seen, 1 FROM answered
        """,
        "DROP TABLE answered",
        "CREATE TABLE incidents (number INTEGER PRIMARY KEY, opened REAL NOT NULL, closed REAL, body TEXT NOT NULL)",
        "CREATE TABLE channels (name TEXT PRIMARY KEY, added REAL NOT NULL, failing_since REAL) WITHOUT ROWID",
        """
        CREATE TABLE told (
            channel TEXT NOT NULL, incident INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (channel, incident)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE lately (
            channel TEXT NOT NULL, grp BLOB NOT NULL, times INTEGER NOT NULL, at REAL NOT NULL,
            PRIMARY KEY (channel, grp)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE silences (
            id TEXT PRIMARY KEY, patterns TEXT NOT NULL, begins REAL NOT NULL, ends REAL NOT NULL, comment TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE history (
            at REAL NOT NULL, kind TEXT NOT NULL, change TEXT NOT NULL, source BLOB NOT NULL, fstype BLOB NOT NULL,
            places TEXT NOT NULL, error BLOB NOT NULL
        )
        """,
        "CREATE INDEX history_at ON history (at)",
        "CREATE TABLE written (boot TEXT NOT NULL, at REAL NOT NULL)",
    ),
    2: ("ALTER TABLE channels ADD COLUMN told REAL",),
}
VERSION: Final = max(STEPS) + 1
BUSY = 2.0  # seconds to wait for another process that writes
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_WORDS = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_IOERR: "cannot be read or written: I/O error",
}


class StoreError(Exception):
    """The state cannot be read or written; its text names the file and why."""


class CorruptError(StoreError):
    """The file holds no state of ours that can be used."""


class ForeignError(StoreError):
    """The file is not ours to touch: a newer version's, or another program's."""


def key_of(identity: Identity) -> tuple[str, bytes, bytes, bytes, bytes]:
    place, root, fstype, source = identity
    return place.namespace, os.fsencode(place.mount_point), os.fsencode(root), os.fsencode(fstype), os.fsencode(source)


# ---- opening


def opened_or_made(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    return opened(path, "mode=rw")


def opened(path: Path, how: str, *, migrate: bool = True) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{how}"
    db = sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)
    try:
        check(db, path)
        if migrate:
            db.execute("PRAGMA journal_mode = WAL")
            _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def version_of(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def check(db: sqlite3.Connection, path: Path) -> None:
    if (version := version_of(db)) > VERSION:
        raise ForeignError(
            f"{path} was written by a newer version of watcher (its state has version {version}, this watcher knows "
            f"{VERSION}); it is left alone"
        )
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ForeignError(f"{path} is the database of another program; it is left alone")


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if version_of(db) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        check(db, path)  # another process may have been faster
        for version in range(version_of(db), VERSION):
            for statement in STEPS[version]:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def code_of(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def explained(path: Path, error: Exception) -> StoreError:
    if isinstance(error, OSError):
        return StoreError(f"{path}: {error.strerror or error}")
    code = code_of(error)
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
        code = sqlite3.SQLITE_FULL  # the first thing to need room is the file of shared memory beside it
    if code in _CORRUPT:
        return CorruptError(f"{path} is corrupt: {error}")
    return StoreError(f"{path} {_WORDS.get(code, f'cannot be used: {error}')}")
