"""A real browser, headless, driven over the DevTools protocol (chromedevtools.github.io/devtools-protocol).

    with Chromium() as chromium:
        async with chromium.tab() as tab:
            await tab.open("http://127.0.0.1:9199/")
            await tab.wait("document.title.startsWith('all ok')")

One process serves any number of tests, each with tabs whose cookies and storage are its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

LIMIT = 60.0  # seconds for anything that takes one or two
POLL = 0.02  # seconds between two looks at a file
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it refuses to run as root otherwise; what it opens is ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--mute-audio",
    "--force-prefers-reduced-motion",  # drawn without a graphics card
    "--remote-debugging-port=0",
)


def missing() -> str:
    """Why there can be no browser; empty if there can."""
    return "" if shutil.which("chromium") else "needs chromium"


class Chromium:
    """One browser process."""

    def __enter__(self) -> Self:
        self._profile = Path(tempfile.mkdtemp(prefix="chromium"))
        with (self._profile / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["chromium", *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={k: v for k, v in os.environ.items() if k not in ("DISPLAY", "DBUS_SESSION_BUS_ADDRESS")},
                start_new_session=True,
            )
        try:
            port, path = self._wait_listening()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.address = f"ws://127.0.0.1:{port}{path}"
        return self

    def _wait_listening(self) -> list[str]:
        """(port, path), which it writes to a file of its profile."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if len(lines := (self._profile / "DevToolsActivePort").read_text().splitlines()) == 2:
                    return lines
            time.sleep(POLL)
        raise AssertionError(f"chromium does not listen: {(self._profile / 'log').read_text(errors='replace')}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def tab(self, *, width: int = 1280, height: int = 900, phone: bool = False) -> AsyncIterator[Tab]:
        """A window of its own."""
        async with aiohttp.ClientSession() as http, http.ws_connect(self.address, max_msg_size=0) as socket:
            tab = Tab(socket)
            reading = asyncio.create_task(tab.read())
            try:
                context = (await tab.call("Target.createBrowserContext", browser=True))["browserContextId"]
                target = await tab.call(
                    "Target.createTarget", browser=True, url="about:blank", browserContextId=context, newWindow=True
                )
                await tab.attach(target["targetId"])
                await tab.size(width, height, phone=phone)
                yield tab
                await tab.call("Target.disposeBrowserContext", browser=True, browserContextId=context)
            finally:
                reading.cancel()
                await asyncio.wait([reading])


class Tab:
    """One tab. `complaints`: what its console says of errors; `requests`: the URLs that it has asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._session = ""
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last = 0
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def read(self) -> None:
        async for message in self._socket:
            said = message.json()
            if (answer := self._waiting.pop(said.get("id", 0), None)) is not None:
                if not answer.done():
                    answer.set_result(said)
            elif "method" in said:
                self._note(said["method"], said["params"])

    def _note(self, method: str, told: Mapping[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['source']}: {told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Audits.issueAdded":  # a violation of the policy is one
            self.complaints.append(f"{told['issue']['code']}: {told['issue']['details']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded.set()

    async def call(self, method: str, *, browser: bool = False, **parameters: Any) -> dict[str, Any]:
        """One command, to its answer."""
        self._last += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._last] = answer
        to = {} if browser else {"sessionId": self._session}
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters, **to})
        async with asyncio.timeout(LIMIT):
            said = await answer
        assert "error" not in said, (method, said["error"])
        result: dict[str, Any] = said["result"]
        return result

    async def attach(self, target: str) -> None:
        attached = await self.call("Target.attachToTarget", browser=True, targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            await self.call(f"{domain}.enable")

    async def size(self, width: int, height: int, *, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    async def prefer(self, **features: str) -> None:
        """Such as color_scheme="dark"."""
        values = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=values)

    async def open(self, url: str) -> None:
        """Until it has loaded."""
        self._loaded.clear()
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        async with asyncio.timeout(LIMIT):
            await self._loaded.wait()

    async def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to, a promise's end included."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait(self, condition: str) -> Any:
        """Until an expression is true of the document, which is looked at after each of its changes; its value."""
        try:
            return await self.value(
                "new Promise((done) => { const look = () => { const value = (" + condition + "); if (value) {"
                " watching.disconnect(); done(value); } }; const watching = new MutationObserver(look);"
                " watching.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});"
                " look(); })"
            )
        except TimeoutError:
            text = await self.value("document.body.innerText")
            raise AssertionError(f"not within {LIMIT:g} s: {condition}\n{self.complaints}\n{text[:3000]}") from None

    async def press(self, *keys: str) -> None:
        """Keys as a person presses them: "Tab", "Enter", "/" …"""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, 0)
            kind = "keyDown" if text else "rawKeyDown"
            for event in (kind, "keyUp"):
                typed = text if event == "keyDown" else ""
                await self.call("Input.dispatchKeyEvent", type=event, key=key, text=typed, windowsVirtualKeyCode=code)

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def shot(self, path: Path) -> None:
        """A picture of what is seen."""
        picture = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))


@contextlib.contextmanager
def without(complaints: list[str], *patterns: str) -> Iterator[None]:
    """What is said within, and matches one of these, is no complaint."""
    before = len(complaints)
    yield
    complaints[before:] = [c for c in complaints[before:] if not any(re.search(p, c) for p in patterns)]


def others(requests: Sequence[str], origin: str) -> list[str]:
    """The requests that went elsewhere."""
    return [url for url in requests if not url.startswith((f"{origin}/", "data:", "about:"))]
