"""Which mounts have ever answered, for one pass: it has no loop to keep free and wants no more of the state than this.

Without it, an export that was withdrawn would pass as "not checkable". All of it blocks.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from watcher.core.known import Identity
from watcher.model import Place
from watcher.schema import BUSY, CorruptError, check, explained, key_of, opened_or_made, version_of


def load_answered(path: str) -> set[Identity]:
    """The mounts that have ever answered; empty where there is no file. Blocks; raises StoreError."""
    file = Path(path)
    try:
        if not file.exists():
            return set()
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)) as db:
            check(db, file)
            table = "answered" if version_of(db) == 1 else "health WHERE answered"
            if version_of(db) == 0:
                return set()
            rows = db.execute(f"SELECT namespace, mount_point, root, fstype, source FROM {table}").fetchall()  # noqa: S608 - ours
        return {
            (Place(str(ns), os.fsdecode(p)), os.fsdecode(r), os.fsdecode(f), os.fsdecode(s)) for ns, p, r, f, s in rows
        }
    except (sqlite3.Error, OSError) as e:
        raise explained(file, e) from e
    except TypeError as e:
        raise CorruptError(f"{file} holds what cannot be: {e}") from e


def save_answered(path: str, answered: Iterable[Identity], *, now: float) -> None:
    """Note that these have answered. Blocks; raises StoreError."""
    file = Path(path)
    try:
        with closing(opened_or_made(file)) as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO health (namespace, mount_point, root, fstype, source, seen, answered) "
                "VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET seen = excluded.seen, answered = 1",
                [(*key_of(identity), now) for identity in answered],
            )
    except (sqlite3.Error, OSError) as e:
        raise explained(file, e) from e
