"""Server-sent events: what `feed` passes on, as answers that go on, and a summary now and then."""

from __future__ import annotations

import asyncio
from time import time
from typing import Any

from aiohttp import web

from watcher.core.times import utc
from watcher.status.answers import Service
from watcher.status.connections import Connection
from watcher.status.feed import Listener, event_text
from watcher.status.queries import Problem, no_query

MAX_STREAMS = 64  # who follow the events of one door
SUMMARY_EVERY = 5.0  # seconds
SUMMARY_REST = 0.25  # seconds for changes to come in before they are summed up
PING_EVERY = 15.0  # seconds without an event, after which a comment shows that we live
WRITE_LIMIT = 20.0  # seconds for a reader to take what was written


class Streams:
    """Those who follow the events."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._summing: asyncio.Task[None] | None = None

    def close(self) -> None:
        """That is the end, for all of them."""
        if self._summing is not None:
            self._summing.cancel()
        self._service.feed.close()

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Answer with events, until either side has enough."""
        no_query(request.rel_url.raw_query_string)
        connection = request.protocol
        assert isinstance(connection, Connection)
        if not connection.begin_stream(MAX_STREAMS):
            raise Problem(503, f"{MAX_STREAMS} others follow the events already")
        listener = Listener(connection.drop)
        self._service.feed.join(listener)
        connection.lost = listener.close
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})  # nginx would keep events to itself
        response.content_type, response.charset = "text/event-stream", "utf-8"
        try:
            await response.prepare(request)
            await response.write(event_text("hello", head(self._service)) + self._summary())
            if self._summing is None or self._summing.done():
                self._summing = asyncio.create_task(self._sum_up())
            while True:
                event = b": ping\n\n"
                try:
                    async with asyncio.timeout(PING_EVERY):
                        event = await listener.next()
                except TimeoutError:
                    pass
                if not event:
                    return response
                async with asyncio.timeout(WRITE_LIMIT):
                    await response.write(event)
        except (ConnectionError, TimeoutError):
            connection.drop()
            return response
        finally:
            self._service.feed.leave(listener)
            connection.end_stream()

    async def _sum_up(self) -> None:
        """Every few seconds, and after changes, for as long as somebody listens."""
        feed = self._service.feed
        while len(feed):
            feed.changed.clear()
            try:
                async with asyncio.timeout(SUMMARY_EVERY):
                    await feed.changed.wait()
                await asyncio.sleep(SUMMARY_REST)
            except TimeoutError:
                pass
            feed.tell(self._summary())

    def _summary(self) -> bytes:
        service = self._service
        return event_text("summary", {"at": utc(time()), "status": service.status(), "counts": service.counts()})


def head(service: Service) -> dict[str, Any]:
    """Who answers, when, and how all is."""
    return {"at": utc(time()), "host": service.host, "status": service.status(), "version": service.version}
