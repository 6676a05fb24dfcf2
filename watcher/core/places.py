"""Which of a namespace's mounts are watched, where they stand, and what they lie below.

A superblock that stands in several places gets one probe and one verdict; this module finds the
places and leaves the verdict to `health`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, is_below, option
from watcher.model import Container, Mount, Pace, Place, Superblock

MAX_PLACES = 256  # watched in one container, whoever mounts there
MAX_DEPTH = 64  # mounts on the way to one in a container
LXCFS = "fuse.lxcfs"  # one file system, of which every container has a dozen files bound over its /proc


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
    container: Container | None = None  # in which it stands; None: on the host
    lane: str = ""  # asking it can hang for good at the container's will: model.Probe.lane


class Arrangement(NamedTuple):
    """The watched mounts of a namespace."""

    standings: tuple[Standing, ...]
    left_out: int = 0  # mounts past MAX_PLACES or MAX_DEPTH


def superblock_of(mount: Mount) -> Superblock:
    root = "/" if mount.fstype == LXCFS else mount.root
    return Superblock(mount.device, root, mount.fstype, mount.source)


def arrange(namespace: str, mounts: Sequence[Mount], chosen: Filter, container: Container | None = None) -> Arrangement:
    """The watched mounts of a table that a path lookup can reach, in the table's order."""
    candidates = [m for m in mounts if chosen.watches(namespace, m)]
    if not candidates:
        return Arrangement(())
    tree, standings = Tree(mounts), list[Standing]()
    watched = {m.mount_id for m in candidates}
    too_deep = 0
    bound_files = set[str]()  # devices of lxcfs: its first place in a container stands for all
    for seen, mount in enumerate(candidates):
        if container is not None and len(standings) == MAX_PLACES:
            return Arrangement(tuple(standings), too_deep + len(candidates) - seen)
        if not tree.is_visible(mount):
            continue
        if container is not None and mount.fstype == LXCFS:
            if mount.device in bound_files:
                continue
            bound_files.add(mount.device)
        ancestors = list(islice(tree.ancestors(mount), None if container is None else MAX_DEPTH + 1))
        if container is not None and len(ancestors) > MAX_DEPTH:
            too_deep += 1
            continue
        standings.append(
            Standing(
                place=Place(namespace, mount.mount_point),
                mount=mount,
                superblock=superblock_of(mount),
                pace=chosen.pace(namespace, mount),
                show_only=chosen.shows_only(namespace, mount),
                stacked=1 + sum(1 for a in ancestors if a.mount_point == mount.mount_point),
                # What lies under it on the same directory is not asked on the way to it.
                below=tuple(
                    superblock_of(a)
                    for a in ancestors
                    if a.mount_id in watched and is_below(mount.mount_point, a.mount_point)
                ),
                idles_out=_idles_out(ancestors),
                container=container,
                lane=namespace if container is not None and _is_fuse_on_the_way([mount, *ancestors]) else "",
            )
        )
    return Arrangement(tuple(standings), too_deep)


def _is_fuse_on_the_way(way: Sequence[Mount]) -> bool:
    return any(mount.fstype.startswith("fuse") for mount in way)


def _idles_out(way: Sequence[Mount]) -> bool:
    """Whether a walk to it crosses an autofs trigger with a finite time-out (autofs(5)), which would begin anew.

    What is mounted below a file system of a trigger does not keep that busy: it expires with it.
    """
    return any(
        mount.fstype == "autofs" and option(mount.super_options, "timeout") not in (None, "0", "-1") for mount in way
    )
