"""A mount's state as JSON: the entry of `--once --json`, of the service's answers and of `explain`.

Values only. Names stand as `wording.printable` has them, with the bytes beside them where that changes them.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from watcher.core.filters import server_of
from watcher.core.times import utc
from watcher.core.wording import is_lossy, printable
from watcher.model import HOST, Container, Mount, MountState, Place, Usage

WORST_FIRST = ("stale", "missing", "unknown", "slow", "readonly", "denied", "ok")
_RANK = {status: rank for rank, status in enumerate(WORST_FIRST)}


def worst_first(states: Iterable[MountState]) -> list[MountState]:
    return sorted(states, key=lambda s: (_RANK[s.status], s.place))


def mount_entry(state: MountState, clock_offset: float) -> dict[str, Any]:
    """`clock_offset`: epoch minus monotonic seconds."""
    mount = state.mount
    status = "unknown" if state.status == "slow" else state.status
    reachable = {"ok": True, "readonly": True, "stale": False, "missing": False}.get(status)
    server = server_of(mount.fstype, mount.source)
    entry: dict[str, Any] = {
        "namespace": state.place.namespace,
        "source": printable(mount.source),
        "target": printable(mount.mount_point),
        "fstype": printable(mount.fstype),
        "options": printable(options_of(mount)),
        "readonly": state.readonly,
        "status": status,
        "reachable": reachable,
        "cause": state.cause.value if state.cause else None,
        "error": printable(state.error) or None,
        "proxmox_managed": state.place.namespace == HOST and mount.mount_point.startswith("/mnt/pve/"),
        **inside(state.place, state.container),
        **sizes(state.usage),
        "device": mount.device or None,  # of what is missing there is none
        "root": printable(mount.root),
        "mount_id": mount.mount_id or None,
        "server": printable(server) if server else None,
        "latency_seconds": state.latency,
        "since": utc(state.since + clock_offset) if state.since is not None else None,
    }
    return entry | bytes_of(mount)


def detailed_entry(state: MountState, clock_offset: float) -> dict[str, Any]:
    """The same with what explains it."""
    return mount_entry(state, clock_offset) | {
        "slow": state.status == "slow",
        "unexpected_readonly": state.unexpected_readonly,
        "show_only": state.show_only,
        "behind": printable(str(state.behind)) if state.behind is not None else None,
        "stacked": state.stacked,
        "stack": [printable(function) for function in state.stack],
        "context": printable(state.context) or None,
        "hanging_since": utc(state.wedged_since + clock_offset) if state.wedged_since is not None else None,
    }


def place_id(place: Place) -> str:
    """A name for the place that can stand in a URL, is always the same, and tells nothing: 96 bits of SHA-256."""
    digest = sha256(f"{place.namespace}\0{place.mount_point}".encode("utf-8", "surrogateescape")).digest()
    return urlsafe_b64encode(digest[:12]).decode("ascii")


def options_of(mount: Mount) -> str:
    """Of the mount and of the superblock, each once."""
    return ",".join(dict.fromkeys(mount.all_options.split(",")))


def inside(place: Place, container: Container | None) -> dict[str, Any]:
    """In which container it stands, if it does in one."""
    return {
        "lxc_id": printable(place.namespace.removeprefix("ct:")) if place.namespace != HOST else None,
        "lxc_name": printable(container.name) or None if container else None,
        "lxc_pid": container.init_pid if container else None,
    }


def sizes(usage: Usage | None) -> dict[str, Any]:
    return {
        "total_bytes": usage.total if usage else None,
        "used_bytes": usage.used if usage else None,
        "available_bytes": usage.available if usage else None,
        "usage_percent": round(100 * usage.used / usage.total, 1) if usage and usage.total else None,
    }


def bytes_of(mount: Mount) -> dict[str, str]:
    """The mount point as it is, where its text is not."""
    return target_bytes(mount.mount_point)


def target_bytes(path: str) -> dict[str, str]:
    if not is_lossy(path):
        return {}
    return {"target_bytes": b64encode(path.encode("utf-8", "surrogateescape")).decode("ascii")}
