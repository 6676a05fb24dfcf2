"""One HTTP request and whether it was taken. Loads aiohttp, so that `heartbeat` imports it only when it is needed.

Errors are put in words here, since those of aiohttp may hold the URL, which is a secret.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import anyio.to_thread
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientSession,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult

LIMIT = 10.0  # seconds for one ping, names and TLS included
READ = 4096  # bytes of the answer, which nobody looks at
MAX_REDIRECTS = 5


class Resolver(AbstractResolver):
    """Looks names up in a thread that nobody waits for at the end, and one at a time: that can hang for long."""

    def __init__(self) -> None:
        self._busy = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if self._busy:
            raise OSError(errno.EBUSY, "an earlier look-up of a name still hangs")

        def look_up() -> list[ResolveResult]:
            try:
                found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            finally:
                self._busy = False
            return [
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=int(address[1]),
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for kind, _, protocol, _, address in found
            ]

        self._busy = True
        try:
            return await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True)
        except RuntimeError as e:  # no thread to be had
            self._busy = False
            raise OSError(errno.EAGAIN, "no thread to look the name up") from e

    async def close(self) -> None:
        pass


class Pinger:
    """Asks URLs, one at a time."""

    def __init__(self) -> None:
        self._resolver = Resolver()

    async def ping(self, url: str) -> str:
        """GET it; why that failed, empty if it did not."""
        try:
            async with asyncio.timeout(LIMIT):
                connector = TCPConnector(resolver=self._resolver, force_close=True, limit=1)
                async with (
                    ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session,
                    session.get(url, max_redirects=MAX_REDIRECTS, headers={"User-Agent": "mountwatch"}) as answer,
                ):
                    await answer.content.read(READ)
                    return "" if answer.status < 400 else f"HTTP {answer.status}"
        except TimeoutError:
            return f"no answer within {LIMIT:g} s"
        except (ClientError, OSError, ValueError) as e:
            return _words(e)


def _words(error: Exception) -> str:
    """What went wrong, without anything of the URL."""
    if isinstance(error, ClientConnectorCertificateError):
        return "its certificate is not accepted"
    if isinstance(error, ClientConnectorError):
        return _words(error.os_error)
    if isinstance(error, socket.gaierror):
        return error.strerror or "its name cannot be looked up"
    if isinstance(error, OSError) and error.errno:
        # The text of its own may name addresses.
        return error.strerror if error.errno == errno.EBUSY and error.strerror else os.strerror(error.errno)
    return type(error).__name__
