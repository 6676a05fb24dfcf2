"""What was found out about one failing mount without touching it, and what there is to find out.

Values and parsers only: who asks is `probing.evidence`, what people read of it is `advice`.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from watcher.core import fstab
from watcher.core.filters import server_of
from watcher.core.mountinfo import Tree, is_below, option, unescape
from watcher.core.mountstats import NFS
from watcher.core.places import superblock_of
from watcher.core.radius import Radius
from watcher.core.wording import place_order
from watcher.model import HOST, Cause, Mount, MountState, Place, Superblock

CIFS = frozenset({"cifs", "smb3"})
CEPH = frozenset({"ceph", "fuse.ceph-fuse"})
_LXC = ("lxc", "lxc.payload")  # what is below these in the cgroups is a container's
_OTHERS = ("docker", "libpod", "crio", "cri-containerd", "machine.slice", "kubepods")  # and below these another's
MAX_ENDPOINTS = 5  # monitors of a Ceph cluster
_ZONE = re.compile(r"[A-Za-z0-9_.-]*")  # an interface, or its number; ipaddress takes whatever stands there
_CEPH_SOURCE = re.compile(r"^[^@/=]+(?=:/)")  # "mon1:6789,mon2:6789:/path", of before the new mount syntax


class Port(enum.StrEnum):
    """What a TCP connection to the server came to."""

    NOT_ASKED = ""
    REACHABLE = "reachable"
    REFUSED = "refused"
    NO_ANSWER = "no answer"
    UNREACHABLE = "unreachable"  # no route, or a router or the neighbourhood says so


class Origin(enum.StrEnum):
    """Who mounts it, and so what mounts it again."""

    UNKNOWN = ""
    FSTAB = "fstab"
    AUTOMOUNT = "automount"  # an autofs trigger stands below it
    UNIT = "unit"  # a systemd mount unit of its own
    PVE = "pve"


class Endpoint(NamedTuple):
    address: str  # numeric
    port: int


class Daemon(NamedTuple):
    """The process that serves a FUSE mount."""

    pid: int  # in our pid namespace
    comm: str
    unit: str = ""  # of systemd: "rclone.service"
    system: bool = True  # the unit is one of the system's, not of a user's
    inside: bool = False  # it lives in a container
    likely: bool = False  # nothing says that it is the one, but it is the only one that may be


class Question(NamedTuple):
    """What is to be found out, with what the mount tables tell already."""

    superblock: Superblock
    place: Place  # the host's, where it is bound into a container from there
    endpoints: tuple[Endpoint, ...] = ()
    stands: Superblock | None = None  # what stands there, where that is another directory of the file system
    options: str = ""  # of that
    init_pid: int = 0  # of the container whose own mount it is; 0: it is ours
    stack: tuple[str, ...] = ()
    stacked: int = 1  # mounts on this mount point
    below: str = ""  # the one that stands directly below: "nas01:/export (nfs4)"
    within: tuple[str, ...] = ()  # those in it, which go when it is taken away and do not come back with it
    others_ok: int = 0  # other file systems of the same server that answer
    others_failing: int = 0
    origin: Origin = Origin.UNKNOWN
    gone: bool = False  # whoever served it is not there any more: the kernel has said so

    @property
    def likely(self) -> tuple[str, ...]:
        """What the process that serves a FUSE mount may be called: as its type says, or its source."""
        if self.place.mount_point == "/etc/pve":
            return ("pmxcfs",)
        return self.superblock.fstype.partition(".")[2], self.superblock.source

    @property
    def connection(self) -> int | None:
        """The number of a FUSE connection in fusectl: the minor of its anonymous device (fs/fuse/inode.c)."""
        major, _, minor = self.superblock.device.partition(":")
        is_fuse = self.superblock.fstype.partition(".")[0] == "fuse"
        return int(minor) if is_fuse and major == "0" and minor.isdecimal() else None


class Findings(NamedTuple):
    """What the asking process has said of one question; None: it has not, or could not."""

    ports: tuple[tuple[Endpoint, Port], ...] = ()
    from_host: tuple[tuple[Endpoint, Port], ...] = ()  # and the host's own to the same, of a container's mount
    waiting: int | None = None
    unanswered: int | None = None
    has_unit: bool = False


class Evidence(NamedTuple):
    """What is known of one failing mount, for the words of `advice`."""

    question: Question
    port: Port = Port.NOT_ASKED
    endpoint: Endpoint | None = None  # the one that `port` speaks of
    port_from_host: Port = Port.NOT_ASKED  # of a container's own mount, `port` is from the container's network
    waiting: int | None = None  # requests in the FUSE connection's queues; None: not known
    daemons: tuple[Daemon, ...] | None = None  # None: not known; (): nobody serves it
    unanswered: int | None = None  # NFS calls sent over the present transports and not answered, retransmissions too
    origin: Origin = Origin.UNKNOWN
    radius: Radius | None = None  # what hangs on it; None: not known

    @property
    def superblock(self) -> Superblock:
        return self.question.superblock

    @property
    def never_started(self) -> bool:
        return never_started(self.question.stack)


def never_started(stack: Iterable[str]) -> bool:
    """Whether a call waits for a FUSE server that has not answered INIT.

    A call in the foreground waits in fuse_get_req only until then (fs/fuse/dev.c:fuse_block_alloc); later it waits in
    request_wait_answer.
    """
    names = [name.partition(".")[0] for name in stack]
    return "fuse_get_req" in names and "request_wait_answer" not in names


# ---- questions


def question_of(target: MountState, states: Iterable[MountState], mounts: Sequence[Mount] = ()) -> Question:
    """What to find out about a mount. `states`: all that are watched; `mounts`: the host's table."""
    mount, place = target.mount, target.place
    server = server_of(mount.fstype, mount.source)
    others: dict[str, bool] = {}
    # What a container calls a server is its own matter.
    if server is not None and not (mount.fstype.startswith("fuse") and place.namespace != HOST):
        for state in states:
            other = state.mount
            # "slow" is how one looks that begins to fail: nothing is known of it yet.
            known = state.status in ("ok", "readonly", "stale")
            if known and other.device != mount.device and server_of(other.fstype, other.source) == server:
                others[other.device] = others.get(other.device, True) and state.status != "stale"
    container = target.container
    if place.namespace != HOST and (own := _on_host(mount, mounts)) is not None:
        # Bound into it: the client, its network and what mounts it again are the host's.
        mount, place, container = own, Place(HOST, own.mount_point), None
    is_hosts = place.namespace == HOST
    lower = _below(mount, mounts) if is_hosts else None
    return Question(
        superblock_of(target.mount),
        place,
        stands=superblock_of(mount) if mount is not target.mount else None,
        options=mount.all_options,
        endpoints=endpoints_of(mount.fstype, mount.source, mount.all_options),
        init_pid=container.init_pid if container is not None else 0,
        stack=target.stack,
        stacked=target.stacked - (lower is not None and lower.fstype == "autofs"),
        below=f"{lower.source} ({lower.fstype})" if lower is not None and lower.fstype != "autofs" else "",
        within=_within(mount, mounts) if is_hosts else (),
        others_ok=sum(others.values()),
        others_failing=len(others) - sum(others.values()),
        origin=_origin(place, lower),
        gone=target.cause is Cause.DISCONNECTED,
    )


def question_of_absent(superblock: Superblock, place: Place, options: str, mounts: Sequence[Mount] = ()) -> Question:
    """The same about what is not mounted. `options`: those that it had, if it is known that it was there."""
    if option(options, "addr") is None and (server := server_of(superblock.fstype, superblock.source)) is not None:
        options += f",addr={server}"  # counts where it is no name
    lower = next((m for m in reversed(mounts) if m.mount_point == place.mount_point and place.namespace == HOST), None)
    endpoints = endpoints_of(superblock.fstype, superblock.source, options)
    return Question(superblock, place, endpoints, origin=_origin(place, lower), gone=True)


def _on_host(mount: Mount, mounts: Iterable[Mount]) -> Mount | None:
    """The mount of the host's whose file system this is, on which all of it stands.

    NFS calls the directory that is mounted its root, and names a directory of it in the source (nfs_show_path).
    """

    def holds(other: Mount) -> bool:
        if (other.device, other.fstype) != (mount.device, mount.fstype):
            return False
        below = mount.fstype in NFS and mount.source.startswith(f"{other.source.rstrip('/')}/")
        return (other.source == mount.source or below) and other.root in ("/", mount.root)

    def strangeness(m: Mount) -> tuple[bool, bool, tuple[bool, tuple[str | int, ...]]]:
        return m.source != mount.source, m.root != mount.root, place_order(Place(HOST, m.mount_point))

    return min(filter(holds, mounts), key=strangeness, default=None)


def _below(mount: Mount, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that this one hides."""
    parent = next(Tree(mounts).ancestors(mount), None)
    return parent if parent is not None and parent.mount_point == mount.mount_point else None


def _within(mount: Mount, mounts: Sequence[Mount]) -> tuple[str, ...]:
    """What is mounted in it, "/mnt/nas/sub (ext4)", a directory each: umount(8) with -l takes that along.

    Not where NFS has gone from one file system of the server's to the next: that comes by itself (nfs_d_automount).
    """
    candidates = [m for m in mounts if is_below(m.mount_point, mount.mount_point)]
    tree, found = Tree(mounts) if candidates else None, dict[str, str]()
    for m in candidates:
        by_itself = f"{mount.source.rstrip('/')}{m.mount_point.removeprefix(mount.mount_point)}"
        if m.fstype in NFS and mount.fstype in NFS and m.source == by_itself:
            continue
        if tree is not None and any(a.mount_id == mount.mount_id for a in tree.ancestors(m)):
            found[m.mount_point] = f"{m.mount_point} ({m.fstype})"
    return tuple(found.values())


def _origin(place: Place, lower: Mount | None) -> Origin:
    if lower is not None and lower.fstype == "autofs":
        return Origin.AUTOMOUNT
    return Origin.PVE if place.namespace == HOST and place.mount_point.startswith("/mnt/pve/") else Origin.UNKNOWN


def endpoints_of(fstype: str, source: str, options: str) -> tuple[Endpoint, ...]:
    """Where its server listens, as the kernel shows the address (nfs(5), mount.cifs(8), mount.ceph(8)).

    Nothing where TCP is not what it speaks, or where a name would have to be resolved.
    """
    if fstype in NFS:
        if (option(options, "proto") or "tcp") not in ("tcp", "tcp6"):
            return ()
        return _endpoint(option(options, "addr"), option(options, "port"), 2049)
    if fstype in CIFS:
        return _endpoint(option(options, "addr"), option(options, "port"), 445)
    if fstype == "ceph":
        if listed := option(options, "mon_addr"):
            monitors = listed.split("/")
        else:
            match = _CEPH_SOURCE.match(source)
            monitors = match[0].split(",") if match else []
        modern = (option(options, "ms_mode") or "legacy") != "legacy"
        found: list[Endpoint] = []
        for monitor in monitors[:MAX_ENDPOINTS]:
            host, _, port = monitor.rpartition(":") if re.search(r"\]:\d+$|^[^:]*:\d+$", monitor) else (monitor, "", "")
            found += _endpoint(host.strip("[]"), port, 3300 if modern else 6789)
        return tuple(found)
    return ()


def hosts_own(mounts: Iterable[Mount]) -> frozenset[Endpoint]:
    """The endpoints of the host's own mounts, to which it connects anyway.

    A container's mount table names any address and port that the container likes, be it one that only the host can
    reach: to no others may the host be made to connect.
    """
    found = (endpoints_of(m.fstype, m.source, m.all_options) for m in mounts)
    return frozenset(endpoint for some in found for endpoint in some)


def _endpoint(address: str | None, port: str | None, default: int) -> tuple[Endpoint, ...]:
    try:
        ipaddress.ip_address(address or "")
    except ValueError:
        return ()
    if _ZONE.fullmatch((address or "").partition("%")[2]) is None:
        return ()
    number = int(port) if port and port.isascii() and port.isdecimal() and len(port) < 6 else 0
    return (Endpoint(address or "", number if 0 < number < 65536 else default),)


# ---- what has been read


def assemble(question: Question, findings: Findings, fstab_text: str = "") -> Evidence:
    """Put together what was found, by whomever. `fstab_text`: of the host."""
    origin = question.origin
    # Not all that stands in /mnt/pve is a storage that PVE mounts itself.
    if question.place.namespace == HOST and origin in (Origin.UNKNOWN, Origin.PVE):
        wanted = fstab_sources(fstab_text).get(question.place.mount_point)
        stands = (question.stands or question.superblock).source
        # Something else may have been mounted there by hand. Of FUSE the program says what it is called.
        if wanted is not None and (question.superblock.fstype.startswith("fuse") or _alike(wanted, stands)):
            origin = Origin.FSTAB
        # PVE has a unit of its own for CephFS (PVE::Storage::CephFSPlugin).
        elif findings.has_unit and not (origin is Origin.PVE and question.superblock.fstype in CEPH):
            origin = Origin.UNIT
    # Of several monitors one that answers is enough; where none does, one that answers the host says most.
    from_host = dict(findings.from_host)
    ranks = list(Port)

    def rank(found: tuple[Endpoint, Port]) -> tuple[int, int]:
        theirs = from_host.get(found[0], Port.NOT_ASKED)
        return ranks.index(found[1]), ranks.index(theirs) or len(ranks)

    best = min(findings.ports, key=rank, default=None)
    return Evidence(
        question,
        port=best[1] if best else Port.NOT_ASKED,
        endpoint=best[0] if best else None,
        port_from_host=from_host.get(best[0], Port.NOT_ASKED) if best else Port.NOT_ASKED,
        waiting=findings.waiting,
        unanswered=findings.unanswered,
        origin=origin,
    )


def fstab_sources(text: str) -> Mapping[str, str]:
    """By mount point, what its line in fstab(5) mounts there. Never raises."""
    return {e.target.rstrip("/") or "/": e.source for e in fstab.entries(text) if e.target.startswith("/")}


def _alike(one: str, other: str) -> bool:
    """Whether two sources are the same, or one is not known."""
    return not other or one.replace("\\", "/").rstrip("/") == other.replace("\\", "/").rstrip("/")


def unit_of(cgroup: str) -> tuple[str, bool, bool]:
    """From /proc/<pid>/cgroup: the systemd unit of a process, if any, whether it is the system's, if in a container.

    Of nested ones the innermost: what a user's service manager runs lies below user@1000.service (cgroups(7)), what
    that of a container of Docker's runs below docker-….scope. Only what lies below no other is the system's, or the
    LXC container's own.
    """
    for line in cgroup.split("\n"):
        if line.startswith("0::") or ":name=systemd:" in line:
            parts = line.partition(":")[2].partition(":")[2].split("/")
            walls = [n for n, part in enumerate(parts) if part in _LXC or part.startswith("lxc.payload.")]
            within = parts[walls[0] + 1 :] if walls else parts
            units = [part for part in within if part.endswith((".service", ".scope"))]
            if units:
                own = len(units) == 1 and len(walls) < 2 and not any(part.startswith(_OTHERS) for part in within[:-1])
                return units[-1], own, bool(walls)
    return "", True, False


def unanswered(text: str, mount_point: str) -> int | None:
    """NFS calls that were sent and not answered, from /proc/<pid>/mountstats; None where it does not say.

    "xprt: tcp <port> <binds> <connects> <connect time> <idle time> <sends> <receives> …", one line to a connection
    (net/sunrpc/xprtsock.c:xs_tcp_print_stats); udp has no connects and no times.
    """
    missing: int | None = None
    here = False
    for line in text.split("\n"):
        if line.startswith("device "):
            words = line.split(" ")
            here = len(words) > 4 and words[2:4] == ["mounted", "on"] and unescape(words[4]) == mount_point
            missing = None if here else missing  # of stacked ones, the last
        elif here and (fields := line.split())[:1] == ["xprt:"]:
            at = {"tcp": 7, "udp": 4}.get(fields[1] if len(fields) > 1 else "")
            counts = fields[at : at + 2] if at is not None else []
            if len(counts) == 2 and all(word.isdecimal() and len(word) < 21 for word in counts):
                missing = (missing or 0) + max(0, int(counts[0]) - int(counts[1]))
    return missing
