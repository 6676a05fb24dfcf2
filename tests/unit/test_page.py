"""The page as a document: what a browser would only show on some day, on some machine."""

from __future__ import annotations

import re

from watcher.status.page import load

PAGE = load()
TEXT = PAGE.body.decode()


def test_it_is_small_and_whole() -> None:
    assert len(PAGE.body) < 60_000
    # The name of SVG is no address that anybody asks.
    assert set(re.findall(r"https?://[^\s'\"`]*", TEXT)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|srcset|action)=|url\(|@import", TEXT)


def test_names_can_become_nothing_but_text() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\(", TEXT)
    assert not re.search(r"<[^>]*\s(on\w+|style)=", TEXT)


def test_its_policy_lets_nothing_else_run() -> None:
    policy = dict(part.split(" ", 1) for part in PAGE.headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    for element in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy.pop(element))
    assert policy == {
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
