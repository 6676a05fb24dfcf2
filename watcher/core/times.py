"""Moments on the clock of the wall, as they are told: in local time to people, in UTC to programs.

Epoch seconds come in. Which zone is the local one is the caller's to say: the core asks no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Local = Callable[[float], datetime]  # epoch seconds -> local time with its zone


def utc(wall: float) -> str:
    """ "2026-11-20T15:04:05Z"."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(wall))).strftime("%Y-%m-%dT%H:%M:%SZ")


def minute(wall: float, now: float, local: Local) -> str:
    """ "15:04", with the date where it is not today's."""
    return f"{_day(wall, now, local)}{local(wall):%H:%M}"


def second(wall: float, now: float, local: Local) -> str:
    """ "15:04:05 CET", likewise."""
    return f"{_day(wall, now, local)}{local(wall):%H:%M:%S %Z}".rstrip()


def span(since: float, until: float, now: float, local: Local) -> str:
    """ "15:04–15:09", likewise."""
    began, ended = local(since), local(until)
    if began.date() != ended.date():
        return f"{began:%Y-%m-%d %H:%M}–{ended:%Y-%m-%d %H:%M}"
    within_a_minute = ended - began < timedelta(minutes=1) and began.minute == ended.minute
    return minute(since, now, local) + ("" if within_a_minute else f"–{ended:%H:%M}")


def _day(wall: float, now: float, local: Local) -> str:
    """The date, where it is not today's."""
    moment = local(wall)
    return "" if local(now).date() == moment.date() else f"{moment:%Y-%m-%d} "
