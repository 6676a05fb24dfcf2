"""The commands `silence`, `silences` and `unsilence`: what they ask the running service, and what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from watcher.control import Say, Unreachable, ask
from watcher.core.wording import count, duration, name
from watcher.printing import reader_may_go, verdict_stands
from watcher.values import parse_time_of_day, shown

_LONGEST_ID = 64  # characters, and generously: a later version may draw longer ones
_WIDTH = 60  # characters of a list of patterns in a table


def silence(path: str, patterns: Sequence[str], until: Mapping[str, str], comment: str, say: Say, warn: Say) -> None:
    """`until`: {"duration": "2h"} or {"ends": "2026-11-20T18:30:00+01:00"}."""
    answer = ask(path, "POST", "silences", {"mounts": list(patterns), "comment": comment, **until}).or_refuse()
    ends = datetime.fromisoformat(answer["ends"]).astimezone()
    with verdict_stands():
        say(f"silence {answer['id']}: {_list(answer['mounts'])} until {_moment(ends)}, {_covers(answer['matches'])}")
        say(f"end it earlier: watcher unsilence {answer['id']}")
        for pattern in answer["unmatched"]:
            warn(f"warning: {shown(pattern)} matches no mount that is watched now; is that what you meant?")


def silences(path: str, *, as_json: bool, say: Say) -> None:
    answer = ask(path, "GET", "silences").or_refuse()
    with reader_may_go():
        if as_json:
            say(json.dumps(answer, indent=2))
        else:
            _print_silences(answer, say)


def _print_silences(answer: Any, say: Say) -> None:
    rows = [
        (s["id"], _until(s["ends"]), _list(s["mounts"], _WIDTH), _covers(s["matches"]), name(s["comment"], 200))
        for s in answer["silences"]
    ]
    for window in answer["quiet"]:
        days = "" if len(window["days"]) == 7 else f" {', '.join(window['days'])}"
        span = f"{window['from']} to {window['to']}{days}"
        said = "quiet now, by the configuration" if window["active"] else "by the configuration"
        rows.append(("-", span, _list(window["mounts"], _WIDTH), _covers(window["matches"]), said))
    if not rows:
        say("no silences")
        return
    rows.insert(0, ("ID", "UNTIL", "MOUNTS", "COVERS", "COMMENT"))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    for row in rows:
        say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip())


def unsilence(path: str, names: Sequence[str], say: Say) -> None:
    for wanted in names:
        known = wanted.isascii() and wanted.isalnum() and len(wanted) <= _LONGEST_ID
        answer = ask(path, "DELETE", f"silences/{wanted}") if known else None
        if answer is None or answer.status == 404:
            raise Unreachable(f"there is no silence {shown(wanted)}; `watcher silences` lists them")
        answer.or_refuse()
        with verdict_stands():
            say(f"silence {wanted} ended")


# ---- times


def moment_of(text: str, now: datetime) -> datetime:
    """When it is "18:30" next, or "2026-11-20 18:30", in local time. `now`: naive. Raises ValueError in words."""
    try:
        minutes = int(parse_time_of_day(text))
    except ValueError as e:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f'{e} or "2026-11-20 18:30"') from None
        try:
            return moment.astimezone()
        except (ValueError, OverflowError):
            raise ValueError(f"{shown(text)} is too far away for the clock") from None
    for days in (0, 1):
        moment = datetime.combine(_date(now, days), time()) + timedelta(minutes=minutes)
        if moment > now:
            break
    else:
        raise AssertionError
    return moment.astimezone()


def _date(now: datetime, days: int) -> date:
    return now.date() + timedelta(days=days)


def _until(ends: str) -> str:
    moment = datetime.fromisoformat(ends).astimezone()
    left = moment - datetime.now().astimezone()
    return f"{_moment(moment)} ({duration(left.total_seconds())})"


def _moment(moment: datetime) -> str:
    today = datetime.now().astimezone()
    return f"{moment:%H:%M}" if moment.date() == today.date() else f"{moment:%a %Y-%m-%d %H:%M}"


def _list(patterns: Sequence[str], width: int = 200) -> str:
    return name(", ".join(patterns), width)


def _covers(matches: int) -> str:
    return count(matches, "mount") if matches else "no mount"
