"""Containers that see the disk under a mount: they were started before the host mounted it there.

Told from the tables alone: the host has a watched mount on a directory, and a container has that very
directory, of the file system underneath, bound somewhere. What it writes fills the host's disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, is_below
from watcher.core.places import superblock_of
from watcher.core.reasons import SEES_DISK
from watcher.model import (
    HOST,
    Cause,
    Change,
    Container,
    Event,
    Kind,
    Mount,
    MountState,
    NamespaceGone,
    Place,
    Reach,
    Subject,
    TableRead,
    Transition,
)

MAX_PLACES = 16  # said of one container
MAX_STOPPED = 1000


class Covered(NamedTuple):
    """A directory that a mount of the host's lies over."""

    device: str  # of the file system underneath
    path: str  # of the directory within it, as in Mount.root
    mount: Mount  # the host's


class Sight(NamedTuple):
    """A container's bind of a covered directory, or of one below it."""

    place: Place
    mount: Mount  # the container's
    over: Mount  # the host's mount that it does not see
    container: Container
    since: float = 0.0

    @property
    def error(self) -> str:
        return f"{SEES_DISK} under {self.over.source}: it was started before the host had mounted that"


def covered(mounts: Sequence[Mount], chosen: Filter) -> list[Covered]:
    """The directories of a host that visible watched mounts lie over."""
    candidates = [m for m in mounts if chosen.watches(HOST, m)]
    if not candidates:
        return []
    tree, found = Tree(mounts), []
    for mount in candidates:
        below = next(tree.ancestors(mount), None)
        # Two remote mounts on one directory: what a container has of the lower one is another matter.
        if below is None or not tree.is_visible(mount) or chosen.watches(HOST, below) or below.fstype == "autofs":
            continue
        rest = mount.mount_point if below.mount_point == "/" else mount.mount_point[len(below.mount_point) :]
        found.append(Covered(below.device, below.root.rstrip("/") + rest, mount))
    return found


def sights(table: TableRead, directories: Sequence[Covered], chosen: Filter) -> Iterator[Sight]:
    """What a container sees of these directories."""
    if table.container is None or not directories:
        return
    devices = {d.device for d in directories}
    candidates = [m for m in table.mounts if m.device in devices]
    tree = Tree(table.mounts) if candidates else None
    for mount in candidates:
        at = next((d for d in directories if d.device == mount.device and _is_within(mount.root, d.path)), None)
        if at is None or tree is None or not tree.is_visible(mount):
            continue
        # The rules for what stands there if all is well: the host's mount, in the container's place.
        meant = at.mount._replace(mount_point=mount.mount_point)
        if chosen.watches(table.namespace, meant) and not chosen.shows_only(table.namespace, meant):
            yield Sight(Place(table.namespace, mount.mount_point), mount, at.mount, table.container)


def _is_within(root: str, directory: str) -> bool:
    return root == directory or is_below(root, directory)


class Underneath:
    """Which containers see the disk under a mount, as the tables come."""

    def __init__(self, chosen: Filter) -> None:
        self._filter = chosen
        self._directories: list[Covered] = []
        self._sights: dict[Place, Sight] = {}
        self._tables: dict[str, TableRead] = {}
        self._stopped: dict[Place, Sight] = {}  # as they stood when their container was stopped
        self._rereads: set[str] = set()

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in; give what began or ended by it."""
        match event:
            case TableRead(namespace=namespace) if namespace == HOST:
                return self._host_changed(event.mounts, now)
            case TableRead():
                return self._look(event, now)
            case NamespaceGone():
                self._tables.pop(event.namespace, None)
                ended = self._of(event.namespace)
                if len(self._stopped) < MAX_STOPPED:
                    self._stopped.update((s.place, s) for s in ended)
                return self._end(ended, now, event.reason)
        return []

    def configure(self, chosen: Filter, now: float) -> list[Transition]:
        """Look by other rules from now on."""
        self._filter = chosen
        self._rereads.add(HOST)
        out = []
        for table in list(self._tables.values()):
            out += self._look(table, now, reason="no longer watched")
        return out

    def take_rereads(self) -> set[str]:
        """The namespaces whose tables are wanted, each named once."""
        wanted, self._rereads = self._rereads, set()
        return wanted

    def snapshot(self) -> list[MountState]:
        """A row for each such place."""
        return [
            MountState(
                place=sight.place,
                mount=sight.over._replace(mount_point=sight.mount.mount_point, mount_id=sight.mount.mount_id),
                reach=Reach.UNKNOWN,
                status="missing",
                cause=Cause.VANISHED,
                error=sight.error,
                since=sight.since,
                container=sight.container,
            )
            for sight in self._sights.values()
        ]

    def _host_changed(self, mounts: Sequence[Mount], now: float) -> list[Transition]:
        directories = covered(mounts, self._filter)
        if directories == self._directories:
            return []
        self._directories = directories
        # A container's table may be older than the mount, which can still arrive there by propagation: read it again.
        self._rereads.update(self._tables)
        overs = {d.mount.mount_point for d in directories}
        lost = [s for s in self._sights.values() if s.over.mount_point not in overs]
        return self._end(lost, now, "the host has unmounted it, too")

    def _look(self, table: TableRead, now: float, reason: str = "") -> list[Transition]:
        self._tables[table.namespace] = table
        seen = {s.place: s for s in list(sights(table, self._directories, self._filter))[:MAX_PLACES]}
        before = {s.place: s for s in self._of(table.namespace)}
        stopped = [s for s in self._stopped.values() if s.place.namespace == table.namespace]
        visible = _visible(table) if before or stopped else {}
        out = []
        for place, sight in before.items():
            if place not in seen:
                why = reason or ("" if _is_there(sight, visible) else "no longer bound there")
                out += self._end([sight], now, why)
        for place, sight in seen.items():
            old = before.get(place)
            self._sights[place] = sight._replace(since=old.since if old else now)
            if old is None:
                out.append(_transition(self._sights[place], Change.BEGAN, now))
        for sight in stopped:
            del self._stopped[sight.place]
            if _is_there(sight, visible):
                out.append(_transition(sight, Change.REMOUNTED, now))
        return out

    def _of(self, namespace: str) -> list[Sight]:
        return [s for s in self._sights.values() if s.place.namespace == namespace]

    def _end(self, ended: Sequence[Sight], now: float, reason: str) -> list[Transition]:
        for sight in ended:
            del self._sights[sight.place]
        change = Change.GONE if reason else Change.ENDED
        return [_transition(sight, change, now, reason) for sight in ended]


def _visible(table: TableRead) -> dict[str, Mount]:
    tree = Tree(table.mounts)
    return {m.mount_point: m for m in table.mounts if tree.is_visible(m)}


def _is_there(sight: Sight, visible: Mapping[str, Mount]) -> bool:
    """Whether the container has by now what it should have."""
    mount = visible.get(sight.place.mount_point)
    return mount is not None and (mount.fstype, mount.source) == (sight.over.fstype, sight.over.source)


def _transition(sight: Sight, change: Change, now: float, reason: str = "") -> Transition:
    over, container = sight.over, sight.container
    options = over.all_options
    subject = Subject(superblock_of(over), (sight.place,), options, ((container.namespace, container.name),))
    error = sight.error if change is Change.BEGAN else ""
    return Transition(Kind.VANISHED, change, subject, now, sight.since, Cause.VANISHED, error, reason=reason)
