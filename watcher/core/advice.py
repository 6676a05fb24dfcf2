"""Why a mount fails and what to do about it, in lines for a message: the words of `evidence`.

Commands are to be copied, so whatever is in them is quoted for a shell, what is said of them stands behind a "#", as a
comment, since lines are copied whole, and none stands in a message that would have to be shortened or escaped.
"""

from __future__ import annotations

import shlex

from watcher.core.evidence import CIFS, Daemon, Endpoint, Evidence, Origin, Port, mount_unit, never_started
from watcher.core.filters import KERNEL_REMOTE
from watcher.core.incident import BY_PLACE, LOST, SEES_DISK, Member
from watcher.core.mountinfo import escape, option
from watcher.core.mountstats import NFS
from watcher.core.roster import OLD
from watcher.core.wording import container_name, count, name, place_order
from watcher.model import HOST, Cause, Kind, Place, Subject, Superblock

MAX_DAEMONS = 2  # processes that are named; a server and the one that it was forked from
_NO_PROCESS = "No process serves it"
_AS_BEFORE = "with the options that it had"  # of a process, which the kernel does not know


def pve_storage(place: Place) -> str:
    """PVE mounts a storage at /mnt/pve/<storage id> and nothing else there."""
    if place.namespace == HOST and place.mount_point.startswith("/mnt/pve/"):
        return name(place.mount_point.removeprefix("/mnt/pve/"), 40)
    return ""


# ---- why


def cause_lines(member: Member, found: Evidence | None) -> list[str]:
    """What was found out, the cause first; nothing where that is nothing."""
    if member.kind is not Kind.STALE and member.kind not in BY_PLACE:
        return []
    lines = []
    if (
        member.kind is Kind.STALE
        and member.subject.fstype.startswith("fuse")
        and member.cause is not Cause.DISCONNECTED
    ):
        lines += _fuse_line(member, found)
    if found is None:
        return lines
    if found.port is not Port.NOT_ASKED and found.endpoint is not None:
        lines.append(_port_line(member, found, found.endpoint))
    if found.question.stacked > 1:
        text = f"{found.question.stacked} mounts stand on this directory, one on the other"
        lines.append(f"{text}; below it {name(found.question.below)}" if found.question.below else text)
    ok, failing = found.question.others_ok, found.question.others_failing
    if ok:
        text = f"Of the same server, {count(ok, 'other mount')} {'is' if ok == 1 else 'are'} ok"
        lines.append(text + (f", {failing} {'is' if failing == 1 else 'are'} not" if failing else ""))
    return lines


def _fuse_line(member: Member, found: Evidence | None) -> list[str]:
    started = not never_started(member.stack)
    daemons = found.daemons if found is not None else None
    waiting = ""
    if found is not None and found.waiting and member.cause is Cause.TIMEOUT:
        waiting = f"; {count(found.waiting, 'request')} waiting"
    if daemons:
        who = " and ".join(map(_who, daemons[:MAX_DAEMONS]))
        more = f" and {len(daemons) - MAX_DAEMONS} more" if len(daemons) > MAX_DAEMONS else ""
        if started:
            return [f"Served by {who}{more}{waiting}"]
        return [f"The FUSE process never finished its start: {who}{more}"]
    nobody = "" if daemons is None else _NO_PROCESS
    if started:
        return [nobody + waiting] if nobody else []
    return [f"The FUSE process never finished its start{f', and n{nobody[1:]}' if nobody else ''}"]


def _who(daemon: Daemon) -> str:
    unit = f", {name(daemon.unit, 60)}" if daemon.unit else ""
    return f"{name(daemon.comm, 20)} (pid {daemon.pid}{unit})"


def _port_line(member: Member, found: Evidence, endpoint: Endpoint) -> str:
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    text = f"{host}:{endpoint.port} "
    match found.port:
        case Port.REFUSED:
            text += "refuses connections: the machine is up, the service is not"
        case Port.NO_ANSWER:
            text += "does not answer"
        case Port.UNREACHABLE:
            text += "is unreachable"
        case _:
            text += "accepts connections"
            text += ", but this mount gets no answer" if member.cause is Cause.TIMEOUT else ""
    if found.question.place.namespace != HOST and found.question.init_pid:
        text += f" (asked from {container_name(found.question.place.namespace)})"
    if found.unanswered and member.cause is Cause.TIMEOUT:
        text += f"; {count(found.unanswered, 'call')} without a reply"
    return name(text, 200)


# ---- what to do


def advice(member: Member, server: str | None, found: Evidence | None = None) -> list[str]:
    """What to do first."""
    place = min(member.subject.places, key=place_order, default=None)
    if place is None or name(place.mount_point, 200) != place.mount_point:
        return []  # a command that was shortened or escaped would do something else
    # Only the core's own words say so: a container's name for things is in no advice.
    sees_disk = member.kind is Kind.VANISHED and place.namespace != HOST and member.error.startswith(SEES_DISK)
    if sees_disk:
        return [f"Do: {_reboot(place)} # what it wrote there meanwhile is on the host's disk, under the mount"]
    if member.kind is Kind.READONLY and member.subject.fstype in KERNEL_REMOTE:
        # Only here: a local disk that an error has made read-only is not to be written to before it was checked.
        return [f"Do: {inside_of(place)}mount -o remount,rw {shlex.quote(place.mount_point)}"]
    if member.kind in BY_PLACE:
        return _mount_advice(member, place, found)
    if member.kind is not Kind.STALE:
        return []
    if member.context == OLD:
        return [f"Do: {_reboot(place)}"]
    subject, inside, quoted = member.subject, inside_of(place), shlex.quote(place.mount_point)
    again = _then(*_again(subject, place, found))
    if subject.fstype.startswith("fuse") and (lines := _fuse_advice(member, place, server, found)):
        return lines
    who = name(server) if server else "what serves it"
    resumes = "; hard mounts resume alone" if _is_hard(member) else ""
    match member.cause:
        case Cause.TIMEOUT if found is not None and found.port is Port.REFUSED:
            return [f"Do: start the {_service(subject.fstype)} service on {who}{resumes}"]
        case Cause.TIMEOUT if found is not None and found.port is Port.REACHABLE:
            force = "-fl" if subject.fstype in NFS else "-l"
            return [
                f"Do: see to the {_service(subject.fstype)} service on {who}{resumes}",
                f"To give it up: {inside}umount {force} {quoted}{again}",
            ]
        case Cause.TIMEOUT:
            return [f"Do: revive {who}{resumes}"]
        case Cause.STALE_HANDLE:
            return [f"Do: {inside}umount -l {quoted}{again}"]
        case Cause.REFUSED:
            alone = "; it resumes alone" if subject.fstype in NFS else ""
            return [f"Do: see on {who} whether this host may still use {name(subject.source)}{alone}"]
        case Cause.ERROR if subject.fstype in CIFS and member.error.startswith("No such file or directory"):
            # So the kernel calls a share that is not offered (STATUS_BAD_NETWORK_NAME); it asks again each time.
            return [f"Do: offer {name(subject.source)} on {who} again; it resumes alone"]
        case _:
            return [f"Do: see dmesg here, and {who}" if server else "Do: see dmesg here"]


def _mount_advice(member: Member, place: Place, found: Evidence | None) -> list[str]:
    """Of what is not mounted."""
    if member.context or member.error.startswith(LOST):
        return []  # whoever wants it has said how it is mounted; a disk that is gone is not
    if storage := pve_storage(place):
        return [f"Do: pvesm status --storage {shlex.quote(storage)} # says why PVE does not mount it"]
    command, remark = _again(member.subject, place, found, is_away=True)
    return [f"Do: {command}{_remark(remark)}"] if command else ["Do: start again what mounted it"]


def _fuse_advice(member: Member, place: Place, server: str | None, found: Evidence | None) -> list[str]:
    inside, quoted = inside_of(place), shlex.quote(place.mount_point)
    abort = _abort(member.subject.superblock, place, found)
    again = _then(*_again(member.subject, place, found))
    if member.cause is Cause.DISCONNECTED:
        return [f"Do: {inside}umount -l {quoted}{again}"]
    if member.cause not in (Cause.TIMEOUT, Cause.IO_ERROR):
        return []
    give_up = f"{abort}{inside}umount -l {quoted}"
    if never_started(member.stack):
        # Without the abort whatever looks at the mount point first would hang; fusermount3(1) does not look.
        give_up = give_up if abort else f"{inside}fusermount3 -uz {quoted}"
        return [f"Do: {give_up}{again}"]
    daemons = found.daemons if found is not None else None
    if daemons == ():
        return [f"Do: {give_up}{again}"]
    first = _see_to(daemons[0] if daemons else None, place, server)
    if member.cause is Cause.IO_ERROR:
        return [f"Do: {first}", f"To mount it anew: {give_up}{again}"]
    return [f"Do: {first}", f"To give it up: {give_up}"]


def _abort(superblock: Superblock, place: Place, found: Evidence | None) -> str:
    """Frees whoever hangs in it; that the mount is taken away does not.

    Only while it still stands there: messages are read hours later, and its number is given away at once when it goes,
    be it to /etc/pve.
    """
    if found is None or found.waiting is None or found.question.connection is None:
        return ""
    root = superblock.root or "/"
    stands = f" {superblock.device} {escape(root)} {escape(place.mount_point)} "  # proc_pid_mountinfo(5)
    if name(root, 200) != root:
        return ""
    check = f"{inside_of(place)}grep -qF {shlex.quote(stands)} /proc/self/mountinfo"
    return f"{check} && echo 1 > /sys/fs/fuse/connections/{found.question.connection}/abort; "


def _see_to(daemon: Daemon | None, place: Place, server: str | None) -> str:
    """The process lives: most likely what it has behind it does not answer."""
    # A process in a container names its unit itself: no command for the host comes of that.
    there = daemon is not None and daemon.system and daemon.inside == (place.namespace != HOST)
    if daemon is not None and there and _is_its_own(daemon) and name(daemon.unit, 60) == daemon.unit:
        remark = f"once {name(server)} is well" if server else ""
        return f"{inside_of(place)}systemctl restart {shlex.quote(daemon.unit)}{_remark(remark)}"
    who = f"{name(daemon.comm, 20)} (pid {daemon.pid})" if daemon is not None else "the process that serves it"
    return f"revive {name(server)}; if it is well, see to {who}" if server else f"see to {who}"


def _is_its_own(daemon: Daemon) -> bool:
    """Whether its unit is there for it, as far as names tell: what cron or pvestatd has mounted is in theirs."""
    if daemon.comm == "pmxcfs":
        return daemon.unit == "pve-cluster.service"
    named = daemon.unit.endswith(".service") and not daemon.unit.startswith("-")  # an option to systemctl(1)
    return named and bool(daemon.comm) and daemon.comm in daemon.unit


def _is_hard(member: Member) -> bool:
    return member.subject.fstype in NFS and option(member.subject.options, "hard") == ""


def _service(fstype: str) -> str:
    return {"nfs": "NFS", "nfs4": "NFS", "cifs": "SMB", "smb3": "SMB", "ceph": "Ceph monitor"}.get(fstype, "file")


def _again(subject: Subject, place: Place, found: Evidence | None, *, is_away: bool = False) -> tuple[str, str]:
    """What mounts it again: a command, and a remark. `is_away`: it is not mounted, and no file is known to want it."""
    quoted, unit = shlex.quote(place.mount_point), mount_unit(place.mount_point)
    origin = found.origin if found is not None else Origin.UNKNOWN
    if pve_storage(place):
        return "", "PVE mounts it again"
    if origin is Origin.AUTOMOUNT:
        return "", "the next access mounts it again"
    if origin is Origin.UNIT and place.namespace == HOST and len(unit) <= 200:
        return f"systemctl start {shlex.quote(unit)}", ""
    if origin is Origin.UNKNOWN:
        if (found is not None or is_away or subject.fstype.startswith("fuse")) and (anew := _anew(subject, place))[0]:
            return anew
        if is_away or subject.fstype.startswith("fuse"):
            return "", "then start what mounts it again"
    return f"{inside_of(place)}mount {quoted}", ""


def _then(command: str, remark: str) -> str:
    return f"{f'; {command}' if command else ''}{_remark(remark)}"


def _remark(text: str) -> str:
    return f" # {text}" if text else ""


def _anew(subject: Subject, place: Place) -> tuple[str, str]:
    """The whole command for what no file has, and a remark; nothing where there is none, or too much of it."""
    source, root = subject.source, subject.superblock.root
    # Not "[-oProxyCommand=…]:" either: sshfs(1) takes the brackets away before ssh sees the rest.
    if name(source, 200) != source or not source or source.lstrip("[").startswith("-"):
        return "", ""
    # A directory of it that is bound there (SMB's sources name theirs): the command would mount all of it.
    if root != "/" and not source.endswith(root):
        return "", ""
    options = subject.options.split(",")
    kept, remark = [word for word in _KEPT.get(subject.fstype, ()) if word in options], ""
    if subject.fstype in NFS or subject.fstype in CIFS:
        command = f"mount -t {'nfs' if subject.fstype in NFS else subject.fstype}"
        named = _NAMED_NFS if subject.fstype in NFS else _NAMED_CIFS
        values = [(key, option(subject.options, key)) for key in named]
        kept = [f"{key}={value}" for key, value in values if value and (key, value) not in _DEFAULTS] + kept
        remark = "asks for the password" if subject.fstype in CIFS and "krb5" not in subject.options else ""
    # What a user has mounted is not root's to mount: with other keys, from a server that he has chosen.
    elif subject.fstype == "fuse.sshfs" and option(subject.options, "user_id") in (None, "0"):
        command, remark = "sshfs", _AS_BEFORE
    else:
        return "", ""
    how = f" -o {shlex.quote(','.join(kept))}" if kept else ""
    where = f"{shlex.quote(subject.source)} {shlex.quote(place.mount_point)}"
    text = f"{inside_of(place)}{command}{how} {where}"
    return (text, remark) if name(text, 300) == text else ("", "")


# The options that are kept, of those that the kernel knows; the others are its own choice, or a process's.
_KEPT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NFS, ("ro", "soft", "softerr", "nolock")),
    **dict.fromkeys(CIFS, ("ro",)),
    "fuse.sshfs": ("ro", "allow_other", "default_permissions"),
}
_NAMED_NFS = ("vers", "proto", "port", "sec")
_NAMED_CIFS = ("vers", "sec", "username", "domain", "uid", "gid")
_DEFAULTS = (("uid", "0"), ("gid", "0"), ("proto", "tcp"), ("sec", "sys"))


def inside_of(place: Place) -> str:
    """What runs a command in the container; nothing on the host."""
    if place.namespace == HOST:
        return ""
    ctid = place.namespace.removeprefix("ct:")
    # Proxmox numbers its containers.
    return f"pct exec {ctid} -- " if ctid.isdecimal() else f"lxc-attach -n {shlex.quote(ctid)} -- "


def _reboot(place: Place) -> str:
    ctid = place.namespace.removeprefix("ct:")
    return f"pct reboot {ctid}" if ctid.isdecimal() else f"restart the container {shlex.quote(ctid)}"
