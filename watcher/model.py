"""Value types that travel between the parts: mounts, probes, events, transitions.

Nothing here does I/O, reads a clock or imports another module of the project.
Paths are `str` decoded with surrogateescape (PEP 383); times named `now`, `started`
or `since` are seconds of the monotonic clock, `wall` is seconds since the epoch.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

Counters = tuple[str, ...]  # of the use of one mount

HOST = "host"  # the namespace that the watcher itself runs in; a container is "ct:<id>"


class Mount(NamedTuple):
    """One line of /proc/<pid>/mountinfo (proc_pid_mountinfo(5)), unescaped."""

    mount_id: int
    parent_id: int
    device: str  # "major:minor" of the superblock
    root: str  # the directory of the superblock that is mounted here
    mount_point: str
    options: str  # of this mount (comma separated)
    fstype: str  # with subtype, such as "fuse.sshfs"
    source: str
    super_options: str  # of the superblock

    @property
    def all_options(self) -> str:
        """Those of the mount, then those of its superblock."""
        return f"{self.options},{self.super_options}"


class Place(NamedTuple):
    """Where a mount stands: a namespace and an absolute path in it."""

    namespace: str
    mount_point: str

    def __str__(self) -> str:
        return self.mount_point if self.namespace == HOST else f"{self.namespace}:{self.mount_point}"


class Container(NamedTuple):
    """A running LXC container, as the host sees it."""

    ctid: str  # "101"; without Proxmox any name that LXC takes
    init_pid: int  # in our pid namespace
    start_time: int  # of init, in clock ticks since boot: tells a re-used pid
    name: str = ""  # its host name; "" where it is not known (yet)
    user_namespace: int = 0  # the inode of its own user namespace; 0: it shares ours
    frozen: bool = False  # its processes stand still (a backup does that), and its own FUSE servers with them

    @property
    def namespace(self) -> str:
        return f"ct:{self.ctid}"


class Superblock(NamedTuple):
    """What one probe speaks for: all places with the same four share one verdict."""

    device: str
    root: str
    fstype: str
    source: str


class Expected(NamedTuple):
    """A mount that should be there: who says so, and what is known of it beforehand."""

    place: Place
    source: str  # "" where it is not said
    fstype: str  # as it will stand in the mount table; "" where it is not said
    origin: str  # who wants it, for people: "/etc/fstab", "PVE storage nas01"
    mend: str = ""  # what to do, for people: "mount /mnt/nas"
    exact: bool = False  # another mount in its place is not it
    readonly: bool | None = None  # how it is meant; None: nobody says
    by_hand: bool = False  # who writes it down mounts it himself, and in his own time
    on_demand: bool = False  # by systemd's automount unit


class Usage(NamedTuple):
    """Capacity in bytes, as fstatvfs(3) gives it."""

    total: int
    used: int
    available: int  # for an ordinary user, so total - used may be more


class Silence(NamedTuple):
    """For some mounts, and for a time, no new alarm is told. Times are seconds since the epoch."""

    id: str
    patterns: tuple[str, ...]  # as in [watch] include: "/mnt/*", "ct:101:*", "server:nas01"
    begins: float
    ends: float
    comment: str = ""


class Pace(NamedTuple):
    """How often a mount is asked and how long it may fail: the [probe] section, in seconds."""

    interval: float = 10.0
    timeout: float = 5.0
    stale_interval: float = 5.0
    alarm_after: float = 20.0
    alarm_after_error: float = 5.0
    deep_interval: float = 60.0


class Cause(enum.StrEnum):
    """Why a mount is not ok: the words of the JSON output."""

    TIMEOUT = "timeout"
    STALE_HANDLE = "stale_handle"
    DISCONNECTED = "disconnected"
    IO_ERROR = "io_error"
    IMPLAUSIBLE = "implausible"
    REFUSED = "refused"
    VANISHED = "vanished"
    ERROR = "error"


class Reach(enum.StrEnum):
    """What is known of a mount: the states of `core.health`."""

    UNKNOWN = "unknown"
    OK = "ok"
    SUSPECT = "suspect"  # fails, but not yet for long enough
    STALE = "stale"
    RECOVERING = "recovering"  # one good probe after stale; the second decides
    DENIED = "denied"  # answers EACCES and never answered otherwise


class Stage(enum.StrEnum):
    """How far a probe came: what fails while walking belongs to the place, the rest to the superblock."""

    WALK = "walk"
    STATFS = "statfs"
    DEEP = "deep"


class Kind(enum.StrEnum):
    """What a transition is about; `notify.on` chooses among them."""

    STALE = "stale"
    READONLY = "readonly"
    VANISHED = "vanished"
    MISSING = "missing"  # somebody's file says that it should be mounted, and it is not
    FULL = "full"
    WATCHER = "watcher"  # the watcher itself, such as a configuration it cannot use; always told


# ---- probes: what is asked, what came back


class Probe(NamedTuple):
    """One question to one mount."""

    superblock: Superblock
    place: Place
    mount_id: int
    timeout: float  # seconds from the moment at which its thread starts
    deep: bool = False  # also read the directory's first entries
    root_pid: int = 0  # the path starts from this process's root directory; 0: from ours
    user_namespace: int = 0  # inode of root_pid's user namespace, to be entered before asking; 0: none
    lane: str = ""  # probes of one lane hang at most four at a time; "": no such limit


class Verdict(enum.StrEnum):
    ANSWERED = "answered"
    FAILED = "failed"  # an errno, or an answer that cannot be
    TIMED_OUT = "timed out"
    NOT_THIS_MOUNT = "not this mount"  # another mount stands there by now: read the table again
    VOID = "void"  # says nothing about the mount: we were slow, out of threads or descriptors


class Wedged(NamedTuple):
    """A thread of a killed probe child that has not ended: the kernel still waits for the file system."""

    pid: int
    start_time: int  # field 22 of /proc/<pid>/stat, in clock ticks since boot: tells a re-used pid
    tid: int


class ProbeReport(NamedTuple):
    """What came of a probe. A failed probe is data, not an exception."""

    probe: Probe
    verdict: Verdict
    started: float
    latency: float | None = None  # seconds; None where nothing was measured
    stage: Stage = Stage.STATFS
    errno: int | None = None
    usage: Usage | None = None
    readonly: bool | None = None  # ST_RDONLY of the answer
    stack: tuple[str, ...] = ()  # kernel functions in which it hangs, innermost first; empty without privilege
    wedged: Wedged | None = None
    note: str = ""  # why a probe is void


# ---- events: what the tracker is told


class TableRead(NamedTuple):
    """A namespace's whole mount table, every line of it."""

    namespace: str
    mounts: tuple[Mount, ...]
    container: Container | None = None  # whose it is; None: the host's


class NamespaceGone(NamedTuple):
    namespace: str
    reason: str  # "container stopped"


class TableUnreadable(NamedTuple):
    namespace: str
    error: str


class ExpectedRead(NamedTuple):
    """All that should be mounted, as the files have it now."""

    expected: tuple[Expected, ...]
    complete: bool = True  # none of the files has yet to be read for the first time
    inside: frozenset[str] = frozenset()  # the namespaces of the containers whose own files have been read
    binds: frozenset[Place] = frozenset()  # where fstab binds something, be it of what may yet be mounted


class DisksRead(NamedTuple):
    """What the kernel has of local disks."""

    devices: frozenset[str]  # "major:minor" of each block device; empty where they cannot be seen
    names: frozenset[str]  # "sdb1", "nvme0n1p2"
    pools: Mapping[str, str]  # of ZFS, and the state of each: "ONLINE", "SUSPENDED"


class UseRead(NamedTuple):
    """What has been counted by now of the calls into the NFS mounts of the host (core.mountstats), by mount point."""

    counters: Mapping[str, Counters]


class ProbeStarted(NamedTuple):
    """The probe was handed to the prober: not due again before its report."""

    probe: Probe


class ThreadGone(NamedTuple):
    """A wedged thread ended: the mount that held it may answer again."""

    wedged: Wedged


class StillWedged(NamedTuple):
    """Threads that an earlier run of the watcher left hanging in this mount."""

    superblock: Superblock
    wedged: Wedged
    since: float


class Tick:
    """Time has passed."""

    __slots__ = ()


class Overslept:
    """We stood still (SIGSTOP, suspend, a starved machine): the time that has passed says nothing of the mounts."""

    __slots__ = ()


Event = (
    TableRead
    | NamespaceGone
    | TableUnreadable
    | ExpectedRead
    | DisksRead
    | UseRead
    | ProbeStarted
    | ProbeReport
    | ThreadGone
    | StillWedged
    | Tick
    | Overslept
)


# ---- what comes out


class Change(enum.StrEnum):
    """How the matter of a transition changed."""

    BEGAN = "began"  # not ok from here on
    ENDED = "ended"  # two good probes (or writable again)
    GONE = "gone"  # no longer mounted: not a recovery
    RESUMED = "resumed"  # it was not ok in an earlier run, and is what was told then
    JOINED = "joined"  # still not ok, and it stands in more places, or more is known of it
    LEFT = "left"  # no longer mounted in these of its places, still in others
    REMOUNTED = "remounted"  # another mount stands in the same place and answers


@dataclass(frozen=True, slots=True)
class Subject:
    """What a transition is about, as people know it."""

    superblock: Superblock
    places: tuple[Place, ...]
    options: str  # mount and super options, for the words "hard", "vers=4.2"
    names: tuple[tuple[str, str], ...] = ()  # namespace -> name of the container

    @property
    def fstype(self) -> str:
        return self.superblock.fstype

    @property
    def source(self) -> str:
        return self.superblock.source


class Transition(NamedTuple):
    """A change that matters: of one superblock, at all its places."""

    kind: Kind
    change: Change
    subject: Subject
    at: float
    since: float  # when it began to fail (or, for other kinds, to be so)
    cause: Cause | None = None
    error: str = ""  # for people: "no answer within 5 s", "Stale file handle"
    stack: tuple[str, ...] = ()
    reason: str = ""  # of GONE and LEFT: "unmounted", "container stopped"; of ENDED: "below 90 % again"
    context: str = ""  # what other mounts say of it: "the host's own mount of it is ok"; of MISSING: what mounts it


class Asked(NamedTuple):
    """What comes of the wish that a mount be probed now."""

    begins: bool  # a probe is under way, or is about to be
    why_not: str = ""  # in words


class MountState(NamedTuple):
    """One place as it stands now: a row of the table, an entry of the JSON."""

    place: Place
    mount: Mount
    reach: Reach
    status: str  # ok | slow | readonly | denied | stale | missing | unknown
    cause: Cause | None = None
    error: str = ""
    since: float | None = None  # when this status began, where known
    latency: float | None = None
    usage: Usage | None = None
    readonly: bool = False
    unexpected_readonly: bool = False
    show_only: bool = False
    behind: Place | None = None  # the failing mount that this one lies below
    stacked: int = 1  # how many mounts stand on this mount point
    stack: tuple[str, ...] = ()
    wedged_since: float | None = None
    context: str = ""  # what other mounts say of it
    container: Container | None = None
