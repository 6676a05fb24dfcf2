"""What to do about a mount that fails, in lines for a message.

"Do: " is for this host, "Do on SERVER: " and "First, on SERVER: " for whom it names, and what follows, up to the end of
the line, is a command to be copied with the remark behind it (`commands`), or plain words. Where a mount resumes by
itself that is said, since who mounts anew what would have resumed has taken files away from under programs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from watcher.core.causes import client, is_not_offered
from watcher.core.commands import (
    Again,
    aborted,
    again,
    in_network_of,
    inside_of,
    plain,
    reboot,
    remarks,
    storage_of,
    unmounted,
)
from watcher.core.evidence import CIFS, Daemon, Evidence, Origin, Port, never_started
from watcher.core.filters import KERNEL_REMOTE
from watcher.core.incident import BY_PLACE, Member
from watcher.core.mountinfo import option
from watcher.core.mountstats import NFS
from watcher.core.reasons import LOST, SEES_DISK
from watcher.core.roster import OLD
from watcher.core.wording import container_name, name, place_order
from watcher.model import HOST, Cause, Kind, Place

MAX_LINE = 1500  # characters as HTML
MAX_RESTARTS = 3  # guests of which each is named
# What a Linux server calls its service (Debian and its like); a NAS has a switch for it.
_SERVICES = {
    **dict.fromkeys(NFS, "nfs-server"),
    **dict.fromkeys(CIFS, "smbd"),
    "ceph": "ceph-mon.target",
}
_BY_HAND = "Do: by hand, the path is too long for a command in a message, or has characters that none can show"
_RESUMES = "the mount resumes by itself"
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?")
_LOGIN = re.compile(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*(?=:)")  # of sshfs(1)'s source


def advice(member: Member, server: str | None, found: Evidence | None = None) -> list[str]:
    """What to do first, and instead."""
    place = min(member.subject.places, key=place_order, default=None)
    if found is not None and _is_hosts(member, found):
        question, place = found.question, found.question.place
        if question.stands is not None:
            subject = replace(member.subject, superblock=question.stands, options=question.options)
            member = replace(member, subject=subject)
    if place is None:
        return []
    lines = _lines(member, place, server, found)
    if name(place.mount_point, 200) != place.mount_point:
        return [_BY_HAND] if lines else []  # a command that was shortened or escaped would do something else
    return [line for line in lines if fits(line)]


def _is_hosts(member: Member, found: Evidence) -> bool:
    """Whether it is the host's to mend: also where only the containers are watched into which it is bound."""
    return found.question.place.namespace == HOST and member.kind is Kind.STALE and not member.context


def is_mended_alone(member: Member) -> bool:
    """Whether it takes commands of its own: what is done on the server, or for another mount, does not mend it."""
    if member.kind is not Kind.STALE:
        return member.kind in BY_PLACE or member.kind is Kind.READONLY
    if member.context == OLD or member.cause in (Cause.STALE_HANDLE, Cause.DISCONNECTED):
        return True
    return member.subject.fstype.startswith("fuse") and member.cause in (Cause.TIMEOUT, Cause.IO_ERROR)


def fits(line: str) -> bool:
    """Whether no channel cuts it in two, of which the second might be another command. As HTML it is longer."""
    return len(line) + 5 * sum(map(line.count, "<>&'\"")) <= MAX_LINE


def _lines(member: Member, place: Place, server: str | None, found: Evidence | None) -> list[str]:
    # Only the core's own words say so: a container's name for things is in no advice.
    sees_disk = member.kind is Kind.VANISHED and place.namespace != HOST and member.error.startswith(SEES_DISK)
    if sees_disk:
        return [f"Do: {reboot(place)} # what it wrote there meanwhile is on the disk of the host, under the mount"]
    if member.kind is Kind.READONLY and member.subject.fstype in KERNEL_REMOTE:
        # Only here: a local disk that an error has made read-only is not to be written to before it was checked.
        command = f"{inside_of(place)}mount -o remount,rw {shlex.quote(place.mount_point)}"
        return [f"Do: {command} # still not writable? Then the export, or the disk behind it, is read-only"]
    if member.kind in BY_PLACE:
        return _mount_advice(member, place, found)
    if member.kind is not Kind.STALE:
        return []
    if member.context == OLD:
        return [f"Do: {reboot(place)}"]
    if member.subject.fstype.startswith("fuse") and (lines := _fuse_advice(member, place, server, found)):
        return lines
    return _remote_advice(member, place, server, found)


# ---- NFS, SMB, Ceph


def _remote_advice(member: Member, place: Place, server: str | None, found: Evidence | None) -> list[str]:
    who = "its monitors" if member.subject.fstype == "ceph" else plain(server or "") or "its server"
    match member.cause:
        case Cause.TIMEOUT:
            return [*_silent(member, place, who, found), *_given_up(member, place, found)]
        case Cause.STALE_HANDLE:
            do = f"Do: {unmounted(place, _renewed(member, place, found))}"
            return [*_first_look(member, who), do]
        case Cause.REFUSED if member.subject.fstype in NFS:
            listed = f"is {plain(client(member)) or 'this client'} listed? If not, add it to /etc/exports first"
            return [f"Do on {who}: exportfs -v; exportfs -a{remarks(listed, _RESUMES)}"]
        case Cause.REFUSED:
            return [f"Do: see on {who} whether this host may still use it"]
        case Cause.ERROR if is_not_offered(member):
            share = plain(member.subject.source.rstrip("/").rpartition("/")[2])
            listed = f"is {f'[{share}]' if share else 'the share'} listed? If not, add it to smb.conf first"
            return [f"Do on {who}: testparm -s; smbcontrol all reload-config{remarks(listed, _RESUMES)}"]
        case _:
            return [f"Do: dmesg | tail -n 20 # and see to {who}"]


def _silent(member: Member, place: Place, who: str, found: Evidence | None) -> list[str]:
    """It does not answer, and where that comes from."""
    fstype, resumes = member.subject.fstype, _resumes(member)
    service = _SERVICES.get(fstype, "")
    port = found.port if found is not None else Port.NOT_ASKED
    address = found.endpoint.address if found is not None and found.endpoint is not None else ""
    address = address if _ADDRESS.fullmatch(address) else ""
    # ip(8) takes no zone: "fe80::1%eth0".
    route = f"ip route get {address}" if "%" not in address else f"ip neigh show {address.partition('%')[0]}"
    if address and port is not Port.REACHABLE and found is not None and found.port_from_host is Port.REACHABLE:
        look = in_network_of(place, f"ip addr; {route}")
        return [f"Do: {look}{remarks(f'{who} answers the host: it is the network of the container', resumes)}"]
    if port is Port.REFUSED and service:
        return [f"Do on {who}: systemctl restart {service}{remarks('if it is a Linux', resumes)}"]
    if port is Port.REACHABLE and service:
        first = "if it is a Linux, and its disks answer"
        return [f"Do on {who}: dmesg | tail -n 20; systemctl restart {service}{remarks(first, resumes)}"]
    if address:
        look = in_network_of(place, f"ping -c 3 {address}; {route}")
        return [f"Do: {look}{remarks(f'is {who} off, or the network to it?', resumes)}"]
    return [f"Do: see whether {who} is off, or the network to it{f', {resumes}' if resumes else ''}"]


def _resumes(member: Member) -> str:
    """A soft mount gives errors meanwhile, and resumes as well; a client of Ceph may have been blocklisted."""
    if member.subject.fstype not in _SERVICES or member.subject.fstype == "ceph":
        return ""
    return f"{_RESUMES}{', within minutes' if member.subject.fstype in CIFS else ''}"


def _given_up(member: Member, place: Place, found: Evidence | None) -> list[str]:
    """What frees who waits in it, where nobody will wait for the server.

    NFS: `-f` ends the calls that wait at that moment (measured: at once, the server being dead); who needs another one
    to end, or stood behind a directory's lock, waits on, in what is then detached, and can be killed. SMB: none.
    """
    if member.subject.fstype not in _SERVICES:
        return []
    quoted, lost = shlex.quote(place.mount_point), "unwritten data is lost – who still waits: kill -9"
    how, after = "-l" if member.subject.fstype in CIFS else "-fl", _restart(member, place, found)
    first = "stop its VMs first" if _machines(found) else ""
    if storage := storage_of(place, found):
        # Else pvestatd mounts it again within ten seconds, and waits.
        disable = f"pvesm set {shlex.quote(storage)} --disable"
        said = remarks(first, _takes_along(found), "on all nodes", lost, f"later: {disable} 0", after)
        return [f"To give it up: {disable} 1; umount {how} {quoted}{said}"]
    mounts = again(member.subject, place, found)
    later = f"later: {mounts.command}{f', {mounts.remark}' if mounts.remark else ''}"
    said = remarks(first, _takes_along(found), lost, later if mounts.command else mounts.remark, after)
    return [f"To give it up: {inside_of(place)}umount {how} {quoted}{said}"]


def _renewed(member: Member, place: Place, found: Evidence | None, *, is_away: bool = False) -> Again:
    """What mounts it again, and who does not notice."""
    mounts = again(member.subject, place, found, is_away=is_away)
    if found is not None and found.question.stacked > 1 and not is_away:
        mounts = Again(remark=f"{found.question.stacked} mounts stand there, this takes the upper one away")
    said = ("" if is_away else _takes_along(found), mounts.remark, _restart(member, place, found))
    return mounts._replace(remark=" – ".join(filter(None, said)))


def _takes_along(found: Evidence | None) -> str:
    """That other mounts go with it: who writes there then writes to the wrong place, and nobody notices."""
    return "what is mounted in it goes, too – mount that again" if found is not None and found.question.within else ""


def _restart(member: Member, place: Place, found: Evidence | None) -> str:
    """Who goes on with the old mount when there is a new one: it is bound into him, open, or his working directory."""
    radius = found.radius if found is not None else None
    bound = sorted((p for p in member.subject.places if p.namespace != place.namespace), key=place_order)
    guests = [reboot(Place(p.namespace, "")) for p in bound]
    if radius is not None:
        containers = (using.guest for using in radius.guests if not using.guest.is_vm)
        guests += [reboot(Place(f"ct:{guest.id}", "")) for guest in containers if not guest.is_template]
    # Whether a machine runs is not known, nor are its other disks.
    guests = [*dict.fromkeys(guests), *(f"VM {ident}" for ident in _machines(found))]
    if len(guests) > MAX_RESTARTS:
        return f"then restart the {len(guests)} guests that still have the old one"
    if guests:
        return f"then restart what still has the old one: {', '.join(guests)}"
    # Who waits in it gets an error when it goes, and is free.
    is_held = radius is not None and (radius.users or radius.docker)
    return "then restart what still has the old one" if is_held else ""


def _machines(found: Evidence | None) -> list[str]:
    """Virtual machines with a disk on it, which may run."""
    guests = found.radius.guests if found is not None and found.radius is not None else ()
    disks = (u.guest for u in guests if u.guest.is_vm and u.how == "disk" and not u.guest.is_template)
    return [guest.id for guest in disks if guest.id.isdecimal()]


def _first_look(member: Member, who: str) -> list[str]:
    """Before a tree is mounted that may be empty, to the delight of whoever mirrors it."""
    path = member.subject.source.partition(":")[2]
    if member.subject.fstype not in NFS or not path.startswith("/") or name(path, 100) != path or member.context:
        return []  # where the host's own is ok, the server is
    quoted = shlex.quote(path)
    # NFS 4 names it from the server's pseudo-root on (exports(5), fsid=0), which is mostly, not always, its own root.
    is_3 = (option(member.subject.options, "vers") or "4").startswith("3")
    root = "" if is_3 else "no such directory? It lies below the export with fsid=0, see exportfs -v"
    look = f"ls -la {quoted}; findmnt -T {quoted}"
    return [f"First, on {who}: {look}{remarks('empty, or its disk not mounted? Mend that', root)}"]


# ---- what is not mounted


def _mount_advice(member: Member, place: Place, found: Evidence | None) -> list[str]:
    if member.context or member.error.startswith(LOST):
        return []  # whoever wants it has said how it is mounted; a disk that is gone is not
    if storage := storage_of(place, found):
        return [f"Do: pvesm status --storage {shlex.quote(storage)} # says why PVE does not mount it"]
    command, remark = _renewed(member, place, found, is_away=True)
    if found is not None and found.origin is Origin.AUTOMOUNT:
        return [f"Do: ls {shlex.quote(place.mount_point)}{remarks(remark)}"]
    if not command:
        return ["Do: start again what mounted it"]
    if place.namespace != HOST:
        return [f"Do: {command}{remarks(remark, f'if it was bound from the host: {reboot(place)}')}"]
    # What was written there meanwhile is hidden by the mount.
    return [f"Do: {command}{remarks(remark, f'what lies underneath: watcher hidden {shlex.quote(str(place))}')}"]


# ---- FUSE


def _fuse_advice(member: Member, place: Place, server: str | None, found: Evidence | None) -> list[str]:
    mounts = _renewed(member, place, found)
    if member.cause is Cause.DISCONNECTED:
        return [f"Do: {unmounted(place, mounts)}"]
    if member.cause not in (Cause.TIMEOUT, Cause.IO_ERROR):
        return []
    # Without the abort whoever looks at what never started would hang; fusermount3(1) does not look.
    by = "fusermount3 -uz" if never_started(member.stack) else "umount -l"
    anew = aborted(member.subject.superblock, place, found, mounts) or unmounted(place, mounts, by=by)
    daemons = found.daemons if found is not None else None
    if daemons == () or never_started(member.stack):
        return [f"Do: {anew}"]
    first = _see_to(member, daemons[0] if daemons else None, place, server)
    if mounts.command or member.cause is Cause.IO_ERROR:
        return [f"Do: {first}", f"To mount it anew: {anew}"]
    return [f"Do: {first}", f"To give it up: {anew}"]


def _see_to(member: Member, daemon: Daemon | None, place: Place, server: str | None) -> str:
    """The process lives: most likely what it has behind it does not answer."""
    # A process in a container names its unit itself: no command for the host comes of that.
    there = daemon is not None and not daemon.likely and daemon.system and daemon.inside == (place.namespace != HOST)
    if daemon is not None and there and _is_its_own(daemon) and name(daemon.unit, 60) == daemon.unit:
        remark = f"once {plain(server or '')} answers" if plain(server or "") else ""
        return f"{inside_of(place)}systemctl restart {shlex.quote(daemon.unit)}{remarks(remark)}"
    # Of a user's mount root would ask a server that the user has chosen.
    is_roots = option(member.subject.options, "user_id") == "0"
    if member.subject.fstype == "fuse.sshfs" and is_roots and (login := _LOGIN.match(member.subject.source)):
        resumes = f"with -o reconnect {_RESUMES}" if member.cause is Cause.IO_ERROR else ""
        question = f"does {plain(server or '') or 'it'} answer?"
        told = f"; ps -ww -o args= -p {daemon.pid}" if daemon is not None else ""
        first = "if not, mend that first" if told else ""
        options = "ps shows the options that it has" if told else ""
        look = f"{inside_of(place)}ssh -o ConnectTimeout=5 {login[0]} true{told}"
        return f"{look}{remarks(question, first, options, resumes)}"
    # The pid is the one that it has on the host, also of a container's.
    where = "" if place.namespace == HOST else f" in {container_name(place.namespace)}"
    if daemon is None:
        look, who = "", f"see to the process that serves it{where}"
    else:
        look, who = (
            f"ps -o pid,stat,wchan:30,args {daemon.pid} # ",
            f"if {plain(daemon.comm) or 'it'}{where} hangs, start it anew",
        )
    asked = plain(server or "")
    return f"{look}does {asked} answer? If so, {who}" if asked else f"{look}{who}"


def _is_its_own(daemon: Daemon) -> bool:
    """Whether its unit is there for it, as far as names tell: what cron or pvestatd has mounted is in theirs."""
    if daemon.comm == "pmxcfs":
        return daemon.unit == "pve-cluster.service"
    stem = daemon.unit.removesuffix(".service")
    is_service = stem != daemon.unit and not stem.startswith("-")  # an option to systemctl(1)
    return is_service and bool(daemon.comm) and (daemon.comm == stem or daemon.comm in re.split(r"[-@.]", stem))
