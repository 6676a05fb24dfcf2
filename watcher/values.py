"""The values of a configuration one at a time: durations, shares, times of the day, texts and lists of them.

A reader takes a value as TOML gives it and reports what is wrong; which keys there are is in `settings`, what a text
may be in `faults`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Final

from watcher.core.wording import printable
from watcher.model import Kind

Report = Callable[[str, str], None]  # (where, what is wrong and what to do)
Reader = Callable[[object, str, Report], Any]  # (value, where, report) -> value, or None after reporting

_URL: Final = re.compile(r"([A-Za-z0-9+.-]{1,32})://.", re.DOTALL)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = re.compile("".join(rf"(?:({_NUMBER.pattern}){unit})?" for unit in _UNITS))
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%")
_TOLD_ON_REQUEST: Final = tuple(kind for kind in Kind if kind is not Kind.WATCHER)  # that one always is
_TIME_OF_DAY: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})")
_SHOWN: Final = 40  # characters of a value in a message


# ---- words


def scheme_of(url: str) -> str | None:
    """ "tgram" of "tgram://token/chat"; None for what is not a URL on one line."""
    match = _URL.match(url)
    return match[1] if match and url.isprintable() and not url[-1].isspace() else None


def shown(value: str) -> str:
    """`value` for a message: quoted, on one line, of bounded length, and of a URL the scheme only."""
    if "://" in value:
        # Whoever pastes a URL into the wrong place should not find its token in the journal.
        match = _URL.search(value)
        return f'"{match[1] if match else ""}://***"'
    if len(value) > _SHOWN:
        value = value[: _SHOWN - 1] + "…"
    # A byte that is not UTF-8 as everywhere else: \\xff.
    return '"' + "".join(c if c.isprintable() else _escaped(c) for c in value) + '"'


def _escaped(char: str) -> str:
    return printable(char) if "\udc80" <= char <= "\udcff" else ascii(char)[1:-1]


def key_name(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else shown(key)


def type_of(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a section"}
    return kinds.get(type(value), "a date or time")


# ---- durations


def parse_duration(text: str) -> float:
    """Seconds of "15s", "1h30m", "500ms", to the millisecond.

    Raises ValueError, whose text says what is wrong and what to write.
    """
    if len(text) <= _SHOWN:
        if _NUMBER.fullmatch(text):
            raise ValueError(f'{text} has no unit; write "{text}s" for seconds (or ms, m, h, d)')
        if text and (match := _DURATION.fullmatch(text)):
            return round(sum(float(n) * unit for n, unit in zip(match.groups("0"), _UNITS.values(), strict=True)), 3)
        if text.startswith("-"):
            raise ValueError(f'{shown(text)} is negative; write a duration such as "10s"')
    raise ValueError(f'{shown(text)} is not a duration; write one such as "15s", "2m", "1h30m", "500ms" or "1d"')


def format_duration(seconds: float) -> str:
    """ "1h30m" of 5400.0; the inverse of `parse_duration`."""
    rest, text = round(seconds * 1000), ""
    for unit, length in _UNITS.items():
        count, rest = divmod(rest, round(length * 1000))
        text += f"{count}{unit}" if count else ""
    return text or "0s"


# ---- percentages


class Percent(float):
    """90.0 of "90%": a number that is written with its sign."""

    def __str__(self) -> str:
        return f"{float(self):g}%"


# ---- times of day


class TimeOfDay(int):
    """60 of "01:00": minutes after midnight, written as a clock shows them."""

    def __str__(self) -> str:
        return f"{self // 60:02}:{self % 60:02}"


def parse_time_of_day(text: str) -> TimeOfDay:
    """ "01:00", "23:59", and "24:00" for the end of the day. Raises ValueError, whose text says what to write."""
    match = _TIME_OF_DAY.fullmatch(text)
    minutes = int(match[1]) * 60 + int(match[2]) if match and int(match[2]) < 60 else None
    if minutes is None or minutes > 24 * 60:
        raise ValueError(f'{shown(text)} is not a time of day; write one such as "01:00" or "18:30"')
    return TimeOfDay(minutes)


# ---- readers: one value each


def time_of_day(value: object, where: str, report: Report) -> TimeOfDay | None:
    if not isinstance(value, str):
        # TOML has times of its own, with seconds; one way to write them is enough.
        report(where, f'must be a time of day, not {type_of(value)}; write one such as "01:00", with the quotes')
        return None
    try:
        return parse_time_of_day(value)
    except ValueError as error:
        report(where, str(error))
        return None


def one_of(names: Sequence[str]) -> Reader:
    """One of these words."""

    def read(value: object, where: str, report: Report) -> str | None:
        if isinstance(value, str) and value in names:
            return value
        lowered = value.lower() if isinstance(value, str) else ""
        close = [n for n in names if lowered.startswith(n)] or get_close_matches(lowered[:_SHOWN], names, 1)
        got = shown(value) if isinstance(value, str) else type_of(value)
        hint = f'; did you mean "{close[0]}"?' if close else "; write one of these"
        report(where, f"{got} is none of {', '.join(map(shown, names))}{hint}")
        return None

    return read


def percent(value: object, where: str, report: Report) -> Percent | None:
    """A share of a whole, from 1 % to 100 %."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        report(where, f'must be a percentage, not {type_of(value)}; write one such as "90%", with the quotes')
        return None
    text = str(value)
    if len(text) <= _SHOWN and _NUMBER.fullmatch(text):
        # Whoever writes 0.9 means nine tenths.
        meant = float(text) * 100 if isinstance(value, float) and value <= 1 else float(text)
        report(where, f'{text} has no "%"; write {shown(f"{meant:g}%" if 1 <= meant <= 100 else "90%")}')
        return None
    match = _PERCENT.fullmatch(text)
    if match is None:
        report(where, f'{shown(text)} is not a percentage; write one from "1%" to "100%", such as "90%"')
        return None
    share = Percent(match[1])
    if not 1 <= share <= 100:
        word, bound = ("little", "at least 1%") if share < 1 else ("much", "at most 100%")
        report(where, f"{shown(text)} is too {word}; write {bound}")
        return None
    return share


def boolean(value: object, where: str, report: Report) -> bool | None:
    if isinstance(value, bool):
        return value
    hint = ", without the quotes" if isinstance(value, str) else ""
    report(where, f"must be true or false, not {type_of(value)}; write one of them{hint}")
    return None


def duration(lowest: str, highest: str) -> Reader:
    """A duration within these bounds, as seconds."""
    low, high = parse_duration(lowest), parse_duration(highest)

    def read(value: object, where: str, report: Report) -> float | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # for the words about the missing unit
        if not isinstance(value, str):
            report(where, f'must be a duration, not {type_of(value)}; write one such as "10s", with the quotes')
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            report(where, str(error))
            return None
        if not low <= seconds <= high:
            word, bound = ("short", f"at least {lowest}") if seconds < low else ("long", f"at most {highest}")
            report(where, f"{shown(value)} is too {word}; write {bound}")
            return None
        return seconds

    return read


def string(fault: Callable[[str], str | None], *, or_empty: bool = False) -> Reader:
    """A text in which `fault` finds nothing wrong. `or_empty`: that says something, too."""

    def read(value: object, where: str, report: Report) -> str | None:
        if not isinstance(value, str):
            report(where, f"must be text, not {type_of(value)}; write it in quotes")
            return None
        if or_empty and not value:
            return value
        wrong = "is empty; write a value or leave it out" if not value.strip() else fault(value)
        if wrong:
            report(where, wrong)
        return None if wrong else value

    return read


def list_of(item: Reader, example: str, *, if_empty: str | None = None) -> Reader:
    """A list; `if_empty` says why it must not be empty."""

    def read(value: object, where: str, report: Report) -> tuple[Any, ...] | None:
        if not isinstance(value, list):
            report(where, f"must be a list, not {type_of(value)}; write it as {example}")
            return None
        if not value and if_empty:
            report(where, if_empty)
            return None
        items = tuple(item(entry, f"{where}[{n}]", report) for n, entry in enumerate(value, 1))
        return None if None in items else items

    return read


def kind(value: object, where: str, report: Report) -> Kind | None:
    for kind in _TOLD_ON_REQUEST:
        if value == kind:
            return kind
    close = get_close_matches(value, list(_TOLD_ON_REQUEST), 1) if isinstance(value, str) else []
    got = shown(value) if isinstance(value, str) else type_of(value)
    hint = f'; did you mean "{close[0]}"?' if close else "; write one of these"
    report(where, f"{got} is none of {', '.join(shown(kind) for kind in _TOLD_ON_REQUEST)}{hint}")
    return None
