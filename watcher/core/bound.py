"""Which mounts should be seen elsewhere, too: the binds of containers and of the host's fstab.

Takes the bytes of files, whatever these are, and what the host has or should have mounted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from watcher.core import fstab, pve
from watcher.core.expected import MAX_FROM_FILE, ON_DEMAND, has, mount_command, path_of
from watcher.core.lxc import bind_of, key_and_value
from watcher.core.mountinfo import deepest, option
from watcher.model import HOST, Expected, Mount, Place


class Bound(NamedTuple):
    """A directory of the host's, and where it is to be seen, in a container or on the host."""

    source: str
    target: str


def bound_by_pve(content: bytes) -> list[Bound]:
    """The bind mount points (mpN) of a container's Proxmox VE configuration (pct.conf(5)), not of its snapshots."""
    found = []
    for line in pve.lines_of(content):
        if line.startswith("["):
            break
        key, colon, value = line.partition(":")
        if not colon or not pve.MOUNT_POINT.fullmatch(key.strip()):
            continue
        volume, _, options = value.strip().partition(",")
        source, target = path_of(volume.removeprefix("volume=")), path_of(option(options, "mp") or "")
        if source is not None and target is not None and not source.startswith("/dev/"):
            found.append(Bound(source, target))
    return found[:MAX_FROM_FILE]


def bound_by_lxc(content: bytes) -> list[Bound]:
    """The binds that a container's LXC configuration (lxc.container.conf(5), lxc.mount.entry) asks for."""
    found = []
    for line in pve.lines_of(content):
        if line.startswith("["):
            break  # of Proxmox's files, which have such lines with a colon, too
        key, value = key_and_value(line)
        if key != "lxc.mount.entry" or (bind := bind_of(value)) is None:
            continue
        # Relative to the container's root, or below where LXC prepares that.
        source, target = path_of(bind[0]), path_of("/" + bind[1].rpartition("/rootfs/")[2].lstrip("/"))
        if source is not None and target is not None:
            found.append(Bound(source, target))
    return found[:MAX_FROM_FILE]


def bound_by_fstab(content: bytes) -> list[Bound]:
    """The binds that are made at boot."""
    found = []
    for source, target, _, options in fstab.entries(content.decode("utf-8", "surrogateescape")):
        if not has(options, "bind", "rbind") or has(options, "noauto", *ON_DEMAND):
            continue
        directory, path = path_of(source), path_of(target)
        if directory is not None and path is not None:
            found.append(Bound(directory, path))
    return found[:MAX_FROM_FILE]


def binds_on_host(bound: Iterable[Bound], hosts: Iterable[Expected], mounts: Iterable[Mount]) -> list[Expected]:
    """What the host's own binds should show, of whatever type: made too early, one shows the disk under its source."""
    standing = {m.mount_point: (m.source, m.fstype) for m in mounts if m.fstype != "autofs"}
    # Files may spell a source otherwise than the mount table will.
    wanted = {e.place.mount_point: ("", e.fstype) for e in hosts if e.place.namespace == HOST} | standing
    found = []
    for source, target in bound:
        if (over := deepest(source, wanted)) is not None:
            place, command = Place(HOST, target), mount_command(target)
            found.append(Expected(place, *wanted[over], "/etc/fstab", command, exact=True, by_hand=True))
    return found


def binds(
    bound: Mapping[str, Iterable[tuple[str, str, str]]], hosts: Iterable[Expected], mounts: Iterable[Mount]
) -> list[Expected]:
    """What containers should have of the host's watched mounts. `bound`: by container id (source, target, origin).

    Of a directory of the host's disk it is no news that it is not bound.
    """
    remote = {m.mount_point: (m.source, m.fstype) for m in mounts}
    remote |= {e.place.mount_point: (e.source, e.fstype) for e in hosts if e.place.namespace == HOST}
    found = []
    for ctid, entries in bound.items():
        for source, target, origin in entries:
            if (over := deepest(source, remote)) is None:
                continue
            from_, fstype = remote[over]
            mend = f"pct reboot {ctid}" if ctid.isdecimal() else ""
            found.append(Expected(Place(f"ct:{ctid}", target), from_, fstype, origin, mend))
    return found
