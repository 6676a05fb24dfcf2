"""What must outlive the process, written behind: nothing that is told ever waits for it for long.

All is in memory; a difference to what is on disk is written soon after it is there. With a disk that is full,
read-only, slow or gone the service goes on without, says so (`trouble`), and tries again. What the tables look
like is `schema`'s matter, how they are read and written `database`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import monotonic, time

import anyio
import anyio.to_thread

from watcher.core.chronicle import Entry, newest_first
from watcher.core.saved import Passed, Saved, State, changes
from watcher.database import Database
from watcher.model import Silence, Transition
from watcher.schema import CorruptError, ForeignError, StoreError

log = logging.getLogger(__name__)

GATHER = 0.2  # seconds in which changes are gathered into one write
LIMIT = 10.0  # seconds for one load or write, after which the disk counts as hanging
PATIENCE = 2.0  # seconds for which a delivery waits until it is on disk that it was made
RETRY = 10.0  # seconds between attempts while there is trouble
REFRESH = 86400.0  # seconds after which it is noted again what is there, so that it is not taken for long gone
MAX_HISTORY = 10_000  # entries that wait for a disk
NOTICE = 3600.0  # seconds for which it is said that a corrupt file was moved aside


class Store:
    """The service's memory. `path` None: there is no disk that it could be kept on."""

    def __init__(self, path: str | None, *, boot: str, clock: Callable[[], float] = time) -> None:
        self._database = Database(path) if path is not None else None
        self._boot = boot
        self._clock = clock
        self._state: Callable[[], State] = State
        self._silences: dict[str, Silence] = {}
        self._dropped: set[str] = set()  # silences that must not come back from a disk that is read late
        self._history: deque[Passed] = deque(maxlen=MAX_HISTORY)
        self._written = State()
        self._anew = False  # what is on disk is not what was last read or written
        self._loaded = False
        self._refreshed = monotonic()
        self._trouble = ""
        self._notice, self._notice_until = "", 0.0
        self._changed = asyncio.Event()
        self._under_way: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[bool] | None = None

    @property
    def trouble(self) -> str:
        """What is wrong with the state, for people; empty if nothing is."""
        if self._trouble:
            return f"{self._trouble}; it goes on in memory, and what is told is not remembered over a restart"
        return self._notice if monotonic() < self._notice_until else ""

    # ---- what is kept

    async def load(self) -> Saved:
        """What an earlier run has left; nothing if that cannot be had within a few seconds."""
        saved = Saved()

        async def load() -> None:
            nonlocal saved
            assert self._database is not None
            saved = await self._database.load()

        if self._database is not None and await self._attempt(load, LIMIT / 2):
            self._loaded = True
            self._written, self._silences = saved.state, dict(saved.state.silences)
        return saved

    def keep(self, state: Callable[[], State]) -> None:
        """From now on this is what is to be on disk, the silences apart."""
        self._state = state

    def changed(self) -> None:
        """Something is not as it was last written."""
        self._changed.set()

    def note(self, transition: Transition, at: float) -> None:
        """An entry for the history. `at`: seconds since the epoch."""
        self._history.append(Passed(at, transition))
        self._changed.set()

    async def history(self, since: float, limit: int) -> tuple[list[Entry], bool]:
        """What was noted since then, the latest first; and whether that is all: not while the disk gives trouble."""
        stored: list[Entry] = []
        complete = self._database is not None and not self._trouble and await self._read(since, limit, stored)
        return newest_first(stored, self._history, since=since, limit=limit), complete

    async def _read(self, since: float, limit: int, into: list[Entry]) -> bool:
        """Whether the disk has answered in time. One reading at a time: with a disk that hangs, so does its thread."""
        deadline = monotonic() + LIMIT / 2
        while (before := self._reading) is not None and not before.done():
            done, _ = await asyncio.wait([before], timeout=deadline - monotonic())
            if not done:
                return False

        async def read() -> bool:
            assert self._database is not None
            try:
                into.extend(await self._database.history(since, limit))
            except (StoreError, RuntimeError) as e:  # RuntimeError: no thread to be had
                log.warning("history: %s", e)
                return False
            return True

        task = self._reading = asyncio.create_task(read())
        done, _ = await asyncio.wait([task], timeout=deadline - monotonic())
        return bool(done) and task.result()

    async def silences(self) -> list[Silence]:
        """The silences that were put and not dropped, those that are over included."""
        return list(self._silences.values())

    async def put_silence(self, silence: Silence) -> None:
        """Keep a silence; one with the same id is replaced. It counts at once and is written soon after."""
        self._silences[silence.id] = silence
        self._changed.set()

    async def drop_silence(self, id: str) -> None:
        """Forget a silence, if it is there."""
        self._silences.pop(id, None)
        self._dropped.add(id)
        self._changed.set()

    # ---- writing

    async def run(self) -> None:
        """Write what has changed, until cancelled."""
        while True:
            # A day without changes is written, too: see REFRESH.
            with anyio.move_on_after(REFRESH if not self._trouble else RETRY):
                await self._changed.wait()
                if self._trouble:
                    await anyio.sleep(RETRY)
                await anyio.sleep(GATHER)
            self._changed.clear()
            await self._write_if_needed()

    async def recorded(self) -> None:
        """Return when what is so now is on disk; or soon, if that takes its time."""
        written = False
        if not self._trouble:
            with anyio.move_on_after(PATIENCE):
                written = await self._write_if_needed()
        if not written:
            self._changed.set()

    async def close(self) -> None:
        """Write the last of it, if the disk lets us."""
        with anyio.move_on_after(PATIENCE, shield=True):
            await self._write_if_needed()

    async def _write_if_needed(self) -> bool:
        """Whether all is on disk. One write at a time: who comes while one is under way waits, and writes the rest."""
        while self._under_way is not None and not self._under_way.done():
            await asyncio.wait([self._under_way])
        return self._database is not None and await self._attempt(self._write, LIMIT)

    async def _write(self) -> None:
        assert self._database is not None
        if not self._loaded:
            await self._load_late()
        before, after = self._written, replace(self._state(), silences=dict(self._silences))
        if self._anew:
            before = State(health=before.health, silences=before.silences)
        elif monotonic() - self._refreshed > REFRESH:
            before = replace(before, health={})
        history = list(self._history)
        if not (difference := changes(before, after)) and not history and not self._anew:
            return
        await self._database.write(difference, history, boot=self._boot, now=self._clock(), anew=self._anew)
        self._written, self._anew, self._refreshed = after, False, monotonic()
        for _ in history:
            self._history.popleft()

    async def _load_late(self) -> None:
        """What could not be read at the start: by now we know better, silences apart."""
        assert self._database is not None
        saved = await self._database.load()
        for id, silence in saved.state.silences.items():
            if id not in self._dropped:
                self._silences.setdefault(id, silence)
        self._written = saved.state
        self._loaded = self._anew = True

    async def _attempt(self, work: Callable[[], object], limit: float) -> bool:
        """Do it, within the limit; whether it was done. Sets `trouble`."""
        if self._under_way is not None and not self._under_way.done():
            return False  # the disk still hangs
        self._under_way = asyncio.create_task(self._guarded(work))
        done, _ = await asyncio.wait([self._under_way], timeout=limit)
        if not done:
            self._in_trouble(f"{self._path} does not answer within {limit:g} s")
            return False
        return not self._trouble

    async def _guarded(self, work: Callable[[], object]) -> None:
        try:
            await work()  # type: ignore[misc]
        except CorruptError as e:
            await self._move_aside(e)
        except ForeignError as e:
            self._in_trouble(str(e))
        except (StoreError, RuntimeError) as e:  # RuntimeError: no thread to be had
            self._in_trouble(str(e))
        except Exception:  # a bug here must be seen, and must not pass for written
            if not self._trouble:
                log.exception("state: cannot be kept")
            self._in_trouble("a bug (see the log)")
        else:
            if self._trouble:
                log.info("state: back on disk (%s)", self._path)
            self._trouble = ""

    async def _move_aside(self, error: CorruptError) -> None:
        assert self._database is not None
        try:
            aside = await anyio.to_thread.run_sync(self._database.move_aside, self._clock())
        except (OSError, RuntimeError) as e:
            self._in_trouble(f"{error}; and it cannot be moved aside: {e}")
            return
        self._notice = f"{error}; it is kept as {aside.name}, and a new one is begun"
        self._notice_until = monotonic() + NOTICE
        log.error("state: %s", self._notice)
        self._written = State()
        self._loaded = self._anew = True
        self._changed.set()

    def _in_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("state: %s; going on in memory", trouble)
        self._trouble = trouble

    @property
    def _path(self) -> str:
        return str(self._database.path) if self._database is not None else ""
