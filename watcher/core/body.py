"""The lines of a message below its title: since when, where, why, what hangs on it, what to do; and what has ended.

It shares out the room. What a line says of the cause is for `causes`, of what hangs on the mount for `radius`, of the
way out for `advice`, and of places for `members`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from watcher.core.advice import advice, fits, is_mended_alone
from watcher.core.causes import cause_lines, member_words
from watcher.core.evidence import Evidence
from watcher.core.filters import literal
from watcher.core.growth import words as growth_words
from watcher.core.incident import BY_PLACE, SETTLED, Condition, Incident, Member
from watcher.core.members import MAX_PLACES, MIN_PLACES, described, first_of, listed, place_lines, places_of, since_of
from watcher.core.radius import is_nothing
from watcher.core.radius import lines as radius_lines
from watcher.core.times import Local, minute, second
from watcher.core.wording import count, describe_type, duration, first_place, name
from watcher.model import Kind

MAX_LINES = 12
MAX_GROWING = 2  # lines of what is written underneath
MAX_OTHERS = 3  # mounts with commands of their own that are named
MAX_HANGING = 300  # characters of a line of what hangs on it


def problem_lines(
    incident: Incident, found: Evidence | None, now: float, local: Local, *, quiet: bool, most: int
) -> list[str]:
    """At most `most` lines, unless it flaps, too: what was found out and what to do count more than all the names."""
    down = incident.down
    first = first_of(down)
    found = _about(first, found)
    flaps, silence, others = _flaps(incident), _quiet(incident) if quiet else [], len(places_of(down)) > MIN_PLACES
    why, do = _why(first), _do(incident, first, found)
    head = [f"Since {second(since_of(down), now, local)}", *_growing(down, now, local)]
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
    room, places = most - len(head) - len(middle) - len(ending), len(places_of(down))
    shown = room if places <= room else room - 1
    with_cause = len({member_words(m) for m in down}) > 1
    shown = max(MIN_PLACES, min(MAX_PLACES, shown))
    return [*head, *place_lines(down, with_cause=with_cause, most=shown), *middle, *ending]


def ended_lines(incident: Incident, found: Evidence | None, now: float, local: Local) -> list[str]:
    """One line for each way in which a part has ended, then what is still down: that must not be cut off."""
    groups = {
        "Ok: ": [m for m in incident.members if m.told_as is Condition.OK],
        "Remounted: ": [m for m in incident.members if m.told_as is Condition.REMOUNTED],
    }
    for member in incident.members:
        if member.told_as is Condition.GONE:
            words = "no longer mounted" if member.reason in ("", "unmounted") else member.reason
            groups.setdefault(f"{words[:1].upper()}{words[1:]}: ", []).append(member)
    lines = [lead + listed(members) for lead, members in groups.items() if members]
    lines += _flaps(incident)
    if incident.down:
        first = first_of(incident.down)
        do = [*_context(first), *_do(incident, first, _about(first, found))]
        ending = [*_growing(incident.down, now, local), *do]
        room = MAX_LINES - 1 - len(lines) - len(ending)  # of them one is that it is told late
        places = len(places_of(incident.down))
        shown = max(MIN_PLACES, min(MAX_PLACES, room if places <= room else room - 1))
        lines += [*place_lines(incident.down, with_cause=True, lead="🔴 Still: ", most=shown), *ending]
    return lines


def foremost(incident: Incident) -> Member | None:
    """The member of which a message says why, and what to do; None where nothing is down."""
    return first_of(incident.down) if incident.down and not incident.is_own else None


def cause_and_advice(incident: Incident, found: Evidence | None) -> tuple[list[str], list[str]]:
    """Why it is, and what to do, as a message has them; `found`: about its foremost mount."""
    if incident.is_own:
        return [name(m.error or m.reason, 400) for m in incident.members if m.error or m.reason], []
    if (first := foremost(incident)) is None:
        return [], []
    found = _about(first, found)
    causes = [*_why(first), *cause_lines(first, found), *_hanging(incident.down, first, found)]
    return causes, _do(incident, first, found)


def _do(incident: Incident, first: Member, found: Evidence | None) -> list[str]:
    """What to do about the first, and what tells that of the others, as far as it is something else."""
    about, others = {first.subject.superblock}, list[str]()
    for place, member in places_of(incident.down):
        if member.subject.superblock not in about and is_mended_alone(member):
            about.add(member.subject.superblock)
            if name(str(place), 200) == str(place):
                others.append(f"watcher explain {shlex.quote(str(place))}")
    lines = advice(first, incident.server, found)
    for most in range(min(MAX_OTHERS, len(others)), 0, -1):
        more = f" # and {len(others) - most} more" if len(others) > most else ""
        if fits(line := f"For the others: {'; '.join(others[:most])}{more}"):
            return [*lines, line]
    return lines


def _hanging(down: Sequence[Member], first: Member, found: Evidence | None) -> list[str]:
    """What hangs on the foremost."""
    if found is None:
        return []
    on = "it" if len(down) == 1 else described(places_of([first])[0][0], first)
    place = places_of([first])[0][0]
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
    return growth_words(member.growth, place, container, minute(member.growth.since, now, local))


def _about(member: Member, found: Evidence | None) -> Evidence | None:
    """The evidence, if it is of this one."""
    if found is None or found.superblock != member.subject.superblock:
        return None
    # What is not mounted has no device: the same source may be missed in several places.
    is_there = member.kind not in BY_PLACE or found.question.place in member.subject.places
    return found if is_there else None


def _flaps(incident: Incident) -> list[str]:
    """Who changes all the time, and who did before it held still."""
    lines = [f"Flapping: {listed(incident.flapping)}"] if incident.flapping else []
    if flaps := max((m.flaps for m in incident.members if not m.flapping), default=0):
        lines.append(f"It flapped: {count(flaps, 'change')}, none in the last {duration(SETTLED)}")
    return lines


def _source_line(member: Member) -> str:
    subject = member.subject
    parts = (name(subject.source), describe_type(subject.fstype, subject.options))
    return "; ".join(part for part in parts if part)


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
    places = dict.fromkeys(place for place, _ in places_of(incident.down))
    if incident.server is not None:
        about, pattern = "--server ", incident.server
    elif len(places) == 1:
        [place] = places
        about, pattern = "", f"{place.namespace}:{place.mount_point}"
    else:
        return []
    if name(pattern, 200) != pattern:
        return []  # cut or escaped: no command to paste
    return [f"Quiet: watcher silence {about}{shlex.quote(literal(pattern))} --for 2h"]
