"""How commands ask the running service: through its Unix socket, with the standard library's HTTP.

A check that cron runs every minute need not load more.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

from watcher import procfs
from watcher.children import Children
from watcher.config import ConfigError
from watcher.configfile import ConfigFile, LastGood
from watcher.core.mountinfo import parse
from watcher.core.wording import name
from watcher.reading import FileReader, may_hang
from watcher.settings import Settings

ANSWER_LIMIT = 10.0  # seconds
MAX_ANSWER = 1 << 26  # bytes: ten thousand mounts are a fourth of it
SILENCE_LIMIT = 60.0  # seconds without an event or a sign of life, after which the service counts as gone

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
    def __init__(self, path: str, limit: float) -> None:
        super().__init__("localhost", timeout=limit)
        self._path = path
        self._limit = limit

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Waits in the kernel for a place in the queue of a busy service; with a time-out of Python's, thus without
        # waiting, connect() fails with EAGAIN at once (unix(7), unix_stream_connect).
        limit = struct.pack("ll", int(self._limit), int(self._limit % 1 * 1e6))  # a timeval
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            self.sock.connect(self._path)
        except BlockingIOError as e:
            raise TimeoutError from e
        self.sock.settimeout(self._limit)
        _, uid, _ = struct.unpack("3i", self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            raise Unreachable(f"{self._path}: user {uid} listens there, not a watcher of ours")


def ask(path: str, method: str, route: str, body: object = None) -> Answer:
    """One request to the service. Raises Unreachable or NoAnswer."""
    connection = _Connection(path, ANSWER_LIMIT)
    with _explained(path, ANSWER_LIMIT), closing(connection):
        text = None if body is None else json.dumps(body).encode()
        connection.request(method, f"/api/v1/{route}", text, {"Connection": "close"})
        answer = connection.getresponse()
        content = answer.read(MAX_ANSWER)
        return Answer(answer.status, json.loads(content) if content else None)


def follow(path: str) -> Iterator[tuple[str, Any]]:
    """What happens, as it happens: (kind, data), until the service ends. Raises Unreachable or NoAnswer."""
    connection = _Connection(path, SILENCE_LIMIT)
    with _explained(path, SILENCE_LIMIT), closing(connection):
        connection.request("GET", "/api/v1/events", headers={"Accept": "text/event-stream"})
        answer = connection.getresponse()
        if answer.status != 200:
            Answer(answer.status, json.loads(answer.read(MAX_ANSWER))).or_refuse()
        kind = ""
        while line := answer.readline(MAX_ANSWER):
            field, _, value = line.decode("utf-8", "replace").rstrip("\n").partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                yield kind, json.loads(value)


@contextmanager
def _explained(path: str, limit: float) -> Iterator[None]:
    """What goes wrong on the way to the service, in words."""
    try:
        yield
    except TimeoutError:
        raise NoAnswer(f"the service does not answer within {limit:g} s ({path})") from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise Unreachable(f"no service is running: nobody listens on {path}") from None
    except PermissionError:
        raise Unreachable(f"{path}: only root and the user that runs the service may ask it") from None
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise NoAnswer(f"the service did not answer ({path}): {getattr(e, 'strerror', None) or e}") from None


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


def mount_on(path: str, place: str) -> dict[str, Any] | None:
    """What the service knows of the mount that a path lies on; None if it watches none there.

    `place`: "ct:101:/mnt/x", or a path. Raises Unreachable, NoAnswer.
    """
    mounts = listed(ask(path, "GET", f"mounts?on={quoted(place)}").or_refuse(), "mounts")
    return mounts[0] if mounts else None


def listed(answer: Any, key: str) -> list[dict[str, Any]]:
    """The entries of an answer. Raises Unreachable if there are none in it."""
    entries = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unreachable("the service answers nonsense")
    return entries


def quoted(place: str) -> str:
    """For a query."""
    return quote(place, safe="/:", errors="surrogateescape")
