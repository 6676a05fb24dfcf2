"""One running container: its mount table, whether it is frozen, when it is to be read again.

Never holds its mountinfo open: a held descriptor keeps the mount namespace of a dead container, and
with it its disks. The table is its own: bounded in size and in the time that it may cost.
"""

from __future__ import annotations

import errno
import os
from hashlib import blake2b
from time import monotonic

from watcher import procfs
from watcher.core import lxc
from watcher.core.mountinfo import parse
from watcher.model import Container, TableRead, TableUnreadable
from watcher.sources.claims import Claim, Claims

ROUND = 10.0  # seconds between two reads
EARLY = (0.5, 2.0)  # seconds after it was found: its mounts come after its control group
READ_SHARE = 20  # the time that its table costs is at most this part of the time
LONGEST_REST = 60.0  # seconds
WANTED_AFTER = 0.5  # seconds between two reads, however often it changes
THAW_SETTLE = 0.5  # seconds: a container can freeze parts of itself as often as it likes
TABLE_LIMIT = 1 << 20  # bytes: some 8,000 mounts

# No process, or one that is ending: it has left its mount namespace, and may yet wait long for its last children.
_NO_NAMESPACE = (errno.EINVAL, errno.ENOENT, errno.ESRCH)
_TOO_LONG = "some of its mount points are longer than a path can be; they are not watched"
_TOO_LARGE = "its mount table is larger than 1 MiB; the rest is not watched"


class Running:
    """What is known of a container from its start to its end."""

    def __init__(self, proc: str, cgroup: str, claims: Claims, ctid: str, claim: Claim, now: float) -> None:
        self.claim, self.init = claim, claim.init
        self.container = Container(ctid, self.init.pid, self.init.start_time)
        self.wanted = False  # its table is wanted even if it is unchanged
        self.read_at = now
        self.name_at = now  # when to look for its name (again)
        self.name_problem = ""
        self.events_path = ""  # the cgroup.events of its init
        self.ended = False
        self.told: Container | None = None  # as it was told of last
        self.told_unreadable = ""  # why its table could not be read, as it was told of
        self.trouble = ""  # with its table
        self._proc, self._cgroup, self._claims = proc, cgroup, claims
        self._found = now
        self._digest = b""
        self._read, self._rest_until = now, 0.0

    @property
    def due(self) -> float:
        """When its table is to be read."""
        return max(self.read_at, self._rest_until)

    @property
    def was_told(self) -> bool:
        """Whether anybody has heard of it."""
        return self.told is not None or self.told_unreadable != ""

    def named(self, name: str, problem: str = "") -> None:
        self.container = self.container._replace(name=name)
        self.name_problem, self.read_at = problem, 0.0

    def want(self) -> None:
        """Read it again soon, even if it is unchanged."""
        self.wanted = True
        self.read_at = min(self.read_at, self._read + WANTED_AFTER)

    def has_cost(self, seconds: float) -> None:
        """So long it took others to deal with what was read."""
        self._rest_until = max(self._rest_until, monotonic() + min(READ_SHARE * seconds, LONGEST_REST))

    def frozen_or_thawed(self) -> None:
        self.read_at = min(self.read_at, self._read + THAW_SETTLE)

    def read(self, host_root: tuple[str, str] | None) -> TableRead | TableUnreadable | None:
        """Its table if that, or the container, is not as it was told of last; None, too, if it has ended."""
        self._read = began = monotonic()
        try:
            return self._look(host_root)
        except OSError as e:
            error = e.strerror or str(e)
            self.ended = e.errno in _NO_NAMESPACE or not self._claims.is_alive(self.init)
            if self.ended or error == self.told_unreadable:
                return None
            self.told_unreadable, self._digest = error, b""
            return TableUnreadable(self.container.namespace, error)
        finally:
            now = monotonic()
            self._rest_until = now + READ_SHARE * (now - began)
            early = [at for after in EARLY if (at := self._found + after) > now]
            # All containers' rounds fall together: one wake-up for all.
            self.read_at = early[0] if early else (now // ROUND + 1) * ROUND

    def _look(self, host_root: tuple[str, str] | None) -> TableRead | None:
        pid = self.init.pid
        data = procfs.read(f"{self._proc}/{pid}/mountinfo", TABLE_LIMIT + 1)
        digest = blake2b(data, digest_size=16).digest()
        container = self.container._replace(frozen=self._is_frozen())
        if digest == self._digest and container == self.told and not self.wanted:
            return None
        container = container._replace(user_namespace=self._claims.user_namespace(self.init))
        # That it is still the same process proves that it was all along.
        if not self._claims.is_alive(self.init):
            self.ended = True
            return None
        table = parse(lxc.whole_lines(data, TABLE_LIMIT))
        mounts = lxc.of_bearable_length(table)
        if host_root is not None and lxc.root_of(mounts) == host_root:
            return None  # before its pivot_root
        self._digest, self.told_unreadable, self.wanted = digest, "", False
        self.trouble = _TOO_LARGE if len(data) > TABLE_LIMIT else _TOO_LONG if len(mounts) < len(table) else ""
        self.container = self.told = container
        return TableRead(container.namespace, mounts, container)

    def _is_frozen(self) -> bool:
        path = lxc.cgroup_of(procfs.read_short(f"{self._proc}/{self.init.pid}/cgroup"))
        self.events_path = os.path.normpath(f"{self._cgroup}{path}/cgroup.events") if path else ""
        try:
            return bool(path) and lxc.is_frozen(procfs.read_short(self.events_path))
        except OSError:
            return False
