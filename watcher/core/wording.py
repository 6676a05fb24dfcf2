"""How things are named to people: printable text, durations, sizes, places, types, causes.

Everything that a person reads passes through `printable` first: names come from mount tables that
others can write to.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from watcher.core.mountinfo import option
from watcher.model import HOST, Cause, Change, Kind, Place

NAME_WIDTH = 80  # characters of a name in a message or a log line; the middle is left out
# Cc, Cf (bidirectional controls, zero width), Cs (undecodable bytes), Co, Cn, Zl, Zp: nothing a person should get raw
_UNPRINTABLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
# Chat services read these as calls to all members, whoever sent them.
_MENTION = re.compile(r"@(?=everyone|here|channel|all\b)", re.IGNORECASE)
_DIGITS = re.compile(r"([0-9]{1,18})")

CAUSES = {
    Cause.TIMEOUT: "NO ANSWER",
    Cause.STALE_HANDLE: "STALE HANDLE",
    Cause.DISCONNECTED: "FUSE PROCESS DEAD",
    Cause.IO_ERROR: "I/O ERROR",
    Cause.IMPLAUSIBLE: "IMPLAUSIBLE ANSWER",
    Cause.REFUSED: "REFUSED",
    Cause.VANISHED: "NOT MOUNTED",
    Cause.ERROR: "ERROR",
}

# Of what is still mounted (core.reasons has how these errors begin).
_LOST = {"its disk is gone": "DISK GONE", "its ZFS pool": "POOL SUSPENDED"}


def printable(text: str) -> str:
    """Text without control characters: each stands as \\xNN, \\uNNNN or \\n; a backslash stays as it is."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[char]
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def is_lossy(path: str) -> bool:
    """Whether `printable` changes it, so that the bytes must stand beside it."""
    return printable(path) != path


def shorten(text: str, width: int = NAME_WIDTH) -> str:
    """At most `width` characters; what is left out is the middle, since both ends of a path tell most."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def name(text: str, width: int = NAME_WIDTH) -> str:
    """A name from outside, fit for a message."""
    return _MENTION.sub("@\u2060", shorten(printable(text), width))


def container_name(namespace: str, container: str = "") -> str:
    """ "CT 105 arr" of "ct:105" and its name."""
    number = name(namespace.removeprefix("ct:"), 30)
    return " ".join(part for part in ("CT", number, name(container, 30)) if part)


def place_name(place: Place, container: str = "") -> str:
    """ "/mnt/nas" on the host, "CT 105 arr /data" in a container."""
    mount_point = name(place.mount_point)
    return mount_point if place.namespace == HOST else f"{container_name(place.namespace, container)} {mount_point}"


def place_in_full(namespace: str, mount_point: str, container: str = "") -> str:
    """The same with nothing left out, as who has asked for it sees it."""
    where = printable(mount_point)
    return where if namespace == HOST else f"{container_name(namespace, container)} {where}"


@lru_cache(4096)  # a list of a thousand is sorted again and again while they fail
def place_order(place: Place) -> tuple[bool, tuple[str | int, ...]]:
    """A key to sort by: the host's first, and in the order in which people count."""
    # Digits stand at odd positions, so that like is compared with like.
    parts = _DIGITS.split(f"{place.namespace}:{place.mount_point}")
    return place.namespace != HOST, tuple(int(p) if n % 2 else p for n, p in enumerate(parts))


def first_place(places: Iterable[Place]) -> Place:
    """The one that stands for all of them, of which there is one at least."""
    return min(places, key=place_order)


def cause_words(kind: Kind, cause: Cause | None, error: str = "") -> str:
    """The words in capitals for what is wrong."""
    if kind is Kind.READONLY:
        return "READ-ONLY"
    if kind is Kind.VANISHED and error.startswith(tuple(_LOST)):
        return next(words for start, words in _LOST.items() if error.startswith(start))
    if kind in (Kind.VANISHED, Kind.MISSING):
        return CAUSES[Cause.VANISHED]
    if kind is Kind.FULL:
        return error.partition(":")[0].upper() or "FULL"  # "93 % full: 4.1 GiB of 58.0 GiB left"
    if cause is Cause.ERROR and error:
        return f"ERROR {error}"
    return CAUSES[cause] if cause else "STALE"


def duration(seconds: float) -> str:
    """In words: "45 s", "43 min", "3 h 5 min", "2 d 4 h"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def size(count: int) -> str:
    """Bytes in binary units with three figures: "1.82 TiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 999.5 or unit == "PiB":
            digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
        value /= 1024
    raise AssertionError


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def describe_type(fstype: str, options: str) -> str:
    """ "NFS 4.2 hard", "SMB 3.1.1", "fuse.sshfs"."""
    if fstype in ("nfs", "nfs4"):
        version = option(options, "vers") or ""
        firmness = next((w for w in ("softerr", "soft", "hard") if option(options, w) is not None), "")
        return name(" ".join(part for part in ("NFS", version, firmness) if part))
    if fstype in ("cifs", "smb3"):
        return name(f"SMB {option(options, 'vers') or ''}".strip())
    return name(fstype)


_PAST = {
    (Kind.STALE, Change.BEGAN): "stale",
    (Kind.STALE, Change.RESUMED): "still stale when the service started",
    (Kind.STALE, Change.ENDED): "ok again",
    (Kind.READONLY, Change.BEGAN): "read-only",
    (Kind.READONLY, Change.ENDED): "writable again",
    (Kind.VANISHED, Change.BEGAN): "not mounted",
    (Kind.VANISHED, Change.ENDED): "mounted again",
    (Kind.MISSING, Change.BEGAN): "not mounted",
    (Kind.MISSING, Change.ENDED): "mounted",
    (Kind.FULL, Change.BEGAN): "full",
    (Kind.FULL, Change.ENDED): "no longer full",
}
_ANY = {
    Change.GONE: "gone",
    Change.JOINED: "seen in more places, or more is known",
    Change.LEFT: "no longer mounted in some of its places",
    Change.REMOUNTED: "remounted, and answers",
    Change.RESUMED: "as before when the service started",
}


def past_words(kind: str, change: str) -> str:
    """What an entry of the history says, for people."""
    try:
        key = Kind(kind), Change(change)
    except ValueError:
        return f"{kind} {change}"  # a later version's
    return _PAST.get(key) or _ANY.get(key[1]) or f"{kind} {change}"
