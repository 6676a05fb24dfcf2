"""Which mounts of a table hold data, so that their capacity is of interest, and which of them are one file system.

Knows the types by name, and asks nobody: the sizes are `capacity`'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, is_below, is_readonly
from watcher.model import HOST, Container, Mount, Place

MAX_ENTRIES = 64  # of one container, whoever mounts there

# The kernel's own (those of /proc/filesystems with "nodev" that hold no files of anybody's), and FUSE file systems
# that only show what lies elsewhere. Overlays (one for each Docker container) lie on a file system listed by itself.
_PSEUDO = frozenset({
    "aafs", "anon_inodefs", "apparmorfs", "autofs", "bdev", "bdevfs", "binder", "binderfs", "binfmt_misc",
    "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devfs", "devpts", "devtmpfs", "drm",
    "efivarfs", "functionfs", "fusectl", "guest_memfd", "hugetlbfs", "mqueue", "nfsd", "nsfs", "nullfs",
    "ocfs2_dlmfs", "openpromfs", "overlay", "pidfs", "pipefs", "proc", "pstore", "ramfs", "resctrl", "rootfs",
    "rpc_pipefs", "secretmem", "securityfs", "selinuxfs", "smackfs", "sockfs", "spufs", "sysfs", "tmpfs",
    "tracefs", "usbfs", "xenfs", "fuse.fuse-overlayfs", "fuse.gvfsd-fuse", "fuse.gvfs-fuse-daemon",
    "fuse.lxcfs", "fuse.portal", "fuse.rootlesskit", "fuse.vmware-vmblock",
})  # fmt: skip
# Made once and full from then on.
_IMAGES = frozenset({
    "cramfs", "erofs", "fuse.erofsfuse", "fuse.fuseiso", "fuse.snapfuse", "fuse.squashfuse",
    "fuse.squashfuse_ll", "iso9660", "romfs", "squashfs",
})  # fmt: skip
# Their statfs says the same in every directory, unless projects have quotas (xfs(5), ext4(5)).
_UNIFORM = frozenset({
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "reiserfs", "vfat", "xfs",
})  # fmt: skip
_PROJECT_QUOTA = re.compile(r"(?:^|,)(?:prjj?quota|pquota|pqnoenforce)\b")


class FilesystemKey(NamedTuple):
    """What one answer of statfs speaks for."""

    device: str
    root: str  # "" where the directory makes no difference


class Entry(NamedTuple):
    """A file system in a place."""

    place: Place
    mount: Mount
    key: FilesystemKey
    container: Container | None  # None: on the host
    watched: bool  # the tracker asks it
    alarmed: bool  # full is news: it is neither an image nor only shown
    through_fuse: bool  # a container's FUSE server can hold up who asks
    on_demand: bool  # an autofs trigger mounted it: asking would keep it

    @property
    def stands_still(self) -> bool:
        """Whether who serves it, or what lies on the way, is frozen with its container."""
        return self.through_fuse and self.container is not None and self.container.frozen


class Found(NamedTuple):
    entries: tuple[Entry, ...]
    cut: bool = False  # there are more than MAX_ENTRIES


def key_of(mount: Mount) -> FilesystemKey:
    uniform = mount.fstype in _UNIFORM and not _PROJECT_QUOTA.search(mount.super_options)
    return FilesystemKey(mount.device, "" if uniform else mount.root)


def is_image(mount: Mount) -> bool:
    """Read-only by its nature: it is always full, and nobody can make room."""
    return mount.fstype in _IMAGES or (mount.fstype == "udf" and is_readonly(mount))


def find(
    namespace: str, mounts: Sequence[Mount], container: Container | None, chosen: Filter, eligible: Filter
) -> Found:
    """The file systems of a namespace: of a container all that hold data, of the host those that are watched.

    A directory of a file system that a larger part of is listed already (and a file bound from it, such as
    /etc/resolv.conf) is none of its own. `chosen` says what is watched, `eligible` what may be looked at.
    """
    if namespace != HOST and container is None:
        return Found(())  # nobody knows from where its paths start
    candidates = [m for m in mounts if m.fstype not in _PSEUDO or (m.mount_point == "/" and namespace != HOST)]
    tree = Tree(mounts)
    entries: list[Entry] = []
    parts: dict[FilesystemKey, list[str]] = {}
    # The root first, then larger parts before smaller ones.
    for mount in sorted(candidates, key=lambda m: (m.mount_point != "/", len(m.root))):
        key = key_of(mount)
        listed = parts.setdefault(key, [])
        if any(mount.root == part or is_below(mount.root, part) for part in listed):
            continue
        watched = chosen.watches(namespace, mount)
        if (namespace == HOST and not watched) or not eligible.watches(namespace, mount) or not tree.is_visible(mount):
            continue
        if namespace != HOST and len(entries) == MAX_ENTRIES:
            return Found(tuple(entries), cut=True)
        listed.append(mount.root)
        way = [mount, *tree.ancestors(mount)]
        entries.append(
            Entry(
                place=Place(namespace, mount.mount_point),
                mount=mount,
                key=key,
                container=container,
                watched=watched,
                alarmed=not is_image(mount) and not chosen.shows_only(namespace, mount),
                through_fuse=namespace != HOST and any(m.fstype.startswith("fuse") for m in way),
                on_demand=any(m.fstype == "autofs" and m.mount_point == mount.mount_point for m in way),
            )
        )
    return Found(tuple(entries))
