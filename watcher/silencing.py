"""The service's silences over their life: kept in the store, ended in time, and said in the log.

What they cover is decided by `core.silences`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from secrets import randbelow
from time import CLOCK_BOOTTIME, clock_gettime, time
from typing import Protocol

from watcher.core.incident import Incident
from watcher.core.quiet import Window
from watcher.core.silences import Silences, new_id
from watcher.core.times import Local
from watcher.core.wording import duration, name
from watcher.model import Place, Silence
from watcher.values import TimeOfDay

log = logging.getLogger(__name__)

IDLE = 60.0  # seconds between two looks while there is nothing that could end
LOOK_EVERY = 5.0  # seconds between two looks at the clock on the wall, which may be set


class Shelf(Protocol):
    """Where silences outlive the process."""

    async def silences(self) -> list[Silence]: ...

    async def put_silence(self, silence: Silence) -> None: ...

    async def drop_silence(self, id: str) -> None: ...


def since_boot() -> float:
    """Seconds, those of suspension included."""
    return clock_gettime(CLOCK_BOOTTIME)


class Silencing:
    """All silences, and who is to know when others hold than before."""

    def __init__(
        self,
        shelf: Shelf,
        changed: Callable[[], None],
        *,
        local: Local,
        wall: Callable[[], float] = time,
        boottime: Callable[[], float] = since_boot,
    ) -> None:
        self._shelf = shelf
        self._changed = changed
        self._wall, self._boottime = wall, boottime
        self._silences = Silences(local)
        self._until: dict[str, float] = {}  # by id: its end by the clock that nobody sets
        self._held: dict[str, Silence] = {}  # at the last look
        self._windows_held: frozenset[int] = frozenset()
        self._wake = asyncio.Event()

    async def load(self) -> None:
        """Take up what an earlier service kept."""
        await self._take_what_is_kept()
        self._note()

    def configure(self, windows: Iterable[Window]) -> None:
        """The quiet windows as they are from now on."""
        self._silences.configure(windows)
        self._windows_held = self._silences.active_windows(self._wall())
        self._wake.set()

    async def run(self) -> None:
        """See to it that each ends when it should."""
        while True:
            self._wake.clear()
            await self._look()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    # ---- for those who ask

    def silenced(self, incident: Incident) -> bool:
        """Whether nothing is to be told of it for now."""
        return self._silences.silenced(incident, self._wall())

    def covered(self, mounts: Mapping[Place, str | None]) -> set[Place]:
        """Of these mounts (place: server) the ones of which nothing is told for now."""
        return self._silences.covered(mounts, self._wall())

    def active(self) -> list[Silence]:
        """Those that hold, the first to end in front."""
        return self._silences.active(self._wall())

    def windows(self) -> Sequence[tuple[Window, bool]]:
        """The quiet windows, and whether they hold."""
        held = self._silences.active_windows(self._wall())
        return [(window, n in held) for n, window in enumerate(self._silences.windows)]

    async def add(self, patterns: tuple[str, ...], ends: float, comment: str) -> Silence:
        """Tell nothing of these mounts until then."""
        now = self._wall()
        silence = Silence(new_id(randbelow, self._silences.ids), patterns, now, ends, comment)
        self._take(silence)
        said = f" ({name(comment, 200)})" if comment else ""
        log.info("silence %s for %s: %s%s", silence.id, duration(ends - now), _patterns(silence), said)
        await self._shelf.put_silence(silence)
        self._note()
        return silence

    async def end(self, wanted: str) -> bool:
        """Let one end now; whether there was one of this name."""
        silence = self._silences.end(wanted, self._wall())
        if silence is None:
            return False
        log.info("silence %s ended early: %s", silence.id, _patterns(silence))
        self._held.pop(silence.id, None)
        await self._shelf.put_silence(silence._replace(ends=self._wall()))
        self._note()
        return True

    # ---- its end

    async def _take_what_is_kept(self) -> None:
        # Again and again: the disk may have been away when we started.
        for silence in await self._shelf.silences():
            if silence.id not in self._silences.ids:
                self._take(silence)

    def _take(self, silence: Silence) -> None:
        self._silences.add(silence)
        # Not longer than it was meant to last, whatever the clock on the wall is set to.
        left = min(silence.ends - self._wall(), silence.ends - silence.begins)
        self._until[silence.id] = self._boottime() + left

    def _note(self) -> None:
        """Those that hold are others by now."""
        self._held = {s.id: s for s in self.active()}
        self._changed()
        self._wake.set()

    async def _look(self) -> None:
        await self._take_what_is_kept()
        now, elapsed = self._wall(), self._boottime()
        for silence in self.active():
            if self._until[silence.id] <= elapsed:
                self._silences.end(silence.id, now)
                await self._shelf.put_silence(silence._replace(ends=now))
        held = {s.id: s for s in self.active()}
        over = [s for key, s in self._held.items() if key not in held]
        for silence in over:
            log.info("silence %s is over: %s", silence.id, _patterns(silence))
        windows = self._silences.active_windows(now)
        for n, window in enumerate(self._silences.windows):
            if (n in windows) is not (n in self._windows_held):
                span = f"{TimeOfDay(window.begins)} to {TimeOfDay(window.ends)}"
                words = "quiet from %s: %s" if n in windows else "no longer quiet (%s): %s"
                log.info(words, span, ", ".join(name(p) for p in window.mounts[:5]))
        changed = held.keys() != self._held.keys() or windows != self._windows_held
        self._held, self._windows_held = held, windows
        if changed:
            self._changed()
        # Kept for as long as they explain why something was not told.
        for silence in self._silences.prune(now):
            self._until.pop(silence.id, None)
            await self._shelf.drop_silence(silence.id)

    def _pause(self) -> float:
        """Seconds until the next look."""
        if not self._silences.ids and not self._silences.windows:
            return IDLE
        ends = self._silences.next_end(self._wall())
        return LOOK_EVERY if ends is None else max(0.0, min(LOOK_EVERY, ends - self._wall()))


def _patterns(silence: Silence) -> str:
    more = f" and {len(silence.patterns) - 5} more" if len(silence.patterns) > 5 else ""
    return ", ".join(name(p) for p in silence.patterns[:5]) + more
