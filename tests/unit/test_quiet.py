from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.core.quiet import MIDNIGHT, WEEK, QuietHours, Window
from watcher.model import Place

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: summer time from 29 March, 02:00 -> 03:00, to 25 October, 03:00 -> 02:00
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns", "UTC")


def minutes(text: str) -> int:
    hours, _, rest = text.partition(":")
    return int(hours) * 60 + int(rest)


def window(begins: str, ends: str, days: tuple[str, ...] = WEEK, mounts: tuple[str, ...] = ("*",)) -> Window:
    return Window(mounts, minutes(begins), minutes(ends), days)


def local(zone: str) -> Callable[[float], datetime]:
    return lambda wall: datetime.fromtimestamp(wall, ZoneInfo(zone))


def spans(window: Window, first: datetime, hours: int) -> list[tuple[str, str]]:
    """When it is quiet within so many hours, by the minute, as UTC."""
    quiet = QuietHours([window], local("Europe/Berlin"))
    start, found, since = first.astimezone(UTC), [], ""
    for minute in range(hours * 60 + 1):
        at = start + timedelta(minutes=minute)
        holds = bool(quiet.active(at.timestamp()))
        if holds and not since:
            since = f"{at:%d %H:%M}"
        elif not holds and since:
            found.append((since, f"{at:%d %H:%M}"))
            since = ""
    return [*found, (since, "")] if since else found


@pytest.mark.parametrize(
    ("at", "holds"),
    [("00:59", False), ("01:00", True), ("05:59", True), ("06:00", False), ("23:59", False), ("00:00", False)],
)
def test_it_holds_from_its_begin_until_before_its_end(at: str, holds: bool) -> None:
    hours, rest = divmod(minutes(at), 60)
    assert window("01:00", "06:00").holds(datetime(2026, 7, 1, hours, rest, 59, tzinfo=BERLIN)) is holds


@pytest.mark.parametrize(
    ("days", "at", "holds"),
    [
        (("fri",), "fri 21:59", False),
        (("fri",), "fri 22:00", True),
        (("fri",), "sat 05:59", True),  # began on Friday
        (("fri",), "sat 06:00", False),
        (("fri",), "sat 22:00", False),
        (("fri",), "fri 03:00", False),  # that of Thursday night is none
        (("sun",), "mon 03:00", True),
        (("mon",), "mon 03:00", False),
        (WEEK, "wed 03:00", True),
    ],
)
def test_over_midnight_it_belongs_to_the_day_on_which_it_begins(days: tuple[str, ...], at: str, holds: bool) -> None:
    day, _, time = at.partition(" ")
    hours, rest = divmod(minutes(time), 60)
    date = datetime(2026, 6, 1 + WEEK.index(day), hours, rest, tzinfo=BERLIN)  # 1 June 2026 is a Monday
    assert window("22:00", "06:00", days).holds(date) is holds


def test_the_whole_day() -> None:
    whole = window("00:00", "24:00", ("sat",))
    assert spans(whole, datetime(2026, 6, 5, tzinfo=BERLIN), 72) == [("05 22:00", "06 22:00")]


@pytest.mark.parametrize(
    ("begins", "ends", "quiet"),
    [
        ("01:00", "06:00", [("29 00:00", "29 04:00")]),  # four hours long, that night
        ("02:15", "02:45", []),  # a time that the clock never shows
        ("02:30", "03:30", [("29 01:00", "29 01:30")]),
        ("22:00", "02:30", [("28 21:00", "29 01:00")]),
    ],
)
def test_the_night_in_which_the_clock_is_put_forward(begins: str, ends: str, quiet: list[tuple[str, str]]) -> None:
    assert spans(window(begins, ends), datetime(2026, 3, 28, 18, tzinfo=BERLIN), 16) == quiet


@pytest.mark.parametrize(
    ("begins", "ends", "quiet"),
    [
        ("01:00", "06:00", [("24 23:00", "25 05:00")]),  # six hours long
        ("02:15", "02:45", [("25 00:15", "25 00:45"), ("25 01:15", "25 01:45")]),
        ("22:00", "03:00", [("24 20:00", "25 02:00")]),
    ],
)
def test_the_night_in_which_the_clock_is_put_back(begins: str, ends: str, quiet: list[tuple[str, str]]) -> None:
    assert spans(window(begins, ends), datetime(2026, 10, 24, 18, tzinfo=BERLIN), 16) == quiet


@given(
    begins=st.integers(0, MIDNIGHT - 1),
    ends=st.integers(1, MIDNIGHT),
    days=st.sets(st.sampled_from(WEEK), min_size=1),
    wall=st.integers(1_700_000_000, 1_900_000_000),
    zone=st.sampled_from(ZONES),
)
def test_it_is_quiet_exactly_while_the_clock_on_the_wall_says_so(
    begins: int, ends: int, days: set[str], wall: int, zone: str
) -> None:
    if begins == ends:
        return
    quiet = QuietHours([Window(("*",), begins, ends, tuple(days))], local(zone))
    shown = datetime.fromtimestamp(wall, ZoneInfo(zone)).replace(tzinfo=None)
    midnight = shown.replace(hour=0, minute=0, second=0)
    # As naive times: the days on the wall, each of 24 hours.
    expected = False
    for day in (midnight - timedelta(days=1), midnight):
        end = day + timedelta(minutes=ends, days=1 if ends < begins else 0)
        expected |= WEEK[day.weekday()] in days and day + timedelta(minutes=begins) <= shown < end
    assert bool(quiet.active(wall)) is expected


def test_a_window_is_about_its_own_mounts() -> None:
    quiet = QuietHours(
        [window("01:00", "06:00", mounts=("server:nas01", "ct:101:*")), window("02:00", "03:00", mounts=("/mnt/x",))],
        local("UTC"),
    )
    at = datetime(2026, 6, 1, 1, 30, tzinfo=UTC).timestamp()
    assert quiet.active(at) == {0}
    assert quiet.active(at + 3600) == {0, 1}
    assert quiet.cover(Place("host", "/mnt/a"), "nas01", quiet.active(at))
    assert quiet.cover(Place("ct:101", "/data"), None, quiet.active(at))
    assert not quiet.cover(Place("ct:1012", "/data"), None, quiet.active(at))
    assert not quiet.cover(Place("host", "/mnt/x"), "nas02", quiet.active(at))
    assert quiet.cover(Place("host", "/mnt/x"), "nas02", quiet.active(at + 3600))
    assert not quiet.cover(Place("host", "/mnt/a"), "nas01", frozenset())
