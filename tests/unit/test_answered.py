"""What one pass keeps: which mounts have ever answered; and what it does with a file that is none of its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import time

import pytest

from watcher.answered import load_answered, save_answered
from watcher.model import HOST, Place
from watcher.schema import STEPS, VERSION, CorruptError, ForeignError, StoreError

IDENTITY = (Place(HOST, "/mnt/a\udcff\n"), "/", "nfs4", "nas01:/export")


def test_what_is_saved_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.db"
    assert load_answered(str(path)) == set()
    save_answered(str(path), [IDENTITY], now=time())
    assert load_answered(str(path)) == {IDENTITY}
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_state_of_the_first_version_is_read_and_is_migrated_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        for statement in STEPS[0]:
            db.execute(statement)
        db.execute("INSERT INTO answered VALUES ('host', ?, ?, ?, ?, ?)", (b"/mnt/b", b"/", b"nfs4", b"n:/b", time()))
        db.execute("PRAGMA user_version = 1")
    db.close()
    old = (Place(HOST, "/mnt/b"), "/", "nfs4", "n:/b")
    assert load_answered(str(path)) == {old}
    save_answered(str(path), [IDENTITY], now=time())
    assert load_answered(str(path)) == {old, IDENTITY}
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    db.close()


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ForeignError, match="newer version"):
        load_answered(str(path))
    with pytest.raises(ForeignError, match="newer version"):
        save_answered(str(path), [IDENTITY], now=time())
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"x" * 200])
def test_a_file_that_is_no_database_is_an_error_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"state\.db"):
        load_answered(str(path))


def test_values_of_other_types_are_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    save_answered(str(path), [IDENTITY], now=time())
    with sqlite3.connect(path) as db:
        db.execute("UPDATE health SET root = 5")
    db.close()
    with pytest.raises(CorruptError, match=r"state\.db"):
        load_answered(str(path))
