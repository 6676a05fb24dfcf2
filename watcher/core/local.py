"""Local disks, from the tables alone: turned read-only, their device gone, their ZFS pool suspended.

Nobody is asked, so no disk is woken: mountinfo, the list of block devices and the state of each pool say it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, is_mounted_readonly
from watcher.core.places import superblock_of
from watcher.core.reasons import DISK_GONE, POOL_SUSPENDED
from watcher.core.wording import name
from watcher.model import (
    HOST,
    Cause,
    Change,
    DisksRead,
    Event,
    Kind,
    Mount,
    MountState,
    Place,
    Reach,
    Subject,
    TableRead,
    Transition,
)

TYPES = frozenset({
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfsplus", "jfs", "ntfs", "ntfs3",
    "reiserfs", "vfat", "xfs", "zfs",
})  # fmt: skip
MAX_PLACES = 8  # named of one file system
# What a superblock says that has stopped writing because of an error; from Linux 6.14 on ext4 leaves "ro" out.
_STOPPED = frozenset({"ro", "emergency_ro", "shutdown"})
_DEVICE = re.compile(r"/dev/([a-z]+[a-z0-9]*)")


class _Trouble(NamedTuple):
    kind: Kind
    error: str
    mend: str


@dataclass(slots=True)
class _Disk:
    """A file system on a local disk, wherever it is mounted."""

    mount: Mount  # the one that shows most of it
    places: tuple[Place, ...]
    trouble: _Trouble | None = None
    since: float = 0.0
    doubted: bool = False  # its device was not there by one reading
    lost: _Trouble | None = None


class Local:
    """The host's local file systems, as tables come."""

    def __init__(self, chosen: Filter, eligible: Filter, *, wanted: bool = True) -> None:
        """`chosen`: what the tracker asks and judges itself; `eligible`: what may be looked at."""
        self._chosen, self._eligible, self._wanted = chosen, eligible, wanted
        self._mounts: Sequence[Mount] = ()
        self._all: dict[str, _Disk] = {}  # by device

    def configure(self, chosen: Filter, eligible: Filter, now: float, *, wanted: bool) -> list[Transition]:
        """Look by other rules from now on."""
        self._chosen, self._eligible, self._wanted = chosen, eligible, wanted
        return self._arrange(now, "no longer watched")

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in; give what began or ended by it."""
        match event:
            case TableRead(namespace=namespace) if namespace == HOST:
                self._mounts = event.mounts
                return self._arrange(now, "unmounted")
            case DisksRead():
                return [t for disk in self._all.values() for t in self._look(disk, event, now)]
        return []

    @property
    def in_doubt(self) -> bool:
        """Whether a second reading decides on something."""
        return any(disk.doubted and disk.lost is None for disk in self._all.values())

    def snapshot(self) -> list[MountState]:
        """A row for each place that is not well; of the others nothing is known but that they are mounted."""
        return [
            MountState(
                place=place,
                mount=disk.mount._replace(mount_point=place.mount_point),
                reach=Reach.OK if disk.trouble.kind is Kind.READONLY else Reach.STALE,
                status="readonly" if disk.trouble.kind is Kind.READONLY else "stale",
                cause=None if disk.trouble.kind is Kind.READONLY else Cause.VANISHED,
                error=disk.trouble.error,
                since=disk.since,
                readonly=disk.trouble.kind is Kind.READONLY,
                unexpected_readonly=disk.trouble.kind is Kind.READONLY,
                context=disk.trouble.mend,
            )
            for disk in self._all.values()
            if disk.trouble is not None
            for place in disk.places
        ]

    def _arrange(self, now: float, reason: str) -> list[Transition]:
        found, out = self._find(), list[Transition]()
        for device, disk in list(self._all.items()):
            new = found.get(device)
            if new is None or superblock_of(new.mount)[1:] != superblock_of(disk.mount)[1:]:
                out += self._end(disk, now, reason)
                del self._all[device]
        for device, new in found.items():
            disk = self._all.setdefault(device, new)
            disk.mount = new.mount
            if disk.trouble is None:
                disk.places = new.places  # what is told of, ends as it was told
            out += self._judge(disk, now)
        return out

    def _find(self) -> dict[str, _Disk]:
        if not self._wanted:
            return {}
        tree, by_device = Tree(self._mounts), dict[str, list[Mount]]()
        for mount in self._mounts:
            local = mount.fstype in TYPES and not self._chosen.watches(HOST, mount)
            if local and self._eligible.watches(HOST, mount) and tree.is_visible(mount):
                by_device.setdefault(mount.device, []).append(mount)
        return {device: _disk(mounts) for device, mounts in by_device.items()}

    def _look(self, disk: _Disk, read: DisksRead, now: float) -> list[Transition]:
        lost = _lost(disk.mount, read)
        # By two readings: one may be older than the table.
        disk.lost, disk.doubted = lost if disk.doubted else None, lost is not None
        return self._judge(disk, now)

    def _judge(self, disk: _Disk, now: float) -> list[Transition]:
        trouble = disk.lost or _readonly(disk)
        if trouble == disk.trouble:
            return []
        out = self._end(disk, now, "")
        if trouble is not None:
            disk.trouble, disk.since = trouble, now
            out.append(_transition(disk, trouble, Change.BEGAN, now))
        return out

    def _end(self, disk: _Disk, now: float, reason: str) -> list[Transition]:
        trouble, disk.trouble = disk.trouble, None
        if trouble is None:
            return []
        return [_transition(disk, trouble, Change.GONE if reason else Change.ENDED, now, reason)]


def _disk(mounts: Iterable[Mount]) -> _Disk:
    listed = sorted(mounts, key=lambda m: (len(m.root), is_mounted_readonly(m), len(m.mount_point)))
    return _Disk(listed[0], tuple(Place(HOST, m.mount_point) for m in listed[:MAX_PLACES]))


def _readonly(disk: _Disk) -> _Trouble | None:
    mount = disk.mount
    if mount.fstype == "zfs" and "@" in mount.source:
        return None  # a snapshot, mounted when somebody looks into .zfs
    if is_mounted_readonly(mount) or not _STOPPED & set(mount.super_options.split(",")):
        return None
    mend = "Do: dmesg | tail -n 40 # tells why; look after the disk, and fsck, before it is mounted for writing again"
    return _Trouble(Kind.READONLY, "became read-only, though mounted for writing", mend)


def _lost(mount: Mount, read: DisksRead) -> _Trouble | None:
    if mount.fstype == "zfs":
        pool = mount.source.partition("/")[0]
        if read.pools.get(pool) != "SUSPENDED":
            return None
        quoted = shlex.quote(pool)
        return _Trouble(
            Kind.VANISHED,
            f"{POOL_SUSPENDED}: {name(pool, 40)}",
            f"Do: zpool status -x {quoted} # when its disks are back: zpool clear {quoted}",
        )
    if not read.devices or mount.device in read.devices or not _is_gone(mount, read):
        return None
    mend = ""
    if name(mount.mount_point, 200) == mount.mount_point:
        quoted = shlex.quote(mount.mount_point)
        mend = f"Do: umount -l {quoted} # then plug it in again, and: mount {quoted}"
    return _Trouble(Kind.VANISHED, f"{DISK_GONE}: {name(mount.source, 40)}", mend)


def _is_gone(mount: Mount, read: DisksRead) -> bool:
    """Btrfs and the like have numbers of their own; their source still names a device, if it is none of many."""
    if not mount.device.startswith("0:"):
        return True
    named = _DEVICE.fullmatch(mount.source)
    return named is not None and bool(read.names) and named[1] not in read.names


def _transition(disk: _Disk, trouble: _Trouble, change: Change, now: float, reason: str = "") -> Transition:
    mount, began = disk.mount, change is Change.BEGAN
    return Transition(
        trouble.kind,
        change,
        Subject(superblock_of(mount), disk.places, mount.all_options),
        now,
        disk.since,
        Cause.VANISHED if trouble.kind is Kind.VANISHED else None,
        trouble.error if began else "",
        reason=reason or ("" if began or trouble.kind is Kind.READONLY else "in order again"),
        context=trouble.mend if began else "",
    )
