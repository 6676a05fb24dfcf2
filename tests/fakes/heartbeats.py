"""A server on loopback that is pinged, as healthchecks.io and Uptime Kuma (push) are."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

import trustme
from aiohttp import web

from tests.fakes.ports import LOOPBACK
from tests.fakes.receivers import HttpReceiver


class HeartbeatReceiver(HttpReceiver[str]):
    """Takes GET /ping/TOKEN; `received` has the User-Agent of each. `name`: with TLS, for this host name."""

    def __init__(self, token: str = "PingTokenOfTheTest", *, name: str = "") -> None:
        super().__init__()
        self.token = token
        self._name = name
        self.ca_file = ""  # of the certificate authority, for $SSL_CERT_FILE
        if name:
            authority = trustme.CA()
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert(name).configure_cert(self._tls)
            with tempfile.NamedTemporaryFile(prefix="heartbeat-ca-", suffix=".pem", delete=False) as file:
                file.write(authority.cert_pem.bytes())
            self.ca_file = file.name

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{self._name or LOOPBACK}:{self.port}/ping/{self.token}"

    async def stop(self) -> None:
        await super().stop()
        if self.ca_file:
            Path(self.ca_file).unlink(missing_ok=True)

    def _route(self, app: web.Application) -> None:
        app.router.add_get("/ping/{token}", self._ping)

    async def _ping(self, request: web.Request) -> web.Response:
        if not await self._offered():
            return web.Response(status=503, text="was kept waiting")
        if self._failure is not None:
            return web.Response(status=self._failure[0], text=str(self._failure[1] or ""))
        if request.match_info["token"] != self.token:
            return web.Response(status=404, text="not found")
        self._take(request.headers.get("User-Agent", ""))
        return web.Response(text="OK")
