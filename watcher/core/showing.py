"""How a watched place is shown: what the tracker knows of it as one `MountState`."""

from __future__ import annotations

from watcher.core import ondemand
from watcher.core.health import ALARMED, FAILING
from watcher.core.places import Standing
from watcher.core.roster import MAX_WEDGED, Roster
from watcher.core.watched import Watched
from watcher.model import MountState, Place, Reach

MAX_MISSED = 2  # times in a row that another mount answered in its place, after which it is unknown
MAX_VOIDS = 5  # probes in a row that told nothing, after which a mount is unknown
STATUS = {
    Reach.UNKNOWN: "unknown",
    Reach.OK: "ok",
    Reach.SUSPECT: "slow",
    Reach.STALE: "stale",
    Reach.RECOVERING: "stale",
    Reach.DENIED: "denied",
}


def show(roster: Roster, watched: Watched, standing: Standing, *, crowded: bool) -> MountState:
    """How a place stands. `crowded`: so many probes hang that nothing new is asked."""
    health, blocker, not_asked = watched.health, _blocker(roster, watched, standing), _not_asked(watched, crowded)
    frozen = roster.thaws_at(watched) is not None
    reach, status, error = health.reach, STATUS[health.reach], health.error
    readonly = watched.is_readonly(standing)
    if blocker is not None:
        reach, status, error = Reach.UNKNOWN, "unknown", f"behind {blocker}"
    elif standing.idles_out and reach is Reach.UNKNOWN and not watched.used:
        reach, status, error = Reach.DENIED, "denied", ondemand.NOT_ASKED
    elif frozen and reach is Reach.UNKNOWN:
        reach, status = Reach.DENIED, "denied"
        error = "its container is frozen (a backup does that): not judged"
    elif not_asked:
        reach, status, error = Reach.UNKNOWN, "unknown", not_asked
    elif status == "ok" and readonly:
        status = "readonly"
    failing = reach in FAILING
    return MountState(
        place=standing.place,
        mount=standing.mount,
        reach=reach,
        status=status,
        cause=health.cause if failing else None,
        error=error,
        since=health.failing_since if failing else health.reached_at,
        latency=health.latency if reach is Reach.OK else None,
        usage=health.usage if reach is Reach.OK else None,
        readonly=readonly,
        unexpected_readonly=readonly and watched.is_unexpectedly_readonly(standing),
        show_only=standing.show_only,
        behind=blocker,
        stacked=standing.stacked,
        stack=health.stack if failing else (),
        wedged_since=watched.wedged_since,
        context=roster.context(watched),
        container=standing.container,
    )


def _blocker(roster: Roster, watched: Watched, standing: Standing) -> Place | None:
    """The failing mount in front of it."""
    over = roster.behind(standing)
    if over is None or (watched.health.reach in ALARMED and not watched.lost_way):
        return None  # in the latter case it failed by itself before
    return next((s.place for s in over.standings if s.place.namespace == standing.place.namespace), None)


def _not_asked(watched: Watched, crowded: bool) -> str:
    """Why it is left alone, if it is."""
    reach = watched.health.reach
    if crowded and reach is Reach.UNKNOWN:
        return f"not probed: {MAX_WEDGED} probes hang already"
    if watched.missed > MAX_MISSED and reach in (Reach.UNKNOWN, Reach.OK):
        return "another mount stands in its place or in its way"
    return watched.void_note if reach is Reach.UNKNOWN or watched.voids > MAX_VOIDS else ""
