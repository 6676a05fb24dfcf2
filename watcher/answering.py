"""What the service answers when it is asked: the parts behind `status.answers.Service`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic, time
from typing import Any

from watcher import __version__
from watcher.core import accounts, chronicle
from watcher.core.entries import detailed_entry, place_id, worst_first
from watcher.core.explain import Address, advice_on, evidence_on, places_of, watched_on_the_way
from watcher.core.filters import server_of, unmatched
from watcher.core.incidents import Incidents
from watcher.core.measured import Measured
from watcher.core.places import superblock_of
from watcher.core.quiet import Window
from watcher.core.saved import Passed
from watcher.core.silences import matching
from watcher.core.times import utc
from watcher.core.vitals import Verdict
from watcher.core.wording import printable
from watcher.delivery.sender import Sender, local_time
from watcher.investigating import Investigator
from watcher.model import Asked, MountState, Place, Silence, Transition
from watcher.silencing import Silencing
from watcher.status.answers import Health, Probing
from watcher.status.feed import Feed, event_text
from watcher.store import Store
from watcher.watching import Watching

log = logging.getLogger(__name__)

SLICE = 50  # mounts that are put into words in one turn of the loop


class Answering:
    """All that the running service can be asked."""

    def __init__(
        self,
        *,
        host: str,
        watching: Watching,
        incidents: Incidents,
        investigator: Investigator,
        sender: Sender,
        silencing: Silencing,
        store: Store,
        verdict: Callable[[], Verdict],
        status: Callable[[], str],
        measure: Callable[[], Measured],
    ) -> None:
        """`verdict`: whether we work ourselves; `status`: how the mounts are, in one line."""
        self.host = printable(host)
        self.version = __version__
        self.feed = Feed()
        self._watching = watching
        self._incidents = incidents
        self._investigator = investigator
        self._sender = sender
        self._silencing = silencing
        self._store = store
        self._verdict = verdict
        self.status = status
        self._measure = measure

    def changed(self, transition: Transition, wall: float) -> None:
        """Tell those who listen."""
        try:
            self.feed.change(lambda: chronicle.change_json(Passed(wall, transition)))
        except Exception:  # a bug here must be seen, and must not end the watching
            log.exception("cannot tell of a change")

    def silences_changed(self) -> None:
        """Others hold than before: tell those who listen."""
        self.feed.tell(event_text("silences", {"at": utc(time()), "silences": len(self._silencing.active())}))

    def grown(self) -> None:
        """There is news of what is written under mount points."""
        self.feed.changed.set()

    # ---- silences

    async def silence(self, patterns: tuple[str, ...], ends: float, comment: str) -> Silence:
        return await self._silencing.add(patterns, ends, comment)

    async def unsilence(self, name: str) -> bool:
        return await self._silencing.end(name)

    def silences(self) -> Sequence[Silence]:
        return self._silencing.active()

    def windows(self) -> Sequence[tuple[Window, bool]]:
        return self._silencing.windows()

    def matches(self, patterns: Sequence[str]) -> int:
        return len(matching(patterns, _servers(self._states())))

    def unmatched(self, patterns: Sequence[str]) -> list[str]:
        return unmatched(patterns, _servers(self._states()))

    # ---- mounts

    def mount_on(self, path: Address) -> dict[str, Any] | None:
        states = self._states()
        state = watched_on_the_way(path, states)
        if state is None:
            return None
        return self._entry(state) | {"advice": advice_on(state, places_of(state, states))}

    def mount(self, id: str) -> dict[str, Any] | None:
        states = self._states()
        state = next((s for s in states if place_id(s.place) == id), None)
        if state is None:
            return None
        found = self._investigator.known_of(superblock_of(state.mount))
        return self._entry(state) | {
            "advice": advice_on(state, places_of(state, states), found),
            "why": evidence_on(state, found) if found is not None else [],
        }

    async def mounts(self) -> list[dict[str, Any]]:
        states = worst_first(self._states())
        silenced, entries = self._silencing.covered(_servers(states)), list[dict[str, Any]]()
        for n in range(0, len(states), SLICE):
            entries += self._entries(states[n : n + SLICE], silenced)
            await asyncio.sleep(0)  # a thousand of them are not one turn of the loop
        return entries

    def counts(self) -> dict[str, int]:
        return self._watching.counts()

    def probe(self, place: str) -> Probing | None:
        """`place`: its name or its id."""
        states = self._states()
        state = next((s for s in states if str(s.place) == place or place_id(s.place) == place), None)
        if state is None:
            return None
        asked = self._watching.probe_now(state.place) or Asked(False, "it is no longer watched")
        return Probing(self._entry(state), asked.why_not)

    def _states(self) -> Sequence[MountState]:
        return self._watching.picture.snapshot()

    def _entry(self, state: MountState) -> dict[str, Any]:
        [entry] = self._entries([state], self._silencing.covered(_servers([state])))
        return entry

    def _entries(self, states: Iterable[MountState], silenced: set[Place]) -> list[dict[str, Any]]:
        offset, latencies = time() - monotonic(), self._watching.latencies
        written = accounts.written_at(self._incidents.open, time(), local_time)
        return [
            detailed_entry(state, offset)
            | {
                "id": place_id(state.place),
                "silenced": state.place in silenced,
                "written_underneath": written.get(state.place),
                "latencies": latencies.of(superblock_of(state.mount)),
                "probes": latencies.reports(superblock_of(state.mount)),
            }
            for state in states
        ]

    # ---- what has happened, and who knows

    def incidents(self) -> list[dict[str, Any]]:
        return [
            accounts.incident_json(
                incident,
                self.host,
                silenced=self._silencing.silenced(incident),
                found=self._investigator.known(incident),
                now=time(),
                local=local_time,
            )
            for incident in sorted(self._incidents, key=accounts.order)
        ]

    async def history(self, since: float, limit: int) -> tuple[list[dict[str, Any]], bool]:
        entries, complete = await self._store.history(since, limit)
        return [chronicle.entry_json(entry) for entry in entries], complete

    def channels(self) -> list[dict[str, Any]]:
        def moment(wall: float | None) -> str | None:
            return utc(wall) if wall is not None else None

        return [
            {
                "name": printable(c.name),
                "state": "failing" if c.failing_since is not None else "waiting" if c.due else "ok",
                "waiting": c.due,
                "failing_since": moment(c.failing_since),
                "last_error": printable(c.last_error) or None,
                "last_told": moment(c.last_told),
                "next_attempt": moment(c.next_attempt),
            }
            for c in self._sender.outlook()
        ]

    # ---- itself

    def measured(self) -> Measured:
        return self._measure()

    def health(self) -> Health:
        figures: Mapping[str, Any] = {
            "status": self.status(),
            "mounts": len(self._states()),
            "silences": len(self._silencing.active()),
            "version": __version__,
            "pid": os.getpid(),
        }
        return Health(self._verdict(), figures)

    def ready(self) -> bool:
        return self._watching.ready


def _servers(states: Iterable[MountState]) -> dict[Place, str | None]:
    return {s.place: server_of(s.mount.fstype, s.mount.source) for s in states}
