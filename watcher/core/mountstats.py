"""The text of /proc/<pid>/mountstats: how often the NFS mounts were used, by anybody but ourselves.

The kernel counts a call into an NFS mount as it comes in, before it asks the server (fs/nfs/iostat.h), so that who
hangs in a dead one shows here as well. The counters per operation move only when the server has answered, and for us,
too. What does not show: who is only told what is cached of the root, or calls nothing but statfs.
"""

from __future__ import annotations

import re

from watcher.core.mountinfo import unescape
from watcher.model import Counters

# "device nas01:/data mounted on /mnt/nas with fstype nfs4 statvers=1.1", and without a device "no device mounted on …";
# blanks in names are escaped (fs/proc_namespace.c:show_vfsstat).
_DEVICE = re.compile(r"(?:device [^ ]*|no device) mounted on ([^ ]+) with fstype ([^ ]+)(?: statvers=.*)?")

# By its index in "events:", what a call of somebody's moves. Not: what the kernel does when nobody is there (10 and 11,
# write-back), what the server's answers do (2, 3, 18, 24 to 26), what is counted beside one of these.
_EVENTS = (
    0,  # attributes wanted that are not fresh
    1,  # a name looked up again
    4, 5, 6,  # open, lookup, permission
    7, 8, 9,  # a page written to or read
    12, 13, 14, 15, 16, 17,  # directory read, attributes set, flush, fsync, lock, close
)  # fmt: skip
# In "bytes:", read and written, through the cache (which moves none of the events) or directly.
_BYTES = (0, 1, 2, 3)
_WANTED = {"events:": _EVENTS, "bytes:": _BYTES}

NFS = frozenset({"nfs", "nfs4"})


def counters(data: bytes) -> dict[str, Counters]:
    """By mount point, what has been counted there; of several NFS mounts on one, one after the other. Never raises.

    Whether a counter has moved is all that is asked of it, so they stay as they are written.
    """
    found: dict[str, Counters] = {}
    point: str | None = None
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if not line.startswith(("\t", " ")):
            device = _DEVICE.fullmatch(line)
            point = unescape(device[1]) if device is not None and device[2] in NFS else None
            continue
        kind, *words = line.split() or [""]
        if point is not None and kind in _WANTED:
            found[point] = found.get(point, ()) + tuple(words[n] for n in _WANTED[kind] if n < len(words))
    return found
