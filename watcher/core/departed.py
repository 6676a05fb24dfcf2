"""Mounts that were taken away, for as long as it matters what comes in their place."""

from __future__ import annotations

from watcher.model import Cause, Change, Kind, Place, Subject, Transition

REMEMBER_DEAD = 600.0  # seconds in which a mount in the place of a dead one counts as "remounted"
MAX_MISSED = 1000  # good mounts of which it is remembered that they vanished


class Departed:
    """By place: what stood there last and stands there no more."""

    def __init__(self) -> None:
        self._dead: dict[Place, tuple[float, float]] = {}  # when it went, since when it failed
        self._good: dict[Place, tuple[float, Subject]] = {}

    def died(self, place: Place, failing_since: float, now: float) -> None:
        """A dead mount was taken away."""
        self._dead[place] = (now, failing_since)

    def vanished(self, place: Place, subject: Subject, now: float) -> list[Transition]:
        """A good mount was taken away."""
        if len(self._good) >= MAX_MISSED:
            return []
        self._good[place] = (now, subject)
        return [Transition(Kind.VANISHED, Change.BEGAN, subject, now, now, Cause.VANISHED, "no longer mounted")]

    def replaced(self, place: Place, now: float) -> float | None:
        """Something is mounted there again: since when the dead mount before it failed, if there was one lately."""
        went, since = self._dead.pop(place, (float("-inf"), 0.0))
        return since if now - went < REMEMBER_DEAD else None

    def answers(self, place: Place, now: float) -> list[Transition]:
        """What is mounted there is good."""
        if (missed := self._good.pop(place, None)) is None:
            return []
        return [Transition(Kind.VANISHED, Change.ENDED, missed[1], now, missed[0])]
