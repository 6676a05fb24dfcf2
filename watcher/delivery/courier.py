"""The courier: the child process that holds Apprise and sends what it is told to send.

A program of its own (`main`), never imported by the daemon: Apprise is heavy, blocks, and a
send that hangs cannot be cancelled, only killed with its process. Imports the standard library and, at
the first request, apprise; nothing of the project. Reads no configuration and keeps nothing on disk.

JSON lines on stdin, one JSON line on stdout for each, in order, until end of file:

    {"op": "send", "url": "…", "title": "…", "body": "…", "type": "failure|success|warning|info"}
        -> {"ok": true, "error": "", "retry_after": null, "seconds": 0.41}
    {"op": "check", "url": "…"}        (no network)
        -> {"ok": true, "error": "", "service": "Telegram"}
    anything else
        -> {"ok": false, "error": "what is wrong with it"}

`error` is one line of at most 300 characters without any secret of the URL; `retry_after` and `seconds`
are seconds. `ok: false` for a URL with several targets means that at least one of them failed.
"""

from __future__ import annotations

import gc
import html
import json
import logging
import os
import re
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apprise import NotifyBase

ERROR_LENGTH = 300
NO_REASON = "Apprise gave no reason"
MASK = "***"
TYPES = ("failure", "success", "warning", "info")

# "retry after 7", "Retry-After: 7", "retry_after":7, 'retry_after': 0.5
RETRY_AFTER = re.compile(r"retry[ _-]?after\W{0,4}(\d{1,9}(?:\.\d{1,6})?)", re.IGNORECASE)

# Apprise's words for what it logs at DEBUG only. Records of that level also hold tokens and payloads,
# so no other is looked at, and of these only what the patterns below take out.
SOCKET_DETAIL = "Socket Exception"
RESPONSE_DETAIL = "Response Details"

SMTP_REPLY = re.compile(r"""\((\d{3}), b(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""")
CAUSES = (
    re.compile(r"(certificate verify failed: [a-zA-Z ]+)"),
    re.compile(r"\[Errno -?\d+\] ([A-Z][a-zA-Z ]+)"),
    re.compile(r"\b(timed out)\b"),
    re.compile(r"(closed connection without response|Connection unexpectedly closed|Connection aborted)"),
)

# Query keys whose values are settings in words such as "no" or "text", which must stay readable.
COMMON_SETTINGS = {"cto", "emojis", "format", "overflow", "redirect", "retry", "rto", "store", "tz", "verify", "wait"}
SETTINGS = COMMON_SETTINGS | {"image", "method", "mode", "port", "preview", "priority", "silent", "smtp"}
ANY_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://(\S*)", re.IGNORECASE)


# ---- secrets of a URL


def _forms(component: str) -> set[str]:
    """The ways in which a component of a URL may turn up in a text."""
    plain = unquote(component)
    spaced = unquote_plus(component)
    forms = {component, plain, spaced, plain.strip("@#+&=~"), quote(plain, safe=""), quote_plus(spaced)}
    forms |= {repr(plain)[1:-1], json.dumps(plain)[1:-1]}
    return {form for form in forms if form.strip()}


def secrets_of(url: str, *, host_too: bool) -> set[str]:
    """All that may be secret in one Apprise URL: user, password, what stands in path, query and fragment.

    host_too: what stands before the first slash is no host name: in tgram:// it is the token.
    Parsed by hand, because urlsplit raises for what Apprise accepts.
    """
    _, _, rest = url.strip().partition("://")
    location, _, query = rest.partition("?")
    authority, _, path = location.partition("/")
    user_info, _, host = authority.rpartition("@")
    components = [user_info, *user_info.split(":", 1), *re.split(r"[/#]", path), path]
    if host_too:
        components += [authority, host, *host.split(":")]
    for pair in re.split(r"[&?#]", query):
        key, separator, value = pair.partition("=")
        if key.lower().lstrip("+-:") not in SETTINGS:
            components.append(value if separator else key)
    found: set[str] = set()
    for component in components:
        # one component may hold several: a@x,b@y or 123456:token
        for part in (component, *re.split(r"[:,;\s]+", unquote(component))):
            found |= _forms(part)
    return found


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Text with each of the secrets, and the whole of any URL but http's host, masked."""
    for secret in sorted(secrets, key=len, reverse=True):
        pattern = re.escape(secret)
        if len(secret) < 4:  # as part of a word it would be chance
            pattern = rf"(?<!\w){pattern}(?!\w)"
        text = re.sub(pattern, MASK, text, flags=re.IGNORECASE if len(secret) >= 8 else 0)

    def without_path(match: re.Match[str]) -> str:
        scheme, rest = match[1], match[2]
        host = rest.rpartition("@")[2].split("/")[0] if scheme.lower() in ("http", "https") else ""
        return f"{scheme}://{host}/{MASK}" if host else f"{scheme}://{MASK}"

    return ANY_URL.sub(without_path, text)


def one_line(text: str) -> str:
    """Text on one line, control characters escaped, cut to what an answer may hold."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return text if len(text) <= ERROR_LENGTH else text[: ERROR_LENGTH - 1] + "…"


# ---- why a send failed


class FailureLog(logging.Handler):
    """Collects why Apprise failed. Nothing it sees at DEBUG is kept but the cause and the time to wait."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.causes: list[str] = []
        self.retry_after: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno in (logging.WARNING, logging.ERROR, logging.CRITICAL):
            self.texts.append(text)
        elif record.levelno != logging.DEBUG or not text.startswith((SOCKET_DETAIL, RESPONSE_DETAIL)):
            return
        elif text.startswith(SOCKET_DETAIL):
            self.causes += causes_in(text)
        for seconds in RETRY_AFTER.findall(text):
            self.retry_after = max(float(seconds), self.retry_after or 0.0)

    def reason(self) -> str:
        """What is known of the failure, not yet scrubbed."""
        # "Verification Failed., error=401." and ": , error=502.": Apprise's own sentence around a table's
        texts = [text.strip().rstrip(".").replace("., ", ", ").replace(": , ", ": ") for text in self.texts]
        texts = list(dict.fromkeys(text for text in texts if text))
        causes = [cause for cause in dict.fromkeys(self.causes) if not any(cause in text for text in texts)]
        if not texts:
            return "; ".join(causes) or NO_REASON
        return "; ".join(texts) + (f" ({'; '.join(causes)})" if causes else "")


def causes_in(detail: str) -> list[str]:
    """The useful part of an exception's text: an SMTP server's replies, else an error of network or TLS."""
    if replies := SMTP_REPLY.findall(detail):
        return [f"{code} {single or double}" for code, single, double in replies]
    for pattern in CAUSES:
        if match := pattern.search(detail):
            return [match[1].strip()]
    return []


# ---- Apprise


class NotTaken(Exception):
    """A URL with which Apprise can do nothing; the text says why."""


def split_urls(text: str) -> list[str]:
    """One channel's URL may be several, separated as Apprise separates them."""
    return re.split(r"[\s,;]+(?=[a-zA-Z0-9]{1,32}://)", text.strip(" \t\r\n,;"))


def load_services(urls: list[str]) -> None:
    """Have Apprise load the services of these URLs alone: all of them, 140, cost twice the time and the memory.

    It imports the modules that a directory lists: here those in whose source a schema stands as a word. Where that does
    not find every service (a web hook's own address, modules without source, no room for the directory), it loads
    all, as it does by itself.
    """
    from apprise.plugins import N_MGR

    wanted = {url.partition("://")[0].lower() for url in urls}
    try:
        if wanted.isdisjoint(("http", "https")) and (new := _modules_with(wanted) - _loaded):
            _loaded.update(new)
            with tempfile.TemporaryDirectory(prefix="mountwatch-") as listing:
                for name in new:
                    os.mkdir(os.path.join(listing, name))
                N_MGR.load_modules(path=listing)  # type: ignore[no-untyped-call]
    except OSError:
        pass
    if _loaded and not all(schema in N_MGR for schema in wanted):
        _loaded.clear()
        N_MGR.unload_modules()  # type: ignore[no-untyped-call]


_loaded: set[str] = set()


def _modules_with(schemas: set[str]) -> set[str]:
    """The names of Apprise's modules of services that name one of these schemas."""
    import apprise.plugins

    words = [quote + schema.encode("utf-8", "replace") + quote for schema in schemas for quote in (b'"', b"'")]
    found = set()
    [where] = apprise.plugins.__path__
    for directory, _, files in os.walk(where):
        for path in (os.path.join(directory, name) for name in files if name.endswith(".py")):
            with open(path, "rb") as source:
                text = source.read()
            if any(word in text for word in words):
                found.add(os.path.relpath(path, where).split(os.sep)[0].removesuffix(".py"))
    return found


def names_host(url: str) -> bool:
    """Whether a host name stands in the URL's first part. NotTaken if no service has its scheme."""
    from apprise.plugins import N_MGR

    schema, separator, _ = url.partition("://")
    if not separator:
        raise NotTaken("not a URL: no scheme:// in it")
    schema = schema.lower()
    if schema in N_MGR:
        return any("{host}" in template for template in N_MGR[schema].templates)
    if schema in ("http", "https"):  # a service's own web hook address, which Apprise knows to take
        return True
    raise NotTaken(f"Apprise knows no service {schema}://")


def addressed_to(urls: list[str]) -> list[NotifyBase]:
    """A fresh target for each of these URLs; one that Apprise does not take is left out (the log says why).

    Fresh for each message: a used one sleeps for 5.5 s before its next mail.
    """
    import apprise
    from apprise.common import OverflowMode, PersistentStoreMode

    asset = apprise.AppriseAsset(storage_mode=PersistentStoreMode.MEMORY)
    targets: list[NotifyBase] = []
    for url in urls:
        target = apprise.Apprise.instantiate(url, asset=asset)
        if target is None:
            continue
        if not re.search(r"[?&]overflow=", url, re.IGNORECASE):
            target.overflow_mode = OverflowMode.SPLIT  # the default hands on what the service then rejects or cuts
        targets.append(target)
    return targets


def in_parts(text: str, room: int) -> list[str]:
    """Text cut at line ends, each part of at most `room` characters as HTML. A longer line stays whole."""
    parts: list[str] = []
    free = 0
    for line in text.splitlines(keepends=True):
        size = len(html.escape(line)) + 5 * line.count(" ") + 5  # as Apprise 1.9 writes it: &nbsp; and <br/>
        if not parts or size > free:
            parts.append("")
            free = room
        parts[-1] += line
        free -= size
    return parts or [""]


def notify(target: NotifyBase, title: str, body: str, kind: str) -> bool:
    """Send to one target; in several parts where its service takes no more at once.

    Apprise splits by itself, but within lines, and 1.9 even within its own HTML tags: Telegram then refuses
    the second part, after it has shown the first, at every attempt. So what becomes HTML is split before.
    """
    import apprise
    from apprise.common import OverflowMode

    parts = [body]
    formats: Any = target.notify_format  # one of them; from 2.0 on also a tuple to choose from
    html_too = apprise.NotifyFormat.HTML in (formats if isinstance(formats, tuple) else (formats,))
    if html_too and target.overflow_mode == OverflowMode.SPLIT:
        room = target.body_maxlen - len(html.escape(title)) - 50  # 50: the title's own tags
        parts = [part for part in in_parts(body, room) if part.strip()] or [""]
    sending = apprise.Apprise(asset=target.asset)
    sending.add(target)
    return all(
        sending.notify(
            body=part,
            title=title if number == 0 or target.title_maxlen > 0 else "",
            notify_type=getattr(apprise.NotifyType, kind.upper()),
            body_format=apprise.NotifyFormat.TEXT,
        )
        for number, part in enumerate(parts)
    )


def deliver(op: str, url: str, title: str, body: str, kind: str) -> dict[str, Any]:
    """Check a URL or send to it, and say what came of it. Failures are data."""
    started = time.monotonic()
    log = FailureLog()
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # to nobody else: what it says at DEBUG holds tokens
    logger.addHandler(log)
    urls = split_urls(url)
    # The host, too, until it is known to be one.
    secrets = set().union(*(secrets_of(one, host_too=True) for one in urls))
    services: list[str] = []
    ok, error = False, ""
    try:
        load_services(urls)
        secrets = set().union(*(secrets_of(one, host_too=not names_host(one)) for one in urls))
        targets = addressed_to(urls)
        services = [str(target.service_name) for target in targets]
        # Nothing is sent before all targets are accepted: else each new attempt would tell the good ones again.
        ok = len(targets) == len(urls)
        if ok and op == "send":
            delivered = [notify(target, title, body, kind) for target in targets]  # the others, too, if one fails
            ok = all(delivered)
        if not ok:
            error = log.reason()
    except NotTaken as reason:
        ok, error = False, str(reason)
    except (Exception, SystemExit) as broken:  # whatever a plugin does, the answer is a line
        ok, error = False, f"{type(broken).__name__}: {broken}"
    finally:
        logger.removeHandler(log)
    answer: dict[str, Any] = {"ok": ok, "error": "" if ok else one_line(scrub(error, secrets))}
    if op == "check":
        return answer | {"service": ", ".join(dict.fromkeys(services))}
    retry_after = None if ok else log.retry_after
    return answer | {"retry_after": retry_after, "seconds": round(time.monotonic() - started, 3)}


# ---- the conversation


def answer_to(line: bytes) -> dict[str, Any]:
    """The answer to one line of a request."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {"ok": False, "error": "not a line of JSON"}
    if not isinstance(request, dict):
        return {"ok": False, "error": "not a JSON object"}
    op = request.get("op")
    if op not in ("send", "check"):
        return {"ok": False, "error": "op is neither send nor check"}
    wanted = ("url", "title", "body", "type") if op == "send" else ("url",)
    for key in wanted:
        if not isinstance(request.get(key), str):
            return {"ok": False, "error": f"{key} is missing or no text"}
    if op == "send" and request["type"] not in TYPES:
        return {"ok": False, "error": f"type is none of {', '.join(TYPES)}"}
    # A lone surrogate (a name that is no UTF-8) cannot be sent: show it instead of failing.
    title, body = (request.get(key, "").encode("utf-8", "backslashreplace").decode() for key in ("title", "body"))
    return deliver(op, request["url"], title, body, request.get("type", "info"))


def end_when_unread(answers: int) -> None:
    """End this process as soon as nobody can read its answers: the parent has died or given us up.

    A send that hangs sees neither that nor the end of stdin.
    """
    unread = select.poll()
    unread.register(answers, 0)  # POLLERR and POLLHUP are always reported
    unread.poll()
    os._exit(1)


def main() -> None:
    """Answer requests until end of file."""
    gc.set_threshold(100_000)  # what is loaded for one queue stays until its end: to search it for garbage is lost time
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to act upon
    answers = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints must not look like an answer
    logging.getLogger().addHandler(logging.NullHandler())  # else warnings of urllib3 go to stderr
    warnings.simplefilter("ignore")
    threading.Thread(target=end_when_unread, args=(answers,), daemon=True).start()
    try:
        for line in sys.stdin.buffer:
            data = json.dumps(answer_to(line)).encode("ascii") + b"\n"
            while data:
                data = data[os.write(answers, data) :]
    except BrokenPipeError:
        os._exit(1)
    os._exit(0)  # not sys.exit: that waits for Apprise's threads, of which one may hang for ever
