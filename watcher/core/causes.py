"""Why a mount fails, in lines for a message: the words of `evidence`. What to do about it is `advice`'s."""

from __future__ import annotations

from watcher.core.evidence import CIFS, Daemon, Endpoint, Evidence, Port, never_started
from watcher.core.incident import BY_PLACE, Member
from watcher.core.mountinfo import option
from watcher.core.mountstats import NFS
from watcher.core.reasons import LOST, NO_LONGER, SEES_DISK
from watcher.core.wording import cause_words, container_name, count, name
from watcher.model import HOST, Cause, Kind

MAX_DAEMONS = 2  # processes that are named; a server and the one that it was forked from
MAX_WITHIN = 3  # mounts in it that are named
_FROM_HOST = {
    Port.NOT_ASKED: "",
    Port.REACHABLE: "; the host is answered",
    Port.REFUSED: "; the host, too, is refused",
    Port.NO_ANSWER: "; nor is the host answered",
    Port.UNREACHABLE: "; nor does the host reach it",
}
_NO_PROCESS = "No process serves it"


def member_words(member: Member) -> str:
    """The words in capitals for what is wrong with it."""
    return "SHARE NOT OFFERED" if is_not_offered(member) else cause_words(member.kind, member.cause, member.error)


def is_not_offered(member: Member) -> bool:
    """Whether the server has no such share: STATUS_BAD_NETWORK_NAME, for which the kernel's client says ENOENT."""
    is_smb = member.kind is Kind.STALE and member.subject.fstype in CIFS
    if member.subject.source.replace("\\", "/").rstrip("/").count("/") > 3:
        return False  # it may be the directory of the share that is mounted: "//nas01/share/directory"
    return is_smb and member.cause is Cause.ERROR and member.error.startswith("No such file or directory")


def cause_lines(member: Member, found: Evidence | None) -> list[str]:
    """What was found out, the cause first; nothing where that is nothing."""
    if member.kind is not Kind.STALE and member.kind not in BY_PLACE:
        return []
    lines = _meaning(member)
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
    if within := found.question.within:
        more = f" and {len(within) - MAX_WITHIN} more" if len(within) > MAX_WITHIN else ""
        lines.append(f"Mounted in it: {', '.join(name(each) for each in within[:MAX_WITHIN])}{more}")
    ok, failing = found.question.others_ok, found.question.others_failing
    if ok:
        text = f"Of the same server, {count(ok, 'other mount')} {'is' if ok == 1 else 'are'} ok"
        lines.append(text + (f", {failing} {'is' if failing == 1 else 'are'} not" if failing else ""))
    return lines


def _meaning(member: Member) -> list[str]:
    """What that is, for who sees it for the first time; nothing where the words say it."""
    subject = member.subject
    if member.kind in BY_PLACE:
        if member.growth is not None or member.error.startswith((*LOST, SEES_DISK)):
            return []
        lands = "what is written there meanwhile lands on the disk underneath"
        if not member.error.startswith(NO_LONGER):
            return [f"{lands[:1].upper()}{lands[1:]}"]
        is_fuse = subject.fstype.startswith("fuse")
        ended = "Its process has ended, or it has been unmounted" if is_fuse else "It has been unmounted"
        return [f"{ended}; {lands}"]
    if subject.fstype not in NFS:
        return []
    if member.cause is Cause.STALE_HANDLE and not member.context:  # else the server still knows it
        return ["The server no longer knows that directory: deleted, restored, its disk not mounted, another fsid"]
    if member.cause is Cause.REFUSED:
        who = client(member)
        return [f"The server refuses this client{f' ({who})' if who else ''}, or the directory's permissions do"]
    if member.cause in (Cause.TIMEOUT, Cause.IO_ERROR) and is_soft(member):
        return ["Mounted soft: programs get errors meanwhile, and what they have written may be lost"]
    return []


def client(member: Member) -> str:
    """The address by which an NFS server knows us, as far as the kernel tells (NFS 4); "" otherwise."""
    return name(option(member.subject.options, "clientaddr") or "", 45)


def is_soft(member: Member) -> bool:
    return any(option(member.subject.options, word) == "" for word in ("soft", "softerr"))


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
            likely = ", as it seems" if any(daemon.likely for daemon in daemons) else ""
            return [f"Served by {who}{more}{likely}{waiting}"]
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
            # By a RST: from the machine itself, or from a firewall's REJECT, which looks the same.
            text += "refuses connections: its service is down, or a firewall rejects them"
        case Port.NO_ANSWER:
            text += "does not answer: it is down, or a network or firewall between drops the packets"
        case Port.UNREACHABLE:
            text += "is unreachable: it is off, or the network to it is down"
        case _:
            text += "accepts connections"
            text += ", but this mount gets no answer" if member.cause is Cause.TIMEOUT else ""
    if found.question.place.namespace != HOST and found.question.init_pid:
        text += f" (asked from {container_name(found.question.place.namespace)}{_FROM_HOST[found.port_from_host]})"
    if found.unanswered and member.cause is Cause.TIMEOUT:
        text += f"; {count(found.unanswered, 'call')} without a reply"
    return name(text, 200)
