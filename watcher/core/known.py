"""What one run knows of a mount for the next, and by what that one tells it again."""

from __future__ import annotations

from typing import NamedTuple

from watcher.model import Cause, Place, Reach

Identity = tuple[Place, str, str, str]  # place, root, fstype, source: what a mount is over a reboot


class Known(NamedTuple):
    """The health of a mount in a place. Times are seconds since the epoch."""

    answered: bool = False  # ever
    reach: Reach = Reach.UNKNOWN
    since: float | None = None  # when it began to fail, while it does
    cause: Cause | None = None
    error: str = ""
    readonly_since: float | None = None  # unexpectedly so
