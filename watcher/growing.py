"""Looks, now and then, at what grows under the mount points of open incidents: who wrote to a mount fills a disk now.

Only while an incident is open, in a child with a time limit; what is mounted is not touched. What it means is
`core.growth`'s.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from time import monotonic, time

import anyio

from watcher.children import Children
from watcher.core.explain import base_of
from watcher.core.filters import Filter
from watcher.core.growth import FIRST, Gravity, Look, Looks, pause, words
from watcher.core.incident import Incident, Member
from watcher.core.incidents import Incidents
from watcher.core.mountinfo import Tree
from watcher.core.places import superblock_of
from watcher.core.reasons import SEES_DISK
from watcher.core.wording import first_place, place_name, place_order
from watcher.delivery.sender import local_time
from watcher.model import HOST, Kind, Mount, Place, TableRead
from watcher.probing.covered import Found, Job, job_of, look_into
from watcher.reading import may_hang_on

MAX_OF_INCIDENT, MAX_LOOKED = 4, 32  # directories
SECONDS = 2.0  # for one of them
PATIENCE = 10.0  # seconds for those of one namespace
MAX_ENTRIES = 20_000  # counted in one of them
GATHER = 0.5  # seconds in which what begins together is looked at together
_KINDS = frozenset({Kind.STALE, Kind.MISSING, Kind.VANISHED})

log = logging.getLogger(__name__)

Slot = tuple[int, int]  # an incident's number, and its member's slot


@dataclass(slots=True)
class _Watched:
    """One directory."""

    place: Place  # of the member
    next_at: float  # by the monotonic clock
    said: Place  # where that is written, for people
    disk: str = ""  # the mount point of what it lies in
    looks: Looks = field(default_factory=Looks)
    times: int = 0
    trouble: str = ""  # why nothing was seen the last time


class Growing:
    """What is written while nobody sees it."""

    def __init__(
        self,
        incidents: Incidents,
        children: Children,
        *,
        tables: Callable[[str], TableRead | None],
        chosen: Callable[[], Filter],
        changed: Callable[[], object],
    ) -> None:
        """`tables`: of each namespace; `chosen`: what is watched; `changed`: called when there is news of it."""
        self._incidents = incidents
        self._children = children
        self._tables = tables
        self._chosen = chosen
        self._changed = changed
        self._watched: dict[Slot, _Watched] = {}
        self._wake = anyio.Event()

    def look(self) -> None:
        """There may be more to look at."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake = anyio.Event()
            self._arrange(monotonic())
            due = min((w.next_at for w in self._watched.values()), default=None)
            now = monotonic()
            if due is not None and due <= now:
                await self._look(now)
                continue
            with anyio.move_on_after(None if due is None else due - now):
                await self._wake.wait()
                await anyio.sleep(GATHER)

    def _arrange(self, now: float) -> None:
        """Take up what is new, and let go of what is over."""
        listed = by_turns(self._wanted())[:MAX_LOOKED]
        wanted = {slot: place for slot, place, _ in listed}
        stale = {slot for slot, _, is_stale in listed if is_stale}  # nothing can get past it at once
        self._watched = {s: w for s, w in self._watched.items() if s in wanted and w.place == wanted[s]}
        for slot, place in wanted.items():
            if slot not in self._watched:
                self._watched[slot] = _Watched(place, now + (FIRST if slot in stale else 0.0), place)

    def _wanted(self) -> Iterator[tuple[Slot, Place, bool]]:
        for incident in self._incidents.open:
            members = [m for m in incident.failing if m.kind in _KINDS and m.subject.places]
            members.sort(key=lambda m: (m.kind is Kind.STALE, place_order(first_place(m.subject.places))))
            for n, member in enumerate(members[:MAX_OF_INCIDENT]):
                is_stale = member.kind is Kind.STALE
                if n == 0 or not is_stale:  # which nobody comes past but by an old bind
                    yield (incident.number, member.slot), first_place(member.subject.places), is_stale

    async def _look(self, now: float) -> None:
        jobs, chosen = list[tuple[Slot, Job]](), self._chosen()
        incidents = {incident.number: incident for incident in self._incidents.open}
        trees = dict[str, Tree]()
        for slot, watched in self._watched.items():
            if watched.next_at > now:
                continue
            watched.times += 1
            watched.next_at = now + pause(watched.times)
            if (job := self._job(incidents[slot[0]], slot[1], chosen, watched, trees)) is not None:
                jobs.append((slot, job))
        jobs.sort(key=lambda pair: (pair[1].place.namespace != HOST, pair[1].place.namespace))
        changes = False
        for _, group in groupby(jobs, key=lambda pair: pair[1].place.namespace):
            pairs = list(group)
            found = await look_into(
                [job for _, job in pairs], self._children, entries=MAX_ENTRIES, seconds=SECONDS, patience=PATIENCE
            )
            for (slot, _), there in zip(pairs, found, strict=True):
                changes = self._take(slot, there) or changes
        if changes:
            self._changed()

    def _take(self, slot: Slot, there: Found) -> bool:
        watched = self._watched.get(slot)
        if watched is None:
            return False
        if there.error:
            if there.is_absent:  # which somebody may make, and write to
                return False
            if there.is_hung:
                watched.next_at = math.inf  # a child that hangs with its disk is enough
            if there.error != watched.trouble:
                again = "" if there.is_hung else ": it is looked again"
                name = place_name(watched.place)
                log.info("not looked at what is written under %s: %s%s", name, there.error, again)
            watched.trouble = there.error
            return False
        if watched.trouble and watched.looks.base is None:
            watched.times, watched.next_at = 1, monotonic() + FIRST
        watched.trouble = ""
        now, offset = monotonic(), time() - monotonic()
        look = Look(now, there.bytes, there.free, there.newest - offset, is_whole=not there.cut)
        before, watched.looks = watched.looks.worst, watched.looks.take(look)
        growth = watched.looks.growth(watched.said, watched.disk, offset)
        if growth is not None and growth.gravity > before:
            level = logging.ERROR if growth.gravity is Gravity.SOON_FULL else logging.WARNING
            log.log(level, "%s", words(growth, watched.place, "", f"{local_time(growth.since):%H:%M}"))
        return self._incidents.note_growth(*slot, growth)

    def _job(
        self, incident: Incident, slot: int, chosen: Filter, watched: _Watched, trees: dict[str, Tree]
    ) -> Job | None:
        """The directory under a member, if it can be looked at. `trees`: those made for the looks before it."""
        member = next((m for m in incident.failing if m.slot == slot), None)
        table = self._tables(watched.place.namespace)
        if member is None or table is None:
            return None
        place = watched.place
        if (tree := trees.get(place.namespace)) is None:
            tree = trees[place.namespace] = Tree(table.mounts)
        there = [m for m in table.mounts if m.mount_point == place.mount_point and tree.is_visible(m)]
        if member.kind is Kind.VANISHED and place.namespace != HOST and member.error.startswith(SEES_DISK):
            return self._seen_disk(member, there[-1], table, watched) if there else None
        on_it = [m for m in there if superblock_of(m) == member.subject.superblock]
        if there and not on_it and member.kind is not Kind.MISSING:
            return None  # something else stands there, or it is back
        job, _, _ = job_of(place, on_it[-1] if on_it else None, table, chosen)
        if job is not None:
            watched.disk = job.base.mount_point
        return job

    def _seen_disk(self, member: Member, bind: Mount, table: TableRead, watched: _Watched) -> Job | None:
        """What a container has in place of a mount of the host's is the directory under that."""
        host = self._tables(HOST)
        over = [m for m in host.mounts if superblock_of(m) == member.subject.superblock] if host is not None else []
        if host is None or not over or (base := base_of(over[-1], host.mounts)) is None or may_hang_on(bind.fstype):
            return None
        watched.said, watched.disk = Place(HOST, over[-1].mount_point), base.mount_point
        return Job(watched.place, None, bind, table.container)


def by_turns(wanted: Iterable[tuple[Slot, Place, bool]]) -> list[tuple[Slot, Place, bool]]:
    """The host's first one, then each container's, then the second of each: nobody's many leave others unseen."""
    taken, ordered = Counter[str](), list[tuple[int, bool, tuple[Slot, Place, bool]]]()
    for one in wanted:
        namespace = one[1].namespace
        ordered.append((taken[namespace], namespace != HOST, one))
        taken[namespace] += 1
    ordered.sort(key=lambda ranked: ranked[:2])
    return [one for *_, one in ordered]
