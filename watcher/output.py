"""What one pass found, as JSON, as a table and as an exit code. Writes nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from watcher.core.entries import bytes_of, inside, mount_entry, sizes, worst_first
from watcher.core.times import utc
from watcher.core.wording import (
    CAUSES,
    cause_words,
    count,
    name,
    place_in_full,
    place_order,
    printable,
    size,
)
from watcher.model import Cause, Kind, MountState, Usage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from watcher.core.capacity import CapacityState
    from watcher.once import Findings

OK, WARNING, CRITICAL = 0, 1, 2

# The words that people read.
STATUS_WORDS = {
    "stale": "STALE",
    "missing": "NOT MOUNTED",
    "unknown": "unknown",
    "slow": "slow",
    "readonly": "read-only",
    "denied": "not checkable",
    "ok": "ok",
}
_STYLES = {"stale": "bold red", "missing": "bold red", "unknown": "yellow", "slow": "yellow", "ok": "green"}
_JSON_STATUSES = ("ok", "readonly", "denied", "stale", "missing", "unknown")


def exit_code(findings: Findings, *, capacity: bool = False) -> int:
    """0 all ok, 1 warnings, 2 something stale or missing, or a --path that matches no mount.

    A full file system is a warning to who asks for the `capacity`.
    """
    if findings.unmatched:
        return CRITICAL
    worst = WARNING if capacity and any(state.full for state in findings.capacity) else OK
    for state in findings.states:
        if state.show_only:
            continue
        if state.status in ("stale", "missing"):
            return CRITICAL
        if state.status in ("unknown", "slow") or state.unexpected_readonly:
            worst = WARNING
    return worst


# ---- JSON


def to_json(findings: Findings, host: str) -> dict[str, Any]:
    """The document of `--json`."""
    mounts = [mount_entry(state, findings.clock_offset) for state in worst_first(findings.states)]
    summary = {"total": len(mounts)} | {s: sum(m["status"] == s for m in mounts) for s in _JSON_STATUSES}
    return {
        "host": host,
        "checked_at": utc(findings.checked_at),
        "duration_seconds": round(findings.duration, 3),
        "summary": summary,
        "mounts": mounts,
        "capacity": [_capacity_entry(s) for s in sorted(findings.capacity, key=lambda s: place_order(s.place))],
        "notes": [printable(note) for note in findings.notes],
    }


def _capacity_entry(state: CapacityState) -> dict[str, Any]:
    mount = state.mount
    entry: dict[str, Any] = {
        "namespace": printable(state.place.namespace),
        **inside(state.place, state.container),
        "source": printable(mount.source),
        "target": printable(mount.mount_point),
        "fstype": printable(mount.fstype),
        "readonly": state.readonly,
        **sizes(state.usage),
        "full": state.full,
        "error": printable(state.error) or None,
        "device": mount.device,
        "root": printable(mount.root),
    }
    return entry | bytes_of(mount)


# ---- for people


class Row(NamedTuple):
    """A mount in the table; all of it is fit to be printed."""

    status: str  # as in STATUS_WORDS
    word: str
    where: str
    source: str
    fstype: str
    usage: Usage | None
    latency: float | None
    cause: str


def table(states: Sequence[MountState]) -> Table:
    """The mounts, worst first."""
    return table_of(
        Row(
            state.status,
            _status(state),
            _where(state),
            printable(state.mount.source),
            printable(state.mount.fstype),
            state.usage,
            state.latency,
            _cause(state),
        )
        for state in worst_first(states)
    )


def table_of(mounts: Iterable[Row]) -> Table:
    """The mounts in this order. Names are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("STATUS", "WHERE", "SOURCE", "TYPE"):
        rows.add_column(heading, overflow="fold")
    for heading in ("SIZE", "USED", "LATENCY"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("CAUSE", overflow="fold")
    for row in mounts:
        cells = [
            row.where,
            row.source,
            row.fstype,
            size(row.usage.total) if row.usage else "-",
            _share(row.usage),
            f"{1000 * row.latency:.1f} ms" if row.latency is not None else "-",
            row.cause,
        ]
        rows.add_row(Text(row.word, style=_STYLES.get(row.status, "")), *map(Text, cells))
    return rows


def console() -> Console:
    """Where tables are printed; who calls it deals with a reader that is gone."""
    from rich.console import Console as RichConsole

    class Console(RichConsole):
        def on_broken_pipe(self) -> None:
            raise  # rich would end the process with 1; the caller knows the verdict

    found = Console(highlight=False, soft_wrap=False)
    # A pipe has no width to fold at.
    return found if found.is_terminal else Console(highlight=False, width=2000, no_color=True)


def capacity_table(states: Sequence[CapacityState]) -> Table:
    """The file systems, the fullest first, then those of unknown size. Names are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("WHERE", "SOURCE", "TYPE"):
        rows.add_column(heading, overflow="fold")
    for heading in ("SIZE", "USED", "FREE", "USE%"):
        rows.add_column(heading, justify="right", no_wrap=True)
    explained = any(state.error for state in states)
    if explained:
        rows.add_column("CAUSE", overflow="fold")
    for state in sorted(states, key=_emptiness):
        usage = state.usage
        sizes = [size(n) for n in (usage.total, usage.used, usage.available)] if usage else ["-"] * 3
        names = [_where(state), printable(state.mount.source), printable(state.mount.fstype)]
        style = "bold yellow" if state.full else ""
        cells = [*map(Text, names + sizes), Text(_share(usage), style=style)]
        rows.add_row(*cells, *([Text(printable(state.error))] if explained else []))
    return rows


def _emptiness(state: CapacityState) -> tuple[bool, float, tuple[bool, tuple[str | int, ...]]]:
    usage = state.usage
    share = usage.used / usage.total if usage and usage.total else 0.0
    return usage is None, -share, place_order(state.place)


def _share(usage: Usage | None) -> str:
    return f"{100 * usage.used / usage.total:.0f} %" if usage and usage.total else "-"


def _where(state: MountState | CapacityState) -> str:
    return place_in_full(*state.place, state.container.name if state.container else "")


def _status(state: MountState) -> str:
    return status_words(state.status, unexpected_readonly=state.unexpected_readonly, show_only=state.show_only)


def status_words(status: str, *, unexpected_readonly: bool, show_only: bool) -> str:
    word = STATUS_WORDS.get(status, status)
    if unexpected_readonly and status != "stale":
        word = "READ-ONLY"
    return f"{word} (shown only)" if show_only and status not in ("ok", "readonly") else word


def _cause(state: MountState) -> str:
    cause = None if state.status == "missing" else state.cause  # which the status says already
    return why(cause, state.error, state.stack, state.context, state.stacked)


def why(cause: Cause | None, error: str, stack: Sequence[str], context: str, stacked: int) -> str:
    """What is wrong with a mount, on one line."""
    parts = [cause_words(Kind.STALE, cause)] if cause in CAUSES else []
    if error:
        parts.append(printable(error))
    if stack:
        parts.append(f"hangs in {' < '.join(map(printable, stack[:3]))}")
    if context:
        parts.append(printable(context))
    if stacked > 1:
        parts.append(f"{count(stacked, 'mount')} on this directory")
    return "; ".join(parts)


def summary(findings: Findings) -> str:
    """One line below the table."""
    tally = [
        f"{number} {STATUS_WORDS[status]}"
        for status in STATUS_WORDS
        if (number := sum(state.status == status for state in findings.states))
    ]
    if findings.unmatched and not findings.states:
        return "No such mount."
    if not findings.states:
        return "No remote or FUSE mounts here."
    return f"{count(len(findings.states), 'mount')}: {', '.join(tally)} ({findings.duration:.2f} s)"


def capacity_summary(findings: Findings) -> str:
    """One line below the capacity table."""
    states = findings.capacity
    full = sum(state.full for state in states)
    if not states:
        return "No file systems whose capacity is looked at."
    return count(len(states), "file system") + (f", {full} full" if full else "")


def note_lines(findings: Findings) -> list[str]:
    """What was left out."""
    return [name(note, 400) for note in findings.notes]


def unmatched_lines(findings: Findings) -> list[str]:
    return [f"nothing is mounted at {name(glob, 200)}" for glob in findings.unmatched]
