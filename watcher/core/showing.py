"""How a watched place is shown: what the tracker knows of it as one `MountState`."""

from __future__ import annotations

from watcher.core.health import FAILING
from watcher.core.places import Standing
from watcher.core.watched import Watched
from watcher.model import MountState, Place, Reach

STATUS = {
    Reach.UNKNOWN: "unknown",
    Reach.OK: "ok",
    Reach.SUSPECT: "slow",
    Reach.STALE: "stale",
    Reach.RECOVERING: "stale",
    Reach.DENIED: "denied",
}


def state_of(
    watched: Watched, standing: Standing, blocker: Place | None, not_asked: str, *, frozen: bool, context: str
) -> MountState:
    """How a place stands.

    `blocker`: the failing mount in front of it; `not_asked`: why it is left alone, if it is; `frozen`: so is who
    serves it.
    """
    health = watched.health
    reach, status, error = health.reach, STATUS[health.reach], health.error
    readonly = watched.is_readonly(standing)
    if blocker is not None:
        reach, status, error = Reach.UNKNOWN, "unknown", f"behind {blocker}"
    elif standing.idles_out and reach is Reach.UNKNOWN:
        reach, status = Reach.DENIED, "denied"
        error = "mounted on demand with an idle time-out: not asked, so that it can idle out"
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
        unexpected_readonly=watched.is_unexpectedly_readonly(standing),
        show_only=standing.show_only,
        behind=blocker,
        stacked=standing.stacked,
        stack=health.stack if failing else (),
        wedged_since=watched.wedged_since,
        context=context,
        container=standing.container,
    )
