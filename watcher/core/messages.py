"""An incident as a message: title and body in plain text, at most twelve lines, composed at send time.

The words are for an administrator at three in the morning: what, where, since when, why, what to do.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from watcher.core.filters import literal
from watcher.core.incident import SEES_DISK, SETTLED, Condition, Incident, Member
from watcher.core.mountinfo import option
from watcher.core.outbox import LATE_AFTER, News, Topic
from watcher.core.roster import OLD
from watcher.core.wording import cause_words, count, duration, name, place_name, place_order
from watcher.model import HOST, Cause, Kind, Place, Subject

MAX_LINES = 12
MAX_PLACES = 6  # lines of places; the rest is counted
MAX_ON_LINE = 4  # places on one line

Local = Callable[[float], datetime]  # epoch seconds -> local time with its zone


@dataclass(frozen=True, slots=True)
class Message:
    title: str
    body: str
    type: str  # Apprise's: failure, warning, success, info


@dataclass(frozen=True, slots=True)
class Sender:
    """Who tells, to which channel, and how it kept time."""

    host: str
    channel: str
    unreachable_since: float | None = None  # the first of the attempts that failed, if any did


def compose(news: News, told_down: int, sender: Sender, *, now: float, local: Local) -> Message:
    """`told_down`: how many mounts the channel believes to be down."""
    incident, topic = news.incident, news.topic
    head = f"{name(sender.host, 40)}: "
    late = _late_line(news, sender, now, local)
    if incident.is_own:
        return _own(incident, head, late)
    if topic is Topic.FLAPPING:
        return _flapping(incident, head, late, now, local)
    if topic in (Topic.PROBLEM, Topic.UPDATE, Topic.REPEAT):
        lines = _problem_lines(incident, now, local)
        lines += _quiet(incident) if topic is not Topic.UPDATE else []
        title = _mark(incident) + head + _what(incident.down, incident.server, still=topic is Topic.REPEAT)
        if topic is Topic.REPEAT:
            title += f", for {duration(now - incident.since)}"
        more = len(_places(incident.down)) - told_down
        if topic is Topic.UPDATE and told_down and more > 0:  # none: it was over, and has begun again
            title += f" ({more} more)"
        kind = "failure" if _is_stale(incident.down) else "warning"
        return _message(title, lines, late, kind)
    lines = _ended_lines(incident)
    if topic is Topic.LATE:
        span = _span(_since(incident.members), incident, now, local)
        title = f"⚪ {head}{_who(incident.members, incident.server)} was {_causes(incident.members)} {span}, told late"
        return _message(title, lines, late, "info")
    over = [m for m in incident.members if m.condition is not Condition.DOWN and not m.flapping]
    outcome, mark, kind = _outcome(over)
    title = f"{mark} {head}{_who(over, incident.server)} {outcome} "
    since = _since(over or incident.members)
    title += f"after {duration(_end(incident) - since)} ({_span(since, incident, now, local)})"
    if topic is Topic.PARTIAL:
        title += f", {len(_places(over))} of {len(_places(incident.members))}"
        kind = "warning"
    return _message(title, lines, late, kind)


def _flapping(incident: Incident, head: str, late: str, now: float, local: Local) -> Message:
    flapping = incident.flapping
    title = f"🟠 {head}{_who(flapping, incident.server)} flaps: {_causes(flapping)} and back, time and again"
    changes = max(m.flaps for m in flapping)
    lines = [f"{changes} changes by {_clock(max(m.changed for m in flapping), now, local)}", *_place_lines(flapping)]
    lines += _place_lines(incident.down, with_cause=True, lead="🔴 Still: ")
    lines.append(f"No word of each change: told when it has held for {duration(SETTLED)}")
    return _message(title, lines, late, "warning")


def _own(incident: Incident, head: str, late: str) -> Message:
    """About the watcher itself."""
    if incident.down:
        return _message(
            f"🟠 {head}watcher needs attention", [name(m.error, 400) for m in incident.down], late, "warning"
        )
    lines = [name(m.reason, 400) for m in incident.members if m.reason]
    return _message(f"🟢 {head}watcher is in order again", lines or ["All is well with it again"], late, "success")


def _message(title: str, lines: list[str], late: str, kind: str) -> Message:
    if late:
        lines = [*lines[: MAX_LINES - 1], late]
    return Message(title, "\n".join(lines[:MAX_LINES]), kind)


def test_message(host: str, channel: str) -> Message:
    """What `watcher test-notify` sends."""
    return Message(
        f"🔔 {name(host, 40)}: test message of watcher",
        f"Channel {name(channel, 64)} works: alarms and recoveries will look like this.",
        "info",
    )


# ---- the title's parts


def _is_stale(members: Sequence[Member]) -> bool:
    return any(m.kind is Kind.STALE for m in members)


def _gravest(members: Sequence[Member]) -> Sequence[Member]:
    """What is stale, if anything is: the rest may have stood for weeks, and is not what people are woken for."""
    return [m for m in members if m.kind is Kind.STALE] or members


def _since(members: Sequence[Member]) -> float:
    return min(m.since for m in _gravest(members))


def _mark(incident: Incident) -> str:
    return "🔴 " if _is_stale(incident.down) else "🟠 "


def _places(members: Sequence[Member]) -> list[tuple[Place, Member]]:
    """The host's first, and in the order in which people count, whichever probe came back first."""
    return sorted(((place, m) for m in members for place in m.subject.places), key=lambda pair: place_order(pair[0]))


def _place(place: Place, subject: Subject) -> str:
    return place_name(place, dict(subject.names).get(place.namespace, ""))


def _who(members: Sequence[Member], server: str | None) -> str:
    """The one place, or the server that they share."""
    places = _places(members)
    if len(places) == 1:
        return _place(places[0][0], places[0][1].subject)
    if server is not None:
        return name(server)
    return f"{_place(places[0][0], places[0][1].subject)} and {len(places) - 1} more" if places else "mount"


def _causes(members: Sequence[Member]) -> str:
    others = [m for m in members if m.kind is not Kind.STALE]
    words = list(dict.fromkeys(cause_words(m.kind, m.cause, m.error) for m in [*_gravest(members), *others]))
    return " / ".join(words[:3])


def _what(members: Sequence[Member], server: str | None, *, still: bool = False) -> str:
    places = _places(members)
    text = f"{_who(members, server)} {'still ' if still else ''}{_causes(members)}"
    return text if len(places) == 1 else f"{text}, {count(len(places), 'mount')}"


def _outcome(over: Sequence[Member]) -> tuple[str, str, str]:
    """(words, mark, Apprise's type) for what is down no more."""
    conditions = {m.condition for m in over}
    if conditions == {Condition.GONE}:
        reasons = list(dict.fromkeys(m.reason for m in over if m.reason))
        return " / ".join(reasons) or "unmounted", "⚪", "info"
    if Condition.REMOUNTED in conditions and Condition.OK not in conditions:
        return "remounted, ok", "🟢", "success"
    kinds = {m.kind for m in over}
    if kinds == {Kind.READONLY}:
        return "writable again", "🟢", "success"
    if kinds == {Kind.VANISHED}:
        return "mounted again", "🟢", "success"
    if kinds == {Kind.FULL}:
        return next((m.reason for m in over if m.reason), "no longer full"), "🟢", "success"
    return "ok", "🟢", "success"


def _end(incident: Incident) -> float:
    return max((m.changed for m in incident.members if m.condition is not Condition.DOWN), default=incident.opened)


# ---- the body's lines


def _problem_lines(incident: Incident, now: float, local: Local) -> list[str]:
    down = incident.down
    lines = [f"Since {_clock(_since(down), now, local)}"]
    lines += _place_lines(down, with_cause=len({cause_words(m.kind, m.cause, m.error) for m in down}) > 1)
    first = _first(down)
    lines.append(_source_line(first))
    lines += _why(first)
    lines += _flaps(incident)
    lines += _advice(first, incident.server)
    return lines


def _flaps(incident: Incident) -> list[str]:
    """Who changes all the time, and who did before it held still."""
    lines = [f"Flapping: {_listed(incident.flapping)}"] if incident.flapping else []
    if flaps := max((m.flaps for m in incident.members if not m.flapping), default=0):
        lines.append(f"It flapped: {count(flaps, 'change')}, none in the last {duration(SETTLED)}")
    return lines


def _first(members: Sequence[Member]) -> Member:
    """Of the gravest, the one that stands first in the list of places."""
    places = _places(_gravest(members))
    return places[0][1] if places else members[0]


def _place_lines(members: Sequence[Member], *, with_cause: bool = False, lead: str = "") -> list[str]:
    lines = []
    places = _places(members)
    for place, member in places[:MAX_PLACES]:
        cause = f" {cause_words(member.kind, member.cause, member.error)}" if with_cause else ""
        text = lead + _described(place, member) + cause + _left(member)
        lines.append(text[:1].upper() + text[1:])
    if len(places) > MAX_PLACES:
        lines.append(f"and {count(len(places) - MAX_PLACES, 'more mount')}")
    return lines


def _left(member: Member) -> str:
    """What is left on a full file system."""
    return f": {left}" if member.kind is Kind.FULL and (left := member.error.partition(": ")[2]) else ""


def _described(place: Place, member: Member) -> str:
    text = _place(place, member.subject)
    text = f"host {text}" if place.namespace == HOST else text
    return f"{text} (PVE storage {storage})" if (storage := _pve_storage(place)) else text


def _pve_storage(place: Place) -> str:
    """PVE mounts a storage at /mnt/pve/<storage id> and nothing else there."""
    if place.namespace == HOST and place.mount_point.startswith("/mnt/pve/"):
        return name(place.mount_point.removeprefix("/mnt/pve/"), 40)
    return ""


def _source_line(member: Member) -> str:
    subject = member.subject
    return f"{name(subject.source)}; {describe_type(subject.fstype, subject.options)}"


def describe_type(fstype: str, options: str) -> str:
    """ "NFS 4.2 hard", "SMB 3.1.1", "fuse.sshfs"."""
    if fstype in ("nfs", "nfs4"):
        version = option(options, "vers") or ""
        firmness = next((w for w in ("softerr", "soft", "hard") if option(options, w) is not None), "")
        return name(" ".join(part for part in ("NFS", version, firmness) if part))
    if fstype in ("cifs", "smb3"):
        return name(f"SMB {option(options, 'vers') or ''}".strip())
    return name(fstype)


def _why(member: Member) -> list[str]:
    lines = []
    if member.error and member.kind in (Kind.STALE, Kind.VANISHED):
        text = name(member.error[:1].upper() + member.error[1:], 200)
        if member.stack:
            text += f"; hangs in {' < '.join(member.stack[:3])}"
        lines.append(text)
    return lines + _context(member)


def _context(member: Member) -> list[str]:
    return [member.context[:1].upper() + member.context[1:]] if member.context else []


def advice(member: Member, server: str | None) -> list[str]:
    """What to do first about one mount, as an alarm says it."""
    return [*_advice(member, server)]


def _advice(member: Member, server: str | None) -> list[str]:
    """What to do first. Commands are to be copied, so paths are quoted for a shell."""
    place = min(member.subject.places, key=place_order, default=None)
    if place is None or name(place.mount_point, 200) != place.mount_point:
        return []  # a command that was shortened or escaped would do something else
    # Only the core's own words say so: a container's name for things is in no advice.
    sees_disk = member.kind is Kind.VANISHED and place.namespace != HOST and member.error.startswith(SEES_DISK)
    if sees_disk:
        return [f"Do: {_reboot(place)}; what it wrote there meanwhile is on the host's disk, under the mount"]
    if member.kind is not Kind.STALE:
        return []
    if member.context == OLD:
        return [f"Do: {_reboot(place)}"]
    inside, quoted, fuse = _inside(place), shlex.quote(place.mount_point), member.subject.fstype.startswith("fuse")
    who = name(server) if server else "what serves it"
    again = "PVE mounts it again" if _pve_storage(place) else f"{inside}mount {quoted}"
    match member.cause:
        case Cause.TIMEOUT if fuse:
            return [f"Do: see to the process that serves it; to give it up: {inside}umount -l {quoted}"]
        case Cause.TIMEOUT if member.subject.fstype in ("nfs", "nfs4") and option(member.subject.options, "hard") == "":
            return [f"Do: revive {who}; hard mounts resume alone"]
        case Cause.TIMEOUT:
            return [f"Do: revive {who}"]
        case Cause.STALE_HANDLE:
            return [f"Do: {inside}umount -l {quoted}; {again}"]
        case Cause.DISCONNECTED if fuse:
            return [f"Do: {inside}umount -l {quoted}, then start what mounts it again"]
        case Cause.REFUSED:
            return [f"Do: see on {who} whether this host may still use {name(member.subject.source)}"]
        case _:
            return [f"Do: see dmesg here, and {who}" if server else "Do: see dmesg here"]


def _quiet(incident: Incident) -> list[str]:
    """The command that silences it (`core.silences`); none where that would take a list of places."""
    places = dict.fromkeys(place for place, _ in _places(incident.down))
    if incident.server is not None:
        about, pattern = "--server ", incident.server
    elif len(places) == 1:
        [place] = places
        about, pattern = "", f"{place.namespace}:{place.mount_point}"
    else:
        return []
    if name(pattern, 200) != pattern:
        return []  # as above
    return [f"Quiet: watcher silence {about}{shlex.quote(literal(pattern))} --for 2h"]


def _inside(place: Place) -> str:
    """What runs a command in the container; nothing on the host."""
    if place.namespace == HOST:
        return ""
    ctid = place.namespace.removeprefix("ct:")
    # Proxmox numbers its containers.
    return f"pct exec {ctid} -- " if ctid.isdecimal() else f"lxc-attach -n {shlex.quote(ctid)} -- "


def _reboot(place: Place) -> str:
    ctid = place.namespace.removeprefix("ct:")
    return f"pct reboot {ctid}" if ctid.isdecimal() else f"restart the container {shlex.quote(ctid)}"


def _ended_lines(incident: Incident) -> list[str]:
    """One line for each way in which a part has ended, then what is still down: that must not be cut off."""
    groups = {
        "Ok: ": [m for m in incident.members if m.told_as is Condition.OK],
        "Remounted: ": [m for m in incident.members if m.told_as is Condition.REMOUNTED],
    }
    for member in incident.members:
        if member.told_as is Condition.GONE:
            words = "no longer mounted" if member.reason in ("", "unmounted") else member.reason
            groups.setdefault(f"{words[:1].upper()}{words[1:]}: ", []).append(member)
    lines = [lead + _listed(members) for lead, members in groups.items() if members]
    lines += _flaps(incident)
    if incident.down:
        lines += _place_lines(incident.down[:MAX_PLACES], with_cause=True, lead="🔴 Still: ")[:MAX_PLACES]
        if (more := len(_places(incident.down)) - MAX_PLACES) > 0:
            lines.append(f"and {count(more, 'more mount')}")
        first = _first(incident.down)
        lines += _context(first) + _advice(first, incident.server)
    return lines


def _listed(members: Sequence[Member]) -> str:
    """Places on one line, the rest counted."""
    places = _places(members)
    text = ", ".join(_described(place, member) for place, member in places[:MAX_ON_LINE])
    return text if len(places) <= MAX_ON_LINE else f"{text} and {len(places) - MAX_ON_LINE} more"


def _late_line(news: News, sender: Sender, now: float, local: Local) -> str:
    if now - news.due < LATE_AFTER:
        return ""
    if sender.unreachable_since is None:
        return "Told late"
    return f"Told late: {name(sender.channel, 40)} unreachable from {_minute(sender.unreachable_since, now, local)} on"


def _day(wall: float, now: float, local: Local) -> str:
    """The date, where it is not today's."""
    moment = local(wall)
    return "" if local(now).date() == moment.date() else f"{moment:%Y-%m-%d} "


def _minute(wall: float, now: float, local: Local) -> str:
    return f"{_day(wall, now, local)}{local(wall):%H:%M}"


def _clock(wall: float, now: float, local: Local) -> str:
    return f"{_day(wall, now, local)}{local(wall):%H:%M:%S %Z}".rstrip()


def _span(since: float, incident: Incident, now: float, local: Local) -> str:
    began, ended = local(since), local(_end(incident))
    if began.date() != ended.date():
        return f"{began:%Y-%m-%d %H:%M}–{ended:%Y-%m-%d %H:%M}"
    within_a_minute = ended - began < timedelta(minutes=1) and began.minute == ended.minute
    return _minute(since, now, local) + ("" if within_a_minute else f"–{ended:%H:%M}")
