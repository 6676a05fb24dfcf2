"""What a request asks for, as values. Knows nothing of HTTP but the numbers of errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from watcher.core.explain import Address, address
from watcher.core.silences import LONGEST, MAX_IN_ALL, MAX_SILENCES
from watcher.faults import mount_fault
from watcher.model import Silence
from watcher.values import format_duration, parse_duration, shown

MAX_BODY = 64 * 1024  # bytes
MAX_PATTERNS = 100
MAX_PATTERN = 4096  # characters: PATH_MAX
MAX_COMMENT = 500  # characters
MAX_ENTRIES, SOME_ENTRIES = 1000, 100  # of the history, in one answer


class Problem(Exception):
    """What was asked cannot be done: a status of HTTP, and why in words."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def problem(status: int, title: str, detail: str) -> dict[str, Any]:
    """RFC 9457."""
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}


class _NewSilence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mounts: tuple[str, ...]
    duration: str | None = None
    ends: str | None = None
    comment: str = ""


class Wanted(NamedTuple):
    """A silence that is asked for."""

    patterns: tuple[str, ...]
    ends: float
    comment: str


def wanted(body: bytes, now: float) -> Wanted:
    """The silence that a request asks for. Raises Problem."""
    try:
        asked = msgspec.convert(json.loads(body), _NewSilence)
    except msgspec.ValidationError as e:
        raise Problem(422, str(e)) from None
    except (ValueError, RecursionError):
        raise Problem(400, 'not JSON; send such as {"mounts": ["/mnt/*"], "duration": "2h"}') from None
    if not asked.mounts:
        raise Problem(422, "mounts is empty; name at least one")
    if len(asked.mounts) > MAX_PATTERNS:
        raise Problem(422, f"more than {MAX_PATTERNS} patterns; use wider ones")
    for pattern in asked.mounts:
        if len(pattern) > MAX_PATTERN:
            raise Problem(422, f"{shown(pattern)} has more than {MAX_PATTERN} characters")
        if wrong := mount_fault(pattern):
            raise Problem(422, wrong)
    if len(asked.comment) > MAX_COMMENT:
        raise Problem(422, f"comment has {len(asked.comment)} characters; write at most {MAX_COMMENT}")
    if _has_surrogate(asked.comment):
        raise Problem(422, "comment holds half a character, or bytes that are not UTF-8; write text")
    return Wanted(asked.mounts, _end(asked, now), asked.comment)


def _has_surrogate(text: str) -> bool:
    r"""JSON may hold one ("\ud800"); it is no text, and a database does not take it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _end(asked: _NewSilence, now: float) -> float:
    if (asked.duration is None) is (asked.ends is None):
        raise Problem(422, 'either duration, such as "2h", or ends must be given')
    if asked.duration is not None:
        try:
            ends = now + parse_duration(asked.duration)
        except ValueError as e:
            raise Problem(422, str(e)) from None
    else:
        try:
            moment = datetime.fromisoformat(asked.ends or "")
            if moment.tzinfo is None:
                raise ValueError
            ends = moment.timestamp()
        except (ValueError, OverflowError):
            raise Problem(422, 'ends must be a time with its zone, such as "2026-11-20T18:30:00Z"') from None
    if ends <= now:
        raise Problem(422, "it would be over before it begins; give a time to come")
    if ends > now + LONGEST:
        raise Problem(422, f"at most {format_duration(LONGEST)}; what is to stay quiet goes into the configuration")
    return ends


def refuse_if_crowded(silences: Sequence[Silence], more: int) -> None:
    """Raises Problem if there are too many silences for one with `more` patterns."""
    if len(silences) >= MAX_SILENCES:
        raise Problem(409, f"there are {len(silences)} silences already; end some first")
    patterns = sum(len(silence.patterns) for silence in silences)
    if patterns + more > MAX_IN_ALL:
        words = f"silences may have {MAX_IN_ALL} patterns in all, and have {patterns}"
        raise Problem(409, f"{words}; end some first, or use wider patterns, such as server:NAME")


class MountAsked(NamedTuple):
    """Which mounts are asked for: one of both is None, or both."""

    on: Address | None = None
    id: str | None = None


def mount_asked(query: str) -> MountAsked:
    """Raises Problem."""
    asked = _one_each(query, ("on", "id"), "ask for all, or for one by ?on=/mnt/media, ?on=ct:101:/mnt/media or ?id=ID")
    if len(asked) == 2:
        raise Problem(400, "ask by ?on= or by ?id=, not by both")
    if "on" not in asked:
        return MountAsked(id=asked.get("id"))
    try:
        return MountAsked(address(asked["on"]))
    except ValueError as e:
        raise Problem(422, f"{shown(asked['on'])} {e}") from None


def probe_asked(query: str) -> str:
    """The place, or its id, that is to be probed. Raises Problem."""
    words = "name one mount, such as ?mount=/mnt/media or ?mount=ct:101:/mnt/media"
    asked = _one_each(query, ("mount",), words)
    if not asked.get("mount"):
        raise Problem(400, words)
    place = asked["mount"]
    if len(place) > MAX_PATTERN:
        raise Problem(422, f"{shown(place)} has more than {MAX_PATTERN} characters")
    return place.removeprefix("host:")


class HistoryAsked(NamedTuple):
    since: float = 0.0  # seconds since the epoch
    limit: int = SOME_ENTRIES


def history_asked(query: str, now: float) -> HistoryAsked:
    """Raises Problem."""
    asked = _one_each(query, ("since", "limit"), "there are ?since=24h, ?since=2026-11-20T15:04:05Z and &limit=100")
    limit = asked.get("limit", str(SOME_ENTRIES))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 10 and 1 <= int(limit) <= MAX_ENTRIES):
        raise Problem(422, f"limit must be a number from 1 to {MAX_ENTRIES}, not {shown(limit)}")
    since = 0.0
    if "since" in asked:
        since = _moment(asked["since"], now)
    return HistoryAsked(since, int(limit))


def _moment(text: str, now: float) -> float:
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        # "+" of a zone is a blank in a query that was put together by hand.
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        if moment.tzinfo is None:
            raise ValueError
        return moment.timestamp()
    except (ValueError, OverflowError):
        words = 'is no time; write how long ago, such as "24h", or "2026-11-20T15:04:05Z"'
        raise Problem(422, f"since: {shown(text)} {words}") from None


def no_query(query: str) -> None:
    """Raises Problem if there is one."""
    _one_each(query, (), "there is nothing to choose here: leave out what follows the ?")


def _one_each(query: str, known: tuple[str, ...], words: str) -> dict[str, str]:
    """What the query says of each of the keys. Raises Problem with these words."""
    try:
        asked = parse_qs(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=8)
    except ValueError:
        raise Problem(400, words) from None
    if not asked.keys() <= set(known) or any(len(values) > 1 for values in asked.values()):
        raise Problem(400, words)
    return {key: values[0] for key, values in asked.items()}
