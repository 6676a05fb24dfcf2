"""What files say should be mounted: fstab(5), systemd.mount(5), Proxmox VE's storage.cfg. `bound` has the binds.

Takes their bytes, whatever these are, and gives `Expected`; whether it is mounted is `missing`'s matter.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from watcher.core import fstab, pve
from watcher.core.units import unit_name
from watcher.core.wording import name
from watcher.model import HOST, Expected, Place

MAX_FROM_FILE = 1000  # mounts taken from one file
MAX_PATH = 4096  # PATH_MAX of linux/limits.h

ON_DEMAND = ("x-systemd.automount", "comment=systemd.automount")

# Types in fstab whose mount(8) helpers mount something that the kernel calls otherwise.
_BY_HELPER = {
    "glusterfs": "fuse.glusterfs", "ceph-fuse": "fuse.ceph-fuse", "davfs": "fuse", "bindfs": "fuse.bindfs",
    "curlftpfs": "fuse.curlftpfs", "mergerfs": "fuse.mergerfs", "rclone": "fuse.rclone", "s3fs": "fuse.s3fs",
    "sshfs": "fuse.sshfs", "encfs": "fuse.encfs", "gocryptfs": "fuse.gocryptfs", "gcsfuse": "fuse.gcsfuse",
    "juicefs": "fuse.juicefs", "fuse3": "fuse",
}  # fmt: skip


class Unit(NamedTuple):
    """A file of systemd's."""

    name: str  # "mnt-nas.mount"
    content: bytes


def path_of(text: str) -> str | None:
    """An absolute path without double or trailing slashes and dots; None for what is none."""
    if not text.startswith("/") or len(text) > MAX_PATH or "\0" in text:
        return None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/" + "/".join(parts)


def mount_command(path: str) -> str:
    """What mounts what fstab has there."""
    return f"mount {shlex.quote(path)}"


def start_command(unit: str) -> str:
    """What starts a unit of systemd's."""
    return f"systemctl start {shlex.quote(unit)}"


# ---- fstab(5)


def from_fstab(content: bytes, *, namespace: str = HOST, run: str = "", where: str = "/etc/fstab") -> list[Expected]:
    """What is mounted at boot, or has a trigger of systemd's there. `run`: stands before a command for it."""
    found = []
    for source, target, fstype, options in fstab.entries(content.decode("utf-8", "surrogateescape")):
        path, by_demand = path_of(target), has(options, *ON_DEMAND)
        # A bind is of what stands elsewhere, and named by that.
        if path is None or fstype in ("none", "swap") or has(options, "bind", "rbind"):
            continue
        # Beside it "noauto" means nothing to systemd; whether a container has one nobody knows.
        if namespace != HOST if by_demand else has(options, "noauto"):
            continue
        source, fstype = _of_fuse(source, fstype)
        mend = run + (start_command(unit_name(path, "automount")) if by_demand else mount_command(path))
        found.append(
            Expected(
                Place(namespace, path),
                source,
                _type_of(source, fstype),
                f"{where} (x-systemd.automount)" if by_demand else where,
                mend,
                readonly=_is_ro(options),
                by_hand=True,
                on_demand=by_demand,
            )
        )
    return found[:MAX_FROM_FILE]


def has(options: str, *words: str) -> bool:
    """Whether one of the words is among the options."""
    return not {word.strip() for word in options.split(",")}.isdisjoint(words)


def _is_ro(options: str) -> bool:
    """Of "ro" and "rw" the last counts; without, it is for writing (mount(8))."""
    words = [w for w in (word.strip() for word in options.split(",")) if w in ("ro", "rw")]
    return words[-1:] == ["ro"]


def _type_of(source: str, fstype: str) -> str:
    """As the mount table will have it; mount(8) guesses from the source where none is given."""
    if fstype in ("", "auto"):
        return "cifs" if source.startswith("//") else "nfs4" if ":/" in source else "auto"
    return _BY_HELPER.get(fstype, fstype)


def _of_fuse(source: str, fstype: str) -> tuple[str, str]:
    """The older form of mount.fuse(8), "sshfs#user@host:/dir" of type fuse, as the newer one."""
    helper, hash_, rest = source.partition("#")
    return (rest, f"fuse.{helper}") if fstype in ("fuse", "fuse3") and hash_ and helper.isalnum() else (source, fstype)


# ---- systemd.mount(5)


def from_units(units: Sequence[Unit], enabled: frozenset[str]) -> list[Expected]:
    """Mount units that are started at boot, or whose automount unit is: its trigger stands there.

    `enabled`: what some target or other unit wants, by the links to it.
    """
    enabled -= _masked(units)
    found = []
    for unit in units:
        stem = unit.name.removesuffix(".mount")
        wanted = next((n for n in (f"{stem}.automount", unit.name) if n in enabled), None)
        if stem == unit.name or wanted is None:
            continue
        keys = _mount_section(unit.content)
        path = path_of(_unquoted(keys.get("Where", "")))
        options = keys.get("Options", "")
        if path is None or "%" in path or has(options, "noauto", "bind", "rbind"):
            continue
        source, fstype = _of_fuse(_unquoted(keys.get("What", "")), keys.get("Type", ""))
        found.append(
            Expected(
                Place(HOST, path),
                source,
                _type_of(source, fstype),
                wanted,
                start_command(wanted),
                readonly=_is_ro(options),
                by_hand=True,
                on_demand=wanted.endswith(".automount"),
            )
        )
    return found[:MAX_FROM_FILE]


def without_masked(found: Iterable[Expected], units: Mapping[str, bytes]) -> list[Expected]:
    """But for what fstab or a unit wants and somebody has masked: by an empty unit of that name (systemd.unit(5))."""
    masked = _masked(Unit(*unit) for unit in units.items())

    def is_off(each: Expected) -> bool:
        # What is mounted at boot is so without its trigger, too.
        kinds = ("mount", "automount") if each.on_demand else ("mount",)
        return each.by_hand and any(unit_name(each.place.mount_point, kind) in masked for kind in kinds)

    return [each for each in found if not is_off(each)]


def _masked(units: Iterable[Unit]) -> set[str]:
    return {unit.name for unit in units if not unit.content.strip()}


def _mount_section(content: bytes) -> dict[str, str]:
    """The keys of [Mount] (systemd.syntax(7)): the last one counts."""
    keys, section, joined = dict[str, str](), "", ""
    for line in pve.lines_of(content):
        text = line.strip()
        if text.startswith(("#", ";")):
            continue  # also amid a continued line
        joined += text
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        text, joined = joined, ""
        if text.startswith("[") and text.endswith("]"):
            section = text[1:-1]
        elif section == "Mount" and "=" in text:
            key, _, value = text.partition("=")
            keys[key.strip()] = value.strip()
    return keys


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


# ---- Proxmox VE: /etc/pve/storage.cfg


def from_storages(content: bytes, node: str) -> list[Expected]:
    """The storages that PVE keeps mounted on this node (PVE::SectionConfig's format)."""
    found = []
    for section in pve.storages(content):
        kind, storage, keys = section
        if section.is_disabled or not section.is_for(node):
            continue
        marked = keys.get("is_mountpoint", "")
        if kind in pve.MOUNTED:
            path, fstype = path_of(section.path), pve.MOUNTED[kind]
        elif kind in ("dir", "btrfs") and marked.lower() not in ("", *pve.NO):
            # PVE mounts nothing there, but uses the directory only while somebody else has.
            path, fstype = path_of(keys.get("path", "") if marked.lower() in pve.YES else marked), ""
        else:
            continue
        if kind == "cephfs" and pve.is_true(keys.get("fuse")):
            fstype = "fuse.ceph-fuse"
        if path is None:
            continue
        # PVE tries it again every few seconds by itself; by hand, and then with the reason why not:
        mend = mount_command(path)
        if kind in pve.MOUNTED:
            quoted = shlex.quote(storage)
            mend = f"pvesm status --storage {quoted} # to do without it: pvesm set {quoted} --disable 1"
        origin = f"PVE storage {name(storage, 40)}"
        readonly = _is_ro(keys.get("options", "")) if kind in pve.MOUNTED else None
        found.append(Expected(Place(HOST, path), _share(kind, keys), fstype, origin, mend, readonly=readonly))
    return found[:MAX_FROM_FILE]


def _share(kind: str, keys: Mapping[str, str]) -> str:
    server = keys.get("server", "")
    if kind == "cifs":
        return f"//{server}/{keys.get('share', '')}{keys.get('subdir', '')}" if server else ""
    host = f"[{server}]" if server.count(":") > 1 else server
    if kind == "nfs":
        return f"{host}:{keys.get('export', '')}" if server else ""
    if kind == "glusterfs":
        return f"{host}:/{keys.get('volume', '')}" if server else ""
    if kind == "cephfs":
        return f"{','.join(re.split(r'[,; ]+', keys.get('monhost', '')))}:{keys.get('subdir', '/')}"
    return ""
