"""The commands `status`, `history`, `probe`, `channels` and `health`: what they ask the service, and show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from time import monotonic, sleep  # noqa: TID251  # no loop runs in these commands
from typing import TYPE_CHECKING, Any

from watcher.control import Answer, NoAnswer, Say, Unreachable, ask, follow, listed, quoted
from watcher.core.wording import count, duration, name, past_words, place_in_full, printable
from watcher.model import Cause, Place, Usage
from watcher.output import CRITICAL, OK, WARNING, Row, console, status_words, table_of, why
from watcher.printing import mute_stdout, nobody_reads, reader_may_go, verdict_stands

if TYPE_CHECKING:
    from watcher.core.explain import Address

PROBE_LIMIT = 330.0  # seconds for a probe to come back: the longest timeout that can be set, and some
PROBE_POLL = 0.1  # seconds

Entry = dict[str, Any]


# ---- status


def status(path: str, *, as_json: bool, say: Say) -> int:
    """0 all ok, 1 warnings, 2 something stale or missing."""
    answer = ask(path, "GET", "mounts").or_refuse()
    entries = listed(answer, "mounts")
    with verdict_stands():
        if as_json:
            say(json.dumps(answer, indent=2))
        else:
            _print_table(answer, entries)
    return exit_code(entries)


def _print_table(answer: Any, entries: Sequence[Entry]) -> None:
    screen = console()
    if entries:
        screen.print(table_of(map(_row, entries)))
        screen.print()
    screen.print(_line(answer), markup=False)


def watch(path: str, *, as_json: bool, say: Say) -> int:
    """The same, going on until interrupted, or nobody reads on. Raises Unreachable when the service ends."""
    try:
        if as_json:
            for kind, data in follow(path):
                say(json.dumps({"event": kind, **data}))
        elif (screen := console()).is_terminal and not screen.is_dumb_terminal:
            _watch_on_terminal(path)
        else:
            _watch_in_lines(path, say)
    except (KeyboardInterrupt, BrokenPipeError):
        mute_stdout()
        return OK  # how this ends
    raise Unreachable("the service has ended")


def _watch_on_terminal(path: str) -> None:
    """The table, drawn anew."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=console(), auto_refresh=False, screen=True, vertical_overflow="ellipsis") as live:
        for kind, _ in follow(path):
            if kind == "change":
                continue  # a summary comes after it, and but one after hundreds
            answer = ask(path, "GET", "mounts").or_refuse()
            head = Text(f"{_time(answer['at']):%H:%M:%S}  {_line(answer)}", style="bold")
            live.update(Group(head, Text(), table_of(map(_row, listed(answer, "mounts")))), refresh=True)


def _watch_in_lines(path: str, say: Say) -> None:
    """The table once, and a line for each change."""
    for kind, data in follow(path):
        if nobody_reads():
            raise BrokenPipeError
        if kind == "hello":
            answer = ask(path, "GET", "mounts").or_refuse()
            _print_table(answer, listed(answer, "mounts"))
        elif kind == "change":
            say(_change(data))


def exit_code(entries: Sequence[Entry]) -> int:
    """0 all ok, 1 warnings, 2 something stale or missing; what is only shown counts for nothing."""
    worst = OK
    for entry in entries:
        if entry.get("show_only"):
            continue
        if entry["status"] in ("stale", "missing"):
            return CRITICAL
        if entry["status"] == "unknown" or entry.get("unexpected_readonly"):
            worst = WARNING
    return worst


def _line(answer: Any) -> str:
    return name(str(answer.get("status", "")), 500)


def _row(entry: Entry) -> Row:
    state = "slow" if entry.get("slow") else str(entry["status"])
    only, unexpected = bool(entry.get("show_only")), bool(entry.get("unexpected_readonly"))
    total, used = entry["total_bytes"], entry["used_bytes"]
    word = status_words(state, unexpected_readonly=unexpected, show_only=only)
    return Row(
        state,
        f"{word} (silenced)" if entry.get("silenced") else word,
        place_in_full(str(entry["namespace"]), str(entry["target"]), str(entry["lxc_name"] or "")),
        printable(str(entry["source"])),
        printable(str(entry["fstype"])),
        Usage(total, used, entry["available_bytes"] or 0) if total is not None and used is not None else None,
        entry["latency_seconds"],
        _why(entry),
    )


def _why(entry: Entry) -> str:
    try:
        cause = Cause(entry["cause"]) if entry["cause"] and entry["status"] != "missing" else None
    except ValueError:
        cause = None  # a later version's
    context = str(entry.get("context") or "")
    if written := entry.get("written_underneath"):  # of an earlier version's service there is none
        context = "; ".join(part for part in (written["text"], context) if part)
    return why(cause, str(entry["error"] or ""), entry.get("stack") or (), context, entry.get("stacked") or 1)


# ---- probe


def probe(path: str, asked: Address, say: Say) -> int:
    """0 ok, 1 a warning or not to be probed now, 2 stale or missing. Raises Unreachable if it is not watched."""
    mount = str(Place(*asked))
    answer = ask(path, "POST", f"probe?mount={quoted(mount)}")
    if answer.status == 404:
        raise Unreachable(f"{name(mount, 200)} is not watched; `watcher status` lists what is")
    if answer.status == 409 and isinstance(answer.body, dict) and isinstance(answer.body.get("mount"), dict):
        entry = answer.body["mount"]
        with verdict_stands():
            say(f"{_verdict(entry)}; cannot be probed now: {name(str(answer.body.get('detail')), 300)}")
        return max(WARNING, exit_code([entry | {"show_only": False}]))
    before = answer.or_refuse()["mount"]
    until = monotonic() + PROBE_LIMIT
    while monotonic() < until:
        [entry] = listed(ask(path, "GET", f"mounts?id={quoted(before['id'])}").or_refuse(), "mounts")
        if entry["probes"] != before["probes"]:
            with verdict_stands():
                say(_verdict(entry))
                for line in entry["advice"]:
                    say(f"  {name(str(line), 500)}")
            return exit_code([entry | {"show_only": False}])
        sleep(PROBE_POLL)
    raise NoAnswer(f"no probe came back within {PROBE_LIMIT:g} s")


def _verdict(entry: Entry) -> str:
    row = _row(entry)
    parts = [f"{row.word}: {row.where} ({row.source})"]
    if row.latency is not None:
        parts.append(f"answered in {1000 * row.latency:.1f} ms")
    return "; ".join([*parts, row.cause] if row.cause else parts)


# ---- history, channels, health


def history(path: str, since: str, limit: int, *, as_json: bool, say: Say) -> None:
    answer = ask(path, "GET", f"history?since={since}&limit={limit}").or_refuse()
    with reader_may_go():
        if as_json:
            say(json.dumps(answer, indent=2))
            return
        entries = listed(answer, "entries")
        for entry in entries:
            say(_change(entry))
        if not entries:
            say(f"nothing has changed within {since}")
        if not answer.get("complete", True):
            say("(only what this run of the service remembers: its state cannot be read)")


def _change(entry: Entry) -> str:
    words = past_words(str(entry["kind"]), str(entry["change"]))
    more = len(entry["places"]) - 1 + int(entry.get("more_places") or 0)
    place = name(str(entry["place"] or "the watcher"), 200) + (f" and {count(more, 'more place')}" if more > 0 else "")
    parts = [f"{_time(entry['at']):%Y-%m-%d %H:%M:%S}  {place}"]
    if entry["source"] and entry["place"]:
        parts[0] += f" ({name(str(entry['source']))})"
    error = f": {name(str(entry['error']), 300)}" if entry["error"] else ""
    return f"{parts[0]}  {words}{error}"


def channels(path: str, *, as_json: bool, say: Say) -> int:
    """0 all work, 1 one fails."""
    answer = ask(path, "GET", "channels").or_refuse()
    entries = listed(answer, "channels")
    with verdict_stands():
        if as_json:
            say(json.dumps(answer, indent=2))
        elif not entries:
            say("no channels: nobody is told")
        else:
            _print_channels(entries, say)
    return WARNING if any(c["state"] == "failing" for c in entries) else OK


def _print_channels(entries: Sequence[Entry], say: Say) -> None:
    rows = [("CHANNEL", "STATE", "WAITING", "LAST TOLD", "")]
    rows += [
        (
            name(str(c["name"]), 64),
            "FAILING" if c["state"] == "failing" else str(c["state"]),
            str(c["waiting"]),
            f"{_time(c['last_told']):%Y-%m-%d %H:%M:%S}" if c["last_told"] else "-",
            _trouble(c),
        )
        for c in entries
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        say("  ".join([*cells, row[4]]).rstrip())


def _trouble(channel: Entry) -> str:
    if not channel["failing_since"]:
        return ""
    text = f"since {_time(channel['failing_since']):%Y-%m-%d %H:%M:%S}: {name(str(channel['last_error'] or ''), 300)}"
    if channel["next_attempt"]:
        left = _time(channel["next_attempt"]).timestamp() - datetime.now().astimezone().timestamp()
        text += f"; tried again in {duration(left)}"
    return text


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


def health(path: str, *, as_json: bool, say: Say) -> int:
    """0 healthy, 1 not. Raises Unreachable if there is no service."""
    try:
        answer = ask(path, "GET", "health")
    except NoAnswer as e:
        answer = Answer(503, {"healthy": False, "reasons": [str(e)]})
    if answer.status not in (200, 503) or not isinstance(answer.body, dict):
        answer.or_refuse()
        raise Unreachable("the service answers nonsense")
    with verdict_stands():
        if as_json:
            say(json.dumps(answer.body, indent=2))
        elif answer.body.get("healthy"):
            say(f"healthy: {name(str(answer.body.get('status', '')), 500)}")
        else:
            for reason in answer.body.get("reasons", []):
                say(f"UNHEALTHY: {name(str(reason), 500)}")
    return 0 if answer.body.get("healthy") is True else 1
