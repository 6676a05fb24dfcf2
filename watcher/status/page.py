"""The page at `/`: one document, and the policy that lets a browser run nothing but what is in it.

Knows nothing of mounts: the page asks the API for all that it shows.
"""

from __future__ import annotations

import pkgutil
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple


class Page(NamedTuple):
    """The document as it is sent."""

    body: bytes
    headers: Mapping[str, str]


def load() -> Page:
    """Read it from the package. Blocks."""
    body = pkgutil.get_data("watcher.status", "page.html")
    if body is None:
        raise FileNotFoundError("page.html")
    return Page(body, _headers(body))


def _headers(body: bytes) -> dict[str, str]:
    # In forms and frames, and as text that becomes markup, what a mount is called could do harm: all of it is off.
    policy = {
        "default-src": "'none'",
        "script-src": _only(body, "script"),
        "style-src": _only(body, "style"),
        "connect-src": "'self'",
        "img-src": "data:",  # the tab's icon, which is drawn by the state
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _only(body: bytes, element: str) -> str:
    """The source expression for the one element of this name (CSP3, 2.3.1): the hash of its text as it stands."""
    [text] = re.findall(rf"<{element}>(.*?)</{element}>".encode(), body, re.DOTALL)
    return f"'sha256-{b64encode(sha256(text).digest()).decode('ascii')}'"
