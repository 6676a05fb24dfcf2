"""The state database: what it keeps, and what it does with a file that is none of its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from watcher.model import HOST, Place
from watcher.store import VERSION, Store, StoreError

IDENTITY = (Place(HOST, "/mnt/a\udcff\n"), "/", "nfs4", "nas01:/export")


def test_what_is_saved_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.db"
    assert Store(str(path)).load() == set()
    Store(str(path)).save([IDENTITY])
    assert Store(str(path)).load() == {IDENTITY}
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()
    for call in (Store(str(path)).load, lambda: Store(str(path)).save([IDENTITY])):
        with pytest.raises(StoreError, match="newer version"):
            call()
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"x" * 200])
def test_a_file_that_is_none_of_its_own_is_an_error_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"state\.db"):
        Store(str(path)).load()


def test_values_of_other_types_are_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(str(path)).save([IDENTITY])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE answered SET root = 5")
    db.close()
    with pytest.raises(StoreError, match=r"state\.db"):
        Store(str(path)).load()
