"""How tests ask the service over HTTP, byte by byte: also what no client would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.integration.service import LIMIT, Site

Address = str | tuple[str, int]  # a Unix socket, or (host, port)


class Reply:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, _, rest = head.partition(b"\r\n")
        self.status = int(first.split()[1]) if first else 0
        self.headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in rest.decode().split("\r\n") if ": " in line)
        }

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


async def send(site: Site | Address, raw: bytes) -> Reply:
    """Send this, and read until the other side ends."""
    address = str(site.socket) if isinstance(site, Site) else site
    reader, writer = await connect(address)
    try:
        writer.write(raw)
        async with asyncio.timeout(LIMIT):
            return Reply(await reader.read())
    finally:
        writer.close()


async def request(
    site: Site | Address, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Reply:
    lines = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body))} | (headers or {})
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return await send(site, head.encode("utf-8", "surrogateescape") + b"\r\n" + body)


class Event(NamedTuple):
    kind: str
    data: Any
    number: int | None


class Events:
    """The stream of events, as it comes."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self, kind: str | None = None) -> Event:
        """The next event (of this kind)."""
        async with asyncio.timeout(LIMIT):
            while True:
                text = (await self._reader.readuntil(b"\n\n")).decode()
                if text.startswith(":"):
                    continue
                fields = dict(line.split(": ", 1) for line in text.strip().split("\n"))
                number = int(fields["id"]) if "id" in fields else None
                event = Event(fields["event"], json.loads(fields["data"]), number)
                if kind in (None, event.kind):
                    return event


@asynccontextmanager
async def events(
    site: Site | Address, path: str = "/api/v1/events", headers: dict[str, str] | None = None
) -> AsyncIterator[Events]:
    """Follow the events, in HTTP 1.0: without chunks."""
    reader, writer = await connect(str(site.socket) if isinstance(site, Site) else site)
    try:
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{lines}\r\n".encode())
        async with asyncio.timeout(LIMIT):
            reply = Reply(await reader.readuntil(b"\r\n\r\n"))
        assert reply.status == 200, reply.status
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Events(reader)
    finally:
        writer.close()
