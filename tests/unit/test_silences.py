from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import subject, transition
from watcher.core.incident import Incident
from watcher.core.incidents import Incidents
from watcher.core.quiet import Window
from watcher.core.silences import (
    ALPHABET,
    ID_LENGTH,
    MAX_IN_ALL,
    MAX_SILENCES,
    REMEMBERED,
    Silences,
    matching,
    new_id,
)
from watcher.model import HOST, Change, Kind, Place, Silence, Subject, Superblock

WALL = 1_000_000.0
HOUR = 3600.0

A, B = subject("/mnt/a", source="nas01:/a", device="0:51"), subject("/mnt/b", source="nas01:/b", device="0:52")
BOUND = Subject(Superblock("0:53", "/", "nfs4", "nas02:/c"), (Place(HOST, "/mnt/c"), Place("ct:101", "/data")), "")
OURS = Subject(Superblock("", "", "", "configuration"), (), "")


def at_utc(wall: float) -> datetime:
    return datetime.fromtimestamp(wall, UTC)


def silence(*patterns: str, ends: float = WALL + HOUR, name: str = "abcd") -> Silence:
    return Silence(name, patterns, WALL, ends, "")


def incident_of(*subjects: Subject, ended: tuple[Subject, ...] = (), kind: Kind = Kind.STALE) -> Incident:
    """One with these down, and those of `ended` ok again 60 s later."""
    incidents = Incidents()
    for s in subjects:
        incidents.apply(transition(Change.BEGAN, s, at=0, kind=kind), now=0, wall=WALL)
    for s in ended:
        incidents.apply(transition(Change.ENDED, s, at=60, kind=kind), now=60, wall=WALL + 60)
    [incident] = incidents
    return incident


# ---- what is covered


@pytest.mark.parametrize(
    ("patterns", "down", "silenced"),
    [
        (["/mnt/*"], [A], True),
        (["*"], [A, B], True),
        (["/mnt/a"], [A], True),
        (["/mnt/a"], [A, B], False),  # the other one is worth a word
        (["/mnt/a", "/mnt/b"], [A, B], True),
        (["server:nas01"], [A, B], True),
        (["server:nas0?"], [A, B], True),
        (["server:nas02"], [A], False),
        (["host:/mnt/*"], [A], True),
        (["ct:101:*"], [A], False),
        (["ct:101:*"], [BOUND], False),  # the host's own place is not
        (["host:*"], [BOUND], False),
        (["ct:101:*", "host:/mnt/c"], [BOUND], True),
        (["server:nas02"], [BOUND], True),
        (["/data"], [BOUND], False),
        (["*"], [OURS], False),  # what concerns the watcher itself is always told
    ],
)
def test_an_incident_is_silenced_if_all_that_is_down_is(
    patterns: list[str], down: list[Subject], silenced: bool
) -> None:
    incident = incident_of(*down, kind=Kind.WATCHER if OURS in down else Kind.STALE)
    assert Silences(at_utc, [silence(*patterns)]).silenced(incident, WALL) is silenced
    # Several silences together cover what one with all patterns does.
    several = [silence(p, name=f"aaa{n}") for n, p in enumerate(patterns)]
    assert Silences(at_utc, several).silenced(incident, WALL) is silenced


def test_what_is_well_again_needs_no_silence() -> None:
    incident = incident_of(A, B, ended=(B,))
    assert Silences(at_utc, [silence("/mnt/a")]).silenced(incident, WALL + 90)


def test_without_any_nothing_is_silenced() -> None:
    assert not Silences(at_utc).silenced(incident_of(A), WALL)


# ---- its end


def test_it_is_over_at_its_end() -> None:
    silences, incident = Silences(at_utc, [silence("*")]), incident_of(A)
    assert silences.silenced(incident, WALL + HOUR - 0.001)
    assert not silences.silenced(incident, WALL + HOUR)
    assert silences.next_end(WALL) == WALL + HOUR
    assert silences.next_end(WALL + HOUR) is None
    assert [s.id for s in silences.active(WALL)] == ["abcd"]
    assert silences.active(WALL + HOUR) == []


def test_a_clock_that_was_set_back_leaves_it_in_force() -> None:
    assert Silences(at_utc, [silence("*")]).silenced(incident_of(A), WALL - 100)


def test_it_can_be_ended_early_once() -> None:
    silences, incident = Silences(at_utc, [silence("*")]), incident_of(A)
    assert silences.end("nope", WALL) is None
    ended = silences.end("abcd", WALL + 10)
    assert ended is not None
    assert not silences.silenced(incident, WALL + 10)
    assert silences.end("abcd", WALL + 11) is None
    assert silences.active(WALL + 11) == []


def test_what_came_and_went_within_a_silence_is_not_told_after_it_either() -> None:
    silences = Silences(at_utc, [silence("*", ends=WALL + 61)])
    incident = incident_of(A, ended=(A,))  # closed at +60
    assert silences.silenced(incident, WALL + 60)
    assert silences.silenced(incident, WALL + 70)


def test_what_was_over_before_the_silence_or_after_it_is_told() -> None:
    late = Silences(at_utc, [silence("*", ends=WALL + 59)])
    assert not late.silenced(incident_of(A, ended=(A,)), WALL + 70)


def test_one_that_is_over_is_forgotten_after_a_while() -> None:
    silences = Silences(at_utc, [silence("*")])
    assert silences.prune(WALL + HOUR + REMEMBERED - 1) == []
    assert silences.ids == {"abcd"}
    assert [s.id for s in silences.prune(WALL + HOUR + REMEMBERED)] == ["abcd"]
    assert silences.ids == frozenset()


def test_who_sets_and_ends_them_all_day_fills_no_memory() -> None:
    silences = Silences(at_utc, [silence("*", ends=WALL + n, name=f"s{n}") for n in range(MAX_SILENCES + 3)])
    silences.add(silence("*", name="held"))
    assert [s.id for s in silences.prune(WALL + MAX_SILENCES + 3)] == ["s0", "s1", "s2"]
    assert len(silences.ids) == MAX_SILENCES + 1
    many = [silence(*("*" for _ in range(MAX_IN_ALL // 2)), ends=WALL + n, name=f"s{n}") for n in range(3)]
    assert Silences(at_utc, many).prune(WALL + 3) == many[:1]


PATTERNS = st.sampled_from(["*", "/mnt/*", "/mnt/a", "/mnt/[ab]", "host:/mnt/b", "ct:*", "server:nas01", "/mnt/[*]"])


@given(
    st.lists(st.tuples(st.lists(PATTERNS, min_size=1, max_size=3), st.integers(1, 9)), max_size=5), st.integers(0, 9)
)
def test_all_that_hold_cover_what_one_of_them_does(wanted: list[tuple[list[str], int]], later: int) -> None:
    mounts = dict.fromkeys((Place(HOST, "/mnt/a"), Place(HOST, "/mnt/b"), Place("ct:1", "/x")), "nas01")
    mounts |= {Place(HOST, "/mnt/*"): "", Place(HOST, "/srv"): ""}
    silences = Silences(at_utc)
    for n, (globs, length) in enumerate(wanted):
        silences.add(silence(*globs, ends=WALL + length, name=f"s{n}"))
        silences.covered(mounts, WALL)  # asked in between, it knows of each all the same
    at = WALL + later
    assert silences.covered(mounts, at) == {
        place for globs, length in wanted if length > later for place in matching(globs, mounts)
    }
    silences.end("s0", at)
    silences.prune(at + REMEMBERED)
    if "s0" not in silences.ids:
        silences.add(silence("/srv", ends=at + HOUR, name="s0"))
        assert Place(HOST, "/srv") in silences.covered(mounts, at)


# ---- quiet windows


def test_quiet_windows_and_silences_together_cover_an_incident() -> None:
    midnight = WALL - WALL % 86400
    silences, incident = Silences(at_utc, [silence("/mnt/a", ends=midnight + 5 * HOUR)]), incident_of(A, B)
    assert not silences.silenced(incident, midnight + 2 * HOUR)
    silences.configure([Window(("/mnt/b",), 60, 360)])
    assert not silences.silenced(incident, midnight + 0.5 * HOUR)
    assert silences.silenced(incident, midnight + 2 * HOUR)
    assert silences.active_windows(midnight + 2 * HOUR) == {0}
    assert not silences.silenced(incident, midnight + 5 * HOUR)
    silences.configure([])
    assert not silences.silenced(incident, midnight + 2 * HOUR)


# ---- names


@given(st.lists(st.integers(0, 10**6), min_size=4 * ID_LENGTH, max_size=4 * ID_LENGTH))
def test_ids_are_short_typable_and_new(numbers: list[int]) -> None:
    def draws() -> list[int]:
        return [*numbers, *range(2000)]

    left = draws()
    first = new_id(lambda n: left.pop(0) % n, ())
    left = draws()
    second = new_id(lambda n: left.pop(0) % n, {first})
    assert first != second
    for name in (first, second):
        assert len(name) == ID_LENGTH
        assert set(name) <= set(ALPHABET)
        assert not name.isdecimal()


def test_matching() -> None:
    mounts = {Place(HOST, "/mnt/a"): "nas01", Place("ct:101", "/mnt/a"): None, Place(HOST, "/srv"): "nas02"}
    assert matching(["/mnt/*"], mounts) == [Place(HOST, "/mnt/a"), Place("ct:101", "/mnt/a")]
    assert matching(["ct:101:*", "server:nas02"], mounts) == [Place("ct:101", "/mnt/a"), Place(HOST, "/srv")]
    assert matching(["/mtn/*"], mounts) == []
