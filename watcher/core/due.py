"""Which of the watched mounts are to be asked now, why one is not, and when the next is.

How long a mount is left alone after a report is `schedule`'s matter, what may be asked at all the roster's.
"""

from __future__ import annotations

import math

from watcher.core import ondemand
from watcher.core.health import FAILING
from watcher.core.roster import MAX_WEDGED, Roster, may_ask
from watcher.core.watched import Watched
from watcher.model import Asked, Place, Probe

SLACK = 0.05  # seconds: probes due this soon join the sweep that starts now


def due(roster: Roster, now: float) -> list[Probe]:
    """The probes to start now."""
    probes = []
    crowded = roster.crowded()
    for watched in roster:
        # Only what is well joins early: what fails is judged by the time since it was asked first.
        slack = 0.0 if watched.health.reach in FAILING else SLACK
        if watched.next_at > now + slack or not may_ask(watched, crowded) or roster.is_frozen(watched, now):
            continue
        if standing := watched.way(roster.reachable(watched)):
            probes.append(watched.probe(standing, deep=watched.wants_deep(now)))
    return probes


def ask_now(roster: Roster, place: Place, now: float) -> Asked | None:
    """Let the mount in this place be due at once; None if none is watched there."""
    found = ((w, s) for w in roster.inside(place.namespace) for s in w.standings if s.place == place)
    watched, standing = next(found, (None, None))
    if watched is None or standing is None:
        return None
    if watched.wedged is not None:
        return Asked(False, "an earlier probe still hangs in it; it is asked again once that has ended")
    if watched.asked is not None:
        return Asked(True)
    if not may_ask(watched, roster.crowded()):
        return Asked(False, f"not probed: {MAX_WEDGED} probes hang already")
    if (over := roster.behind(standing)) is not None:
        return Asked(False, f"a mount in front of it fails: {over.standings[0].place}")
    if roster.is_frozen(watched, now):
        return Asked(False, "its container is frozen (a backup does that)")
    if not roster.reachable(watched):
        return Asked(False, ondemand.NOT_ASKED if standing.idles_out else "it is about to be unmounted")
    watched.next_at = now
    return Asked(True)


def due_if_used(roster: Roster, now: float) -> list[Watched]:
    """What is due if it has been used."""
    crowded = roster.crowded()
    return [w for w in roster if w.next_at <= now and ondemand.is_idle(w) and may_ask(w, crowded)]


def next_due(roster: Roster, grace_until: float) -> float:
    """When a mount is next due, or overdue; infinity if none is. `grace_until`: nothing becomes stale before it."""
    soonest = math.inf
    crowded = roster.crowded()
    for watched in roster:
        if (overdue := watched.health.overdue_at(watched.pace, grace_until)) is not None:
            soonest = min(soonest, overdue)
        # Whether it may be asked costs more to know, and of most it is of no interest.
        if watched.next_at >= soonest or not may_ask(watched, crowded):
            continue
        if roster.reachable(watched) or ondemand.is_idle(watched):
            soonest = min(soonest, max(watched.next_at, roster.thaws_at(watched) or 0.0))
    return soonest
