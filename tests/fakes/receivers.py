"""Real servers on loopback that receive notifications and can be told to fail.

`GotifyReceiver`, `SmtpReceiver` and `TelegramReceiver` speak the services' protocols, so that whatever
sends to them runs unpatched. Each is an async context manager and runs on the caller's loop:

    async with GotifyReceiver() as gotify:
        gotify.fail(503)                    # or hang(), or `await gotify.stop()` to refuse connections
        …                                   # send to gotify.url
        gotify.accept()
        [message] = await gotify.wait_for(1)

A stopped receiver can be started again and then has the same port, hence the same URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.message
import email.policy
import html
import re
import ssl
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from aiohttp import web

from tests.fakes.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aiosmtpd.smtp import SMTP, Envelope, Session

T = TypeVar("T")


class Receiver(Generic[T]):
    """What all receivers have: messages received, attempts seen, and waiting for either by event.

    received: the messages accepted, oldest first. attempts: how often a message was offered, whatever came of it.
    """

    def __init__(self) -> None:
        self.received: list[T] = []
        self.attempts = 0
        self.port = 0
        self._changed = asyncio.Event()
        self._hanging = False
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen: at first on any free port, later on the same one again, which nobody else takes meanwhile."""
        self.port = self.port or free_port()
        if self._hanging:
            self._released.clear()

    async def stop(self) -> None:
        """End every connection and refuse new ones. May be called twice."""
        self._released.set()

    def hang(self) -> None:
        """From now on take every message and never answer."""
        self._hanging = True
        self._released.clear()

    def accept(self) -> None:
        """Be well again. What hung is answered with a failure: its sender may have gone."""
        self._hanging = False
        self._released.set()

    async def wait_for(self, n: int, timeout: float = 90) -> list[T]:
        """The messages received, as soon as they are n or more. TimeoutError after `timeout` seconds."""
        await self._until(lambda: len(self.received) >= n, timeout)
        return list(self.received)

    async def wait_for_attempts(self, n: int, timeout: float = 90) -> None:
        """Wait until n messages were offered, refused ones included. TimeoutError after `timeout` seconds."""
        await self._until(lambda: self.attempts >= n, timeout)

    async def _until(self, reached: Callable[[], bool], timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while not reached():
                self._changed.clear()
                await self._changed.wait()

    async def _offered(self) -> bool:
        """Count an attempt; while told to hang, hang. False: the sender was kept waiting, fail it."""
        self.attempts += 1
        self._changed.set()
        if not self._hanging:
            return True
        await self._released.wait()
        return False

    def _take(self, message: T) -> None:
        self.received.append(message)
        self._changed.set()


class HttpReceiver(Receiver[T]):
    """A receiver behind an aiohttp server, which fails with any HTTP status and body."""

    def __init__(self) -> None:
        super().__init__()
        self._failure: tuple[int, Any] | None = None
        self._runner: web.AppRunner | None = None
        self._tls: ssl.SSLContext | None = None
        self.delay = 0.0  # seconds between taking a message and saying so

    def fail(self, status: int, body: Any = None) -> None:
        """From now on answer every message with this HTTP status and JSON body (None: the service's own)."""
        self.accept()
        self._failure = (status, body)

    def accept(self) -> None:
        super().accept()
        self._failure = None

    async def start(self) -> None:
        await super().start()
        app = web.Application()
        self._route(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, self.port, ssl_context=self._tls)
        await site.start()

    async def stop(self) -> None:
        await super().stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _route(self, app: web.Application) -> None:
        raise NotImplementedError


# ---- Gotify


@dataclass(frozen=True, slots=True)
class GotifyMessage:
    title: str
    message: str
    priority: int


class GotifyReceiver(HttpReceiver[GotifyMessage]):
    """Gotify's POST /message, checking the token (as header X-Gotify-Key or ?token=)."""

    def __init__(self, token: str = "AbcGotifyToken1") -> None:
        super().__init__()
        self.token = token

    @property
    def url(self) -> str:
        """For Apprise."""
        return f"gotify://{LOOPBACK}:{self.port}/{self.token}"

    def _route(self, app: web.Application) -> None:
        app.router.add_post("/message", self._message)

    async def _message(self, request: web.Request) -> web.Response:
        well = await self._offered()
        if not well:
            return _gotify_error(503, "was kept waiting")
        if self._failure is not None:
            status, body = self._failure
            return _gotify_error(status, "as told") if body is None else web.json_response(body, status=status)
        if self.token not in (request.headers.get("X-Gotify-Key"), request.query.get("token")):
            return _gotify_error(401, "you need to provide a valid access token or user credentials to access this api")
        sent = await request.json()
        self._take(GotifyMessage(sent.get("title", ""), sent["message"], sent.get("priority", 0)))
        await asyncio.sleep(self.delay)
        return web.json_response({"id": len(self.received), "appid": 1} | sent)


def _gotify_error(status: int, description: str) -> web.Response:
    body = {"error": "Error", "errorCode": status, "errorDescription": description}
    return web.json_response(body, status=status)


# ---- Telegram


@dataclass(frozen=True, slots=True)
class TelegramMessage:
    chat: str
    markup: str  # as sent, in parse_mode's language
    parse_mode: str

    @property
    def text(self) -> str:
        """What a person sees: Telegram's HTML without its tags and with \\n for every line end."""
        text = self.markup
        if self.parse_mode.upper() == "HTML":
            text = html.unescape(re.sub(r"</?[a-z][^>]*>", "", text))
        return text.replace("\r\n", "\n")


class TelegramReceiver(HttpReceiver[TelegramMessage]):
    """Telegram's Bot API (getMe, sendMessage) as api.telegram.org, behind a proxy.

    `env` goes into the environment of the process that sends: a proxy that leads api.telegram.org here and
    no other name anywhere, and the certificate authority that vouches for it.
    """

    HOST = "api.telegram.org"
    LIMIT = 4096  # characters after entities parsing, https://core.telegram.org/bots/api#sendmessage

    def __init__(self, token: str = "123456789:AAbotTokenOfTheTest_x-1234567890abc", chat: str = "-1001234567") -> None:
        super().__init__()
        self.token = token
        self.chat = chat
        import trustme  # here, as aiosmtpd below: labs, where loading is slow, need neither

        authority = trustme.CA()
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(self.HOST).configure_cert(self._tls)
        self._bundle = authority.cert_pem.bytes()
        self._bundle_path: Path | None = None
        self._proxy: asyncio.Server | None = None
        self._proxy_port = 0
        self._tunnels: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For Apprise."""
        return f"tgram://{self.token}/{self.chat}"

    @property
    def env(self) -> dict[str, str]:
        """Environment variables for the sending process. Lower case, too: it wins where both are set."""
        assert self._bundle_path is not None, "not started"
        proxy = f"http://{LOOPBACK}:{self._proxy_port}"
        direct = f"{LOOPBACK},localhost"
        names = {"HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": direct, "no_proxy": direct}
        return names | {"REQUESTS_CA_BUNDLE": str(self._bundle_path)}

    def fail_flood(self, retry_after: int) -> None:
        """Answer 429 as Telegram does when a bot talks too much; retry_after in seconds."""
        self.fail(429, _telegram_error(429, f"Too Many Requests: retry after {retry_after}", retry_after))

    async def start(self) -> None:
        await super().start()
        if self._bundle_path is None:
            self._bundle_path = await asyncio.to_thread(_file_with, self._bundle)
        self._proxy = await asyncio.start_server(self._tunnel, LOOPBACK, self._proxy_port)
        self._proxy_port = self._proxy.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()
        for tunnel in self._tunnels:
            tunnel.cancel()
        await asyncio.gather(*self._tunnels, return_exceptions=True)
        await super().stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        if self._bundle_path is not None:
            await asyncio.to_thread(self._bundle_path.unlink)
            self._bundle_path = None

    def _route(self, app: web.Application) -> None:
        app.router.add_route("*", "/bot{token}/getMe", self._get_me)
        app.router.add_post("/bot{token}/sendMessage", self._send_message)

    async def _get_me(self, request: web.Request) -> web.Response:
        if request.match_info["token"] != self.token:
            return web.json_response(_telegram_error(401, "Unauthorized"), status=401)
        me = {"id": int(self.token.partition(":")[0]), "is_bot": True, "first_name": "test", "username": "test_bot"}
        return web.json_response({"ok": True, "result": me})

    async def _send_message(self, request: web.Request) -> web.Response:
        if not await self._offered():
            return web.json_response(_telegram_error(503, "was kept waiting"), status=503)
        if self._failure is not None:
            status, body = self._failure
            return web.json_response(_telegram_error(status, "as told") if body is None else body, status=status)
        if request.match_info["token"] != self.token:
            return web.json_response(_telegram_error(401, "Unauthorized"), status=401)
        sent = await request.json()
        message = TelegramMessage(str(sent["chat_id"]), sent["text"], sent.get("parse_mode", ""))
        if len(message.text) > self.LIMIT:
            return web.json_response(_telegram_error(400, "Bad Request: message is too long"), status=400)
        if message.parse_mode.upper() == "HTML" and (tag := _unknown_tag(message.markup)):
            description = f'Bad Request: can\'t parse entities: Unsupported start tag "{tag}"'
            return web.json_response(_telegram_error(400, description), status=400)
        self._take(message)
        result = {"message_id": len(self.received), "date": 0, "chat": {"id": int(message.chat)}, "text": message.text}
        return web.json_response({"ok": True, "result": result})

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the proxy: CONNECT api.telegram.org:443, then bytes both ways."""
        task = asyncio.current_task()
        assert task is not None
        self._tunnels.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                request = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
                if not request.startswith(f"CONNECT {self.HOST}:443 ".encode()):
                    writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                    await writer.drain()
                    return
                inner_reader, inner_writer = await asyncio.open_connection(LOOPBACK, self.port)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        except asyncio.CancelledError:
            writer.transport.abort()  # stopped; re-raising would only be logged by the stream's own callback
        finally:
            self._tunnels.discard(task)
            writer.close()


def _file_with(content: bytes) -> Path:
    with tempfile.NamedTemporaryFile(prefix="telegram-ca-", suffix=".pem", delete=False) as file:
        file.write(content)
    return Path(file.name)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _telegram_error(status: int, description: str, retry_after: int | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    return body if retry_after is None else body | {"parameters": {"retry_after": retry_after}}


def _unknown_tag(markup: str) -> str | None:
    """The first tag that Telegram's HTML does not have, as Telegram refuses it."""
    known = {"b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "code", "pre", "a", "span", "blockquote"}
    return next((tag for tag in re.findall(r"</?([^\s>/]*)", markup) if tag not in known), None)


# ---- SMTP


@dataclass(frozen=True, slots=True)
class Mail:
    sender: str  # of the envelope
    recipients: tuple[str, ...]
    subject: str
    body: str  # the plain text, "\n" as line end, without the one that closes a mail
    message: email.message.EmailMessage


class SmtpReceiver(Receiver[Mail]):
    """An SMTP server (aiosmtpd) that takes mail for anyone."""

    SENDER = "watcher@sender.example"
    RECIPIENT = "admin@recipient.example"

    def __init__(self) -> None:
        super().__init__()
        self._failure: tuple[str, str] | None = None
        self._server: asyncio.Server | None = None
        self._sessions: weakref.WeakSet[SMTP] = weakref.WeakSet()

    @property
    def url(self) -> str:
        """For Apprise."""
        return f"mailto://{LOOPBACK}:{self.port}/?from={self.SENDER}&to={self.RECIPIENT}"

    def fail(self, reply: str, at: str = "rcpt") -> None:
        """From now on give this reply, such as "550 5.1.1 No such user", to RCPT ("rcpt") or to the text ("data")."""
        assert at in ("rcpt", "data")
        self.accept()
        self._failure = (at, reply)

    def accept(self) -> None:
        super().accept()
        self._failure = None

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()

        from aiosmtpd.smtp import SMTP

        def session() -> SMTP:
            # A host name of its own, because aiosmtpd else asks the resolver, which blocks.
            protocol = SMTP(self, hostname="smtp.test", enable_SMTPUTF8=True, loop=loop)
            self._sessions.add(protocol)
            return protocol

        self._server = await loop.create_server(session, LOOPBACK, self.port)

    async def stop(self) -> None:
        await super().stop()
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for session in list(self._sessions):
            if session.transport is not None:
                session.transport.close()
        await asyncio.sleep(0)  # the sessions' tasks see their end

    # aiosmtpd calls these by name

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._failure is not None and self._failure[0] == "rcpt":
            self.attempts += 1
            self._changed.set()
            return self._failure[1]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if not await self._offered():
            return "451 4.3.0 was kept waiting"
        if self._failure is not None:
            return self._failure[1]
        assert isinstance(envelope.content, bytes)
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(parsed, email.message.EmailMessage)
        plain = parsed.get_body(preferencelist=("plain",))
        body = "" if plain is None else str(plain.get_content()).replace("\r\n", "\n").removesuffix("\n")
        self._take(Mail(envelope.mail_from or "", tuple(envelope.rcpt_tos), str(parsed["Subject"]), body, parsed))
        return "250 OK"
