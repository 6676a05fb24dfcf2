"""Debian's own Prometheus, promtool, Alertmanager and amtool, as processes of a test.

They come unpacked from their packages (`unpack` in .ci/environment.sh), so that no machine gets a service from running
tests. All they keep lies in a directory of the test, and they listen on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.conftest import skip_or_fail
from tests.fakes.ports import LOOPBACK
from tests.fakes.receivers import HttpReceiver
from tests.integration.service import LIMIT, POLL

CONTRIB = Path(__file__).parents[2] / "contrib/prometheus"


def program(name: str) -> str:
    """Where it is; skips (in CI: fails) the test if it is nowhere."""
    package = "prometheus-alertmanager" if name in ("prometheus-alertmanager", "amtool") else "prometheus"
    cache = Path(os.environ.get("PROMETHEUS_CACHE") or "/var/cache/mountwatch-prometheus")
    path = cache / package / "usr/bin" / name
    if not path.exists():
        skip_or_fail(f"needs {path}, which .ci/test unpacks as root")
    return str(path)


def run(name: str, *arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """promtool or amtool, to its end."""
    command = [program(name), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, timeout=LIMIT, check=False)


class Server:
    """One of the two servers, while it runs."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log

    async def get(self, path: str) -> Any:
        """A JSON answer."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return json.loads(await response.text())

    async def text(self, path: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            response.raise_for_status()
            return await response.text()

    async def until(self, path: str, true: Callable[[Any], bool], what: str) -> None:
        """Until this holds for the JSON that is answered: neither tells of changes by itself."""
        await self._until(lambda: self.get(path), true, what)

    async def until_text(self, path: str, true: Callable[[str], bool], what: str) -> None:
        await self._until(lambda: self.text(path), true, what)

    async def _until(self, ask: Callable[[], Any], true: Callable[[Any], bool], what: str) -> None:
        answer: Any = None
        try:
            async with asyncio.timeout(LIMIT):
                while True:
                    assert self._process.poll() is None, self._log.read_text("utf-8", "replace")
                    with contextlib.suppress(aiohttp.ClientError):  # not up yet
                        if true(answer := await ask()):
                            return
                    await asyncio.sleep(POLL)
        except TimeoutError:
            log = self._log.read_text("utf-8", "replace")
            raise AssertionError(f"not within {LIMIT:g} s: {what}\n{answer}\n{log}") from None


@asynccontextmanager
async def _running(name: str, directory: Path, port: int, *arguments: str) -> AsyncIterator[Server]:
    log, path = directory / f"{name}.log", program(name)
    share = path.removesuffix(f"/bin/{name}") + "/share"
    with log.open("wb") as out:
        process = subprocess.Popen(
            # Debian's Alertmanager has its templates in /usr/share, for which its package stands here.
            ["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" /usr/share; exec "$@"', share, path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=directory,
            start_new_session=True,
        )
    try:
        server = Server(f"http://{LOOPBACK}:{port}", process, log)
        await server.until_text("/-/ready", lambda text: True, f"{name} is ready")
        yield server
    finally:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)


@asynccontextmanager
async def prometheus(directory: Path, config: str, port: int) -> AsyncIterator[Server]:
    """`config`: the text of prometheus.yml."""
    (directory / "prometheus.yml").write_text(config)
    async with _running(
        "prometheus",
        directory,
        port,
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/prometheus",
        f"--web.listen-address={LOOPBACK}:{port}",
    ) as server:
        yield server


@asynccontextmanager
async def alertmanager(directory: Path, config: str, port: int) -> AsyncIterator[Server]:
    """`config`: the text of alertmanager.yml."""
    (directory / "alertmanager.yml").write_text(config)
    async with _running(
        "prometheus-alertmanager",
        directory,
        port,
        f"--config.file={directory}/alertmanager.yml",
        f"--storage.path={directory}/alertmanager",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--cluster.listen-address=",
    ) as server:
        yield server


class Webhook(HttpReceiver[dict[str, Any]]):
    """Takes what Alertmanager sends to a webhook_config."""

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/"

    def _route(self, app: web.Application) -> None:
        app.router.add_post("/", self._message)

    async def _message(self, request: web.Request) -> web.Response:
        await self._offered()
        self._take(await request.json())
        return web.Response()
