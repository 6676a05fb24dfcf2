"""The page at `/`, in a real browser: with the real service, and with what no machine of ours has (500 mounts, names
that were made to do harm), fed by a server that answers as the API does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web

from tests.conftest import skip_or_fail
from tests.fakes.chromium import Chromium, Tab, missing, others, without
from tests.fakes.fuse import HANG, OK, fails
from tests.fakes.ports import free_port
from tests.fakes.terminal import Terminal
from tests.integration.prometheus import Server, prometheus
from tests.integration.service import HOST, Site, toml
from watcher.status.page import load

pytestmark = pytest.mark.kernel

ROWS = "[...document.querySelectorAll('tr.mount')]"
NO_SIDEWAYS = "document.documentElement.scrollWidth <= screen.width"


# The rows that are changed from here on in `touched`, those there are now in `before`. Ages change by themselves.
TOUCHED = f"""
  window.before = {ROWS}; window.touched = new Set();
  new MutationObserver((all) => all.forEach(({{target}}) => {{
    const at = target.nodeType === 3 ? target.parentElement : target, row = at?.closest("tr.mount");
    if (row && !at.closest("time")) touched.add(row.querySelector(".name").title);
  }})).observe(document.querySelector("table"),
    {{subtree: true, childList: true, characterData: true, attributes: true}})
"""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    if reason := missing():
        skip_or_fail(reason)
    with Chromium() as chromium:
        yield chromium


def row(name: str) -> str:
    """The row of the mount whose mount point ends so, in JavaScript."""
    return f"{ROWS}.find((row) => row.querySelector('.name').title.endsWith({json.dumps(name)}))"


# ---- a server that answers as the API does


def entry(number: int, **more: Any) -> dict[str, Any]:
    """A mount that is ok."""
    total, used = 40 << 30, (number * 7 % 97) * (40 << 30) // 100
    return {
        "id": f"m{number}",
        "namespace": "host",
        "source": f"nas{number % 20:02}:/export/{number}",
        "target": f"/mnt/{number}",
        "fstype": "nfs4",
        "options": "rw,relatime,vers=4.2,hard",
        "readonly": False,
        "status": "ok",
        "cause": None,
        "error": None,
        "lxc_id": None,
        "lxc_name": None,
        "total_bytes": total,
        "used_bytes": used,
        "available_bytes": total - used,
        "usage_percent": round(100 * used / total, 1),
        "server": f"nas{number % 20:02}",
        "latency_seconds": 0.0004 + number % 9 / 5000,
        "since": "2026-11-20T15:04:05Z",
        "slow": False,
        "unexpected_readonly": False,
        "show_only": False,
        "behind": None,
        "stacked": 1,
        "stack": [],
        "context": None,
        "hanging_since": None,
        "silenced": False,
        "latencies": [0.0004 + (number + n) % 9 / 5000 for n in range(60)],
        **more,
    }


class FakeApi:
    """The page and an API with whatever mounts it is given. `token`: what it asks for, if anything."""

    def __init__(self, mounts: list[dict[str, Any]], token: str = "") -> None:
        self.mounts = mounts
        self.incidents: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.channels: list[dict[str, Any]] = []
        self.silences: list[dict[str, Any]] = []
        self.quiet: list[dict[str, Any]] = []
        self.token = token
        self.posted: list[tuple[str, str, Any]] = []
        self._streams: list[web.StreamResponse] = []
        self._page = load()
        self._over = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Its address."""
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/api/v1/mounts", self._mounts),
                web.get("/api/v1/events", self._events),
                web.post("/api/v1/silences", self._silence),
                web.get("/api/v1/{what}", self._other),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            self._over.set()
            await runner.cleanup()

    async def tell(self, change: dict[str, Any]) -> None:
        for stream in self._streams:
            await stream.write(f"event: change\ndata: {json.dumps(change)}\n\n".encode())

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.token and request.path != "/" and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"detail": "needs the token"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(body=self._page.body, headers=self._page.headers)

    async def _mounts(self, request: web.Request) -> web.Response:
        if wanted := request.query.get("id"):
            [found] = [m for m in self.mounts if m["id"] == wanted]
            return self._answer(mounts=[{**found, "advice": [f"Do: see to {found['target']}"], "why": ["Why: <b>"]}])
        return self._answer(mounts=self.mounts)

    async def _other(self, request: web.Request) -> web.Response:
        return {
            "incidents": self._answer(incidents=self.incidents),
            "history": self._answer(entries=self.history),
            "channels": self._answer(channels=self.channels),
            "silences": self._answer(silences=self.silences, quiet=self.quiet),
            "health": self._answer(healthy=True, reasons=[]),
        }[request.match_info["what"]]

    async def _silence(self, request: web.Request) -> web.Response:
        self.posted.append((request.path, request.content_type, await request.json()))
        return web.json_response({"id": "abcd", "matches": 1, "ends": "2026-11-20T15:04:05Z"}, status=201)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b'event: hello\ndata: {"at": "2026-11-20T15:04:05Z", "host": "pve1", "version": "1"}\n\n')
        self._streams.append(stream)
        while not self._over.is_set():
            try:
                async with asyncio.timeout(5.0):
                    await self._over.wait()
            except TimeoutError:
                with contextlib.suppress(ConnectionError):  # it has gone
                    await stream.write(b": ping\n\n")
        return stream

    @staticmethod
    def _answer(**more: Any) -> web.Response:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return web.json_response({"at": at, "host": "pve1", "version": "1", **more})


def assert_clean(tab: Tab, origin: str) -> None:
    """Neither an error in the console, nor a violation of the policy, nor a request to anybody else."""
    assert tab.complaints == []
    assert others(tab.requests, origin) == []


# ---- volume and harm


async def test_500_mounts_are_updated_in_place(chromium: Chromium, tmp_path: Path) -> None:
    api = FakeApi([entry(n) for n in range(500)])
    async with api.serve() as origin, chromium.tab() as tab:
        await tab.open(f"{origin}/")
        await tab.wait(f"{ROWS}.length === 500 && document.querySelector('#state').className === 'live'")
        assert await tab.value("document.querySelectorAll('tr.group:not([hidden])').length") == 20
        assert await tab.value("document.title") == "all ok – pve1"

        # One of them fails: its row changes, and comes first; the others are what they were.
        await tab.value(TOUCHED)
        await tab.press("/")
        failed = entry(123, status="stale", cause="timeout", error="no answer within 5 s", latency_seconds=None)
        api.mounts = [failed, *(m for m in api.mounts if m["id"] != "m123")]
        await api.tell({"kind": "stale", "change": "began", "place": "/mnt/123", "places": ["/mnt/123"]})
        await tab.wait("document.title === '1 not ok – pve1'")
        assert await tab.value(f"{ROWS}[0].innerText.includes('STALE')")
        assert await tab.value(f"{ROWS}[0].innerText.includes('NO ANSWER; no answer within 5 s')")
        assert await tab.value("[...touched].join()") == "/mnt/123"
        assert await tab.value(f"{ROWS}.every((row) => before.includes(row))")
        await tab.wait("document.querySelector('#said').textContent === '/mnt/123: stale'")
        await tab.shot(tmp_path / "many.png")

        colors = "['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"
        await tab.prefer(color_scheme="light")
        light = await tab.value(colors)
        await tab.prefer(color_scheme="dark")
        assert not set(await tab.value(colors)) & set(light)

        # The filter, by keyboard.
        assert await tab.value("document.activeElement.id") == "filter"
        await tab.type("nas03 /mnt/1")
        await tab.wait("document.querySelector('#shown').textContent === '(5 of 500)'")
        await tab.press("Escape")
        await tab.wait("document.querySelector('#shown').textContent === '(500)'")
        await tab.value("document.querySelector('.chip[value=stale]').click()")
        await tab.wait("document.querySelector('#shown').textContent === '(1 of 500)'")

        await tab.value(f"{ROWS}[0].querySelector('.name').focus()")
        await tab.press("Enter")
        await tab.wait("document.querySelector('tr.detail .advice')?.textContent === 'Do: see to /mnt/123'")
        assert await tab.value("document.activeElement.getAttribute('aria-expanded')") == "true"
        await tab.press("Tab")
        assert await tab.value("document.activeElement.textContent") == "Look now"
        assert_clean(tab, origin)


HARM = "<img src=x onerror=alert(1)>"
TURNED = "\u202egnp.exe\u202c"
LONG = "/mnt/" + "x" * 4000


async def test_hostile_names_are_text(chromium: Chromium, tmp_path: Path) -> None:
    api = FakeApi(
        [
            entry(
                1,
                namespace="ct:101",
                lxc_id="101",
                lxc_name=HARM,
                target=f"/{HARM}",
                source=HARM,
                server=HARM,
                error=HARM,
                context=HARM,
                status="stale",
                cause="error",
                stack=[HARM],
                written_underneath={"text": f"writes {HARM}"},
            ),
            entry(2, target=f"/mnt/{TURNED}", source=TURNED, server=TURNED),
            entry(3, target=LONG, source="y" * 4000, server="z" * 4000, status="stale", error="e" * 4000),
            entry(4, target="/mnt/[a]*", server="ok"),
        ],
        token="s3cret",
    )
    member = {"kind": "stale", "place": HARM, "source": HARM, "fstype": HARM, "condition": "down", "cause": "error"}
    api.incidents = [
        {"id": 1, "server": LONG, "group": HARM, "opened": "2026-11-20T15:04:05Z", "closed": None, "silenced": False}
        | {
            "title": f"🔴 pve1: {HARM}",
            "members": [{**member, "error": LONG, "written_underneath": {"text": f"writes {HARM}"}}],
            "cause": [HARM, LONG],
            "advice": [HARM, LONG],
        }
    ]
    async with api.serve() as origin, chromium.tab(width=390, height=844, phone=True) as tab:
        # It wants a token, and a wrong one is not enough.
        with without(tab.complaints, r"^network: .* 401 "):
            await tab.open(f"{origin}/")
            await tab.wait("document.activeElement.id === 'token-field'")
            assert not await tab.value("document.querySelector('tr.mount')")
            await tab.type("wrong")
            await tab.press("Enter")
            await tab.wait("document.querySelector('#token').innerText.includes('not the right one')")
            await tab.type("s3cret")
            await tab.press("Enter")
            await tab.wait(f"{ROWS}.length === 4")
        assert await tab.value("sessionStorage.token") == "s3cret"
        assert not any("s3cret" in url for url in tab.requests)

        await tab.value(f"{ROWS}.forEach((row) => row.querySelector('.name').click())")
        await tab.wait("document.querySelectorAll('tr.detail dl').length === 4")
        assert await tab.value("document.querySelectorAll('img, script').length") == 1  # our own script
        assert await tab.value(f"{row(HARM)}.querySelector('.name').innerText.includes({json.dumps(HARM)})")
        assert await tab.value(f"document.querySelector('.incident h3').innerText.includes({json.dumps(HARM)})")
        for where in (f"{row(HARM)}.querySelector('.cause')", "document.querySelector('.incident .amber')"):
            assert await tab.value(f"{where}.innerText.includes({json.dumps('writes ' + HARM)})"), where
        # What turns the direction does so within its own name.
        turned = f"{row(TURNED)}.querySelector('.name bdi:last-child')"
        assert await tab.value(f"getComputedStyle({turned}).unicodeBidi") == "isolate"
        # Long ones are cut where there is a list, and whole where it is opened.
        assert await tab.value(f"{row(LONG)}.getBoundingClientRect().height < 200")
        assert await tab.value(
            f"[...document.querySelectorAll('dd')].some((dd) => dd.textContent === {json.dumps(LONG)})"
        )
        assert await tab.value(NO_SIDEWAYS)
        await tab.shot(tmp_path / "hostile.png")

        # What is laid out as blocks is still a table to who listens to it.
        nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
        roles = Counter(node["role"]["value"] for node in nodes if not node["ignored"])
        assert roles["columnheader"] == 6
        assert roles["cell"] == 4 * 6 + 4
        assert {"banner", "main", "complementary", "table", "heading"} <= roles.keys()

        # A silence is about this mount and nothing else, and no other site's form can ask for it.
        await tab.value(f"{row('/mnt/[a]*')}.nextElementSibling.querySelectorAll('button')[1].click()")
        await tab.wait("document.body.innerText.includes('Silent until')")
        assert api.posted == [
            (
                "/api/v1/silences",
                "application/json",
                {"mounts": ["host:/mnt/[[]a][*]"], "duration": "2h", "comment": "from the status page"},
            )
        ]
        assert_clean(tab, origin)


# ---- the real service


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as trial:
        return trial.connect_ex((host, int(port))) == 0


def state_of(name: str) -> str:
    return f"{row(name)}?.querySelector('.status').innerText"


def color_of(name: str) -> str:
    return f"getComputedStyle({row(name)}.querySelector('.status .icon')).color"


def watching(site: Site) -> Terminal:
    """`watcher status --watch` as a person has it."""
    return Terminal([sys.executable, "-m", "watcher", "--config", str(site.config), "status", "--watch"])


def scraping(address: str, token: Path) -> str:
    """As the README has it, and more often."""
    return f"""
        global: {{scrape_interval: 1s, scrape_timeout: 1s}}
        scrape_configs:
          - job_name: mountwatch
            authorization: {{credentials_file: {token}}}
            static_configs: [{{targets: ["{address}"]}}]
    """


async def shows(server: Server, expression: str, value: int) -> None:
    """Until it is this that Prometheus has of it."""
    await server.until(
        f"/api/v1/query?{urlencode({'query': expression})}",
        lambda answer: [float(each["value"][1]) for each in answer["data"]["result"]] == [value],
        f"{expression} is {value}",
    )


async def test_what_happens_is_seen_as_it_happens(site: Site, chromium: Chromium, tmp_path: Path) -> None:
    """A server's plug is pulled: seen on the page, on a terminal and by Prometheus, silenced, and over by itself."""
    nas, other = site.mount("nas", fstype="fuse.sshfs", source="nas01:/export"), site.mount("other")
    site.mount("third", source="nas01:/third", fstype="fuse.sshfs")
    port, scrapes = free_port(), free_port()
    address = f"127.0.0.1:{port}"
    origin = f"http://{address}"
    site.write(site.path / "token", "s3cret-s3cret-s3cret\n")
    asked = f"[status]\nlisten = {toml(address)}\ntoken_file = {toml(str(site.path / 'token'))}"
    site.write(site.config, site.config_text().replace("[status]", asked))
    nas01, second = site.place("nas"), site.place("other")
    said = "document.querySelector('tr.detail [role=status]').textContent"
    stale = f'mountwatch_mount_state{{mountpoint="{nas01}",state="stale"}}'
    async with chromium.tab() as tab, prometheus(tmp_path, scraping(address, site.path / "token"), scrapes) as server:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(site.service())
            await service.wait_until(lambda: answers(address), "it listens")
            terminal = await stack.enter_async_context(watching(site))
            with without(tab.complaints, r"^network: .* 401 "):
                await tab.open(f"{origin}/")
                await tab.wait("document.activeElement.id === 'token-field'")
            await tab.type("s3cret-s3cret-s3cret")
            await tab.press("Enter")
            for name in (nas01, second, site.place("third")):
                await tab.wait(f"{state_of(name)} === 'ok'")
            assert await tab.value("document.querySelector('#incidents .list').innerText") == "None."
            assert await tab.value(f"{row(nas01)}.closest('tbody').querySelectorAll('tr.mount').length") == 2
            await tab.shot(tmp_path / "ok.png")
            green = await tab.value(color_of(nas01))
            await terminal.wait(rf"\nok +{nas01} ")
            await shows(server, stale, 0)

            nas.set(HANG)
            await tab.wait(f"{state_of(nas01)} === 'STALE'")
            red = await tab.value(color_of(nas01))
            assert red != green == await tab.value(color_of(second))
            await terminal.wait(rf"\nSTALE +{nas01} +nas01:/export .* NO ANSWER")
            await shows(server, stale, 1)
            assert await tab.value(f"{state_of(second)}") == "ok"
            await tab.wait(f"document.querySelector('.incident h3')?.innerText === '{nas01} NO ANSWER'")
            await tab.wait("document.querySelector('.incident .advice')?.innerText.startsWith('Do: ')")
            await tab.wait("document.querySelector('#events li')?.innerText.startsWith('stale')")
            assert await tab.value("document.title") == f"1 not ok – {HOST}"

            # Opened by a person, and quiet.
            await tab.value(f"{row(nas01)}.querySelector('.name').click()")
            await tab.wait("document.querySelector('tr.detail .advice')")
            await tab.shot(tmp_path / "stale.png")
            with without(tab.complaints, r"^network: .* 409 "):
                await tab.value("[...document.querySelectorAll('tr.detail button')][0].click()")
                await tab.wait(f"{said}.startsWith('an earlier probe still hangs')")
            await tab.value("[...document.querySelectorAll('tr.detail button')][1].click()")
            await tab.wait("document.querySelector('#silences li .mono')?.innerText === 'host:' + " + json.dumps(nas01))
            await tab.wait(f"{row(nas01)}.querySelector('[aria-label=silenced]')")
            await tab.value("document.querySelector('#silences li button').click()")
            await tab.wait("document.querySelector('#silences .list').innerText === 'None.'")

            # And by one command.
            assert (await site.run("silence", "--server", "nas01", "--for", "2h")).code == 0
            await tab.wait(f"{row(nas01)}.querySelector('[aria-label=silenced]')")
            await tab.shot(tmp_path / "silenced.png")
            await terminal.wait(rf"\nSTALE \(silenced\) +{nas01} ")
            await shows(server, "mountwatch_silences", 1)

            nas.set(OK)
            await tab.wait(f"{state_of(nas01)} === 'ok'")
            assert await tab.value(color_of(nas01)) == green
            await terminal.wait(rf"\nok \(silenced\) +{nas01} ")
            await shows(server, stale, 0)
            await tab.value("[...document.querySelectorAll('tr.detail button')][0].click()")
            await tab.wait(f"{said}.startsWith('Asked.')")
            await tab.wait("document.querySelector('#events li').innerText.startsWith('ok again')")
            await tab.wait("document.querySelector('#incidents .list').innerText === 'None.'")
            assert_clean(tab, origin)

            # The service is gone: what is seen is old, and says so.
            with without(tab.complaints, r"^network: Failed to load resource: net::ERR_"):
                assert await service.end() == 0
                assert await terminal.end() == 3
                assert "watcher: the service has ended" in terminal.screen
                await tab.wait("!document.querySelector('#banner').hidden && document.querySelector('body.old')")
        with without(tab.complaints, r"^network: Failed to load resource: net::ERR_"):
            banner = "document.querySelector('#banner').innerText"
            assert await tab.value(f"{banner}.startsWith('No answer from the service since ')")
            await tab.wait(f"/What is shown is [1-9]\\d* s old/.test({banner})")
            assert await tab.value("document.title") == f"no connection – {HOST}"
            assert await tab.value(f"{state_of(nas01)}") == "ok"
            await tab.shot(tmp_path / "gone.png")
            await tab.value("window.same = " + row(nas01))
            async with site.service() as service:
                await service.wait_until(lambda: answers(address), "it listens")
                await tab.value("document.querySelector('#again').click()")
                await tab.wait("document.querySelector('#banner').hidden && !document.querySelector('body.old')")
                assert await tab.value(f"same === {row(nas01)}")
                other.set(fails(errno.ESTALE))
                await tab.wait(f"{state_of(second)} === 'STALE'")
                await tab.size(390, 844, phone=True)
                assert await tab.value(NO_SIDEWAYS)
                await tab.shot(tmp_path / "phone.png")
                assert await service.end() == 0
                await tab.wait("!document.querySelector('#banner').hidden")
        assert_clean(tab, origin)
