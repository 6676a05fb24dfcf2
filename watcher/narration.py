"""The log lines of the service: one for each event that matters to an administrator."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping

from watcher.core.wording import count, name
from watcher.model import HOST, Change, Kind, Mount, Place, ProbeReport, Transition

log = logging.getLogger(__name__)

MAX_LISTED = 20  # mounts named when many come or go at once
MINUTE = 60.0  # seconds in which the mounts of one namespace are spoken of
MAX_TIMES = 20  # times
VOID_EVERY = 60.0  # seconds between two lines about probes that said nothing
_WIDTH = 200
_NO_SOURCE = "no source"


class Narrator:
    """Says what happens, without repeating itself."""

    def __init__(self) -> None:
        self._void_said = float("-inf")
        self._problems: dict[str, str] = {}
        self._said: dict[str, deque[float]] = {}  # by namespace: when its mounts were spoken of

    def places(
        self,
        before: Mapping[Place, Mount],
        after: Mapping[Place, Mount],
        now: float,
        *,
        gone: str = "no longer mounted",
    ) -> None:
        """Which mounts came and went between two looks, and why they went."""
        came, went = [(p, m) for p, m in after.items() if p not in before], sorted(before.keys() - after.keys())
        if not came and not went:
            return
        first = next(iter(after or before))
        listed = self._budget(first.namespace, now)
        for place, mount in came[:listed]:
            log.info("watching %s (%s, %s)", _place(place), name(mount.fstype), _source(mount.source))
        for place in went[:listed]:
            log.info("%s: %s", gone, _place(place))
        more = max(0, len(came) - listed) + max(0, len(went) - listed)
        if more and listed:
            log.info("and %s more", count(more, "mount"))
        self._said[first.namespace].append(now)

    def _budget(self, namespace: str, now: float) -> int:
        """How many lines may be said of each kind: a container whose mounts come and go all the time is no news."""
        said = self._said.setdefault(namespace, deque(maxlen=MAX_TIMES))
        if namespace == HOST:
            return MAX_LISTED
        crowded = len(said) == MAX_TIMES and now - said[0] < MINUTE
        if crowded:
            said.pop()  # that the next is looked at in its turn
        return 0 if crowded else MAX_LISTED

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
        nothing = "of any source" if transition.kind is Kind.MISSING else _NO_SOURCE
        source = _source(transition.subject.source, nothing)
        match transition.change:
            case Change.BEGAN:
                stack = f" (hangs in {' < '.join(transition.stack[:4])})" if transition.stack else ""
                log.warning("%s: %s (%s): %s%s", transition.kind, places, source, transition.error, stack)
            case Change.ENDED:
                log.info("%s no more: %s (%s)", transition.kind, places, source)
            case Change.RESUMED:
                log.info("%s since before the start: %s (%s): %s", transition.kind, places, source, transition.error)
            case Change.JOINED:
                log.info("%s, now at %s (%s)", transition.kind, places, source)
            case Change.GONE | Change.LEFT:
                log.info("%s, but %s: %s (%s)", transition.kind, transition.reason, places, source)
            case Change.REMOUNTED:
                log.info("remounted and ok: %s (%s)", places, source)


def _place(place: Place) -> str:
    return name(str(place), _WIDTH)


def _source(source: str, nothing: str = _NO_SOURCE) -> str:
    return name(source, _WIDTH) or nothing
