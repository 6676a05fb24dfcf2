"""What hangs on a mount: Proxmox VE storages, guests that are configured on it, processes that use it or wait in it.

Parsers of /etc/pve/storage.cfg, of guests' configurations (qm.conf(5), pct.conf(5)) and of LXC's own
(lxc.container.conf(5)), and one line for people. Whatever the text, nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from watcher.core import pve
from watcher.core.lxc import bind_of, key_and_value
from watcher.core.mountinfo import is_below
from watcher.core.wording import container_name, name
from watcher.model import HOST

MAX_NAMED = 4  # of each sort on the line
MAX_LISTED = 64  # of each sort in the document
_LINES = 20_000  # of one file

_DRIVE = re.compile(r"(?:ide|sata|scsi|virtio|efidisk|tpmstate)[0-9]{1,2}")
_VOLUME = re.compile(r"([A-Za-z][A-Za-z0-9._-]*):(.+)")  # PVE::Storage::parse_volume_id


class Storage(NamedTuple):
    """One of Proxmox VE's storages that lies in a directory."""

    id: str
    path: str


class Guest(NamedTuple):
    """What the configuration of a guest says of where its data lies."""

    id: str
    is_vm: bool
    name: str
    volumes: tuple[tuple[str, str], ...]  # (storage, "disk" or "ISO")
    paths: tuple[str, ...]  # of the host, bound into it or used as a disk


class Process(NamedTuple):
    """A process that has something of the file system open or its working directory there, or waits for its like."""

    pid: int
    name: str
    namespace: str  # "host", "ct:101", or "other" (such as Docker's)
    blocked: bool
    uses: bool = True  # else it waits in a file system of this type, and nothing tells in which


class Using(NamedTuple):
    """A guest that hangs on it."""

    guest: Guest
    how: str  # "disk", "ISO", "bind"


class Radius(NamedTuple):
    """What hangs on one mount."""

    storages: tuple[str, ...] = ()
    guests: tuple[Using, ...] = ()
    processes: tuple[Process, ...] = ()  # those that are blocked first
    users: int = 0  # processes in all that use it
    blocked: int = 0  # of these
    maybe: int = 0  # processes that wait in this one or another of its type
    unknown: tuple[str, ...] = ()  # what could not be looked at, in words


def _text(data: bytes) -> Iterable[str]:
    return data.decode("utf-8", "surrogateescape").split("\n")[:_LINES]


def storages(data: bytes) -> list[Storage]:
    """The storages of a storage.cfg that lie in directories and are not disabled."""
    return [
        Storage(section.id, section.path.rstrip("/") or "/")
        for section in pve.storages(data)
        if section.path.startswith("/") and not section.is_disabled
    ]


def guest(ident: str, is_vm: bool, data: bytes) -> Guest:
    """A guest's configuration as it is now, not in a snapshot; LXC's own keys, too."""
    title, volumes, paths = "", list[tuple[str, str]](), list[str]()
    for line in _text(data):
        if line.startswith("["):
            break
        key, value = key_and_value(line)
        if key in ("hostname", "name", "lxc.uts.name"):
            title = value[:64]
        elif key == "lxc.mount.entry":
            bind = bind_of(value)
            paths += [bind[0]] if bind is not None and bind[0].startswith("/") else []
        elif key == "rootfs" or _DRIVE.fullmatch(key) or pve.MOUNT_POINT.fullmatch(key):
            what, *options = value.split(",")
            what = what.removeprefix("file=").removeprefix("volume=")
            if what.startswith("/"):
                paths.append(what)
            elif (volume := _VOLUME.fullmatch(what)) is not None:
                volumes.append((volume[1], "ISO" if "media=cdrom" in options and ":iso/" in what else "disk"))
    return Guest(ident, is_vm, title, tuple(volumes), tuple(paths))


def on_mount(
    mount_points: Sequence[str], there: Sequence[Storage], guests: Iterable[Guest]
) -> tuple[list[str], list[Using]]:
    """(storages, guests) of the host's configuration that lie on these of its mount points."""

    def lies(path: str) -> bool:
        return any(path == point or is_below(path, point) for point in mount_points)

    ids = [storage.id for storage in there if lies(storage.path)]
    using = []
    for one in guests:
        ways = ["bind" if not one.is_vm else "disk" for path in one.paths if lies(path)]
        ways += [how for storage, how in one.volumes if storage in ids]
        if ways:
            using.append(Using(one, "disk" if "disk" in ways else ways[0]))
    using.sort(key=lambda u: (u.guest.is_vm, int(u.guest.id) if u.guest.id.isdecimal() else 0, u.guest.id))
    return ids[:MAX_LISTED], using[:MAX_LISTED]


def line(radius: Radius) -> str:
    """ "PVE storage nas01; CT 101 plex; VM 200 win (disk); 3 processes waiting in it: cp (4711) …"; "" if nothing."""
    parts = []
    if radius.storages:
        parts.append(f"PVE storage {_some([name(s, 40) for s in radius.storages])}")
    if radius.guests:
        parts.append(_some([_guest(using) for using in radius.guests]))
    sorts = (
        (radius.blocked, "waiting in it", [p for p in radius.processes if p.uses and p.blocked]),
        (radius.maybe, "waiting in this or another such mount", [p for p in radius.processes if not p.uses]),
        (radius.users - radius.blocked, "using it", [p for p in radius.processes if p.uses and not p.blocked]),
    )
    for number, verb, named in sorts:
        if number > 0:
            who = "1 process" if number == 1 else f"{number} processes"
            parts.append(f"{who} {verb}: {_some([_process(p) for p in named], number)}")
    return "; ".join(parts)


def _some(words: Sequence[str], number: int | None = None) -> str:
    shown = ", ".join(words[:MAX_NAMED])
    more = (len(words) if number is None else number) - min(len(words), MAX_NAMED)
    return f"{shown} and {more} more" if more > 0 else shown


def _guest(using: Using) -> str:
    one = using.guest
    if not one.is_vm:
        how = "" if using.how == "bind" else f" ({using.how})"
        return container_name(f"ct:{one.id}", one.name) + how
    return f"{' '.join(p for p in ('VM', name(one.id, 30), name(one.name, 30)) if p)} ({using.how})"


def _process(process: Process) -> str:
    inside = "" if process.namespace in (HOST, "other") else f", {container_name(process.namespace)}"
    return f"{name(process.name, 30)} ({process.pid}{inside})"
