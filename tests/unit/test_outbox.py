from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import subject
from watcher.core.incident import INSIDE, SETTLED, Condition, Incident, Member
from watcher.core.outbox import (
    BACKOFF_FIRST,
    BACKOFF_LAST,
    REMOUNT_WAIT,
    Lately,
    News,
    Told,
    Topic,
    attempted,
    is_expired,
    news_of,
    pending,
    retry_after,
    told_now,
)
from watcher.model import Kind, Place, Subject, Superblock

DOWN, OK, GONE, REMOUNTED = Condition.DOWN, Condition.OK, Condition.GONE, Condition.REMOUNTED
WAIT = 3.0
Part = tuple[Condition, float]  # how a member stands, since when


def incident(*parts: Part, opened: float = 100.0, closed: float | None = None, number: int = 1) -> Incident:
    members = tuple(
        Member(Kind.STALE, subject(f"/mnt/{n}", device=f"0:{n}"), condition, opened - 20, changed, slot=n)
        for n, (condition, changed) in enumerate(parts)
    )
    return Incident(number, "server nas01", "nas01", opened, members, closed)


def told(*conditions: Condition) -> Told:
    return Told(dict(enumerate(conditions)), 0.0)


@pytest.mark.parametrize(
    ("now_is", "was_told", "topic", "due"),
    [
        pytest.param(incident((DOWN, 100)), None, Topic.PROBLEM, 103, id="new"),
        pytest.param(incident((DOWN, 100), (DOWN, 101)), None, Topic.PROBLEM, 103, id="new, two"),
        pytest.param(incident((DOWN, 100), (OK, 101)), None, Topic.PROBLEM, 103, id="new, one is back already"),
        pytest.param(incident((OK, 102), closed=102), None, None, 0, id="over before it was worth a word"),
        pytest.param(incident((OK, 103), closed=103), None, Topic.LATE, 103, id="over and never told"),
        pytest.param(incident((GONE, 200), closed=200), None, Topic.LATE, 210, id="gone and never told"),
        pytest.param(incident((DOWN, 100)), told(DOWN), None, 0, id="nothing new"),
        pytest.param(incident((DOWN, 100), (DOWN, 150)), told(DOWN), Topic.UPDATE, 153, id="one more"),
        pytest.param(
            incident((DOWN, 100), (DOWN, 150), (DOWN, 151)), told(DOWN), Topic.UPDATE, 153, id="the first decides"
        ),
        pytest.param(incident((DOWN, 150), (DOWN, 100)), told(OK, DOWN), Topic.UPDATE, 153, id="down again"),
        pytest.param(incident((OK, 120), (DOWN, 100)), told(DOWN, DOWN), Topic.PARTIAL, 123, id="one is back"),
        pytest.param(incident((GONE, 120), (DOWN, 100)), told(DOWN, DOWN), Topic.PARTIAL, 130, id="one is unmounted"),
        pytest.param(incident((OK, 120), (DOWN, 121)), told(DOWN), Topic.UPDATE, 124, id="one back, another down"),
        pytest.param(incident((OK, 50), (DOWN, 100)), told(OK, DOWN), None, 0, id="told of the one already"),
        pytest.param(incident((OK, 60), (OK, 50), closed=60), told(DOWN, OK), Topic.RECOVERED, 60, id="all are back"),
        pytest.param(incident((OK, 160), closed=160), told(DOWN), Topic.RECOVERED, 160, id="back: no waiting"),
        pytest.param(incident((OK, 160), (OK, 165), closed=165), told(DOWN), Topic.RECOVERED, 160, id="of a part"),
        pytest.param(incident((GONE, 160), closed=160), told(DOWN), Topic.CLOSED, 170, id="unmounted"),
        pytest.param(incident((REMOUNTED, 165), closed=165), told(DOWN), Topic.RECOVERED, 165, id="remounted"),
        pytest.param(
            incident((GONE, 160), (OK, 155), closed=160), told(DOWN, DOWN), Topic.RECOVERED, 170, id="partly unmounted"
        ),
        pytest.param(
            incident((GONE, 160), (OK, 50), closed=160), told(DOWN, OK), Topic.CLOSED, 170, id="the rest gone"
        ),
        pytest.param(incident((OK, 160), closed=160), told(OK), None, 0, id="all is known"),
        pytest.param(incident((REMOUNTED, 165), closed=165), told(GONE), None, 0, id="known as unmounted"),
    ],
)
def test_news(now_is: Incident, was_told: Told | None, topic: Topic | None, due: float) -> None:
    news = news_of(now_is, was_told, group_wait=WAIT)
    assert news == (None if topic is None else News(now_is, topic, due))


def unsure(*conditions: Condition, about: int = 0) -> Told:
    """The service was killed when a message about this slot was on its way."""
    return replace(told(*conditions), unsure=frozenset({about}))


@pytest.mark.parametrize(
    ("now_is", "was_told", "topic", "due"),
    [
        pytest.param(incident((DOWN, 100)), unsure(), Topic.PROBLEM, 103, id="still so: told once more"),
        pytest.param(incident((OK, 102), closed=102), unsure(), Topic.LATE, 102, id="over: told as a whole"),
        pytest.param(
            incident((DOWN, 100), (DOWN, 150)), unsure(DOWN, about=1), Topic.UPDATE, 153, id="one more, still"
        ),
        pytest.param(
            incident((DOWN, 100), (GONE, 160)),
            unsure(DOWN, about=1),
            Topic.PARTIAL,
            170,
            id="one more, unmounted since",
        ),
        pytest.param(
            incident((DOWN, 160), (DOWN, 100)), unsure(DOWN, DOWN), Topic.UPDATE, 163, id="back, and down again"
        ),
        pytest.param(incident((OK, 120), (DOWN, 100)), unsure(DOWN, DOWN), Topic.PARTIAL, 123, id="back, still"),
        pytest.param(incident((OK, 160), closed=160), unsure(DOWN), Topic.RECOVERED, 160, id="the end, once more"),
    ],
)
def test_what_may_have_been_told_is_told(now_is: Incident, was_told: Told, topic: Topic, due: float) -> None:
    assert news_of(now_is, was_told, group_wait=WAIT) == News(now_is, topic, due)


def test_what_may_have_been_told_is_followed_up_in_a_silence_and_never_too_old() -> None:
    over = replace(incident((OK, 102), closed=102), hushed=True)
    news = news_of(over, unsure(), group_wait=WAIT, silenced=True)
    assert news == News(over, Topic.LATE, 102)
    assert not is_expired(news, unsure(), now=1e9, max_age=10)
    assert news_of(incident((DOWN, 100)), unsure(), group_wait=WAIT, silenced=True) is None


def test_an_attempt_is_noted_with_what_it_says_that_is_new() -> None:
    now_is = incident((DOWN, 100), (OK, 120), (OK, 130), (DOWN, 50))
    before = told(DOWN, DOWN, OK, OK)
    trying = attempted(before, told_now(now_is, 200.0, before, Topic.PARTIAL))
    assert (trying.conditions, trying.times, set(trying.unsure)) == (before.conditions, 1, {1, 3})
    first = attempted(None, told_now(now_is, 200.0))
    assert (dict(first.conditions), first.times, set(first.unsure)) == ({}, 0, {0, 3})


@pytest.mark.parametrize("condition", [OK, GONE, REMOUNTED])
def test_without_waiting_everything_is_told(condition: Condition) -> None:
    now_is = incident((condition, 100), closed=100.0)
    news = news_of(now_is, None, group_wait=0)
    assert news is not None
    assert news.topic is Topic.LATE


@pytest.mark.parametrize(
    ("now_is", "was_told", "now", "expired"),
    [
        (incident((OK, 200), closed=200), None, 1200, False),
        (incident((OK, 200), closed=200), None, 1201, True),
        (incident((OK, 200), closed=200), told(DOWN), 1e9, False),  # what was told is always followed up
        (incident((DOWN, 100)), None, 1e9, False),  # what goes on is no old news
    ],
)
def test_expiry(now_is: Incident, was_told: Told | None, now: float, expired: bool) -> None:
    news = news_of(now_is, was_told, group_wait=WAIT)
    assert news is not None
    assert is_expired(news, was_told, now=now, max_age=1000) is expired
    ledger = {} if was_told is None else {1: was_told}
    assert pending([now_is], ledger, now=now, group_wait=WAIT, max_age=1000) == ([] if expired else [news])


def test_pending_is_in_order() -> None:
    late, early, same = (
        incident((DOWN, 100), opened=200, number=1),
        incident((DOWN, 100), opened=100, number=3),
        incident((DOWN, 100), opened=100, number=2),
    )
    found = pending([late, early, same], {}, now=0, group_wait=WAIT, max_age=1000)
    assert [n.incident.number for n in found] == [2, 3, 1]


def test_told_now_remembers_how_each_stood() -> None:
    entry = told_now(incident((DOWN, 1), (OK, 2), (GONE, 3)), 77.0)
    assert entry == Told({0: DOWN, 1: OK, 2: GONE}, 77.0)
    assert entry.down == {0}


steady = st.sampled_from([c for c in Condition if c is not Condition.FLAPPING])
parts = st.lists(st.tuples(steady, st.floats(100, 200)), min_size=1, max_size=5)


@given(parts, st.none() | st.lists(st.sampled_from(list(Condition)), max_size=5), st.floats(0, 60))
def test_once_told_there_is_nothing_to_tell(stands: list[Part], was: list[Condition] | None, group_wait: float) -> None:
    still_down = any(condition is DOWN for condition, _ in stands)
    now_is = incident(*stands, closed=None if still_down else max(at for _, at in stands))
    news = news_of(now_is, None if was is None else told(*was[: len(stands)]), group_wait=group_wait)
    assert news_of(now_is, told_now(now_is, 0), group_wait=group_wait) is None
    if news is not None:
        patience = SETTLED if was and Condition.FLAPPING in was else REMOUNT_WAIT
        assert news.due <= max(at for _, at in stands) + group_wait + patience


@pytest.mark.parametrize(
    ("attempt", "asked_for", "jitter", "seconds"),
    [
        (1, None, 0.5, 1.0),
        (2, None, 0.5, 2.0),
        (5, None, 0.5, 16.0),
        (11, None, 0.5, 600.0),
        (10**9, None, 0.5, 600.0),
        (1, None, 0.0, 0.75),
        (1, 30.0, 0.5, 30.0),
        (8, 30.0, 0.5, 128.0),  # never sooner than we would ourselves
        (1, 1e9, 0.5, 3600.0),
        (1, -5.0, 0.5, 1.0),
    ],
)
def test_retry_after(attempt: int, asked_for: float | None, jitter: float, seconds: float) -> None:
    assert retry_after(attempt, asked_for, jitter) == seconds


@given(st.integers(1, 10**6), st.none() | st.floats(), st.floats(0, 1, exclude_max=True))
def test_retry_after_is_bounded(attempt: int, asked_for: float | None, jitter: float) -> None:
    assert 0.75 * BACKOFF_FIRST <= retry_after(attempt, asked_for, jitter) <= 6 * BACKOFF_LAST


# ---- many messages about one incident


def test_mounts_that_die_one_by_one_are_not_one_message_each() -> None:
    """Two hundred mounts of a hostile container, one every five seconds."""
    parts: list[Part] = []
    entry: Told | None = None
    sent: list[float] = []
    for n in range(200):
        at = 100.0 + 5 * n
        parts.append((DOWN, at))
        news = news_of(incident(*parts), entry, group_wait=WAIT)
        while news is not None and news.due < at + 5:
            sent.append(news.due)
            entry = told_now(news.incident, news.due, entry)
            news = news_of(news.incident, entry, group_wait=WAIT)
    assert len(sent) <= 8
    assert all(later - earlier >= 60 for earlier, later in pairwise(sent[2:]))
    over = incident(*[(OK, 1200.0) for _ in parts], closed=1200.0)
    end = news_of(over, entry, group_wait=WAIT)
    assert end is not None
    assert end.due == 1200.0  # the end is never put off


def test_a_new_trouble_after_the_end_is_not_put_off() -> None:
    entry = Told({0: OK}, 190.0, times=9)
    news = news_of(incident((DOWN, 200)), entry, group_wait=WAIT)
    assert news is not None
    assert news.due == 203.0


# ---- a mount that leaves some of its places


def split(apart: Condition) -> Incident:
    about = incident((DOWN, 100))
    (whole,) = about.members
    left = replace(whole, condition=apart, changed=150.0, slot=1, split_from=0)
    return replace(about, members=(whole, left))


def test_that_it_has_left_a_place_is_no_news() -> None:
    assert news_of(split(GONE), told(DOWN), group_wait=WAIT) is None


def test_that_it_was_mounted_anew_there_is_news_once() -> None:
    news = news_of(split(REMOUNTED), told(DOWN), group_wait=WAIT)
    assert news is not None
    assert (news.topic, news.due) == (Topic.PARTIAL, 153.0)
    assert news_of(split(REMOUNTED), told_now(split(REMOUNTED), 153.0), group_wait=WAIT) is None


def test_who_was_told_of_the_leaving_along_with_other_news_still_hears_of_the_remount() -> None:
    assert news_of(split(REMOUNTED), told(DOWN, GONE), group_wait=WAIT) is not None


# ---- containers whose mounts die and come back all day


FUSE_INSIDE = Superblock("0:9", "/", "fuse.x", "x")


def swings(group: str) -> list[float]:
    """When a channel is told of a mount that is down for five seconds of each thirty, in six hours."""
    about = Subject(FUSE_INSIDE, (Place("ct:101", "/x"),), "")
    ledger: dict[int, Told] = {}
    lately: dict[str, Lately] = {}
    sent: list[float] = []
    for n in range(720):
        down = Member(Kind.STALE, about, DOWN, 30.0 * n, 30.0 * n)
        opened = Incident(n, group, None, 30.0 * n, (down,))
        closed = replace(opened, members=(replace(down, condition=OK, changed=30.0 * n + 5),), closed=30.0 * n + 5)
        for one, until in ((opened, 30.0 * n + 5), (closed, 30.0 * n + 30)):
            for news in pending([one], ledger, now=until, group_wait=WAIT, max_age=86400, lately=lately):
                if news.due <= until:
                    sent.append(news.due)
                    ledger[n] = told_now(one, news.due, ledger.get(n))
                    if INSIDE in group:
                        lately[group] = lately.get(group, Lately(0, news.due)).once_more(news.due)
    return sent


def test_a_container_cannot_flood_us() -> None:
    inside, on_host = swings("fuse in ct:101"), swings("server nas01")
    assert len(on_host) == 1440
    assert len(inside) <= 30
    assert len([at for at in inside if at <= 60]) == 4  # what happens once or twice is told at once


def test_the_host_does_not_wait_for_what_containers_have_said() -> None:
    """Its server's mounts in a container have flapped for hours when the host's own dies."""
    parts = incident((DOWN, 100))
    (old,) = parts.members
    inside = replace(old, subject=replace(old.subject, places=(Place("ct:101", "/x"),)))
    host = replace(old, slot=1, changed=5000.0, subject=subject("/mnt/nas", device="0:77"))
    news = news_of(replace(parts, members=(inside, host)), Told({0: DOWN}, 4990.0, times=20), group_wait=WAIT)
    assert news is not None
    assert news.due == 5003.0


def test_a_recovery_is_told_before_the_alarm_that_came_after_it() -> None:
    """Also if a restart lay between: the incident that was open then is not told of before it is seen how it stands."""
    first, second = incident((OK, 101), closed=101), incident((DOWN, 101.5), opened=101.5, number=2)
    for released in ({1: 105.0}, {}):
        news = pending([second, first], {1: told(DOWN)}, now=120, group_wait=0.3, max_age=1e9, released=released)
        assert [(n.incident.number, n.topic) for n in news] == [(1, Topic.RECOVERED), (2, Topic.PROBLEM)]
        assert news[1].due == 101.8  # and does not delay it
    partly = incident((GONE, 101), (OK, 100.5), closed=101)
    news = pending([partly, second], {1: told(DOWN, DOWN)}, now=120, group_wait=0.3, max_age=1e9)
    assert [(n.incident.number, n.topic, n.due) for n in news] == [(1, Topic.RECOVERED, 111), (2, Topic.PROBLEM, 111)]
