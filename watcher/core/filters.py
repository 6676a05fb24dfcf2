"""What is watched, what is only shown, and at which pace: file system types and mount patterns.

A pattern is a shell glob in which `*` also matches `/`. It is matched against the mount point
(`/mnt/*`), against `host:/mnt/*` or `ct:101:/mnt/*` when it names a namespace, and against the
server when it starts with `server:`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache

from watcher.model import HOST, Mount, Pace, Place

# Kernel network file systems: the source names the server (nfs(5), mount.cifs(8), mount.ceph(8)).
KERNEL_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph")
# FUSE file systems whose source is [user@]host:path by their own mount helpers.
_FUSE_REMOTE = ("fuse.sshfs", "fuse.glusterfs")
_SMB = re.compile(r"^[/\\]{2}([^/\\]+)")
# "host:", "[fe80::1%eth0]:", with FUSE also "user@host:"
_HOST = re.compile(r"^(?:\[([^\]]+)\]|([^:/\[\]]+)):")
_USER = re.compile(r"^[^:/\[]*@")
# "user@fsid.fsname=/path"; the older form is "mon1:6789,mon2:6789:/path"
_CEPH = re.compile(r"^[^@/:=]*@([^=/]+)=")
_CURLFTPFS = re.compile(r"^curlftpfs#\w+://(?:[^/@]*@)?([^/:]+)")


@lru_cache(4096)  # asked of all that are watched whenever one of them fails
def server_of(fstype: str, source: str) -> str | None:
    """The server's name as the source gives it ("nas01", "fe80::1"), None where there is none."""
    if fstype in ("cifs", "smb3", "smbfs"):
        return m[1] if (m := _SMB.match(source)) else None
    if fstype == "ceph":
        # the cluster, not one monitor of it
        return m[1] if (m := _CEPH.match(source)) else source.split(":/", 1)[0] or None
    if fstype == "fuse.curlftpfs":
        return m[1] if (m := _CURLFTPFS.match(source)) else None
    if fstype in KERNEL_REMOTE or fstype in _FUSE_REMOTE:
        m = _HOST.match(_USER.sub("", source) if fstype in _FUSE_REMOTE else source)
        return m[1] or m[2] if m else None
    return None


def closed(glob: str) -> str:
    """The same pattern with no "[" that nothing closes: `translate` looks for the end of each through all the rest."""
    at = 0
    while (at := glob.find("[", at)) >= 0:
        inside = at + (2 if glob.startswith("[!", at) else 1)
        end = glob.find("]", inside + 1)  # a "]" that comes first is one of the set: fnmatch(3)
        if end < 0:
            return glob[:at] + glob[at:].replace("[", "[[]")
        at = end + 1
    return glob


_LITERAL = re.compile(r"\[([*?[])\]")


def _only(glob: str) -> str | None:
    """The one text that a pattern matches, None where it may match several."""
    # Not "[": what begins so and is no `literal` is left to fnmatch.
    return None if re.search(r"[*?[]", _LITERAL.sub("", glob)) else _LITERAL.sub(r"\1", glob)


def _any_of(globs: Iterable[str]) -> Callable[[str], bool]:
    exact, patterns = set(), []
    for glob in globs:
        if (text := _only(glob)) is not None:
            exact.add(text)  # a thousand of these cost what one does
        else:
            patterns.append(translate(closed(glob)))
    if not patterns:
        return exact.__contains__
    match = re.compile("|".join(patterns)).match
    return lambda text: text in exact or match(text) is not None


def literal(text: str) -> str:
    """The pattern that matches this text and nothing else."""
    return re.sub(r"[*?[]", r"[\g<0>]", text)


_SERVER = "server:"


def says_where(glob: str) -> bool:
    """Whether a pattern names a namespace or a server; else it is of mount points wherever they are."""
    return glob.startswith((f"{HOST}:", "ct:", _SERVER))


class MountPatterns:
    """A list of mount patterns, compiled."""

    def __init__(self, globs: Iterable[str]) -> None:
        plain, qualified, servers = [], [], []
        for glob in globs:
            if glob.startswith(_SERVER):
                servers.append(glob.removeprefix(_SERVER))
            elif says_where(glob):
                qualified.append(glob)
            else:
                plain.append(glob)
        self._plain, self._qualified, self._server = _any_of(plain), _any_of(qualified), _any_of(servers)
        self.none = not (plain or qualified or servers)
        self.all = "*" in plain

    def match(self, place: Place, server: str | None) -> bool:
        return (
            self._plain(place.mount_point)
            or self._qualified(f"{place.namespace}:{place.mount_point}")
            or (server is not None and self._server(server))
        )


def unmatched(globs: Iterable[str], mounts: Mapping[Place, str | None]) -> list[str]:
    """The patterns that are about none of these mounts (place: server)."""
    points = {place.mount_point for place in mounts}
    qualified = {f"{place.namespace}:{place.mount_point}" for place in mounts}
    servers = {server for server in mounts.values() if server is not None}
    found = []
    for glob in globs:
        texts = servers if glob.startswith(_SERVER) else qualified if says_where(glob) else points
        pattern = glob.removeprefix(_SERVER)
        if (text := _only(pattern)) is not None:
            matches = text in texts
        else:
            matches = any(map(re.compile(translate(closed(pattern))).match, texts))
        if not matches:
            found.append(glob)
    return found


class Filter:
    """The [watch], [probe] and [[override]] sections, ready to be asked about mounts."""

    def __init__(
        self,
        *,
        fstypes: Sequence[str],
        include: Sequence[str],
        exclude: Sequence[str],
        show_only: Sequence[str],
        pace: Pace,
        overrides: Sequence[tuple[Sequence[str], Mapping[str, float]]] = (),
    ) -> None:
        self._fstype = _any_of(fstypes)
        self._include, self._exclude = MountPatterns(include), MountPatterns(exclude)
        self._show_only_type = _any_of(p for p in show_only if not _is_mount_pattern(p))
        self._show_only_place = MountPatterns(p for p in show_only if _is_mount_pattern(p))
        self._pace = pace
        self._overrides = [(MountPatterns(globs), changes) for globs, changes in overrides]

    def watches(self, namespace: str, mount: Mount) -> bool:
        # An autofs trigger is never asked: statfs would mount what it stands for.
        return mount.fstype != "autofs" and self._fstype(mount.fstype) and self.chooses(namespace, mount)

    def chooses(self, namespace: str, mount: Mount) -> bool:
        """Whether it is watched by its place and its server, whatever its type."""
        if self._include.all and self._exclude.none:
            return True
        place, server = Place(namespace, mount.mount_point), server_of(mount.fstype, mount.source)
        return self._include.match(place, server) and not self._exclude.match(place, server)

    def shows_only(self, namespace: str, mount: Mount) -> bool:
        """Shown and probed, never alarmed."""
        if self._show_only_type(mount.fstype):
            return True
        if self._show_only_place.none:
            return False
        return self._show_only_place.match(Place(namespace, mount.mount_point), server_of(mount.fstype, mount.source))

    def pace(self, namespace: str, mount: Mount) -> Pace:
        """The [probe] settings for this mount; of several overrides the later wins, key by key."""
        if not self._overrides:
            return self._pace
        place, server = Place(namespace, mount.mount_point), server_of(mount.fstype, mount.source)
        changes: dict[str, float] = {}
        for patterns, wanted in self._overrides:
            if patterns.match(place, server):
                changes.update(wanted)
        return self._pace._replace(**changes) if changes else self._pace


def _is_mount_pattern(pattern: str) -> bool:
    return pattern.startswith("/") or ":" in pattern
