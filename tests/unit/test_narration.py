"""What the service says of mounts that come and go, line by line."""

from __future__ import annotations

import logging

import pytest

from tests.unit.mounts import mount
from watcher.model import HOST, Change, Kind, Mount, Place, Subject, Superblock, Transition
from watcher.narration import MAX_TIMES, MINUTE, Narrator


def changes(namespace: str, times: int, seconds: float, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines about one mount that is somewhere else every so many seconds."""
    narrator, before = Narrator(), dict[Place, Mount]()
    with caplog.at_level(logging.INFO):
        for n in range(times):
            after = {Place(namespace, f"/m/{n}"): mount(f"/m/{n}")}
            narrator.places(before, after, n * seconds)
            before = after
    return [record.getMessage() for record in caplog.records]


def test_a_container_cannot_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    lines = changes("ct:101", 1200, 0.1, caplog)  # two minutes
    assert len(lines) <= 2 * 2 * (MAX_TIMES + 1) * (1200 * 0.1 / MINUTE)
    assert "watching ct:101:/m/0 (nfs4, nas01:/data)" in lines


def test_only_what_is_expected_can_be_of_any_source(caplog: pytest.LogCaptureFixture) -> None:
    place, narrator = Place(HOST, "/mnt/x"), Narrator()
    missing = Transition(Kind.MISSING, Change.ENDED, Subject(Superblock("", "/", "", ""), (place,), ""), 1.0, 0.0)
    stale = missing._replace(kind=Kind.STALE, subject=Subject(Superblock("0:50", "/", "fuse", ""), (place,), ""))
    with caplog.at_level(logging.INFO):
        narrator.places({}, {place: mount("/mnt/x", fstype="fuse", source="")}, 0.0)
        narrator.transition(missing)
        narrator.transition(stale)
    assert [record.getMessage() for record in caplog.records] == [
        "watching /mnt/x (fuse, no source)",
        "missing no more: /mnt/x (of any source)",
        "stale no more: /mnt/x (no source)",
    ]


def test_what_changes_now_and_then_is_all_said(caplog: pytest.LogCaptureFixture) -> None:
    assert len(changes("ct:101", 100, 10.0, caplog)) == 199


def test_the_hosts_mounts_are_spoken_of_however_often_they_change(caplog: pytest.LogCaptureFixture) -> None:
    assert len(changes(HOST, 200, 0.1, caplog)) == 399
