"""The routes: HTTP to `answers` and back. The only module here that loads aiohttp; `server` loads it when it is needed.

Clients are root, and still nothing that they send may hold us up: bodies and connections have their limits.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from time import time
from typing import Any

from aiohttp import web

from watcher.status.answers import (
    MAX_BODY,
    Problem,
    Service,
    health_json,
    mounts_json,
    path_asked,
    problem,
    refuse_if_crowded,
    silence_json,
    wanted,
    window_json,
)
from watcher.status.scraping import Scraping

log = logging.getLogger(__name__)

BODY_LIMIT = 5.0  # seconds for the body to arrive
CONNECTION_LIMIT = 20.0  # seconds, after which a connection ends, whatever comes over it
MAX_CONNECTIONS = 32
SHUTDOWN = 1.0  # seconds for requests that are being answered

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The protocol of each connection to the socket."""

    def __init__(self, service: Service) -> None:
        self._service = service
        app = web.Application(middlewares=[self._problems], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/metrics", Scraping(service).answer),
                web.get("/api/v1/health", self._health),
                web.get("/api/v1/mounts", self._mounts),
                web.get("/api/v1/silences", self._silences),
                web.post("/api/v1/silences", self._silence),
                web.delete("/api/v1/silences/{id}", self._unsilence),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN)
        self._open: set[_Connection] = set()

    async def start(self) -> None:
        await self._runner.setup()

    async def close(self) -> None:
        await self._runner.cleanup()

    def connection(self) -> asyncio.Protocol:
        """One more connection."""
        server = self._runner.server
        if server is None or len(self._open) >= MAX_CONNECTIONS:
            return _Refusal()
        loop = asyncio.get_running_loop()
        connection = _Connection(server, loop=loop, access_log=None, logger=_unheard())
        self._open.add(connection)
        connection.over = self._open.discard
        loop.call_later(CONNECTION_LIMIT, connection.expire)
        return connection

    # ---- routes

    async def _health(self, request: web.Request) -> web.Response:
        health = self._service.health()
        return _json(health_json(health), 200 if health.verdict.healthy else 503)

    async def _mounts(self, request: web.Request) -> web.Response:
        # The query as it came: aiohttp's own decoding knows no bytes that are not UTF-8.
        asked = path_asked(request.rel_url.raw_query_string)
        return _json(mounts_json(self._service.mount_on(asked)))

    async def _silences(self, request: web.Request) -> web.Response:
        service = self._service
        return _json(
            {
                "silences": [silence_json(s, service) for s in service.silences()],
                "quiet": [window_json(w, holds, service.matches(w.mounts)) for w, holds in service.windows()],
            }
        )

    async def _silence(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_LIMIT):
                body = await request.read()
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {BODY_LIMIT:g} s") from None
        asked = wanted(body, time())
        refuse_if_crowded(len(self._service.silences()))
        silence = await self._service.silence(*asked)
        location = {"Location": f"/api/v1/silences/{silence.id}"}
        return _json(silence_json(silence, self._service), 201, location)

    async def _unsilence(self, request: web.Request) -> web.Response:
        if not await self._service.unsilence(request.match_info["id"]):
            raise Problem(404, "there is no silence of this name; it may be over")
        return web.Response(status=204)

    @web.middleware
    async def _problems(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Whatever goes wrong as a body of RFC 9457."""
        if isinstance(request.protocol, _Connection):
            request.protocol.asked = True
        try:
            return await handler(request)
        except Problem as e:
            return _problem(e.status, e.detail)
        except web.HTTPException as e:
            allowed = {"Allow": e.headers["Allow"]} if "Allow" in e.headers else {}
            return _problem(e.status, _DETAILS.get(e.status, e.reason), allowed)
        except Exception:  # a bug here must be seen, and must not end the watching
            log.exception("cannot answer %s", request.method)
            return _problem(500, "see the log of the service")


_DETAILS = {
    404: "there are /api/v1/mounts, /api/v1/silences, /api/v1/silences/ID and /api/v1/health",
    405: "not with this method",
    413: f"the body has more than {MAX_BODY} bytes",
}


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=json.dumps(value) + "\n", status=status, content_type="application/json", headers=headers)


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        text=json.dumps(problem(status, HTTPStatus(status).phrase, detail)) + "\n",
        status=status,
        content_type="application/problem+json",
        headers=headers,
    )


def _raw(status: HTTPStatus) -> bytes:
    return f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def _unheard() -> logging.Logger:
    """What aiohttp says of broken requests is of no interest."""
    logger = logging.getLogger(f"{__name__}.http")
    logger.setLevel(logging.CRITICAL + 1)
    return logger


class _Connection(web.RequestHandler):
    """aiohttp's, with an end: it has no limit of its own for the head of a request."""

    __slots__ = ("asked", "over")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked = False  # a whole head has come
        self.over: Callable[[_Connection], None] = lambda connection: None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.over(self)
        super().connection_lost(exc)

    def expire(self) -> None:
        """Its time is up."""
        if self.transport is None:
            return
        if self.asked:
            self.transport.abort()
        else:
            self.transport.write(_raw(HTTPStatus.REQUEST_TIMEOUT))
            self.transport.close()


class _Refusal(asyncio.Protocol):
    """For one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(_raw(HTTPStatus.SERVICE_UNAVAILABLE))
        asyncio.get_running_loop().call_later(1.0, transport.close)

    def data_received(self, data: bytes) -> None:
        # Not earlier: with something unread the other side would see a reset instead of the answer.
        self._transport.close()
