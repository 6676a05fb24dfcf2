"""What is asked and answered, as values and JSON. Knows nothing of HTTP but the numbers of errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import msgspec

from watcher.core.explain import Address, address
from watcher.core.measured import Measured
from watcher.core.quiet import Window
from watcher.core.silences import LONGEST, MAX_SILENCES
from watcher.core.vitals import Verdict
from watcher.model import Silence
from watcher.values import TimeOfDay, format_duration, mount_fault, parse_duration, shown

MAX_BODY = 64 * 1024  # bytes
MAX_PATTERNS = 100
MAX_PATTERN = 4096  # characters: PATH_MAX
MAX_COMMENT = 500  # characters


class Health(NamedTuple):
    """How the service is, and some figures beside it."""

    verdict: Verdict
    figures: Mapping[str, Any]


class Service(Protocol):
    """What the running service lets others do."""

    async def silence(self, patterns: tuple[str, ...], ends: float, comment: str) -> Silence: ...

    async def unsilence(self, name: str) -> bool:
        """Whether there was one of this name."""
        ...

    def silences(self) -> Sequence[Silence]:
        """Those that hold."""
        ...

    def windows(self) -> Sequence[tuple[Window, bool]]:
        """The quiet windows, and whether they hold."""
        ...

    def matches(self, patterns: Sequence[str]) -> int:
        """How many of the watched mounts they are about."""
        ...

    def health(self) -> Health: ...

    def mount_on(self, path: Address) -> dict[str, Any] | None:
        """The watched mount that a path lies on, as `core.entries` has it, with what to do; None if there is none."""
        ...

    def measured(self) -> Measured:
        """For Prometheus."""
        ...


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
    return Wanted(asked.mounts, _end(asked, now), asked.comment)


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


def refuse_if_crowded(number: int) -> None:
    """Raises Problem if there are too many silences."""
    if number >= MAX_SILENCES:
        raise Problem(409, f"there are {number} silences already; end some first")


def silence_json(silence: Silence, service: Service) -> dict[str, Any]:
    return {
        "id": silence.id,
        "mounts": list(silence.patterns),
        "begins": time_json(silence.begins),
        "ends": time_json(silence.ends),
        "comment": silence.comment,
        "matches": service.matches(silence.patterns),
        "unmatched": [pattern for pattern in silence.patterns if not service.matches([pattern])],
    }


def window_json(window: Window, holds: bool, matches: int) -> dict[str, Any]:
    return {
        "mounts": list(window.mounts),
        "from": str(TimeOfDay(window.begins)),
        "to": str(TimeOfDay(window.ends)),
        "days": list(window.days),
        "active": holds,
        "matches": matches,
    }


def health_json(health: Health) -> dict[str, Any]:
    return {"healthy": health.verdict.healthy, "reasons": list(health.verdict.reasons), **health.figures}


def path_asked(query: str) -> Address:
    """The path that the query of a request names. Raises Problem."""
    try:
        asked = parse_qs(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=4)
    except ValueError:
        asked = {}
    paths = asked.pop("on", [])
    if asked or len(paths) != 1:
        raise Problem(400, "name one path, such as ?on=/mnt/media or ?on=ct:101:/mnt/media")
    try:
        return address(paths[0])
    except ValueError as e:
        raise Problem(422, f"{shown(paths[0])} {e}") from None


def mounts_json(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"mounts": [] if entry is None else [entry]}


def time_json(wall: float) -> str:
    """ "2026-11-20T15:04:05Z", rounded to the second."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=round(wall))).strftime("%Y-%m-%dT%H:%M:%SZ")
