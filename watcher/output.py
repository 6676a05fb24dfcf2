"""What one pass found, as JSON, as a table and as an exit code. Writes nothing itself."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from watcher.core.filters import server_of
from watcher.core.wording import CAUSES, cause_words, count, is_lossy, name, place_name, printable, size
from watcher.model import HOST, Kind, MountState
from watcher.once import Findings

if TYPE_CHECKING:
    from rich.table import Table

OK, WARNING, CRITICAL = 0, 1, 2

# Worst first; also the words that people read.
_WORDS = {
    "stale": "STALE",
    "missing": "NOT MOUNTED",
    "unknown": "unknown",
    "slow": "slow",
    "readonly": "read-only",
    "denied": "not checkable",
    "ok": "ok",
}
_RANK = {status: rank for rank, status in enumerate(_WORDS)}
_STYLES = {"stale": "bold red", "missing": "bold red", "unknown": "yellow", "slow": "yellow", "ok": "green"}
_JSON_STATUSES = ("ok", "readonly", "denied", "stale", "missing", "unknown")


def exit_code(findings: Findings) -> int:
    """0 all ok, 1 warnings, 2 something stale or missing, or a --path that matches no mount."""
    if findings.unmatched:
        return CRITICAL
    worst = OK
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
    mounts = [_entry(state, findings) for state in worst_first(findings.states)]
    summary = {"total": len(mounts)} | {s: sum(m["status"] == s for m in mounts) for s in _JSON_STATUSES}
    return {
        "host": host,
        "checked_at": _utc(findings.checked_at),
        "duration_seconds": round(findings.duration, 3),
        "summary": summary,
        "mounts": mounts,
    }


def _entry(state: MountState, findings: Findings) -> dict[str, Any]:
    mount, usage = state.mount, state.usage
    status = "unknown" if state.status == "slow" else state.status
    reachable = {"ok": True, "readonly": True, "stale": False, "missing": False}.get(status)
    lxc = state.place.namespace.removeprefix("ct:") if state.place.namespace != HOST else None
    entry: dict[str, Any] = {
        "namespace": state.place.namespace,
        "source": printable(mount.source),
        "target": printable(mount.mount_point),
        "fstype": printable(mount.fstype),
        "options": printable(",".join(dict.fromkeys(f"{mount.options},{mount.super_options}".split(",")))),
        "readonly": state.readonly,
        "status": status,
        "reachable": reachable,
        "cause": state.cause.value if state.cause else None,
        "error": printable(state.error) or None,
        "proxmox_managed": state.place.namespace == HOST and mount.mount_point.startswith("/mnt/pve/"),
        "lxc_id": lxc,
        "lxc_name": None,
        "lxc_pid": None,
        "total_bytes": usage.total if usage else None,
        "used_bytes": usage.used if usage else None,
        "available_bytes": usage.available if usage else None,
        "usage_percent": round(100 * usage.used / usage.total, 1) if usage and usage.total else None,
        "device": mount.device,
        "root": printable(mount.root),
        "mount_id": mount.mount_id,
        "server": (lambda server: printable(server) if server else None)(server_of(mount.fstype, mount.source)),
        "latency_seconds": state.latency,
        "since": _utc(state.since + findings.clock_offset) if state.since is not None else None,
    }
    if is_lossy(mount.mount_point):
        entry["target_bytes"] = b64encode(os.fsencode(mount.mount_point)).decode("ascii")
    return entry


def _utc(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
            printable(state.place.mount_point) if state.place.namespace == HOST else place_name(state.place),
            printable(state.mount.source),
            printable(state.mount.fstype),
            size(usage.total) if usage else "-",
            f"{100 * usage.used / usage.total:.0f} %" if usage and usage.total else "-",
            f"{1000 * state.latency:.1f} ms" if state.latency is not None else "-",
            _cause(state),
        ]
        rows.add_row(Text(_status(state), style=_STYLES.get(state.status, "")), *map(Text, cells))
    return rows


def _status(state: MountState) -> str:
    word = _WORDS[state.status]
    if state.unexpected_readonly and state.status != "stale":
        word = "READ-ONLY"
    return f"{word} (shown only)" if state.show_only and state.status not in ("ok", "readonly") else word


def _cause(state: MountState) -> str:
    parts = []
    if state.cause is not None and state.cause in CAUSES:
        parts.append(cause_words(Kind.STALE, state.cause))
    if state.error:
        parts.append(printable(state.error))
    if state.stack:
        parts.append(f"hangs in {' < '.join(state.stack[:3])}")
    if state.stacked > 1:
        parts.append(f"{count(state.stacked, 'mount')} on this directory")
    return "; ".join(parts)


def summary(findings: Findings) -> str:
    """One line below the table."""
    tally = [
        f"{number} {_WORDS[status]}"
        for status in _WORDS
        if (number := sum(state.status == status for state in findings.states))
    ]
    if findings.unmatched and not findings.states:
        return "No such mount."
    if not findings.states:
        return "No remote or FUSE mounts here."
    return f"{count(len(findings.states), 'mount')}: {', '.join(tally)} ({findings.duration:.2f} s)"


def unmatched_lines(findings: Findings) -> list[str]:
    return [f"nothing is mounted at {name(glob, 200)}" for glob in findings.unmatched]
