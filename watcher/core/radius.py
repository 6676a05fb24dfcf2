"""What hangs on a mount: Proxmox VE storages, guests that are configured on it, backups, processes that use it.

Parsers of /etc/pve/storage.cfg, of guests' configurations (qm.conf(5), pct.conf(5)) and of LXC's own
(lxc.container.conf(5)), and lines for people. Whatever the text, nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from watcher.core import pve
from watcher.core.lxc import bind_of, key_and_value, name_from_config, name_from_pve_config
from watcher.core.mountinfo import is_below
from watcher.core.wording import container_name, name, shorten
from watcher.model import HOST

MAX_NAMED = 4  # of each sort on the line
MAX_LISTED = 64  # of each sort in the document
NOTHING = "nothing found"  # where all was looked at
_CUT = "the search was cut short"
_LINES = 20_000  # of one file

NO_LINKS: Final[Mapping[str, str]] = {}

_DRIVE = re.compile(r"(?:ide|sata|scsi|virtio|efidisk|tpmstate)[0-9]{1,2}|cdrom")
_VOLUME = re.compile(r"([A-Za-z][A-Za-z0-9._-]*):(.+)")  # PVE::Storage::parse_volume_id


class Storage(NamedTuple):
    """One of Proxmox VE's storages that lies in a directory."""

    id: str
    path: str
    is_mounted: bool = False  # by PVE, there


class Guest(NamedTuple):
    """What the configuration of a guest says of where its data lies."""

    id: str
    is_vm: bool
    name: str
    volumes: tuple[tuple[str, str], ...]  # (storage, "disk" or "ISO")
    paths: tuple[tuple[str, str], ...]  # (of the host, bound into it or its disk; by which mpN or rootfs, if by one)
    in_backup: bool = False  # PVE has locked it for that
    is_template: bool = False  # it never runs


class Process(NamedTuple):
    """A process that has something of the file system open or its working directory there, or waits for its like."""

    pid: int
    name: str
    namespace: str  # "host", "ct:101", or "other" (such as Docker's)
    blocked: bool
    uses: bool = True  # else it waits in a file system of this type, and nothing tells in which
    unit: str = ""  # the system's service that it belongs to, of the host


class Using(NamedTuple):
    """A guest that hangs on it."""

    guest: Guest
    how: str  # "disk", "ISO", "bind"
    key: str = ""  # of the binds: "mp0", "mp0, mp2"; "rootfs" of LXC's own


class Docker(NamedTuple):
    """A container of Docker's or its like in whose mount namespace the file system stands."""

    id: str
    inside: str  # "host", "ct:101"
    is_old: bool = False  # what stands there is another mount of the same source, which the host has not: an older one


class Radius(NamedTuple):
    """What hangs on one mount."""

    storages: tuple[str, ...] = ()
    guests: tuple[Using, ...] = ()
    processes: tuple[Process, ...] = ()  # those that are blocked first
    users: int = 0  # processes in all that use it
    blocked: int = 0  # of these
    maybe: int = 0  # processes that wait in this one or another of its type
    docker: tuple[Docker, ...] = ()
    jobs: tuple[str, ...] = ()  # backups that run and use it: "vzdump 101"
    unknown: tuple[str, ...] = ()  # what could not be looked at in time, in words
    unseen: str = ""  # why not everything is ours to see, in words
    mounted: tuple[tuple[str, str], ...] = ()  # (mount point, the storage that PVE mounts there), where it does


def _text(data: bytes) -> Iterable[str]:
    return data.decode("utf-8", "surrogateescape").split("\n")[:_LINES]


def storages(data: bytes, node: str) -> list[Storage]:
    """The storages of a storage.cfg that lie in directories and are not disabled, nor another node's."""
    return [
        Storage(section.id, section.path.rstrip("/") or "/", section.kind in pve.MOUNTED)
        for section in pve.storages(data)
        if section.path.startswith("/") and not section.is_disabled and section.is_for(node)
    ]


def guest(ident: str, is_vm: bool, data: bytes) -> Guest:
    """A guest's configuration as it is now, not in a snapshot; LXC's own keys, too."""
    title, volumes, paths, locked = "", list[tuple[str, str]](), list[tuple[str, str]](), ""
    is_template = False
    for line in _text(data):
        if line.startswith("["):
            break
        key, value = key_and_value(line)
        if key == "name" and is_vm:
            title = value[:64]
        elif key == "lock":
            locked = value
        elif key == "template":
            is_template = pve.is_true(value)
        elif key in ("lxc.rootfs.path", "lxc.rootfs"):
            # "dir:/x", "overlay:/lower:/upper": lxc.container.conf(5).
            paths += [(part, "rootfs") for part in value.split(":") if part.startswith("/")]
        elif key == "lxc.mount.entry":
            bind = bind_of(value)
            paths += [(bind[0], "")] if bind is not None and bind[0].startswith("/") else []
        elif key == "rootfs" or _DRIVE.fullmatch(key) or pve.MOUNT_POINT.fullmatch(key):
            what, *options = value.split(",")
            what = what.removeprefix("file=").removeprefix("volume=")
            if what.startswith("/"):
                paths.append((what, key if pve.MOUNT_POINT.fullmatch(key) else ""))
            elif (volume := _VOLUME.fullmatch(what)) is not None:
                volumes.append((volume[1], "ISO" if "media=cdrom" in options and ":iso/" in what else "disk"))
    if not is_vm:
        title = name_from_pve_config(data) or name_from_config(data)
    return Guest(ident, is_vm, title, tuple(volumes), tuple(paths), locked == "backup", is_template)


def joined(one: Guest, other: Guest) -> Guest:
    """What two configurations of a guest say of it: LXC's own, and Proxmox VE's, of which that is made."""
    return Guest(
        one.id,
        one.is_vm,
        other.name or one.name,
        tuple(dict.fromkeys(one.volumes + other.volumes)),
        tuple(dict.fromkeys(one.paths + other.paths)),
        one.in_backup or other.in_backup,
        one.is_template or other.is_template,
    )


def on_mount(
    mount_points: Sequence[str],
    there: Sequence[Storage],
    guests: Iterable[Guest],
    others: Sequence[str] = (),
    links: Mapping[str, str] = NO_LINKS,
) -> tuple[list[str], list[Using]]:
    """(storages, guests) of the host's configuration that lie on these of its mount points.

    `others`: where other mounts stand below them; `links`: where paths lead that have symlinks in them.
    """

    def on(path: str, points: Sequence[str]) -> int:
        return max((len(point) for point in points if path == point or is_below(path, point)), default=0)

    def lies(path: str) -> bool:
        path = links.get(path.rstrip("/"), path)
        return on(path, mount_points) > on(path, others)

    ids = [storage.id for storage in there if lies(storage.path)]
    using = []
    for one in guests:
        there_by = [key for path, key in one.paths if lies(path)]
        ways = ["bind" if not one.is_vm else "disk" for _ in there_by]
        ways += [how for storage, how in one.volumes if storage in ids]
        if ways:
            keys = dict.fromkeys(filter(None, there_by))
            using.append(Using(one, "disk" if "disk" in ways else ways[0], ", ".join(list(keys)[:MAX_NAMED])))
    using.sort(key=lambda u: (u.guest.is_vm, int(u.guest.id) if u.guest.id.isdecimal() else 0, u.guest.id))
    return ids[:MAX_LISTED], using[:MAX_LISTED]


def job_of(upid: str, guests: Iterable[Guest]) -> str:
    """ "vzdump 101" of "UPID:node:pid:pstart:starttime:type:id:user:"; of several guests, which one it is at."""
    if ident := _id_in(upid):
        return f"vzdump {name(ident, 30)}"
    now = [name(one.id, 30) for one in guests if one.in_backup]
    return f"vzdump, at {', '.join(now[:MAX_NAMED])}" if now else "vzdump"


def jobs_on(upids: Iterable[str], running: Iterable[str], using: Iterable[Using], guests: Sequence[Guest]) -> list[str]:
    """The backups whose processes use it (`upids`), or whose guest hangs on it."""
    ids = {one.guest.id for one in using}
    of_guests = (upid for upid in running if _id_in(upid) in ids)
    return [job_of(upid, guests) for upid in dict.fromkeys((*upids, *of_guests))][:MAX_LISTED]


def _id_in(upid: str) -> str:
    fields = upid.split(":")
    return fields[6] if len(fields) > 6 else ""


def line(radius: Radius) -> str:
    """ "PVE storage nas01; CT 101 plex (mp0), VM 200 win (disk); 1 process waiting in it: cp (4711)"; "" if nothing."""
    return "; ".join([*_things(radius), *_users(radius)])


def lines(radius: Radius | None, on: str, limit: int, see: str = "") -> list[str]:
    """The same as one or two lines of a message, the processes on their own. `on`: what it hangs on.

    None: not known yet. Of `limit` characters each; that there may be more stands on the first, which is the last to be
    left out. `see`: a command that tells more where the search was cut short.
    """
    hint = f"; see: {see}" if see and len(see) <= limit // 3 else ""
    if radius is None:
        return [f"Hangs on {on}: not known yet{hint}"]
    found = [words for words in ("; ".join(_things(radius)), "; ".join(_users(radius))) if words]
    why = f"{_CUT}{hint}" if radius.unknown else radius.unseen
    if not found:
        return [shorten(f"Hangs on {on}: {f'not known, {why}' if why else NOTHING}", limit)]
    more = f", and maybe more: {why}" if why else ""
    return [shorten(f"Hangs on {on}: {found[0]}", limit - len(more)) + more, *(shorten(w, limit) for w in found[1:])]


def is_nothing(radius: Radius | None) -> bool:
    """Whether all that there is to say is that nothing was found, or that it is not known."""
    return radius is None or not (_things(radius) or _users(radius))


def _things(radius: Radius) -> list[str]:
    parts = []
    if radius.storages:
        parts.append(f"PVE storage {_some([name(s, 40) for s in radius.storages])}")
    if radius.guests:
        parts.append(_some([_guest(using) for using in radius.guests]))
    if radius.docker:
        parts.append(_some([_docker(one) for one in radius.docker]))
    if radius.jobs:
        parts.append(f"backup job running: {_some(radius.jobs)}")
    return parts


def _users(radius: Radius) -> list[str]:
    parts = []
    sorts = (
        (radius.blocked, "waiting in it", [p for p in radius.processes if p.uses and p.blocked]),
        (radius.maybe, "waiting in this or another such mount", [p for p in radius.processes if not p.uses]),
        (radius.users - radius.blocked, "using it", [p for p in radius.processes if p.uses and not p.blocked]),
    )
    for number, verb, named in sorts:
        if number > 0:
            who = "1 process" if number == 1 else f"{number} processes"
            parts.append(f"{who} {verb}: {_some([_process(p) for p in named], number)}")
    return parts


def _some(words: Sequence[str], number: int | None = None) -> str:
    shown = ", ".join(words[:MAX_NAMED])
    more = (len(words) if number is None else number) - min(len(words), MAX_NAMED)
    return f"{shown} and {more} more" if more > 0 else shown


def _guest(using: Using) -> str:
    one = using.guest
    if not one.is_vm:
        # By a bind, which has a name of its own, and by a volume.
        ways = [way for way in (using.how if using.how != "bind" else "", using.key) if way]
        return container_name(f"ct:{one.id}", one.name) + (f" ({', '.join(ways)})" if ways else "")
    how = f"{using.how} of a template" if one.is_template else using.how
    return f"{' '.join(p for p in ('VM', name(one.id, 30), name(one.name, 30)) if p)} ({how})"


def _docker(one: Docker) -> str:
    inside = "" if one.inside == HOST else f" ({container_name(one.inside)})"
    old = " (holds an older mount, or one of its own)" if one.is_old else ""
    return f"Docker container {name(one.id, 12)}{inside}{old}"


def _process(process: Process) -> str:
    inside = "" if process.namespace in (HOST, "other") else f", {container_name(process.namespace)}"
    unit = f", {name(process.unit, 60)}" if process.unit else ""
    return f"{name(process.name, 30)} ({process.pid}{inside}{unit})"
