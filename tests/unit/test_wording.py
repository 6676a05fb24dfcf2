from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.core.wording import (
    NAME_WIDTH,
    cause_words,
    count,
    duration,
    is_lossy,
    name,
    place_name,
    printable,
    shorten,
    size,
)
from watcher.model import HOST, Cause, Kind, Place

TEXT = st.text(st.characters(codec=None), max_size=200)  # lone surrogates too
BYTES = st.binary(max_size=100)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("/mnt/nas", "/mnt/nas"),
        ("/mnt/Büro – Müller", "/mnt/Büro – Müller"),
        ("/mnt/日本", "/mnt/日本"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x00\x7f\x85", r"\x00\x7f\x85"),
        ("back\\slash", "back\\slash"),
        (b"\xff\xc3".decode("utf-8", "surrogateescape"), r"\xff\xc3"),
        ("\ud800", r"\ud800"),
        ("safe\u202egpj.exe", r"safe\u202egpj.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("line\u2028sep\u2029", r"line\u2028sep\u2029"),
        ("\ufeffbom", r"\ufeffbom"),
        ("\U000e0001tag", r"\U000e0001tag"),
        ("\ue000private", r"\ue000private"),
        ("", ""),
    ],
)
def test_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown
    assert is_lossy(raw) == (raw != shown)


@given(TEXT)
def test_printable_leaves_nothing_raw(raw: str) -> None:
    shown = printable(raw)
    assert not [c for c in shown if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp")]
    shown.encode("utf-8")  # no lone surrogate is left
    assert printable(shown) == shown


@given(BYTES)
def test_printable_takes_any_bytes(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    assert is_lossy(text) or printable(text).encode("utf-8") == raw


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abcdefghij", 10, "abcdefghij"),
        ("abcdefghijk", 10, "abcd…ghijk"),
        ("abcdefghijk", 9, "abcd…hijk"),
        ("/mnt/pve/a-long-way-down/to/the/share", 20, "/mnt/pve/…/the/share"),
    ],
)
def test_shorten(text: str, width: int, shown: str) -> None:
    assert shorten(text, width) == shown


@given(TEXT, st.integers(3, 300))
def test_shorten_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width
    assert short == text if len(text) <= width else (text.startswith(short[0]) and text.endswith(short[-1]))
    assert len(short) == min(len(text), width)


@pytest.mark.parametrize(
    "call", ["@everyone", "@here", "@channel", "@all", "@EVERYONE", "@everyone_", "x@everyones", "@here2"]
)
def test_name_calls_nobody(call: str) -> None:
    """Chat services look for the word anywhere, with whatever follows."""
    assert call not in name(f"/mnt/{call}")
    assert name(f"/mnt/{call}").replace("\u2060", "") == f"/mnt/{call}"


def test_name_leaves_addresses_alone() -> None:
    assert name("user@nas01:/srv") == "user@nas01:/srv"


@given(TEXT)
def test_name_is_short(text: str) -> None:
    shown = name(text)
    assert len(shown) <= NAME_WIDTH + shown.count("\u2060")
    assert "\n" not in shown


@pytest.mark.parametrize(
    ("place", "container", "shown"),
    [
        (Place(HOST, "/mnt/nas"), "", "/mnt/nas"),
        (Place("ct:105", "/data"), "arr", "CT 105 arr /data"),
        (Place("ct:105", "/data"), "", "CT 105 /data"),
        (Place("ct:105", "/a\nb"), "x\ny", r"CT 105 x\ny /a\nb"),
    ],
)
def test_place_name(place: Place, container: str, shown: str) -> None:
    assert place_name(place, container) == shown


@pytest.mark.parametrize(
    ("kind", "cause", "error", "words"),
    [
        (Kind.STALE, Cause.TIMEOUT, "", "NO ANSWER"),
        (Kind.STALE, Cause.STALE_HANDLE, "Stale file handle (ESTALE)", "STALE HANDLE"),
        (Kind.STALE, Cause.DISCONNECTED, "", "FUSE PROCESS DEAD"),
        (Kind.STALE, Cause.IO_ERROR, "", "I/O ERROR"),
        (Kind.STALE, Cause.REFUSED, "", "REFUSED"),
        (Kind.STALE, Cause.IMPLAUSIBLE, "", "IMPLAUSIBLE ANSWER"),
        (Kind.STALE, Cause.ERROR, "Host is down (EHOSTDOWN)", "ERROR Host is down (EHOSTDOWN)"),
        (Kind.STALE, Cause.ERROR, "", "ERROR"),
        (Kind.STALE, None, "", "STALE"),
        (Kind.READONLY, None, "became read-only", "READ-ONLY"),
        (Kind.VANISHED, Cause.VANISHED, "", "NOT MOUNTED"),
    ],
)
def test_cause_words(kind: Kind, cause: Cause | None, error: str, words: str) -> None:
    assert cause_words(kind, cause, error) == words


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_words(cause: Cause) -> None:
    assert cause_words(Kind.STALE, cause).isupper()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (43 * 60 + 10, "43 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (3600, "1 h"),
        (3 * 3600 + 5 * 60, "3 h 5 min"),
        (86400 - 20, "1 d"),
        (86400, "1 d"),
        (2 * 86400 + 4 * 3600, "2 d 4 h"),
        (2 * 86400 + 4 * 3600 + 59 * 60, "2 d 4 h"),
        (400 * 86400, "400 d"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(0, 1e9))
def test_duration_has_no_impossible_parts(seconds: float) -> None:
    parts = duration(seconds).split()
    limits = {"s": 60, "min": 60, "h": 24, "d": 10**6}
    assert all(int(number) < limits[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1 << 20, "1.00 MiB"),
        (int(1.82 * (1 << 40)), "1.82 TiB"),
        (int(18.2 * (1 << 40)), "18.2 TiB"),
        (int(182.4 * (1 << 40)), "182 TiB"),
        (int(9.999 * (1 << 30)), "10.0 GiB"),
        (int(99.97 * (1 << 30)), "100 GiB"),
        (5000 << 50, "5000 PiB"),
    ],
)
def test_size(number: int, words: str) -> None:
    assert size(number) == words


@given(st.integers(1000, 900 << 50))
def test_size_has_three_figures(number: int) -> None:
    assert len(size(number).split()[0].replace(".", "")) == 3


@pytest.mark.parametrize(("number", "words"), [(0, "0 mounts"), (1, "1 mount"), (2, "2 mounts")])
def test_count(number: int, words: str) -> None:
    assert count(number, "mount") == words
