"""What must outlive the process: which mounts have ever answered.

A mount that refuses (EACCES) is "not checkable" if it never answered, and has failed if it did, also
before a restart. SQLite calls block: the daemon makes them in a worker thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from time import time

from watcher.model import Place

Identity = tuple[Place, str, str, str]  # place, root, fstype, source: what a mount is over a reboot

VERSION = 1  # PRAGMA user_version
KEEP = 90 * 86400.0  # seconds for which a mount that is gone is remembered
_SCHEMA = """
CREATE TABLE answered (
    namespace TEXT NOT NULL, mount_point BLOB NOT NULL, root BLOB NOT NULL, fstype BLOB NOT NULL,
    source BLOB NOT NULL, seen REAL NOT NULL,
    PRIMARY KEY (namespace, mount_point, root, fstype, source)
) WITHOUT ROWID
"""


class StoreError(Exception):
    """The state cannot be read or written; its text names the file and why."""


class Store:
    """The state database. Each call opens and closes it: there are a few a day."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def load(self) -> set[Identity]:
        """The mounts that have answered. Empty where there is no database yet. Raises StoreError."""
        try:
            with closing(self._open("ro")) as db:
                rows = db.execute("SELECT namespace, mount_point, root, fstype, source FROM answered").fetchall()
            return {
                (Place(str(ns), os.fsdecode(p)), os.fsdecode(r), os.fsdecode(f), os.fsdecode(s))
                for ns, p, r, f, s in rows
            }
        except (sqlite3.Error, OSError, TypeError) as e:
            if not self._path.exists():
                return set()
            raise StoreError(f"{self._path}: {e}") from e

    def save(self, answered: Iterable[Identity]) -> None:
        """Note these as seen now. Raises StoreError."""
        now = time()
        rows = [
            (place.namespace, os.fsencode(place.mount_point), os.fsencode(r), os.fsencode(f), os.fsencode(s), now)
            for place, r, f, s in answered
        ]
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with closing(self._open("rwc")) as db, db:
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    self._path.chmod(0o600)
                    db.execute(_SCHEMA)
                    db.execute(f"PRAGMA user_version = {VERSION}")
                db.executemany("INSERT OR REPLACE INTO answered VALUES (?, ?, ?, ?, ?, ?)", rows)
                db.execute("DELETE FROM answered WHERE seen < ?", (now - KEEP,))
        except (sqlite3.Error, OSError) as e:
            raise StoreError(f"{self._path}: {e}") from e

    def _open(self, mode: str) -> sqlite3.Connection:
        db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode={mode}", uri=True, timeout=2)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] > VERSION:
                raise StoreError(f"{self._path}: written by a newer version of watcher; not touched")
        except BaseException:
            db.close()
            raise
        return db
