"""Settings as the core takes them."""

from __future__ import annotations

from watcher.core.filters import Filter
from watcher.settings import Settings


def filter_of(settings: Settings) -> Filter:
    """The [watch], [probe] and [[override]] sections."""
    watch = settings.watch
    return Filter(
        fstypes=watch.fstypes,
        include=watch.include,
        exclude=watch.exclude,
        show_only=watch.show_only,
        pace=settings.probe.pace(),
        overrides=[(o.mounts, o.changes()) for o in settings.overrides],
    )
