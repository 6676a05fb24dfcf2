"""Bytes over time to a rate, and to words; what of it is told, and how often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.core import messages
from watcher.core.growth import FIRST, LAST, LEAST, SOON, Gravity, Growth, Look, Looks, pause, words
from watcher.core.incident import Condition, Incident, Member
from watcher.core.incidents import Incidents
from watcher.core.outbox import News, Topic, news_of, told_now
from watcher.core.wording import printable
from watcher.growing import MAX_LOOKED, MAX_OF_INCIDENT, by_turns
from watcher.model import HOST, Cause, Kind, Place, Subject, Superblock

MIB, GIB = 1 << 20, 1 << 30
PLACE = Place("ct:105", "/mnt/media")


def judged(*looks: Look) -> Growth | None:
    seen = Looks()
    for look in looks:
        seen = seen.take(look)
    return seen.growth(PLACE, "/", 0.0)


def look(at: float, size: int, free: int = 100 * GIB, *, whole: bool = True, newest: float | None = None) -> Look:
    return Look(at, size, free, at if newest is None else newest, whole)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], None),
        ([look(0, 5 * GIB)], None),  # what lies there already is no news
        ([look(0, 0), look(10, 0), look(30, 0)], None),
        ([look(0, 0), look(10, LEAST - 1)], None),
        ([look(0, 9 * MIB), look(10, 2 * MIB), look(20, 2 * MIB)], None),
        # Since the last look before it began; the disk loses as much.
        ([look(0, 0), look(10, 0), look(30, 20 * MIB, GIB - 20 * MIB)], (20 * MIB, 10, None)),
        ([look(10, 0, GIB), look(30, 20 * MIB, GIB - 20 * MIB)], (20 * MIB, 10, 1004.0)),
        # Slowly: all of it counts, over some looks.
        ([look(0, 0), look(10, LEAST // 2), look(20, LEAST)], (LEAST, 0, None)),
        # It has stopped.
        ([look(0, 0), look(10, 5 * MIB), look(20, 5 * MIB)], (5 * MIB, 0, None)),
        # It was taken away.
        ([look(0, 0), look(10, 5 * MIB), look(20, 0)], None),
        # The disk is full.
        ([look(0, 0, 5 * MIB), look(10, 5 * MIB, 0)], (5 * MIB, 0, 0.0)),
        # Others write to it, too.
        ([look(0, 0, 3 * GIB), look(10, MIB, 2 * GIB)], (MIB, 0, 20.0)),
        # Too much to be counted: the disk says it, if anything has changed there.
        ([look(0, 7, 3 * GIB, whole=False), look(10, 7, 2 * GIB, whole=False, newest=9)], (GIB, 0, 20.0)),
        ([look(0, 7, 3 * GIB, whole=False), look(10, 7, 2 * GIB, whole=False, newest=-5)], None),
    ],
)
def test_what_grows(looks: list[Look], expected: tuple[int, float, float | None] | None) -> None:
    found = judged(*looks)
    if expected is None:
        assert found is None
        return
    assert found is not None
    size, since, left = expected
    assert (found.bytes, found.since) == (size, since)
    if left is not None or found.full_in is None:
        assert found.full_in == left


def test_it_becomes_grave_once() -> None:
    seen, gravities = Looks(), []
    for at, size, free in ((0, 0, 90), (60, 1, 89), (120, 2, 88), (180, 80, 10), (240, 80, 10), (300, 81, 9)):
        seen = seen.take(look(at, size * GIB, free * GIB))
        gravities.append(seen.worst)
    quiet, written, grave = Gravity
    assert gravities == [quiet, written, written, grave, grave, grave]
    assert seen.noted == 180


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 1000), st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.booleans(), st.floats(0, 1e6)
        ),
        max_size=12,
    )
)
def test_any_course_of_looks(steps: list[tuple[float, int, int, bool, float]]) -> None:
    seen, at, worst = Looks(), 0.0, Gravity.QUIET
    for step, size, free, whole, newest in steps:
        at += step
        seen = seen.take(Look(at, size, free, newest, whole))
        assert seen.worst >= worst
        worst = seen.worst
        found = seen.growth(PLACE, "/", 1000.0)
        if found is not None:
            assert found.bytes >= LEAST
            assert found.gravity == worst > Gravity.QUIET
            assert 1000.0 <= found.since <= found.at == at + 1000.0
            assert found.full_in is None or found.full_in >= 0
            assert printable(words(found, PLACE, "arr", "14:03")) == words(found, PLACE, "arr", "14:03")
        assert len(seen.recent) <= 14


def test_the_rhythm() -> None:
    assert [pause(n) for n in (1, 2, 3, 4, 5, 1000)] == [FIRST, 2 * FIRST, 4 * FIRST, LAST, LAST, LAST]


GROWTH = Growth(PLACE, "/", 1_200 * MIB, since=0.0, at=600.0, full_in=2400.0, noted=600.0)


@pytest.mark.parametrize(
    ("growth", "place", "expected"),
    [
        (
            GROWTH,
            PLACE,
            "CT 105 arr writes to its root disk under /mnt/media: 1.17 GiB since 14:03, full in about 40 min",
        ),
        (
            replace(GROWTH, full_in=None),
            PLACE,
            "CT 105 arr writes to its root disk under /mnt/media: 1.17 GiB since 14:03",
        ),
        (
            replace(GROWTH, place=Place(HOST, "/mnt/nas"), disk="/data", full_in=0.0),
            Place(HOST, "/mnt/nas"),
            "Something writes to the disk on /data under /mnt/nas: 1.17 GiB since 14:03, and it is full",
        ),
        (
            replace(GROWTH, place=Place(HOST, "/mnt/nas"), full_in=20.0),
            PLACE,
            "CT 105 arr writes to the host's root disk under /mnt/nas: 1.17 GiB since 14:03, full within a minute",
        ),
    ],
)
def test_words(growth: Growth, place: Place, expected: str) -> None:
    assert words(growth, place, "arr" if place.namespace != HOST else "", "14:03") == expected


# ---- how often it is told


def incident(growth: Growth | None, condition: Condition = Condition.DOWN) -> Incident:
    about = Subject(Superblock("", "/", "nfs4", "nas01:/media"), (PLACE,), "", (("ct:105", "arr"),))
    member = Member(Kind.MISSING, about, condition, 0.0, 0.0, Cause.VANISHED, "not mounted", growth=growth)
    return Incident(1, "missing in ct:105", None, 0.0, (member,))


def test_it_is_told_when_it_is_seen_and_when_it_becomes_grave() -> None:
    told = told_now(incident(None), 5.0)
    assert news_of(incident(None), told, group_wait=3.0) is None
    first = news_of(incident(GROWTH), told, group_wait=3.0)
    assert first is not None
    assert (first.topic, first.due) == (Topic.UPDATE, 600.0)
    assert news_of(incident(GROWTH), told, group_wait=3.0, silenced=True) is None
    told = told_now(incident(GROWTH), 601.0, told, Topic.UPDATE)
    for later in (GROWTH, replace(GROWTH, bytes=9 * GIB, at=900.0), None):  # a restart has forgotten it
        assert news_of(incident(later), told, group_wait=3.0) is None
    told = told_now(incident(None), 700.0, told, Topic.REPEAT)
    assert news_of(incident(GROWTH), told, group_wait=3.0) is None
    grave = replace(GROWTH, gravity=Gravity.SOON_FULL, full_in=SOON - 1, noted=950.0)
    second = news_of(incident(grave), told, group_wait=3.0)
    assert second is not None
    assert (second.topic, second.due) == (Topic.UPDATE, 950.0)
    told = told_now(incident(grave), 951.0, told, Topic.UPDATE)
    assert news_of(incident(grave), told, group_wait=3.0) is None
    assert told.growth == {0: int(Gravity.SOON_FULL)}
    over = replace(incident(grave, Condition.OK), closed=990.0)
    assert told_now(over, 990.0, told).growth == {}


def test_the_message() -> None:
    def local(wall: float) -> datetime:
        return datetime.fromtimestamp(50_580.0 + wall, UTC)

    message = messages.compose(
        News(incident(GROWTH), Topic.UPDATE, 600.0), 1, messages.Sender("pve1", "x"), now=601.0, local=local
    )
    assert message.title == "🔴 pve1: CT 105 arr /mnt/media NOT MOUNTED, written to underneath"
    assert message.body.splitlines()[1] == (
        "CT 105 arr writes to its root disk under /mnt/media: 1.17 GiB since 14:03, full in about 40 min"
    )


def test_it_is_noted_of_what_is_down_only() -> None:
    known = Incidents([incident(None)])
    assert known.note_growth(1, 0, GROWTH)
    assert not known.note_growth(1, 0, GROWTH)
    assert not known.note_growth(2, 0, GROWTH)
    known.shift(100.0)
    [shifted] = known
    assert shifted.members[0].growth == GROWTH.shifted(100.0)
    ended = Incidents([replace(incident(None, Condition.OK), closed=9.0)])
    assert not ended.note_growth(1, 0, GROWTH)


def test_containers_with_many_leave_room_for_the_host_and_for_others() -> None:
    """Ten containers that miss all that they can, and only then the host and one more."""
    many = [((ct, slot), Place(f"ct:{ct}", f"/{slot}"), False) for ct in range(10) for slot in range(MAX_OF_INCIDENT)]
    last = [((20, 0), Place(HOST, "/mnt/nas"), False), ((21, 0), Place("ct:120", "/data"), False)]
    chosen = by_turns([*many, *last])[:MAX_LOOKED]
    assert chosen[0] == last[0]
    assert last[1] in chosen
    assert len(many) > MAX_LOOKED
    assert sorted(by_turns([*many, *last])) == sorted([*many, *last])
