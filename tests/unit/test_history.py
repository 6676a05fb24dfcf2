"""The changes at one place, out of a real database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from watcher.history import load_history
from watcher.model import HOST, Place
from watcher.schema import CorruptError, ForeignError, opened, opened_or_made

NAS = Place(HOST, "/mnt/nas")


def written(path: Path, rows: Sequence[tuple[float, Sequence[str]]]) -> str:
    opened_or_made(path).close()
    with closing(opened(path, "mode=rw")) as db:
        for at, places in rows:
            db.execute(
                "INSERT INTO history VALUES (?, 'stale', 'began', ?, ?, ?, ?)",
                (at, b"nas01:/\xff", b"nfs4", json.dumps(places), f"error {at:g}".encode()),
            )
    return str(path)


def test_the_latest_first_and_no_more_than_wanted(tmp_path: Path) -> None:
    path = written(tmp_path / "s.db", [(float(n), [str(NAS), "ct:101:/x"]) for n in range(20)])
    found = load_history(path, NAS, 3)
    assert [(p.at, p.error) for p in found] == [(19.0, "error 19"), (18.0, "error 18"), (17.0, "error 17")]
    assert {(p.kind, p.change, p.source) for p in found} == {("stale", "began", "nas01:/\udcff")}
    assert len(load_history(path, Place("ct:101", "/x"), 100)) == 20


@pytest.mark.parametrize(
    "other", ['/a"/mnt/nas', '"/mnt/nas"', "/mnt/nas2", "ct:1:/mnt/nas", "/mnt/na%", '/mnt/nas","/b']
)
def test_a_name_that_holds_it_is_another(tmp_path: Path, other: str) -> None:
    path = written(tmp_path / "s.db", [(1.0, [other])])
    assert load_history(path, NAS) == []
    namespace, _, point = other.rpartition(":") if other.startswith("ct:") else (HOST, "", other)
    assert len(load_history(path, Place(namespace, point))) == 1


def test_names_that_are_no_text(tmp_path: Path) -> None:
    place = Place(HOST, "/mnt/\udcff\n")
    assert len(load_history(written(tmp_path / "s.db", [(1.0, [str(place)])]), place)) == 1


def test_where_there_is_none(tmp_path: Path) -> None:
    assert load_history(str(tmp_path / "none" / "s.db"), NAS) == []
    assert list(tmp_path.iterdir()) == []  # to look makes nothing


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    broken, foreign = tmp_path / "broken.db", tmp_path / "foreign.db"
    broken.write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptError, match=r"broken\.db is corrupt"):
        load_history(str(broken), NAS)
    with closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE x (y)")
    with pytest.raises(ForeignError):
        load_history(str(foreign), NAS)
    path = tmp_path / "s.db"
    written(path, [])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO history VALUES (1, 'stale', 'began', x'', x'', '\"/mnt/nas\" no json', x'')")
    with pytest.raises(CorruptError, match="holds what cannot be"):
        load_history(str(path), NAS)
