from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.core.schedule import CONFIRM_AFTER, LONG_STALE, LONG_STALE_PAUSE, next_probe, on_grid
from watcher.model import Pace, Reach

TIMES = st.floats(0, 3e8)  # ten years of uptime
INTERVALS = st.floats(1, 86400)
PACE = Pace(interval=10, timeout=5, stale_interval=5)


@given(TIMES, INTERVALS)
def test_grid_is_ahead_but_never_later_than_an_interval_and_a_tenth(started: float, interval: float) -> None:
    following = on_grid(started, interval)
    assert started < following <= started + 1.1 * interval + 1e-6


@given(TIMES, TIMES, INTERVALS)
def test_mounts_meet_on_the_grid(one: float, other: float, interval: float) -> None:
    """Whenever they were first seen: two times on the grid are whole intervals apart."""
    steps = (on_grid(one, interval) - on_grid(other, interval)) / interval
    assert steps == pytest.approx(round(steps), abs=1e-6)


@given(TIMES, INTERVALS)
def test_grid_goes_on_by_whole_intervals(started: float, interval: float) -> None:
    first = on_grid(started, interval)
    assert on_grid(first, interval) == pytest.approx(first + interval, rel=1e-9)


@pytest.mark.parametrize(
    ("started", "following"),
    [(0.0, 10.0), (0.1, 10.0), (8.9, 10.0), (9.1, 20.0), (10.0, 20.0), (18.99, 20.0), (19.01, 30.0)],
)
def test_grid(started: float, following: float) -> None:
    assert on_grid(started, 10.0) == following


@pytest.mark.parametrize(
    ("reach", "started", "now", "failing_since", "expected"),
    [
        (Reach.OK, 100.0, 100.1, None, 110.0),
        (Reach.DENIED, 100.0, 100.1, None, 110.0),
        (Reach.OK, 100.0, 115.0, None, 115.0),  # so late that the next is due already
        (Reach.SUSPECT, 100.0, 100.1, 100.0, 105.0),  # start to start
        (Reach.SUSPECT, 100.0, 105.0, 100.0, 105.0),  # the time-out was the pause
        (Reach.SUSPECT, 100.0, 107.0, 100.0, 107.0),
        (Reach.STALE, 100.0, 105.0, 50.0, 105.0),
        (Reach.STALE, 400.0, 400.0, 100.0, 405.0),  # exactly five minutes
        (Reach.STALE, 401.0, 406.0, 100.0, 416.0),  # held for 5 s of every 15
        (Reach.STALE, 401.0, 401.1, 100.0, 411.1),
        (Reach.RECOVERING, 100.0, 100.1, 50.0, 101.1),
        (Reach.RECOVERING, 100.0, 104.0, 50.0, 105.0),  # the first may have waited since before the server was back
        (Reach.RECOVERING, 1000.0, 1000.1, 50.0, 1001.1),  # long stale or not
    ],
)
def test_next_probe(reach: Reach, started: float, now: float, failing_since: float | None, expected: float) -> None:
    assert next_probe(reach, PACE, started=started, now=now, failing_since=failing_since) == pytest.approx(expected)


def test_long_stale_keeps_a_longer_interval_of_its_own() -> None:
    slow = PACE._replace(stale_interval=60.0)
    assert next_probe(Reach.STALE, slow, started=1000.0, now=1005.0, failing_since=0.0) == 1060.0


@given(
    st.sampled_from(list(Reach)),
    TIMES,
    st.floats(0, 100),
    st.none() | st.floats(0, 1e6),
    st.builds(Pace, interval=INTERVALS, timeout=INTERVALS, stale_interval=INTERVALS),
)
def test_next_probe_is_neither_past_nor_far(
    reach: Reach, started: float, took: float, failing_for: float | None, pace: Pace
) -> None:
    now = started + took
    since = None if failing_for is None else now - failing_for
    following = next_probe(reach, pace, started=started, now=now, failing_since=since)
    assert following >= (now + CONFIRM_AFTER if reach is Reach.RECOVERING else now)
    longest = max(CONFIRM_AFTER, 1.1 * pace.interval, pace.stale_interval, LONG_STALE_PAUSE)
    assert following <= now + longest + 1e-6
    if reach is Reach.STALE and failing_for is not None and failing_for > LONG_STALE + 1:
        assert following >= now + LONG_STALE_PAUSE  # a dead mount is let go of for a while
