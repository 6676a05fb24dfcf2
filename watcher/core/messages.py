"""An incident as a message: title and body in plain text, at most twelve lines, composed at send time.

The words are for an administrator at three in the morning: what, where, since when, why, what to do. Here stand what
is told of which topic, and the title; the lines below it are `body`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from watcher.core.body import MAX_LINES, ended_lines, problem_lines
from watcher.core.evidence import Evidence
from watcher.core.incident import BY_PLACE, SETTLED, Condition, Incident, Member
from watcher.core.members import causes_of, is_grave, place_lines, places_of, since_of, who
from watcher.core.outbox import LATE_AFTER, News, Topic
from watcher.core.reasons import LOST, MOUNTED
from watcher.core.times import Local, minute, second, span
from watcher.core.wording import count, duration, name
from watcher.model import Kind


class Message(NamedTuple):
    title: str
    body: str
    type: str  # Apprise's: failure, warning, success, info


class Sender(NamedTuple):
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
        lines = problem_lines(incident, found, now, local, quiet=topic is not Topic.UPDATE, most=MAX_LINES - bool(late))
        title = _mark(incident) + head + _what(incident.down, incident.server, still=topic is Topic.REPEAT)
        if topic is Topic.REPEAT:
            title += f", for {duration(now - incident.since)}"
        if topic is not Topic.REPEAT and any(m.gravity for m in incident.down):
            title += ", written to underneath"
        more = len(places_of(incident.down)) - told_down
        if topic is Topic.UPDATE and told_down and more > 0:  # none: it was over, and has begun again
            title += f" ({more} more)"
        kind = "failure" if is_grave(incident.down) else "warning"
        return _message(title, lines, late, kind)
    lines = ended_lines(incident, found, now, local)
    if topic is Topic.LATE:
        when = span(since_of(incident.members), _end(incident), now, local)
        title = f"⚪ {head}{who(incident.members, incident.server)} was {causes_of(incident.members)} {when}, told late"
        return _message(title, lines, late, "info")
    over = [m for m in incident.members if m.condition is not Condition.DOWN and not m.flapping]
    outcome, mark, kind = _outcome(over)
    title = f"{mark} {head}{who(over, incident.server)} {outcome} "
    since, end = since_of(over or incident.members), _end(incident)
    title += f"after {duration(end - since)} ({span(since, end, now, local)})"
    if topic is Topic.PARTIAL:
        title += f", {len(places_of(over))} of {len(places_of(incident.members))}"
        kind = "warning"
    return _message(title, lines, late, kind)


def headline(incident: Incident, host: str, *, now: float, local: Local) -> str:
    """The title of a message about it as it is."""
    if incident.closed is None:
        topic = Topic.PROBLEM if incident.down or incident.is_own else Topic.FLAPPING
    else:
        topic = Topic.RECOVERED
    return compose(News(incident, topic, now), 0, Sender(host, ""), now=now, local=local).title


def _flapping(incident: Incident, head: str, late: str, now: float, local: Local) -> Message:
    flapping = incident.flapping
    title = f"🟠 {head}{who(flapping, incident.server)} flaps: {causes_of(flapping)} and back, time and again"
    changes = max(m.flaps for m in flapping)
    lines = [f"{changes} changes by {second(max(m.changed for m in flapping), now, local)}", *place_lines(flapping)]
    lines += place_lines(incident.down, with_cause=True, lead="🔴 Still: ")
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


def _late_line(news: News, sender: Sender, now: float, local: Local) -> str:
    if now - news.due < LATE_AFTER:
        return ""
    if sender.unreachable_since is None:
        return "Told late"
    return f"Told late: {name(sender.channel, 40)} unreachable from {minute(sender.unreachable_since, now, local)} on"


def test_message(host: str, channel: str) -> Message:
    """What `watcher test-notify` sends."""
    return Message(
        f"🔔 {name(host, 40)}: test message of watcher",
        f"Channel {name(channel, 64)} works: alarms and recoveries will look like this.",
        "info",
    )


# ---- the title's parts


def _mark(incident: Incident) -> str:
    return "🔴 " if is_grave(incident.down) else "🟠 "


def _what(members: Sequence[Member], server: str | None, *, still: bool = False) -> str:
    places = places_of(members)
    text = f"{who(members, server)} {'still ' if still else ''}{causes_of(members)}"
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
