"""What a channel must still be told, given what it was told last and the incidents as they are.

Decided against the ledger, never against what happened in between: an alarm that was told is always
followed up, a recovery is never told for an alarm that was not (Alertmanager's notification log).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from watcher.core.incident import SETTLED, Condition, Incident, Member
from watcher.core.incidents import nothing_is_silenced

REMOUNT_WAIT = 10.0  # an unmounted mount is given this long to come back before it is told as gone
LATE_AFTER = 60.0  # a message this much behind its time says that it is late
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 600.0
CHATTY = 3  # messages about one incident, after which updates pause: for a minute, then twice that, up to an hour
UPDATE_FIRST, UPDATE_LAST = 60.0, 3600.0
FORGET = 2 * UPDATE_LAST


class Topic(enum.StrEnum):
    """What a message says."""

    PROBLEM = "problem"
    UPDATE = "update"  # more mounts of the same cause
    FLAPPING = "flapping"  # some are down and back all the time
    REPEAT = "repeat"  # still so
    PARTIAL = "partial"  # some are back
    RECOVERED = "recovered"
    CLOSED = "closed"  # unmounted, container stopped: over, but not ok
    LATE = "late"  # began and ended while the channel could not be reached


@dataclass(frozen=True, slots=True)
class Told:
    """An entry of the ledger: how the members of an incident stood when the channel was last told."""

    conditions: Mapping[int, Condition]  # by the member's slot
    at: float
    times: int = 1  # messages about it so far
    growth: Mapping[int, int] = field(default_factory=dict)  # how grave it was said to be what is written under them
    unsure: frozenset[int] = frozenset()  # slots that a message was about of which it is not known whether it arrived

    @property
    def knows_nothing(self) -> bool:
        """Whether it may be that nothing of the incident has arrived at all."""
        return not self.conditions

    @property
    def down(self) -> set[int]:
        return {k for k, c in self.conditions.items() if c is Condition.DOWN}

    @property
    def flapping(self) -> set[int]:
        return {k for k, c in self.conditions.items() if c is Condition.FLAPPING}


class Lately(NamedTuple):
    """What a channel was told of the mounts that one container serves itself."""

    times: int  # messages; FORGET seconds of silence and it starts anew
    at: float  # the last of them

    def once_more(self, now: float) -> Lately:
        return Lately(1 if now - self.at > FORGET else self.times + 1, now)


class News(NamedTuple):
    """Something to tell a channel, from `due` on."""

    incident: Incident
    topic: Topic
    due: float


def news_of(
    incident: Incident,
    told: Told | None,
    *,
    group_wait: float,
    silenced: bool = False,
    repeat_interval: float = 0.0,
) -> News | None:
    """What the channel does not know yet of this incident; None where it knows all that matters.

    `silenced`: that something is down is not for it to know now; what it was told is followed up all the same.
    `repeat_interval`: seconds after which what is still down is told again; 0: never.
    """
    if told is None or told.knows_nothing:
        if incident.closed is None:
            topic = Topic.PROBLEM if incident.down else Topic.FLAPPING
            return None if silenced else News(incident, topic, incident.opened + group_wait)
        if told is None:
            if silenced or incident.hushed:
                return None
            if incident.closed - incident.opened < group_wait or incident.is_own:
                return None  # over before it was worth a word, or of no interest once it is over
        return News(incident, Topic.LATE, max(incident.closed, _settled(incident.members)))
    down, now_flapping = incident.down, incident.flapping
    slots_down = {m.slot for m in down}
    # What may have been told or not is told now, however it stands.
    told_down, told_flapping = (told.down | told.unsure) - (told.unsure & slots_down), told.flapping - told.unsure
    if (begins := [m for m in now_flapping if m.slot not in told_flapping]) and not silenced:
        return News(incident, Topic.FLAPPING, max(m.changed for m in begins))
    more = [m for m in down if m.slot not in told_down]
    over = (told_down | told_flapping) - slots_down - {m.slot for m in now_flapping}
    ended = [m for m in incident.members if m.slot in over or _is_back_apart(m, told)]
    if incident.closed is not None:
        if not ended:
            return None
        topic = Topic.CLOSED if all(m.condition is Condition.GONE for m in ended) else Topic.RECOVERED
        return News(incident, topic, _settled(ended, told))
    if more and not silenced:
        due = min(m.changed + (SETTLED if m.slot in told_flapping else 0.0) for m in more) + group_wait
        waits = told_down and not _is_first_on_host(incident, more, told)
        return News(incident, Topic.UPDATE, max(due, _rest_until(told)) if waits else due)
    grown = [m.growth for m in down if m.growth is not None and m.gravity > told.growth.get(m.slot, 0)]
    if grown and not silenced:
        return News(incident, Topic.UPDATE, max(min(growth.noted for growth in grown), _rest_until(told)))
    if ended:
        due = max(_settled(ended, told), min(m.changed for m in ended) + group_wait)
        return News(incident, Topic.PARTIAL, max(due, _rest_until(told)))
    if repeat_interval and down and not silenced:
        return News(incident, Topic.REPEAT, told.at + repeat_interval)
    return None


def _is_first_on_host(incident: Incident, more: Iterable[Member], told: Told) -> bool:
    """Whether the host itself is hit only now: that must not wait for what containers have said so often."""
    told_down = told.down
    before = [m for m in incident.members if m.slot in told_down]
    return any(m.is_on_host for m in more) and not any(m.is_on_host for m in before)


def _rest_until(told: Told | Lately) -> float:
    """Before which no more is said of an incident that goes on: mounts that die one by one are not one message each."""
    if told.times < CHATTY:
        return told.at
    return told.at + min(UPDATE_FIRST * 2.0 ** min(told.times - CHATTY, 20), UPDATE_LAST)


def _is_back_apart(member: Member, told: Told) -> bool:
    """Whether it is well again in some of the places of a member that was told as down.

    That it has merely left them is not worth a word: a container was stopped, a dead mount taken off the host.
    """
    if member.split_from is None or member.condition not in (Condition.OK, Condition.REMOUNTED):
        return False
    if told.conditions.get(member.split_from) is not Condition.DOWN:
        return False
    return told.conditions.get(member.slot) is not member.condition


def _settled(ended: Iterable[Member], told: Told | None = None) -> float:
    """When it is clear how these ended: what was unmounted may be mounted again at once, what flaps may go on."""
    flapped = told.flapping if told is not None else set()

    def settled(member: Member) -> float:
        if member.slot in flapped:
            return member.changed + SETTLED
        return member.changed + (REMOUNT_WAIT if member.condition is Condition.GONE else 0.0)

    return max(map(settled, ended))


def is_expired(news: News, told: Told | None, *, now: float, max_age: float) -> bool:
    """Only what the channel has heard nothing of grows too old; what it was told is always followed up."""
    return told is None and news.incident.closed is not None and now - news.incident.closed > max_age


def pending(
    incidents: Iterable[Incident],
    ledger: Mapping[int, Told],
    *,
    now: float,
    group_wait: float,
    max_age: float,
    lately: Mapping[str, Lately] | None = None,
    silenced: Callable[[Incident], bool] = nothing_is_silenced,
    released: Mapping[int, float] | None = None,
    channel: str = "",
    added: float = 0.0,
    repeat_interval: float = 0.0,
) -> list[News]:
    """All news for one channel, what is due first in front.

    `lately`: by group, for those inside of containers; `released`: by incident, when a silence over it has ended, or a
    restart has had its time to see how things stand; `added`: since when there is this channel.
    """
    found = []
    for incident in incidents:
        told = ledger.get(incident.number)
        over = incident.closed is not None and incident.closed < added
        if incident.is_about(channel) or (told is None and over):
            continue
        news = news_of(
            incident, told, group_wait=group_wait, silenced=silenced(incident), repeat_interval=repeat_interval
        )
        if news is not None and news.topic is not Topic.RECOVERED:  # which is clear at once
            news = news._replace(due=max(news.due, (released or {}).get(incident.number, news.due)))  # it is not late
        if news is not None and told is None and (before := (lately or {}).get(incident.group)) is not None:
            news = _held_back(news, before, now)
        if news is not None and not is_expired(news, told, now=now, max_age=max_age):
            found.append(news)
    return sorted(_in_order(found), key=lambda n: (n.due, n.incident.number))


def _in_order(found: Iterable[News]) -> list[News]:
    """What is over is told before what came after it: to end with the past would not be the truth."""
    over: dict[str, float] = {}
    out = []
    for news in sorted(found, key=lambda n: n.incident.number):
        group = news.incident.group
        news = news._replace(due=max(news.due, over.get(group, news.due)))
        out.append(news)
        if news.topic in (Topic.LATE, Topic.RECOVERED):
            over[group] = news.due
    return out


def _held_back(news: News, before: Lately, now: float) -> News | None:
    """A container whose mounts die and come back all day is not a message each time."""
    rest = _rest_until(before)
    if now - before.at > FORGET or rest <= news.due:
        return news
    # What was over before its turn came is not told late either.
    return None if news.topic is Topic.LATE else news._replace(due=rest)


def attempted(before: Told | None, entry: Told) -> Told:
    """The ledger's entry while a message is on its way that will make it `entry`: noted before it is sent.

    Of a service that is killed then nobody knows whether the message has arrived. What it says is news again.
    """
    known: Mapping[int, Condition] = before.conditions if before is not None else {}
    grave = (Condition.DOWN, Condition.FLAPPING)
    news = {s for s, c in entry.conditions.items() if known.get(s) is not c and (c in grave or known.get(s) in grave)}
    if before is None:
        return Told({}, entry.at, 0, unsure=frozenset(news))
    return replace(before, unsure=before.unsure | news)


def told_now(incident: Incident, now: float, before: Told | None = None, topic: Topic | None = None) -> Told:
    """The ledger's entry once a message composed from this incident has been delivered."""
    times = (before.times if before else 0) + (topic is not Topic.REPEAT)  # what is said again makes nobody tired
    known = before.growth if before is not None else {}
    growth = {m.slot: max(m.gravity, known.get(m.slot, 0)) for m in incident.down}
    conditions = {m.slot: m.told_as for m in incident.members}
    return Told(conditions, now, times, growth={slot: int(gravity) for slot, gravity in growth.items() if gravity})


def retry_after(attempt: int, asked_for: float | None, jitter: float) -> float:
    """Seconds until the next attempt. `attempt` counts from 1, `jitter` is in [0, 1).

    What the receiver asks for is honoured, up to the longest pause of our own times six.
    """
    pause = min(BACKOFF_LAST, BACKOFF_FIRST * 2.0 ** min(attempt - 1, 20)) * (0.75 + 0.5 * jitter)
    if asked_for is not None:
        pause = max(pause, min(asked_for, 6 * BACKOFF_LAST))
    return pause
