"""What the state database remembers of one mount, for a command that looks once. All of it blocks."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from watcher.model import Place
from watcher.schema import BUSY, CorruptError, check, explained, version_of

RECENT = 10  # entries


class Past(NamedTuple):
    """One change that was noted."""

    at: float  # seconds since the epoch
    kind: str
    change: str
    source: str
    error: str


def load_history(path: str, place: Place, limit: int = RECENT) -> list[Past]:
    """The last changes at a place, the latest first; none where there is no file. Blocks; raises StoreError."""
    file = Path(path)
    try:
        if not file.exists():
            return []
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)) as db:
            check(db, file)
            if version_of(db) < 2:
                return []
            # instr also finds the name within a longer one that has quotes in it: the list decides.
            rows = db.execute(
                "SELECT at, kind, change, source, error, places FROM history WHERE instr(places, ?) > 0 "
                "ORDER BY at DESC, rowid DESC",
                (json.dumps(str(place)),),
            )
            found: list[Past] = []
            for at, kind, change, source, error, places in rows:
                if str(place) not in json.loads(places):
                    continue
                found.append(Past(float(at), str(kind), str(change), os.fsdecode(source), os.fsdecode(error)))
                if len(found) == limit:
                    break
            return found
    except (sqlite3.Error, OSError) as e:
        raise explained(file, e) from e
    except (TypeError, ValueError) as e:
        raise CorruptError(f"{file} holds what cannot be: {e}") from e
