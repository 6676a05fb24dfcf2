"""What a text in the configuration may be, and what is wrong with one: patterns, paths, names and URLs.

Each gives what to write instead, or None for a text that is as it should be. Looks at the text alone: whether there is
such a file or mount is for others to find. Addresses are in `addresses`.
"""

from __future__ import annotations

import re
from typing import Final

from watcher.values import scheme_of, shown

_HTTP: Final = re.compile(r"https?://[^/?#\s]+(?:[/?#]\S*)?", re.IGNORECASE)
_EXPECTED: Final = re.compile(r"(?:host:|ct:[^:/]+:)?(/.*)", re.DOTALL)
_SOCKET_PATH: Final = 107  # bytes (unix(7))


def fstype_fault(pattern: str) -> str | None:
    if "/" in pattern or ":" in pattern:
        return f"{shown(pattern)} is a path, not a file system type; mount points go into include or exclude"
    if "," in pattern or any(c.isspace() or not c.isprintable() for c in pattern):
        return f'{shown(pattern)} is not one file system type; quote each by itself: "nfs", "nfs4"'
    return None


def mount_fault(pattern: str) -> str | None:
    if "\0" in pattern:
        return "holds a NUL character, which no path does; remove it"
    if pattern == "server:":
        return '"server:" names no server; write such as "server:nas01"'
    if not pattern.startswith(("/", "*", "?", "[", "host:", "ct:", "server:")):
        hint = ' (a server is written "server:nas01")' if ":" in pattern or "/" not in pattern else ""
        return f'{shown(pattern)} matches no mount; mount points begin with "/", as in "/mnt/*"{hint}'
    return None


def expected_fault(text: str) -> str | None:
    where = _EXPECTED.fullmatch(text)
    if "\0" in text or where is None or ".." in where[1].split("/"):
        return f'{shown(text)} is no mount point; write one such as "/mnt/nas", or "ct:101:/data" for a container\'s'
    return None


def source_fault(source: str) -> str | None:
    return None if "\0" not in source else "holds a NUL character, which no source does; remove it"


def show_only_fault(pattern: str) -> str | None:
    return mount_fault(pattern) if pattern.startswith("/") or ":" in pattern else fstype_fault(pattern)


def path_fault(path: str) -> str | None:
    if "\0" in path:
        return "holds a NUL character, which no path does; remove it"
    return None if path.startswith("/") else 'must be an absolute path; begin it with "/" ("~" is not expanded)'


def name_fault(name: str) -> str | None:
    if "://" in name:
        return 'is a URL; write a name of your own, such as "admin-telegram", and the URL under url'
    if len(name) > 64:
        return f"has {len(name)} characters; write at most 64"
    if not name.isprintable() or name != name.strip():
        return "has control characters or blanks around it; write printable characters only"
    return None


def url_fault(url: str) -> str | None:
    return None if scheme_of(url) else 'is not a URL on one line; write one as Apprise takes it, such as "tgram://…"'


def http_fault(url: str) -> str | None:
    return None if _HTTP.fullmatch(url) and url.isprintable() else 'is not a web address; write "https://…"'


def socket_fault(path: str) -> str | None:
    if wrong := path_fault(path):
        return wrong
    length = len(path.encode("utf-8", "surrogateescape"))
    return f"has {length} bytes; a socket's path has {_SOCKET_PATH} at most" if length > _SOCKET_PATH else None


def credential_fault(name: str) -> str | None:
    if "/" in name or ":" in name or not name.isprintable() or name in (".", "..") or len(name) > 255:
        return 'must be the name given to LoadCredential=, such as "telegram"; a path goes into url_file'
    return None
