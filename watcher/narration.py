"""The log lines of the service: one for each event that matters to an administrator."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from watcher.core.wording import count, name
from watcher.model import Change, Kind, Mount, Place, ProbeReport, Transition

log = logging.getLogger(__name__)

MAX_LISTED = 20  # mounts named when many come or go at once
VOID_EVERY = 60.0  # seconds between two lines about probes that said nothing
_WIDTH = 200


class Narrator:
    """Says what happens, without repeating itself."""

    def __init__(self) -> None:
        self._void_said = float("-inf")
        self._problems: dict[str, str] = {}

    def places(
        self, before: Mapping[Place, Mount], after: Mapping[Place, Mount], *, gone: str = "no longer mounted"
    ) -> None:
        """Which mounts came and went between two looks, and why they went."""
        came, went = [(p, m) for p, m in after.items() if p not in before], sorted(before.keys() - after.keys())
        for place, mount in came[:MAX_LISTED]:
            log.info("watching %s (%s, %s)", _place(place), name(mount.fstype), _source(mount.source))
        for place in went[:MAX_LISTED]:
            log.info("%s: %s", gone, _place(place))
        more = max(0, len(came) - MAX_LISTED) + max(0, len(went) - MAX_LISTED)
        if more:
            log.info("and %s more", count(more, "mount"))

    def problems(self, problems: Mapping[str, str]) -> None:
        """What cannot be watched, by namespace; each said once."""
        for namespace, problem in problems.items():
            if self._problems.get(namespace) != problem:
                log.warning("%s: %s", name(namespace, _WIDTH), problem)
        self._problems = dict(problems)

    def void(self, report: ProbeReport, now: float) -> None:
        """A probe told nothing."""
        if now - self._void_said >= VOID_EVERY:
            self._void_said = now
            log.warning("no verdict on %s (and maybe others): %s", _place(report.probe.place), report.note)

    def transition(self, transition: Transition) -> None:
        if transition.kind is Kind.WATCHER:
            return  # said where it happened
        places = ", ".join(map(_place, transition.subject.places[:MAX_LISTED]))
        source = _source(transition.subject.source)
        match transition.change:
            case Change.BEGAN:
                stack = f" (hangs in {' < '.join(transition.stack[:4])})" if transition.stack else ""
                log.warning("%s: %s (%s): %s%s", transition.kind, places, source, transition.error, stack)
            case Change.ENDED:
                log.info("%s no more: %s (%s)", transition.kind, places, source)
            case Change.JOINED:
                log.info("%s, now at %s (%s)", transition.kind, places, source)
            case Change.GONE | Change.LEFT:
                log.info("%s, but %s: %s (%s)", transition.kind, transition.reason, places, source)
            case Change.REMOUNTED:
                log.info("remounted and ok: %s (%s)", places, source)


def _place(place: Place) -> str:
    return name(str(place), _WIDTH)


def _source(source: str) -> str:
    return name(source, _WIDTH)
