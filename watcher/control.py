"""The commands that ask the running service: `silence`, `silences`, `unsilence`, `health`.

Through its Unix socket, with the standard library's HTTP: a check that cron runs every minute need not load more.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

from watcher import procfs
from watcher.children import Children
from watcher.config import ConfigError
from watcher.configfile import ConfigFile, FileReader, LastGood, may_hang
from watcher.core.mountinfo import parse
from watcher.core.wording import count, duration, name
from watcher.settings import Settings
from watcher.values import parse_time_of_day, shown

ANSWER_LIMIT = 10.0  # seconds
_WIDTH = 60  # characters of a list of patterns in a table

Say = Callable[[str], object]


class Unreachable(Exception):
    """There is no service to ask, or it does not do what was asked; the text says why."""


class NoAnswer(Exception):
    """The service is there, and does not answer."""


class Answer(NamedTuple):
    status: int
    body: Any

    def or_refuse(self) -> Any:
        """The body of a success. Raises Unreachable with what the service says otherwise."""
        if self.status < 300:
            return self.body
        detail = self.body.get("detail") if isinstance(self.body, dict) else None
        raise Unreachable(name(str(detail or f"the service says {self.status}"), 500))


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_LIMIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Waits in the kernel for a place in the queue of a busy service; with a time-out of Python's, thus without
        # waiting, connect() fails with EAGAIN at once (unix(7), unix_stream_connect).
        limit = struct.pack("ll", int(ANSWER_LIMIT), int(ANSWER_LIMIT % 1 * 1e6))  # a timeval
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            self.sock.connect(self._path)
        except BlockingIOError as e:
            raise TimeoutError from e
        self.sock.settimeout(ANSWER_LIMIT)
        _, uid, _ = struct.unpack("3i", self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            raise Unreachable(f"{self._path}: user {uid} listens there, not a watcher of ours")


def ask(path: str, method: str, route: str, body: object = None) -> Answer:
    """One request to the service. Raises Unreachable or NoAnswer."""
    connection = _Connection(path)
    try:
        text = None if body is None else json.dumps(body).encode()
        connection.request(method, f"/api/v1/{route}", text, {"Connection": "close"})
        answer = connection.getresponse()
        content = answer.read(1 << 24)
        return Answer(answer.status, json.loads(content) if content else None)
    except TimeoutError:
        raise NoAnswer(f"the service does not answer within {ANSWER_LIMIT:g} s ({path})") from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise Unreachable(f"no service is running: nobody listens on {path}") from None
    except PermissionError:
        raise Unreachable(f"{path}: only root and the user that runs the service may ask it") from None
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise NoAnswer(f"the service did not answer ({path}): {getattr(e, 'strerror', None) or e}") from None
    finally:
        connection.close()


async def settings_in_force(explicit: str | None, environ: Mapping[str, str]) -> Settings:
    """The settings that a service most likely runs on. Raises ConfigError."""
    children = Children()
    try:
        mounts = parse(procfs.read("/proc/self/mountinfo"))
        file = ConfigFile(explicit, environ, FileReader(children))
        try:
            return file.parse(await file.text(mounts)).settings
        except ConfigError:
            # With a file that cannot be used the service goes on as before.
            copy = LastGood(file.defaults.state.path, file.path)
            text = copy.load() if not may_hang(str(copy.path), mounts) else None
            if text is None:
                raise
            return file.parse(text, name=str(copy.path)).settings
    finally:
        children.close()


async def socket_path(explicit: str | None, environ: Mapping[str, str]) -> str:
    """Where the service listens, by the configuration that it most likely runs on. Raises ConfigError, Unreachable."""
    settings = await settings_in_force(explicit, environ)
    if not settings.status.socket:
        raise Unreachable('[status] socket is "" in the configuration: the service cannot be asked')
    return settings.status.socket


# ---- commands: (socket, arguments, where to say what) -> exit code or nothing


def silence(path: str, patterns: Sequence[str], until: Mapping[str, str], comment: str, say: Say, warn: Say) -> None:
    """`until`: {"duration": "2h"} or {"ends": "2026-11-20T18:30:00+01:00"}."""
    answer = ask(path, "POST", "silences", {"mounts": list(patterns), "comment": comment, **until}).or_refuse()
    ends = datetime.fromisoformat(answer["ends"]).astimezone()
    say(f"silence {answer['id']}: {_list(answer['mounts'])} until {_moment(ends)}, {_covers(answer['matches'])}")
    say(f"end it earlier: watcher unsilence {answer['id']}")
    for pattern in answer["unmatched"]:
        warn(f"warning: {shown(pattern)} matches no mount that is watched now; is that what you meant?")


def silences(path: str, *, as_json: bool, say: Say) -> None:
    answer = ask(path, "GET", "silences").or_refuse()
    if as_json:
        say(json.dumps(answer, indent=2))
        return
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
        answer = ask(path, "DELETE", f"silences/{quote(wanted, safe='', errors='surrogateescape')}")
        if answer.status == 404:
            raise Unreachable(f"there is no silence {shown(wanted)}; `watcher silences` lists them")
        answer.or_refuse()
        say(f"silence {wanted} ended")


def health(path: str, *, as_json: bool, say: Say) -> int:
    """0 healthy, 1 not. Raises Unreachable if there is no service."""
    try:
        answer = ask(path, "GET", "health")
    except NoAnswer as e:
        answer = Answer(503, {"healthy": False, "reasons": [str(e)]})
    if answer.status not in (200, 503) or not isinstance(answer.body, dict):
        answer.or_refuse()
        raise Unreachable("the service answers nonsense")
    if as_json:
        say(json.dumps(answer.body, indent=2))
    elif answer.body.get("healthy"):
        say(f"healthy: {name(str(answer.body.get('status', '')), 500)}")
    else:
        for reason in answer.body.get("reasons", []):
            say(f"UNHEALTHY: {name(str(reason), 500)}")
    return 0 if answer.body.get("healthy") is True else 1


def mount_on(path: str, place: str) -> dict[str, Any] | None:
    """What the service knows of the mount that a path lies on; None if it watches none there.

    `place`: "ct:101:/mnt/x", or a path. Raises Unreachable, NoAnswer.
    """
    query = quote(place, safe="/:", errors="surrogateescape")
    answer = ask(path, "GET", f"mounts?on={query}").or_refuse()
    mounts = answer.get("mounts") if isinstance(answer, dict) else None
    if not isinstance(mounts, list) or not all(isinstance(entry, dict) for entry in mounts):
        raise Unreachable("the service answers nonsense")
    return mounts[0] if mounts else None


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
        return moment.astimezone()
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
