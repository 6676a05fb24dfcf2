"""Which mounts are measured each by itself, and under which names; the others are only counted.

Every series that a time-series database has ever seen is kept there for weeks, and a container can mount and unmount
under ever new names: so a container has some slots, and a slot is free again an hour after its mount has gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from watcher.core.filters import server_of
from watcher.core.wording import name, printable
from watcher.model import HOST, MountState

STATES = ("stale", "missing", "unknown", "slow", "readonly", "denied", "ok")  # worst first
MAX_INSIDE = 64  # mounts of one container
MAX_INSIDES = 4096  # of all containers
MAX_ON_HOST = 4096
FREE_AFTER = 3600.0  # seconds
LONG, SHORT = 200, 64  # characters of a path or source, and of another name

_RANK = {state: rank for rank, state in enumerate(STATES)}


class Labels(NamedTuple):
    """What names a mount for good: the same mount has the same after a restart."""

    namespace: str
    mountpoint: str
    fstype: str
    source: str
    server: str  # "" where none is known, or a container could claim whatever it likes


class Listed(NamedTuple):
    mounts: Sequence[tuple[Labels, MountState]]
    tally: Mapping[tuple[str, str], int]  # all places, by namespace and state
    unlisted: Mapping[tuple[str, str], int]  # those among them that would be listed if there was room


class Listing:
    """The slots, over time."""

    def __init__(self) -> None:
        self._slots: dict[str, dict[Labels, float]] = {}  # by namespace: when each was last seen

    def choose(self, states: Iterable[MountState], now: float) -> Listed:
        """`now`: seconds of a monotonic clock. What is only shown (never alarmed) is counted and not listed."""
        found = sorted(states, key=lambda state: _RANK.get(state.status, 0))
        on_host = {state.mount.device for state in found if state.place.namespace == HOST}
        self._free(now)
        inside = sum(len(slots) for namespace, slots in self._slots.items() if namespace != HOST)
        tally, unlisted = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        listed: dict[Labels, MountState] = {}
        for state in found:
            labels = labels_of(state, on_host)
            namespace = labels.namespace
            tally[namespace, state.status] += 1
            if state.show_only:
                continue
            slots = self._slots.setdefault(namespace, {})
            if labels in slots:
                room = labels not in listed  # two names, abridged, can look the same
            elif namespace == HOST:
                room = len(slots) < MAX_ON_HOST
            else:
                room = len(slots) < MAX_INSIDE and inside < MAX_INSIDES
                inside += room
            if not room:
                unlisted[namespace, state.status] += 1
                continue
            slots[labels] = now
            listed[labels] = state
        return Listed(list(listed.items()), tally, unlisted)

    def _free(self, now: float) -> None:
        for namespace, slots in list(self._slots.items()):
            kept = {labels: at for labels, at in slots.items() if now - at < FREE_AFTER}
            if kept:
                self._slots[namespace] = kept
            else:
                del self._slots[namespace]


def labels_of(state: MountState, on_host: Collection[str]) -> Labels:
    """`on_host`: the devices of mounts that the host has, too."""
    namespace, mount = state.place.namespace, state.mount
    # A container's own files and FUSE servers may name whatever server they like.
    hearsay = namespace != HOST and (
        not mount.device or (mount.fstype.startswith("fuse") and mount.device not in on_host)
    )
    return _labels(namespace, mount.mount_point, mount.fstype, mount.source, hearsay)


@lru_cache(2 * MAX_ON_HOST)  # the same ones at each scrape
def _labels(namespace: str, mount_point: str, fstype: str, source: str, hearsay: bool) -> Labels:
    server = None if hearsay else server_of(fstype, source)
    return Labels(
        bounded(namespace, SHORT),
        bounded(mount_point, LONG),
        bounded(fstype, SHORT),
        bounded(source, LONG),
        bounded(server or "", SHORT),
    )


def bounded(text: str, width: int) -> str:
    """Printable, and no longer than this; what is abridged ends in a mark of the whole, so that it stays apart."""
    if len(printable(text)) <= width:
        return name(text, width)
    mark = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{name(text, width - 9)}~{mark}"
