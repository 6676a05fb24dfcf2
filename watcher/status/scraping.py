"""`GET /metrics`: loads prometheus_client when it is first asked, and renders one scrape at a time, beside the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio.to_thread
from aiohttp import web

from watcher.core.measured import Measured
from watcher.status.answers import Service

if TYPE_CHECKING:
    from watcher.status.metrics import Exposition

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Scraping:
    """Answers scrapes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._exposition: Exposition | None = None
        self._one = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.Response:
        async with self._one:
            # A thousand mounts take longer than the loop should stand still for.
            body = await anyio.to_thread.run_sync(self._render, self._service.measured())
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    def _render(self, measured: Measured) -> bytes:
        if self._exposition is None:
            from watcher.status.metrics import Exposition

            self._exposition = Exposition()
        return self._exposition.text(measured)
