"""Mounts that were taken away, for as long as it matters what comes in their place."""

from __future__ import annotations

from typing import NamedTuple

from watcher.core.reasons import NO_LONGER
from watcher.model import HOST, Cause, Change, Kind, Place, Subject, Transition

REMEMBER_DEAD = 600.0  # seconds in which a mount in the place of a dead one counts as "remounted"
MAX_ON_HOST, MAX_INSIDE = 1000, 64  # mounts remembered of one kind, of the host and of each container
# A container that is shut down unmounts first and stops then: seconds until its good mounts count as vanished.
PATIENCE_INSIDE = 20.0


class _Missed(NamedTuple):
    since: float
    due: float  # when it is worth a word
    subject: Subject


class Departed:
    """By place: what stood there last and stands there no more."""

    def __init__(self) -> None:
        self._dead: dict[str, dict[Place, tuple[float, float]]] = {}  # when it went, since when it failed
        self._good: dict[str, dict[Place, _Missed]] = {}
        self._waiting: set[Place] = set()  # not yet said to have vanished

    def died(self, place: Place, failing_since: float, now: float) -> None:
        """A dead mount was taken away."""
        dead = self._dead.setdefault(place.namespace, {})
        for old in [p for p, (went, _) in dead.items() if now - went >= REMEMBER_DEAD]:
            del dead[old]
        if len(dead) < _limit(place):
            dead[place] = (now, failing_since)

    def vanished(self, place: Place, subject: Subject, now: float) -> list[Transition]:
        """A good mount was taken away."""
        good = self._good.setdefault(place.namespace, {})
        if len(good) >= _limit(place):
            return []
        if place.namespace != HOST:
            good[place] = _Missed(now, now + PATIENCE_INSIDE, subject)
            self._waiting.add(place)
            return []
        good[place] = _Missed(now, now, subject)
        return [_began(good[place], now)]

    def restore(self, subject: Subject, since: float) -> None:
        """Missed in an earlier run, and told so."""
        for place in subject.places:
            self._good.setdefault(place.namespace, {})[place] = _Missed(since, since, subject)

    def elapsed(self, now: float) -> list[Transition]:
        """What has been missed for long enough by now."""
        out = []
        for place in [p for p in self._waiting if self._good[p.namespace][p].due <= now]:
            self._waiting.discard(place)
            out.append(_began(self._good[place.namespace][place], now))
        return out

    def next_due(self) -> float | None:
        """When `elapsed` next has something to say."""
        return min((self._good[p.namespace][p].due for p in self._waiting), default=None)

    def replaced(self, place: Place, now: float) -> float | None:
        """Something is mounted there again: since when the dead mount before it failed, if there was one lately."""
        went, since = self._dead.get(place.namespace, {}).pop(place, (float("-inf"), 0.0))
        return since if now - went < REMEMBER_DEAD else None

    def answers(self, place: Place, now: float) -> list[Transition]:
        """What is mounted there is good."""
        if (missed := self._good.get(place.namespace, {}).pop(place, None)) is None:
            return []
        if place in self._waiting:
            self._waiting.discard(place)
            return []
        return [Transition(Kind.VANISHED, Change.ENDED, missed.subject, now, missed.since)]

    def namespace_gone(self, namespace: str, now: float, reason: str) -> list[Transition]:
        """Nothing more is missed there. What died there is remembered: it may be started again."""
        out = []
        for place, missed in self._good.pop(namespace, {}).items():
            if place not in self._waiting:
                gone = Transition(Kind.VANISHED, Change.GONE, missed.subject, now, missed.since, reason=reason)
                out.append(gone)
            self._waiting.discard(place)
        for other, dead in list(self._dead.items()):
            if all(now - went >= REMEMBER_DEAD for went, _ in dead.values()):
                del self._dead[other]
        return out


def _limit(place: Place) -> int:
    return MAX_ON_HOST if place.namespace == HOST else MAX_INSIDE


def _began(missed: _Missed, now: float) -> Transition:
    return Transition(Kind.VANISHED, Change.BEGAN, missed.subject, now, missed.since, Cause.VANISHED, NO_LONGER)
