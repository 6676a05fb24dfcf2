"""What one pass found, as JSON, as a table and as an exit code. Writes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from watcher.core.capacity import CapacityState
from watcher.core.entries import bytes_of, inside, mount_entry, sizes, utc
from watcher.core.wording import (
    CAUSES,
    cause_words,
    container_name,
    count,
    name,
    place_order,
    printable,
    size,
)
from watcher.model import HOST, Container, Kind, MountState, Place, Usage
from watcher.once import Findings

if TYPE_CHECKING:
    from rich.table import Table

OK, WARNING, CRITICAL = 0, 1, 2

# Worst first; also the words that people read.
STATUS_WORDS = {
    "stale": "STALE",
    "missing": "NOT MOUNTED",
    "unknown": "unknown",
    "slow": "slow",
    "readonly": "read-only",
    "denied": "not checkable",
    "ok": "ok",
}
_RANK = {status: rank for rank, status in enumerate(STATUS_WORDS)}
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


def worst_first(states: Sequence[MountState]) -> list[MountState]:
    return sorted(states, key=lambda s: (_RANK[s.status], s.place))


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


def table(states: Sequence[MountState]) -> Table:
    """The mounts, worst first. Names are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("STATUS", "WHERE", "SOURCE", "TYPE"):
        rows.add_column(heading, overflow="fold")
    for heading in ("SIZE", "USED", "LATENCY"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("CAUSE", overflow="fold")
    for state in worst_first(states):
        usage = state.usage
        cells = [
            _where(state.place, state.container),
            printable(state.mount.source),
            printable(state.mount.fstype),
            size(usage.total) if usage else "-",
            _share(usage),
            f"{1000 * state.latency:.1f} ms" if state.latency is not None else "-",
            _cause(state),
        ]
        rows.add_row(Text(_status(state), style=_STYLES.get(state.status, "")), *map(Text, cells))
    return rows


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
        names = [_where(state.place, state.container), printable(state.mount.source), printable(state.mount.fstype)]
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


def _where(place: Place, container: Container | None) -> str:
    if place.namespace == HOST:
        return printable(place.mount_point)
    inside = container_name(place.namespace, container.name if container else "")
    return f"{inside} {printable(place.mount_point)}"


def _status(state: MountState) -> str:
    word = STATUS_WORDS[state.status]
    if state.unexpected_readonly and state.status != "stale":
        word = "READ-ONLY"
    return f"{word} (shown only)" if state.show_only and state.status not in ("ok", "readonly") else word


def _cause(state: MountState) -> str:
    parts = []
    if state.cause in CAUSES and state.status != "missing":  # which the status says already
        parts.append(cause_words(Kind.STALE, state.cause))
    if state.error:
        parts.append(printable(state.error))
    if state.stack:
        parts.append(f"hangs in {' < '.join(state.stack[:3])}")
    if state.context:
        parts.append(state.context)
    if state.stacked > 1:
        parts.append(f"{count(state.stacked, 'mount')} on this directory")
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
