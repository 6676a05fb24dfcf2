"""Settings as the core takes them."""

from __future__ import annotations

from watcher.core.filters import Filter
from watcher.core.picture import Rules
from watcher.model import Kind
from watcher.settings import Settings


def rules_of(settings: Settings) -> Rules:
    """What the service judges, and by which measure."""
    return Rules(
        filter_of(settings),
        any_type(settings),
        warn=settings.capacity.warn,
        local=settings.watch.local,
        missing_after=settings.watch.missing_after,
        capacity=Kind.FULL in settings.notify.on,
    )


def any_type(settings: Settings) -> Filter:
    """What may be looked at, of whatever type: `exclude` holds for local disks, too."""
    watch = settings.watch
    return Filter(fstypes=["*"], include=["*"], exclude=watch.exclude, show_only=(), pace=settings.probe.pace())


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
