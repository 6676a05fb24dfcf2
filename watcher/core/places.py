"""Which of a namespace's mounts are watched, where they stand, and what they lie below.

A superblock that stands in several places gets one probe and one verdict; this module finds the
places and leaves the verdict to `health`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, is_below, option
from watcher.model import Mount, Pace, Place, Superblock


class Standing(NamedTuple):
    """A watched mount in its place."""

    place: Place
    mount: Mount
    superblock: Superblock
    pace: Pace
    show_only: bool
    stacked: int  # mounts on this mount point, this one included
    below: tuple[Superblock, ...]  # the watched superblocks that a walk to it crosses, nearest first
    idles_out: bool  # an autofs trigger unmounts it when nobody uses it


def superblock_of(mount: Mount) -> Superblock:
    return Superblock(mount.device, mount.root, mount.fstype, mount.source)


def arrange(namespace: str, mounts: Sequence[Mount], chosen: Filter) -> tuple[Standing, ...]:
    """The watched mounts of a table that a path lookup can reach, in the table's order."""
    candidates = [m for m in mounts if chosen.watches(namespace, m)]
    if not candidates:
        return ()
    tree, standings = Tree(mounts), []
    watched = {m.mount_id for m in candidates}
    for mount in candidates:
        if not tree.is_visible(mount):
            continue
        ancestors = list(tree.ancestors(mount))
        standings.append(
            Standing(
                place=Place(namespace, mount.mount_point),
                mount=mount,
                superblock=superblock_of(mount),
                pace=chosen.pace(namespace, mount),
                show_only=chosen.shows_only(namespace, mount),
                stacked=tree.stacked(mount),
                # What lies under it on the same directory is not asked on the way to it.
                below=tuple(
                    superblock_of(a)
                    for a in ancestors
                    if a.mount_id in watched and is_below(mount.mount_point, a.mount_point)
                ),
                idles_out=_idles_out(mount, ancestors),
            )
        )
    return tuple(standings)


def _idles_out(mount: Mount, ancestors: Sequence[Mount]) -> bool:
    """Whether the mount stands on, or below, an autofs trigger with a finite time-out (autofs(5))."""
    for trigger in ancestors:
        if trigger.fstype == "autofs":
            timeout = option(trigger.super_options, "timeout")
            return timeout is not None and timeout not in ("0", "-1")
        if is_below(mount.mount_point, trigger.mount_point):
            return False  # the file system it is mounted on is an ordinary one
    return False
