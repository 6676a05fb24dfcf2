"""What one run of the service hands to the next, and times that stay true when somebody sets the clock.

Puts the parts into the state that was saved, gives the state that is to be saved, and judges nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import CLOCK_BOOTTIME, clock_gettime, monotonic, time

import anyio

from watcher.core import resume
from watcher.core.incidents import Incidents
from watcher.core.picture import Picture
from watcher.core.saved import State
from watcher.delivery.sender import Sender
from watcher.model import HOST, Mount, Place
from watcher.store import Store

log = logging.getLogger(__name__)

CLOCK_STEP = 1.0  # seconds by which the clock may drift before that counts
HOLD = 5.0  # seconds after the start in which it shows how things stand that an earlier run knew of
REAPPEAR = 20.0  # seconds after the start, or the boot's grace, in which what was dead must be seen again


class Continuity:
    """From a run to the next, and over a clock that is set."""

    def __init__(self, store: Store, picture: Picture) -> None:
        self._store = store
        self._picture = picture
        self._offset = time() - monotonic()  # from our clock to the epoch
        self._set_by = time() - clock_gettime(CLOCK_BOOTTIME)  # changes when the clock is set, not by a suspend
        self._saved = State()

    async def restore(self, boot: str) -> Incidents:
        """Take up what an earlier run knew of the mounts; the incidents that it has left."""
        saved = await self._store.load()
        ahead = saved.at - time()
        incidents = Incidents(resume.incidents_of(saved, rebooted=saved.boot != boot))
        if ahead > CLOCK_STEP:
            incidents.shift(-ahead)  # the clock was set back meanwhile: nothing has happened in the future
        known = {i: resume.on_clock(k, self.own_clock) for i, k in saved.state.health.items()}
        self._picture.tracker.restore(known, resume.missed(incidents, self.own_clock))
        self._picture.missing.restore(resume.missing(incidents, self.own_clock))
        self._picture.capacity.restore(resume.full(incidents, self.own_clock))
        self._saved = saved.state
        return incidents

    def take_up(self, incidents: Incidents, sender: Sender) -> None:
        """From now on what these say, and what is known of the mounts, is what is saved."""
        self._incidents, self._sender = incidents, sender
        sender.restore(self._saved, time() + HOLD)
        self._saved = State()
        self._store.keep(self._state)

    def own_clock(self, wall: float) -> float:
        """Seconds since the epoch on our clock."""
        return wall - self._offset

    def _epoch(self, own: float) -> float:
        return own + self._offset

    def _state(self) -> State:
        offset = time() - monotonic()
        if abs(offset - self._offset) > CLOCK_STEP:
            self._offset = offset  # else each look would find all times a little different
        health = {i: resume.on_clock(k, self._epoch) for i, k in self._picture.tracker.known().items()}
        return replace(self._sender.state(), health=health)

    def look_at_the_clock(self) -> None:
        """If it was set, what happened has happened as long ago as before."""
        set_by = time() - clock_gettime(CLOCK_BOOTTIME)
        step = set_by - self._set_by
        if abs(step) <= CLOCK_STEP:
            return
        log.info("the clock was set by %+.0f s", step)
        self._set_by = set_by
        self._incidents.shift(step)
        self._sender.shift(step)
        self._store.changed()

    async def close_what_is_gone(self, startup_grace: float, host: Callable[[], Iterable[Mount]]) -> None:
        """What was dead when an earlier run ended, and has not been seen again. `host`: its mount table."""
        await anyio.sleep(max(REAPPEAR, startup_grace - monotonic()))
        mounted = {Place(HOST, m.mount_point) for m in host()}
        for incident in self._incidents.give_up(time(), self._picture.tracker.namespaces(), mounted):
            places = ", ".join(str(p) for m in incident.members for p in m.subject.places)
            log.info("not seen again since the start: %s", places)
        self._sender.kick()
        self._store.changed()
