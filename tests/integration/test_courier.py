"""The courier as the daemon runs it: a process of its own, with Apprise unpatched, against real servers on loopback."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.receivers import GotifyReceiver, Receiver, SmtpReceiver, TelegramReceiver
from watcher.children import script_with_packages
from watcher.delivery import courier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

COMMAND = script_with_packages(courier.__file__)
LIMIT = 60  # seconds until a courier that says nothing fails its test

TITLE = "🔴 pve3: nas01 <b>NO</b> ANSWER & _*[more"
BODY = "Since 02:10; <b>nas01</b> & co, a &lt; b\nHost /mnt/pve/_nas*[01]`~ (ü, 测试)\nDo: echo 'x' \\n > y 🟢"


class Courier:
    """A courier process and all that it has ever written."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self._env = os.environ | (env or {})
        self.written = b""

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, env=self._env
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.end()

    async def line(self, line: bytes) -> dict[str, Any]:
        """The answer to one line."""
        self.stdin.write(line + b"\n")
        async with asyncio.timeout(LIMIT):
            answer = await self.stdout.readline()
        self.written += answer
        parsed = json.loads(answer)
        assert isinstance(parsed, dict)
        return parsed

    async def ask(self, **request: object) -> dict[str, Any]:
        return await self.line(json.dumps(request).encode())

    async def send(self, url: str, title: str = TITLE, body: str = BODY, type: str = "failure") -> dict[str, Any]:
        return await self.ask(op="send", url=url, title=title, body=body, type=type)

    async def end(self) -> int:
        """The exit status after the end of stdin."""
        self.stdin.close()  # communicate() leaves it open on 3.11
        async with asyncio.timeout(LIMIT):
            out, err = await self.process.communicate()
        self.written += out + err
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def telegram_and_courier() -> AsyncIterator[tuple[TelegramReceiver, Courier]]:
    async with TelegramReceiver() as telegram, Courier(telegram.env) as child:
        yield telegram, child


# ---- what arrives


async def test_gotify_receives_title_and_body_exactly() -> None:
    async with GotifyReceiver() as gotify, Courier() as child:
        answer = await child.send(gotify.url)
        [message] = await gotify.wait_for(1)
        assert (message.title, message.message) == (TITLE, BODY)
        assert answer == {"ok": True, "error": "", "retry_after": None, "seconds": answer["seconds"]}
        assert answer["seconds"] >= 0
        assert await child.end() == 0
        assert child.written.count(b"\n") == 1


async def test_mail_receives_title_and_body_exactly() -> None:
    async with SmtpReceiver() as smtp, Courier() as child:
        assert (await child.send(smtp.url))["ok"]
        [mail] = await smtp.wait_for(1)
        assert (mail.subject, mail.body) == (TITLE, BODY)
        assert (mail.sender, mail.recipients) == (smtp.SENDER, (smtp.RECIPIENT,))


async def test_telegram_receives_title_and_body_exactly() -> None:
    async with telegram_and_courier() as (telegram, child):
        assert (await child.send(telegram.url))["ok"]
        [message] = await telegram.wait_for(1)
        assert message.text == f"{TITLE}\n{BODY}"
        assert message.chat == telegram.chat


async def test_a_long_text_reaches_telegram_in_parts_and_nothing_is_lost() -> None:
    body = "".join(f"Host /mnt/pve/{i:03d} <NO ANSWER> & _*[\n" for i in range(170))
    assert len(body) > 6000
    async with telegram_and_courier() as (telegram, child):
        assert (await child.send(telegram.url, "title", body))["ok"]
        parts = [message.text for message in await telegram.wait_for(2)]
        assert [line for part in parts for line in part.splitlines()] == ["title", *body.splitlines()]


async def test_a_line_too_long_for_telegram_is_cut_but_not_lost() -> None:
    async with telegram_and_courier() as (telegram, child):
        assert (await child.send(telegram.url, "title", f"before\n{'x' * 6000}\nafter"))["ok"]
        text = "".join(message.text for message in telegram.received)
        assert "".join(text.split()) == f"titlebefore{'x' * 6000}after"
        assert len(telegram.received) > 1


async def test_a_long_mail_is_one_mail() -> None:
    body = "\n".join(["Host /mnt/pve/nas01 <NO ANSWER> & more"] * 165)
    async with SmtpReceiver() as smtp, Courier() as child:
        assert (await child.send(smtp.url, "title", body))["ok"]
        assert [mail.body for mail in smtp.received] == [body]


async def test_an_overflow_of_the_urls_own_is_left_alone() -> None:
    async with telegram_and_courier() as (telegram, child):
        assert (await child.send(f"{telegram.url}?overflow=truncate", "title", "x" * 6000))["ok"]
        assert len(telegram.received) == 1


async def test_one_url_with_several_targets_reaches_all() -> None:
    async with GotifyReceiver() as one, GotifyReceiver() as two, Courier() as child:
        assert (await child.send(f"{one.url}, {two.url}"))["ok"]
        assert len(one.received) == len(two.received) == 1


async def test_a_target_that_fails_does_not_keep_the_message_from_the_next() -> None:
    async with GotifyReceiver() as one, GotifyReceiver() as two, Courier() as child:
        one.fail(500)
        expected(await child.send(f"{one.url}, {two.url}"), "error=500")
        assert len(two.received) == 1


async def test_a_target_that_cannot_be_addressed_keeps_the_others_from_being_told_again_and_again() -> None:
    async with GotifyReceiver() as gotify, Courier() as child:
        answer = await child.send(f"{gotify.url}, nosuchservice://x")
        assert not answer["ok"]
        assert gotify.attempts == 0


async def test_several_messages_through_one_courier_arrive_in_order() -> None:
    async with SmtpReceiver() as smtp, Courier() as child:
        for title in ("first", "second", "third"):
            assert (await child.send(smtp.url, title))["ok"]
        assert [mail.subject for mail in await smtp.wait_for(3)] == ["first", "second", "third"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Apprise imports
def test_no_target_is_used_for_two_messages() -> None:
    # A used one sleeps for seconds before its next mail.
    url = "mailto://127.0.0.1/?from=a@sender.example&to=b@recipient.example"
    [one], [two] = courier.addressed_to([url]), courier.addressed_to([url])
    assert one is not two


async def test_a_name_that_is_no_utf8_is_shown_escaped() -> None:
    async with GotifyReceiver() as gotify, Courier() as child:
        assert (await child.send(gotify.url, "caf\udce9", "b"))["ok"]
        assert gotify.received[0].title == "caf\\udce9"


# ---- why not


def expected(answer: dict[str, Any], pattern: str, retry_after: float | None = None) -> None:
    assert answer["ok"] is False
    assert re.search(pattern, answer["error"]), answer
    assert answer["retry_after"] == retry_after
    assert len(answer["error"]) <= 300


async def test_gotify_failures_are_told_without_the_token() -> None:
    async with GotifyReceiver(token="AbcSecretToken9") as gotify, Courier() as child:
        gotify.fail(401)
        expected(await child.send(gotify.url), "Gotify.*error=401")
        gotify.fail(500)
        expected(await child.send(gotify.url), "Gotify.*error=500")
        gotify.fail(503, {"error": f"no room for {gotify.token}"})
        expected(await child.send(gotify.url), "Gotify.*error=503")
        gotify.fail(429)
        expected(await child.send(gotify.url), "Gotify.*error=429")
        gotify.fail(429, {"error": "Too Many Requests", "retry_after": 2.5})
        expected(await child.send(gotify.url), "Gotify.*error=429", 2.5)
        gotify.accept()
        gotify.token, right = "another", gotify.url
        expected(await child.send(right), "error=401")
        await gotify.stop()
        expected(await child.send(right), r"127\.0\.0\.1.*Connection refused")
        assert await child.end() == 0
        assert b"AbcSecretToken9" not in child.written
        assert gotify.received == []


async def test_telegram_failures_are_told_without_token_and_chat() -> None:
    async with telegram_and_courier() as (telegram, child):
        telegram.fail(401)
        expected(await child.send(telegram.url), "Telegram.*error=401")
        telegram.fail(500)
        expected(await child.send(telegram.url), "Telegram.*error=500")
        telegram.fail_flood(7)
        expected(await child.send(telegram.url), "Too Many Requests: retry after 7.*error=429", 7)
        telegram.fail(429, {"ok": False, "description": "Slow down", "parameters": {"retry_after": 11}})
        expected(await child.send(telegram.url), "Slow down.*error=429", 11)
        telegram.accept()
        expected(await child.send(f"tgram://123456789:AAsomeOtherBot_{'x' * 20}/42"), "Unauthorized")
        await telegram.stop()
        expected(await child.send(telegram.url), "Telegram.*Connection refused")
        await telegram.start()
        assert (await child.send(telegram.url))["ok"]
        assert await child.end() == 0
        for secret in (telegram.token, telegram.token.partition(":")[2], telegram.chat, "AAsomeOtherBot"):
            assert secret.encode() not in child.written


@pytest.mark.parametrize("at", ["rcpt", "data"])
async def test_mail_failures_are_told_in_the_servers_words(at: str) -> None:
    async with SmtpReceiver() as smtp, Courier() as child:
        smtp.fail("450 4.2.1 Mailbox busy, try later", at)
        expected(await child.send(smtp.url), r"450 4\.2\.1 Mailbox busy, try later")
        smtp.fail("550 5.1.1 No such user here", at)
        expected(await child.send(smtp.url), r"550 5\.1\.1 No such user here")
        smtp.fail("451 4.7.1 Greylisted, retry after 60 seconds", at)
        expected(await child.send(smtp.url), "Greylisted", 60)
        smtp.accept()
        assert (await child.send(smtp.url))["ok"]
        await smtp.stop()
        with_password = smtp.url.replace("mailto://", "mailto://someone:Secr3t%2FPass@")
        expected(await child.send(with_password), r"127\.0\.0\.1.*Connection refused")
        assert await child.end() == 0
        for secret in (b"Secr3t/Pass", b"Secr3t%2FPass", b"someone", smtp.RECIPIENT.encode()):
            assert secret not in child.written


async def test_a_message_that_speaks_of_waiting_is_not_taken_for_the_servers_wish() -> None:
    async with GotifyReceiver() as gotify, Courier() as child:
        gotify.fail(500)
        expected(await child.send(gotify.url, body="retry after 99"), "error=500")


async def test_a_certificate_nobody_vouches_for_is_named() -> None:
    without_authority = {"REQUESTS_CA_BUNDLE": ""}
    async with TelegramReceiver() as telegram, Courier(telegram.env | without_authority) as child:
        expected(await child.send(telegram.url), "certificate verify failed")
        assert await child.end() == 0
        assert telegram.token.encode() not in child.written


# ---- check


async def test_check_names_the_service_without_touching_the_network() -> None:
    async with GotifyReceiver() as gotify, Courier() as child:
        answer = await child.ask(op="check", url=gotify.url)
        assert answer == {"ok": True, "error": "", "service": "Gotify"}
        answer = await child.ask(op="check", url=f"tgram://123456789:{'a' * 35}/12315544 {gotify.url}")
        assert answer == {"ok": True, "error": "", "service": "Telegram, Gotify"}
        assert gotify.attempts == 0


async def test_only_the_services_in_question_are_loaded_and_yet_all_are_known() -> None:
    pushes, mails = "gotify://localhost/Aabcdefghijklmn", "mailto://u:p@example.org"
    hook = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    for urls, loads_all in (([pushes, mails, pushes], False), ([pushes, "nope://x", mails, hook], True)):
        async with Courier({"PYTHONPROFILEIMPORTTIME": "1"}) as child:
            services = [(await child.ask(op="check", url=url)).get("service") for url in urls]
            assert await child.end() == 0
        names = {pushes: "Gotify", mails: "E-Mail", "nope://x": "", hook: "Slack"}
        assert services == [names[url] for url in urls]
        assert b"apprise.plugins.gotify" in child.written
        assert (b"apprise.plugins.telegram" in child.written) == loads_all


@pytest.mark.parametrize(
    ("url", "secret", "reason"),
    [
        ("nosuchservice://HushHush/x", "HushHush", "nosuchservice://"),
        ("tgram://HushHush/12315544", "HushHush", "Telegram"),
        ("gotify://HushHush:pw@host.example/", "HushHush", "Gotify"),
        ("discord://HushHush", "HushHush", "Discord"),
        ("https://example.org/HushHush?x=HushHush", "HushHush", "URL"),
        ("HushHush", "HushHush", "not a URL"),
        ("file:///etc/HushHush.yml", "HushHush", "file://"),
        ("gotify://[HushHush/%00%0a", "HushHush", "URL"),
        ("", "HushHush", "not a URL"),
    ],
)
async def test_check_says_why_not_without_secrets(url: str, secret: str, reason: str) -> None:
    async with Courier() as child:
        answer = await child.ask(op="check", url=url)
        assert answer["ok"] is False
        assert answer["service"] == ""
        assert reason in answer["error"]
        assert await child.end() == 0
        assert secret.encode() not in child.written


# ---- the conversation


@pytest.mark.once
@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"op": "shout", "url": "x"}',
        b'{"op": "check"}',
        b'{"op": "check", "url": 5}',
        b'{"op": ["send"]}',
        b'{"op": "send", "url": "gotify://h/t", "title": "t", "type": "info"}',
        b'{"op": "send", "url": "gotify://h/t", "title": "t", "body": "b", "type": "loud"}',
    ],
)
async def test_a_malformed_request_is_answered_and_the_next_one_served(line: bytes) -> None:
    async with Courier() as child:
        answer = await child.line(line)
        assert answer["ok"] is False
        assert answer["error"]
        assert (await child.ask(op="check", url="gotify://host.example/token"))["ok"]
        assert await child.end() == 0
        assert b"Traceback" not in child.written


async def test_answers_are_all_that_is_written_and_nothing_is_kept(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": "", "TMPDIR": str(tmp_path)}
    async with GotifyReceiver() as gotify, SmtpReceiver() as smtp, Courier(home) as child:
        for url in (gotify.url, smtp.url, f"{gotify.url}wrong"):
            await child.send(url)
        assert await child.end() == 0
    assert [sorted(json.loads(line)) for line in child.written.splitlines()] == [
        ["error", "ok", "retry_after", "seconds"]
    ] * 3
    assert list(tmp_path.iterdir()) == []


async def test_what_apprise_imports_may_print(tmp_path: Path) -> None:
    # Apprise looks for the module of the D-Bus; this one talks and is none.
    noise = "import os\nprint('noise', flush=True)\nos.write(1, b'noise\\n')\nraise ImportError\n"
    (tmp_path / "dbus.py").write_text(noise)
    async with Courier({"PYTHONPATH": str(tmp_path)}) as child:
        assert not (await child.ask(op="check", url="dbus://"))["ok"]
        assert (await child.ask(op="check", url="gotify://host.example/token"))["service"] == "Gotify"
        assert await child.end() == 0
        assert child.written.count(b"noise") == 2


async def test_plugins_of_the_users_directory_are_not_loaded(tmp_path: Path) -> None:
    for directory in (".apprise/plugins", ".config/apprise/plugins"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "loud.py").write_text(
            "from apprise.decorators import notify\n@notify(on='loud')\ndef loud(*args, **kwargs):\n    pass\n"
        )
    async with Courier({"HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}) as child:
        assert not (await child.ask(op="check", url="loud://x"))["ok"]


# ---- a send that hangs


@pytest.mark.parametrize("receiver", [GotifyReceiver, SmtpReceiver])
async def test_a_hung_send_ends_with_the_kill(receiver: type[Receiver[Any]]) -> None:
    async with receiver() as server:
        server.hang()
        async with Courier() as child:
            url = getattr(server, "url")  # noqa: B009  # each receiver has one
            request = {"op": "send", "url": url, "title": "t", "body": "b", "type": "info"}
            child.stdin.write(json.dumps(request).encode() + b"\n")
            await server.wait_for_attempts(1)
            child.process.kill()
            assert await child.end() == -signal.SIGKILL
            assert child.written == b""
        assert server.received == []


PARENT = """
import subprocess, sys
request = sys.stdin.readline().encode()
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(request)
child.stdin.flush()
print(child.pid, flush=True)
child.wait()
"""


async def test_a_hung_send_ends_with_the_parent() -> None:
    async with GotifyReceiver() as gotify:
        gotify.hang()
        pipe = asyncio.subprocess.PIPE
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PARENT, *COMMAND, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
        assert parent.stdin is not None
        assert parent.stdout is not None
        # Apprise itself would give up after 4 s: here not before this test's limit has passed.
        request = {"op": "send", "url": f"{gotify.url}?rto=600", "title": "t", "body": "b", "type": "info"}
        parent.stdin.write(json.dumps(request).encode() + b"\n")
        pidfd = os.pidfd_open(int(await parent.stdout.readline()))
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, ended.set)
        try:
            await gotify.wait_for_attempts(1)
            assert not ended.is_set()
            parent.kill()
            await parent.communicate()
            async with asyncio.timeout(LIMIT):
                await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(pidfd)
            if not ended.is_set():
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


# ---- what is secret in a URL, and what an error text may say


@pytest.mark.parametrize(
    ("url", "text", "scrubbed"),
    [
        ("gotify://h.example/ToKen12", "POST h.example/ToKen12: refused", "POST h.example/***: refused"),
        ("gotify://h.example/a%2Fb%20c", "a/b c a%2Fb%20c a%2fb%20c", "*** *** ***"),
        ("mailto://me:p%40ss@h.example", "me p@ss p%40ss home h.example", "*** *** *** home h.example"),
        ("json://h.example/?+X-Auth=Bearer1&format=text", "Bearer1 text", "*** text"),
        ("mailto://h.example?to=a@x.example,b@y.example", "b@y.example, a@x.example", "***, ***"),
        ("gotify://h.example/x", "https://h.example/bot123/send?x=1 mailto://me", "https://h.example/*** mailto://***"),
    ],
)
def test_scrub(url: str, text: str, scrubbed: str) -> None:
    assert courier.scrub(text, courier.secrets_of(url, host_too=False)) == scrubbed


@given(password=st.text("ABCDEFGHIJ0123456789/@:%&?#+ é\n", min_size=4), host_too=st.booleans())
def test_no_form_of_a_password_survives(password: str, host_too: bool) -> None:
    if len(password.strip()) < 4 or not re.search(r"\w{4}", password):
        return
    forms = [password, quote(password, safe=""), repr(password)[1:-1], json.dumps(password)[1:-1]]
    url = f"mailto://user:{quote(password, safe='')}@h.example/"
    assert not any(form in courier.scrub(f"x={form}.", courier.secrets_of(url, host_too=host_too)) for form in forms)


@given(text=st.text("ab <&\n"), room=st.integers(0, 60))
def test_parts_keep_all_of_a_text_and_their_room(text: str, room: int) -> None:
    parts = courier.in_parts(text, room)
    assert "".join(parts) == text
    for part in parts:
        size = len(html.escape(part).replace(" ", "&nbsp;").replace("\n", "<br/>"))
        assert size <= room or part.count("\n", 0, -1) == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\r\n b\tc", "a b c"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("x" * 400, "x" * 299 + "…"),
        ("\u202e", "\\u202e"),
    ],
)
def test_an_error_is_one_printable_line(text: str, line: str) -> None:
    assert courier.one_line(text) == line


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Too Many Requests: retry after 7", 7),
        ("Retry-After: 120", 120),
        ('{"parameters":{"retry_after":35}}', 35),
        ("{'RETRY_AFTER': 0.5}", 0.5),
        ("retry later", None),
        ("retry after a while, error=429", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    log = courier.FailureLog()
    log.emit(logging.LogRecord("apprise", logging.WARNING, "", 0, text, None, None))
    assert log.retry_after == seconds


def test_a_log_that_says_nothing_is_said() -> None:
    log = courier.FailureLog()
    log.emit(logging.LogRecord("apprise", logging.DEBUG, "", 0, "Gotify Payload: retry after 5", None, None))
    log.emit(logging.LogRecord("apprise", logging.INFO, "", 0, "Sent Gotify notification.", None, None))
    assert (log.reason(), log.retry_after) == ("Apprise gave no reason", None)
