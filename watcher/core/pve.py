"""The form of Proxmox VE's own files: the sections of storage.cfg (PVE::SectionConfig), the names of mount points.

What a storage means for a mount is said elsewhere. Whatever the text, nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

MAX_LINES = 20_000  # of storage.cfg

# Storage types that PVE mounts itself, at /mnt/pve/<id> if no path is given, and what that is (PVE::Storage's plugins).
MOUNTED: Final[Mapping[str, str]] = {"nfs": "nfs4", "cifs": "cifs", "cephfs": "ceph", "glusterfs": "fuse.glusterfs"}
MOUNT_POINT: Final = re.compile(r"mp[0-9]{1,3}")  # pct.conf(5)
YES, NO = frozenset({"1", "on", "yes", "true"}), frozenset({"0", "off", "no", "false"})  # PVE::JSONSchema
_HEAD = re.compile(r"([A-Za-z0-9_-]+):\s*(\S+)\s*")


class Section(NamedTuple):
    """One storage."""

    kind: str
    id: str
    keys: dict[str, str]

    @property
    def is_disabled(self) -> bool:
        return is_true(self.keys.get("disable"))

    def is_for(self, node: str) -> bool:
        nodes = self.keys.get("nodes", "")
        return not nodes or node in re.split(r"[,;\s]+", nodes)

    @property
    def path(self) -> str:
        """As it is given, or where PVE mounts it; empty if it has none."""
        return self.keys.get("path", f"/mnt/pve/{self.id}" if self.kind in MOUNTED else "")


def is_true(value: str | None) -> bool:
    return value is not None and value.lower() not in NO  # a bare key is true


def lines_of(content: bytes) -> Iterator[str]:
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        yield line.rstrip("\r")


def storages(content: bytes) -> Iterator[Section]:
    """The sections of a storage.cfg."""
    current: Section | None = None
    for line in islice(lines_of(content), MAX_LINES):
        if head := _HEAD.fullmatch(line):
            if current is not None:
                yield current
            current = Section(head[1], head[2], {})
        elif line[:1] in (" ", "\t") and current is not None:
            if words := line.split(None, 1):
                current.keys.setdefault(words[0], words[1].strip() if len(words) > 1 else "")
        elif line.strip() and not line.startswith("#") and current is not None:
            yield current  # what is no property ends the section
            current = None
    if current is not None:
        yield current
