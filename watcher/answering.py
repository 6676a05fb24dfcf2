"""What the service answers when it is asked through its socket: the parts behind `status.answers.Service`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time
from typing import Any

from watcher import __version__
from watcher.core.entries import detailed_entry
from watcher.core.explain import Address, advice_on, places_of, watched_on_the_way
from watcher.core.filters import server_of
from watcher.core.measured import Measured
from watcher.core.quiet import Window
from watcher.core.silences import matching
from watcher.core.vitals import Verdict
from watcher.model import MountState, Silence
from watcher.silencing import Silencing
from watcher.status.answers import Health


class Answering:
    """Silences, health and mounts of the running service."""

    def __init__(
        self,
        silencing: Silencing,
        *,
        states: Callable[[], Sequence[MountState]],
        verdict: Callable[[], Verdict],
        status: Callable[[], str],
        measure: Callable[[], Measured],
    ) -> None:
        """`states`: the mounts as they are; `status`: the same in one line."""
        self._silencing = silencing
        self._states = states
        self._verdict = verdict
        self._status = status
        self._measure = measure

    async def silence(self, patterns: tuple[str, ...], ends: float, comment: str) -> Silence:
        return await self._silencing.add(patterns, ends, comment)

    async def unsilence(self, name: str) -> bool:
        return await self._silencing.end(name)

    def silences(self) -> Sequence[Silence]:
        return self._silencing.active()

    def windows(self) -> Sequence[tuple[Window, bool]]:
        return self._silencing.windows()

    def matches(self, patterns: Sequence[str]) -> int:
        mounts = {s.place: server_of(s.mount.fstype, s.mount.source) for s in self._states()}
        return len(matching(patterns, mounts))

    def mount_on(self, path: Address) -> dict[str, Any] | None:
        states = self._states()
        state = watched_on_the_way(path, states)
        if state is None:
            return None
        advice = advice_on(state, places_of(state, states))
        return detailed_entry(state, time() - monotonic()) | {"advice": advice}

    def measured(self) -> Measured:
        return self._measure()

    def health(self) -> Health:
        figures: Mapping[str, Any] = {
            "status": self._status(),
            "mounts": len(self._states()),
            "silences": len(self._silencing.active()),
            "version": __version__,
            "pid": os.getpid(),
        }
        return Health(self._verdict(), figures)
