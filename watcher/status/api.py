"""The routes: HTTP to `queries`, and `answers` back. Loaded with aiohttp when somebody asks.

Nothing that anybody sends may hold us up: `connections` has the limits.
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

from watcher.core.times import utc
from watcher.status.access import Access, Asking
from watcher.status.answers import Service, health_json, silence_json, window_json
from watcher.status.connections import SERVER, Connection, Connections, problem_text
from watcher.status.page import load
from watcher.status.queries import (
    MAX_BODY,
    Problem,
    history_asked,
    mount_asked,
    no_query,
    probe_asked,
    refuse_if_crowded,
    wanted,
)
from watcher.status.scraping import Scraping
from watcher.status.streams import Streams, head

log = logging.getLogger(__name__)

BODY_LIMIT = 5.0  # seconds for the body to arrive
SHUTDOWN = 1.0  # seconds for requests that are being answered

HEADERS = {
    # A page of another site can neither frame, run nor misread what is answered here.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The routes, and the connections that they are asked through."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._page = load()
        self._streams = Streams(service)
        app = web.Application(middlewares=[self._problems], client_max_size=MAX_BODY)
        routes = [
            web.get("/", self._index),
            web.get("/api/v1/health", self._health),
            web.get("/api/v1/mounts", self._mounts),
            web.get("/api/v1/incidents", self._incidents),
            web.get("/api/v1/history", self._history),
            web.get("/api/v1/channels", self._channels),
            web.get("/api/v1/silences", self._silences),
            web.post("/api/v1/silences", self._silence),
            web.delete("/api/v1/silences/{id}", self._unsilence),
            web.post("/api/v1/probe", self._probe),
            web.get("/api/v1/events", self._streams.follow, allow_head=False),
            web.get("/events", self._streams.follow, allow_head=False),
            web.get("/metrics", Scraping(service).answer),
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
        ]
        for route in routes:
            route.kwargs["expect_handler"] = _expectation  # aiohttp's own answers before we see the request
        app.add_routes(routes)
        app.on_response_prepare.append(_secure)
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN)
        self._listing: asyncio.Task[bytes] | None = None
        self._next_listing: asyncio.Task[bytes] | None = None

    async def start(self) -> None:
        await self._runner.setup()

    def connections(self, access: Access | None) -> Connections:
        """What makes the connections of one door with these rules."""
        server = self._runner.server
        assert server is not None
        return Connections(server, access)

    async def close(self) -> None:
        self._streams.close()
        await self._runner.cleanup()

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(body=self._page.body, headers=self._page.headers)

    # ---- mounts

    async def _mounts(self, request: web.Request) -> web.Response:
        # The query as it came: aiohttp's own decoding knows no bytes that are not UTF-8.
        asked = mount_asked(request.rel_url.raw_query_string)
        if asked.on is not None:
            entry = self._service.mount_on(asked.on)
        elif asked.id is not None:
            entry = self._service.mount(asked.id)
            if entry is None:
                raise Problem(404, "no mount that is watched has this id; it may be gone")
        else:
            return web.Response(body=await self._list_of_all(), content_type="application/json")
        return _json(head(self._service) | {"mounts": [] if entry is None else [entry]})

    async def _list_of_all(self) -> bytes:
        """The list as it is now or a little later: fifty who ask at once share it."""
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list())
            return await asyncio.shield(self._listing)
        # That one was begun before we were asked, and may lack what has happened since.
        if self._next_listing is None or self._next_listing.done():
            self._next_listing = asyncio.create_task(self._list_after(self._listing))
        return await asyncio.shield(self._next_listing)

    async def _list_after(self, before: asyncio.Task[bytes]) -> bytes:
        await asyncio.wait([before])
        self._listing, self._next_listing = self._next_listing, None
        return await self._list()

    async def _list(self) -> bytes:
        parts = []
        for n, entry in enumerate(await self._service.mounts()):
            parts.append(json.dumps(entry))
            if n % 100 == 99:
                await asyncio.sleep(0)
        text = json.dumps(head(self._service))
        return f'{text[:-1]}, "mounts": [{", ".join(parts)}]}}\n'.encode()

    async def _probe(self, request: web.Request) -> web.Response:
        place = probe_asked(request.rel_url.raw_query_string)
        probing = self._service.probe(place)
        if probing is None:
            raise Problem(404, "no such mount is watched")
        if probing.why_not:
            return _problem(409, probing.why_not, more={"mount": probing.mount})
        return _json({"mount": probing.mount}, 202)

    # ---- what has happened

    async def _incidents(self, request: web.Request) -> web.Response:
        no_query(request.rel_url.raw_query_string)
        return _json({"at": utc(time()), "incidents": self._service.incidents()})

    async def _history(self, request: web.Request) -> web.Response:
        now = time()
        asked = history_asked(request.rel_url.raw_query_string, now)
        entries, complete = await self._service.history(*asked)
        return _json({"at": utc(now), "complete": complete, "entries": entries})

    async def _channels(self, request: web.Request) -> web.Response:
        no_query(request.rel_url.raw_query_string)
        return _json({"at": utc(time()), "channels": self._service.channels()})

    # ---- silences

    async def _silences(self, request: web.Request) -> web.Response:
        service, silences = self._service, []
        for silence in service.silences():
            silences.append(await silence_json(silence, service))
        quiet = [window_json(w, holds, service.matches(w.mounts)) for w, holds in service.windows()]
        return _json({"silences": silences, "quiet": quiet})

    async def _silence(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_LIMIT):
                body = await request.read()
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {BODY_LIMIT:g} s") from None
        asked = wanted(body, time())
        refuse_if_crowded(self._service.silences(), len(asked.patterns))
        silence = await self._service.silence(*asked)
        location = {"Location": f"/api/v1/silences/{silence.id}"}
        return _json(await silence_json(silence, self._service), 201, location)

    async def _unsilence(self, request: web.Request) -> web.Response:
        if not await self._service.unsilence(request.match_info["id"]):
            raise Problem(404, "there is no silence of this name; it may be over")
        return web.Response(status=204)

    # ---- itself

    async def _health(self, request: web.Request) -> web.Response:
        health = self._service.health()
        return _json(health_json(health), 200 if health.verdict.healthy else 503)

    async def _healthz(self, request: web.Request) -> web.Response:
        return _word(self._service.health().verdict.healthy, "ok", "unhealthy")

    async def _readyz(self, request: web.Request) -> web.Response:
        return _word(self._service.ready(), "ready", "not all has been looked at yet")

    # ---- all of them

    @web.middleware
    async def _problems(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Whatever goes wrong as a body of RFC 9457."""
        connection, headers = request.protocol, request.headers
        assert isinstance(connection, Connection)
        connection.asked, connection.received = True, 0
        try:
            if connection.door.access is not None:
                asking = Asking(
                    request.method,
                    request.path,
                    host=headers.getall("Host", []),
                    origin=headers.getall("Origin", []),
                    authorization=headers.getall("Authorization", []),
                    content_type=request.content_type,
                )
                connection.door.access.check(asking)
            return await handler(request)
        except Problem as e:
            return _problem(e.status, e.detail, {"WWW-Authenticate": "Bearer"} if e.status == 401 else None)
        except web.HTTPException as e:
            allowed = {"Allow": e.headers["Allow"]} if "Allow" in e.headers else {}
            return _problem(e.status, _DETAILS.get(e.status, e.reason), allowed)
        except Exception:  # a bug here must be seen, and must not end the watching
            log.exception("cannot answer %s", request.method)
            return _problem(500, "see the log of the service")


_DETAILS = {
    404: "there are /api/v1/mounts, incidents, history, channels, silences, silences/ID, probe, events and health, "
    "and /, /events, /metrics, /healthz and /readyz",
    405: "not with this method",
    413: f"the body has more than {MAX_BODY} bytes; send less, such as fewer patterns that are wider",
}


async def _expectation(request: web.Request) -> None:
    """Let who has announced a body send it (RFC 9110, 10.1.1)."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        text = problem_text(HTTPStatus.EXPECTATION_FAILED, "there is nothing to expect but 100-continue")
        raise web.HTTPExpectationFailed(text=text, content_type="application/problem+json")
    if request.version >= (1, 1) and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = SERVER
    if isinstance(request.protocol, Connection) and request.protocol.old:
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has settled its own headers by now


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=json.dumps(value) + "\n", status=status, content_type="application/json", headers=headers)


def _word(good: bool, yes: str, no: str) -> web.Response:
    return web.Response(text=f"{yes if good else no}\n", status=200 if good else 503)


def _problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, more: Mapping[str, Any] | None = None
) -> web.Response:
    text = problem_text(HTTPStatus(status), detail, more)
    return web.Response(text=text, status=status, content_type="application/problem+json", headers=headers)
