"""The connections of one door (the Unix socket, or a port): how many, how long, and an end for what stands still."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from watcher.status.access import Access
from watcher.status.queries import problem

CONNECTION_LIMIT = 20.0  # seconds, after which a connection ends, whatever comes over it; who follows events stays
LAST_ANSWER = 10.0  # seconds, after which an answer is the last over it: who keeps it open is not cut off in the next
MAX_CONNECTIONS = 128
REFUSAL_LIMIT = 1.0  # seconds for who is refused to send the rest, so that the answer is seen
MAX_REFUSALS = 64  # of further ones that are told why; the others are cut off, for each holds a descriptor
SERVER = "mountwatch"  # not which versions of what
MAX_AHEAD = 64  # requests that wait for the answers to others before them; aiohttp 3.11 takes any number
MAX_RECEIVED = 128 * 1024  # bytes of one request; aiohttp 3.11 takes any number of header fields


class Connections:
    """Makes them. Each door counts its own, so that a crowd at one leaves the other open."""

    def __init__(self, server: web.Server, access: Access | None) -> None:
        """`access`: its rules; None: whoever gets here may ask all."""
        self._server = server
        self.access = access
        self._open: set[Connection] = set()
        self.refusals = 0  # under way

    def __call__(self) -> asyncio.Protocol:
        """One more connection."""
        if len(self._open) >= MAX_CONNECTIONS:
            return _Refusal(self)
        loop = asyncio.get_running_loop()
        # A body is taken as it comes: some bytes of gzip can be a thousand times as many, and a second's work.
        options: dict[str, Any] = {"access_log": None, "logger": _unheard(), "auto_decompress": False}
        connection = Connection(self, self._server, loop=loop, **options)
        self._open.add(connection)
        loop.call_later(CONNECTION_LIMIT, connection.expire)
        return connection

    @property
    def streams(self) -> int:
        return sum(connection.streams for connection in self._open)

    def change_token(self, token: str) -> None:
        """Where one is wanted, it is this one from now on."""
        if self.access is None:
            return
        self.access = self.access._replace(token=token)
        for connection in list(self._open):
            if connection.streams:
                connection.drop()

    def ended(self, connection: Connection) -> None:
        self._open.discard(connection)


class Connection(web.RequestHandler):
    """aiohttp's, with an end: it has no limit of its own for the head of a request."""

    __slots__ = ("asked", "began", "door", "lost", "overflown", "received", "streams")

    def __init__(self, door: Connections, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.door = door
        self.began = asyncio.get_running_loop().time()
        self.asked = False  # a whole head has come
        self.received = 0  # bytes since the last whole head
        self.overflown = False  # these were too many; what comes is thrown away
        self.streams = False  # events go out over it, until either side has enough
        self.lost: Callable[[], object] = bool  # called at its end

    def connection_lost(self, exc: BaseException | None) -> None:
        self.door.ended(self)
        self.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More has come: too much for one request is not even read."""
        self.received += len(data)
        if self.received <= MAX_RECEIVED and not self.overflown:
            super().data_received(data)
            if len(self._messages) > MAX_AHEAD:
                self.drop()
        elif self.transport is not None and not self.overflown:
            self.overflown = True
            if not self.asked:
                # Where the head has ended it is the body that is too long.
                body = b"\r\n\r\n" in data
                status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if body else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self.transport.write(_raw(status, f"a request has {MAX_RECEIVED} bytes at most"))
            # Not earlier: who is still sending would see a reset instead of the answer.
            asyncio.get_running_loop().call_later(REFUSAL_LIMIT, self.transport.close)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What no handler has seen: broken HTTP."""
        text = problem_text(HTTPStatus(status), "this is no request that can be read" if status < 500 else "a bug")
        headers = {"Server": SERVER, "X-Content-Type-Options": "nosniff"}
        response = web.Response(text=text, status=status, content_type="application/problem+json", headers=headers)
        response.force_close()
        return response

    @property
    def old(self) -> bool:
        """Whether what is answered now is the last."""
        return asyncio.get_running_loop().time() - self.began > LAST_ANSWER

    def begin_stream(self, most: int) -> bool:
        """Whether events may go out over it: not to more than so many at once."""
        self.streams = self.door.streams < most
        return self.streams

    def end_stream(self) -> None:
        self.streams = False
        self.force_close()

    def drop(self) -> None:
        """It is too slow: what waits for it is thrown away."""
        if self.transport is not None:
            self.transport.abort()

    def expire(self) -> None:
        """Its time is up."""
        if self.transport is None or self.streams:
            return
        if self.asked:
            self.transport.abort()
        else:
            self.transport.write(_raw(HTTPStatus.REQUEST_TIMEOUT, "the head of the request did not arrive in time"))
            self.transport.close()


class _Refusal(asyncio.Protocol):
    """For one connection too many."""

    def __init__(self, door: Connections) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._door.refusals += 1
        if self._door.refusals > MAX_REFUSALS:
            transport.abort()
            return
        transport.write(_raw(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CONNECTIONS} connections are open already"))
        asyncio.get_running_loop().call_later(REFUSAL_LIMIT, transport.close)

    def data_received(self, data: bytes) -> None:
        # Not earlier: with something unread the other side would see a reset instead of the answer.
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.refusals -= 1


def problem_text(status: HTTPStatus, detail: str, more: Mapping[str, Any] | None = None) -> str:
    """The body of RFC 9457, with more members if there are."""
    return json.dumps(problem(status.value, status.phrase, detail) | dict(more or {})) + "\n"


def _raw(status: HTTPStatus, detail: str) -> bytes:
    body = problem_text(status, detail).encode()
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    ).encode() + body


def _unheard() -> logging.Logger:
    """What aiohttp says of broken requests is of no interest."""
    logger = logging.getLogger(f"{__name__}.http")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
