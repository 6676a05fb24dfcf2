"""An incident as a message: title and body in plain text, at most twelve lines, composed at send time.

The words are for an administrator at three in the morning: what, where, since when, why, what to do.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from watcher.core.advice import advice
from watcher.core.causes import cause_lines, member_words
from watcher.core.commands import pve_storage
from watcher.core.evidence import Evidence
from watcher.core.filters import literal
from watcher.core.growth import words as growth_words
from watcher.core.incident import BY_PLACE, LOST, MOUNTED, SETTLED, Condition, Incident, Member
from watcher.core.mountinfo import option
from watcher.core.outbox import LATE_AFTER, News, Topic
from watcher.core.radius import is_nothing
from watcher.core.radius import lines as radius_lines
from watcher.core.wording import count, duration, first_place, name, place_name, place_order
from watcher.model import HOST, Kind, Place, Subject

MAX_LINES = 12
MAX_PLACES, MIN_PLACES = 6, 1  # lines of places; the rest is counted
MAX_ON_LINE = 4  # places on one line
MAX_GROWING = 2  # lines of what is written underneath
MAX_HANGING = 300  # characters of a line of what hangs on it

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


def compose(
    news: News, told_down: int, sender: Sender, *, now: float, local: Local, found: Evidence | None = None
) -> Message:
    """`told_down`: how many mounts the channel believes to be down; `found`: about the incident's `foremost`."""
    incident, topic = news.incident, news.topic
    head = f"{name(sender.host, 40)}: "
    late = _late_line(news, sender, now, local)
    if incident.is_own:
        return _own(incident, head, late)
    if topic is Topic.FLAPPING:
        return _flapping(incident, head, late, now, local)
    if topic in (Topic.PROBLEM, Topic.UPDATE, Topic.REPEAT):
        lines = _problem_lines(
            incident, found, now, local, quiet=topic is not Topic.UPDATE, most=MAX_LINES - bool(late)
        )
        title = _mark(incident) + head + _what(incident.down, incident.server, still=topic is Topic.REPEAT)
        if topic is Topic.REPEAT:
            title += f", for {duration(now - incident.since)}"
        if topic is not Topic.REPEAT and any(m.gravity for m in incident.down):
            title += ", written to underneath"
        more = len(_places(incident.down)) - told_down
        if topic is Topic.UPDATE and told_down and more > 0:  # none: it was over, and has begun again
            title += f" ({more} more)"
        kind = "failure" if _is_grave(incident.down) else "warning"
        return _message(title, lines, late, kind)
    lines = _ended_lines(incident, found, now, local)
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


def _is_grave(members: Sequence[Member]) -> bool:
    return any(m.kind in (Kind.STALE, Kind.MISSING) for m in members)


def _gravest(members: Sequence[Member]) -> Sequence[Member]:
    """What is stale, if anything is: the rest may have stood for weeks, and is not what people are woken for."""
    return [m for m in members if m.kind is Kind.STALE] or members


def _since(members: Sequence[Member]) -> float:
    return min(m.since for m in _gravest(members))


def _mark(incident: Incident) -> str:
    return "🔴 " if _is_grave(incident.down) else "🟠 "


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
    words = list(dict.fromkeys(member_words(m) for m in [*_gravest(members), *others]))
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
    if kinds == {Kind.VANISHED} and all(m.error.startswith(LOST) for m in over):
        return "in order again", "🟢", "success"
    if kinds <= BY_PLACE:
        return "mounted" if all(m.reason == MOUNTED for m in over) else "mounted again", "🟢", "success"
    if kinds == {Kind.FULL}:
        return next((m.reason for m in over if m.reason), "no longer full"), "🟢", "success"
    return "ok", "🟢", "success"


def _end(incident: Incident) -> float:
    return max((m.changed for m in incident.members if m.condition is not Condition.DOWN), default=incident.opened)


# ---- the body's lines


def _problem_lines(
    incident: Incident, found: Evidence | None, now: float, local: Local, *, quiet: bool, most: int
) -> list[str]:
    """At most `most` lines, unless it flaps, too: what was found out and what to do count more than all the names."""
    down = incident.down
    first = _first(down)
    found = _about(first, found)
    flaps, silence, others = _flaps(incident), _quiet(incident) if quiet else [], len(_places(down)) > MIN_PLACES
    why, do = _why(first), advice(first, incident.server, found)
    head = [f"Since {_clock(_since(down), now, local)}", *_growing(down, now, local)]
    causes, hanging = cause_lines(first, found), _hanging(down, first, found)
    rest = len(head) + MIN_PLACES + 2 + len(causes) + sum(map(len, (why, flaps, do, silence)))
    if found is not None and is_nothing(found.radius) and rest + len(hanging) > most:
        hanging.clear()
    while len(causes) + len(hanging) > 1 and (
        len(head) + MIN_PLACES + 2 + len(causes) + len(hanging) + sum(map(len, (why, flaps, do, silence))) > most
    ):
        (hanging if len(hanging) > 1 else causes if len(causes) > 1 else hanging).pop()
    over = sum(map(len, (head, causes, hanging, why, flaps, do, silence))) + MIN_PLACES + others + 1 - most
    for spare, least in ((silence, 0), (flaps, 0), (head, 2)):  # what to do must not be what is cut off
        while over > 0 and len(spare) > least:
            spare.pop()
            over -= 1
    ending = [*why, *flaps, *do, *silence]
    middle = [line for line in (_source_line(first), *causes, *hanging) if line]
    room, places = most - len(head) - len(middle) - len(ending), len(_places(down))
    shown = room if places <= room else room - 1
    with_cause = len({member_words(m) for m in down}) > 1
    shown = max(MIN_PLACES, min(MAX_PLACES, shown))
    return [*head, *_place_lines(down, with_cause=with_cause, most=shown), *middle, *ending]


def foremost(incident: Incident) -> Member | None:
    """The member of which a message says why, and what to do; None where nothing is down."""
    return _first(incident.down) if incident.down and not incident.is_own else None


def headline(incident: Incident, host: str, *, now: float, local: Local) -> str:
    """The title of a message about it as it is."""
    if incident.closed is None:
        topic = Topic.PROBLEM if incident.down or incident.is_own else Topic.FLAPPING
    else:
        topic = Topic.RECOVERED
    return compose(News(incident, topic, now), 0, Sender(host, ""), now=now, local=local).title


def cause_and_advice(incident: Incident, found: Evidence | None) -> tuple[list[str], list[str]]:
    """Why it is, and what to do, as a message has them; `found`: about its foremost mount."""
    if incident.is_own:
        return [name(m.error or m.reason, 400) for m in incident.members if m.error or m.reason], []
    if (first := foremost(incident)) is None:
        return [], []
    found = _about(first, found)
    causes = [*_why(first), *cause_lines(first, found), *_hanging(incident.down, first, found)]
    return causes, advice(first, incident.server, found)


def _hanging(down: Sequence[Member], first: Member, found: Evidence | None) -> list[str]:
    """What hangs on the foremost."""
    if found is None:
        return []
    on = "it" if len(down) == 1 else _described(_places([first])[0][0], first)
    place = _places([first])[0][0]
    see = f"watcher explain {shlex.quote(str(place))}" if name(str(place)) == str(place) else ""
    return radius_lines(found.radius, on, MAX_HANGING, see)


def _growing(down: Sequence[Member], now: float, local: Local) -> list[str]:
    """What is written under the mount points meanwhile, the gravest first."""
    gravest = sorted((m for m in down if m.growth is not None and m.gravity), key=lambda m: -m.gravity)
    return [growing_words(member, now, local) for member in gravest[:MAX_GROWING]]


def growing_words(member: Member, now: float, local: Local) -> str:
    """What is written under its mount point, as a message has it; "" if nothing is."""
    if member.growth is None:
        return ""
    place = first_place(member.subject.places)
    container = dict(member.subject.names).get(place.namespace, "")
    return growth_words(member.growth, place, container, _minute(member.growth.since, now, local))


def _about(member: Member, found: Evidence | None) -> Evidence | None:
    """The evidence, if it is of this one."""
    if found is None or found.superblock != member.subject.superblock:
        return None
    # What is not mounted has no device: the same source may be missed in several places.
    is_there = member.kind not in BY_PLACE or found.question.place in member.subject.places
    return found if is_there else None


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


def _place_lines(
    members: Sequence[Member], *, with_cause: bool = False, lead: str = "", most: int = MAX_PLACES
) -> list[str]:
    lines = []
    places = _places(members)
    for place, member in places[:most]:
        cause = f" {member_words(member)}" if with_cause else ""
        text = lead + _described(place, member) + cause + _left(member)
        lines.append(text[:1].upper() + text[1:])
    if len(places) > most:
        lines.append(f"and {count(len(places) - most, 'more mount')}")
    return lines


def _left(member: Member) -> str:
    """What is left on a full file system."""
    return f": {left}" if member.kind is Kind.FULL and (left := member.error.partition(": ")[2]) else ""


def _described(place: Place, member: Member) -> str:
    text = _place(place, member.subject)
    text = f"host {text}" if place.namespace == HOST else text
    return f"{text} (PVE storage {storage})" if (storage := pve_storage(place)) else text


def _source_line(member: Member) -> str:
    subject = member.subject
    parts = (name(subject.source), describe_type(subject.fstype, subject.options))
    return "; ".join(part for part in parts if part)


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
    if member.error and member.kind in (Kind.STALE, Kind.VANISHED, Kind.MISSING):
        text = name(member.error[:1].upper() + member.error[1:], 200)
        if member.stack:
            text += f"; the probe hangs in {' < '.join(member.stack[:3])}"
        lines.append(text)
    return lines + _context(member)


def _context(member: Member) -> list[str]:
    return [member.context[:1].upper() + member.context[1:]] if member.context else []


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


def _ended_lines(incident: Incident, found: Evidence | None, now: float, local: Local) -> list[str]:
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
        first = _first(incident.down)
        do = [*_context(first), *advice(first, incident.server, _about(first, found))]
        ending = [*_growing(incident.down, now, local), *do]
        room = MAX_LINES - 1 - len(lines) - len(ending)  # of them one is that it is told late
        places = len(_places(incident.down))
        shown = max(MIN_PLACES, min(MAX_PLACES, room if places <= room else room - 1))
        lines += [*_place_lines(incident.down, with_cause=True, lead="🔴 Still: ", most=shown), *ending]
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
