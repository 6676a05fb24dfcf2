"""Has found out why a mount fails, and what hangs on it, by the time that people are told.

Begins when an incident opens, and is never long. What to ask is `core.evidence`'s, and how `probing.evidence`'s and
`radius`'s; this one bounds how much of it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic
from typing import NamedTuple, TypeVar

import anyio

from watcher import radius
from watcher.children import Children
from watcher.core import body
from watcher.core.evidence import Evidence, Question, question_of, question_of_absent
from watcher.core.incident import BY_PLACE, Incident, Member
from watcher.core.places import superblock_of
from watcher.core.radius import Radius
from watcher.core.served import Served
from watcher.core.wording import place_order
from watcher.model import HOST, Container, Kind, Mount, MountState, Place, Superblock
from watcher.probing.evidence import gather
from watcher.reading import FileReader
from watcher.settings import Paths

AT_ONCE = 2  # children
BATCH = 16  # mounts of which one child finds out
MAX_QUEUED = 64  # mounts; of more no message waits to be explained
BURST = 5.0  # seconds in which mounts that die one after the other are one trouble; later it may be another
GATHER = 0.2  # seconds: which mount is the foremost changes while they die by the hundred
LOOK = 4.0  # seconds for what hangs on them: with GATHER as long as a message waits, group_wait being 3 s
WAIT = 2.0  # seconds for which a message waits, beyond group_wait
FRESH = 60.0  # seconds for which evidence holds


class Matter(NamedTuple):
    """What is looked into."""

    kind: Kind
    superblock: Superblock
    place: Place | None = None  # of what is not mounted, or read-only
    options: str = ""  # that it had


class Investigator:
    """Evidence about the foremost mount of each incident."""

    def __init__(
        self,
        children: Children,
        reader: FileReader,
        *,
        states: Callable[[Collection[Superblock]], Sequence[MountState]],
        mounts: Callable[[], Sequence[Mount]],
        containers: Callable[[], Iterable[Container]],
        paths: Paths,
    ) -> None:
        """`states`: of these and of the other mounts of their servers, how they stand; `mounts`: the host's table;
        `containers`: those that run.
        """
        self._children = children
        self._reader = reader
        self._states = states
        self._mounts = mounts
        self._containers = containers
        self._paths = paths
        self._found: dict[Matter, tuple[float, Evidence]] = {}
        self._hanging: dict[Matter, tuple[float, Radius]] = {}
        self._queued: dict[Matter, int] = {}  # for which incident
        self._under_way: set[Matter] = set()
        self._wanted, self._news = anyio.Event(), anyio.Event()

    def look(self, incident: Incident, *, within: float = FRESH) -> None:
        """Begin to find out, unless it is known already, and that for less than `within` seconds."""
        matter = _matter_of(incident)
        if matter is None or matter in self._under_way or self._is_known(matter, within):
            return
        # While they die, another is the foremost each time: only the last is told of.
        self._queued = {m: number for m, number in self._queued.items() if number != incident.number or m == matter}
        if len(self._queued) < MAX_QUEUED:
            self._queued[matter] = incident.number
            self._wanted.set()

    async def found(self, incident: Incident) -> Evidence | None:
        """What is known of it, within WAIT; None if that is nothing."""
        matter = _matter_of(incident)
        if matter is None:
            return None
        self.look(incident)
        with anyio.move_on_after(WAIT):
            while matter in self._queued or matter in self._under_way:
                await self._news.wait()
        return self._known(matter)

    def known(self, incident: Incident) -> Evidence | None:
        """What was found out about it lately; nothing is looked for."""
        matter = _matter_of(incident)
        return self._known(matter) if matter is not None else None

    def known_of(self, superblock: Superblock) -> Evidence | None:
        """The same of one mount that is stale."""
        return self._known(Matter(Kind.STALE, superblock))

    def _known(self, matter: Matter) -> Evidence | None:
        hanging, evidence = _fresh(self._hanging.get(matter)), _fresh(self._found.get(matter))
        if evidence is None and hanging is None:
            return None
        # What the tables and the other probes tell may have changed since: the neighbours die one after the other.
        for question in self._questions([matter]).values():
            return (evidence or Evidence(question))._replace(question=question, radius=hanging)
        return evidence._replace(radius=hanging) if evidence is not None else None

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            while not self._queued:
                self._wanted = anyio.Event()
                await self._wanted.wait()
                await anyio.sleep(GATHER)
            batch = list(self._queued)[:BATCH]
            for matter in batch:
                del self._queued[matter]
            self._under_way.update(batch)
            try:
                await self._look_at(batch)
            finally:
                self._under_way.difference_update(batch)
                self._news.set()
                self._news = anyio.Event()

    async def _look_at(self, matters: Sequence[Matter]) -> None:
        mounts, served = self._mounts(), Served()
        # What is read-only answers: there is nothing to find out but who wants to write to it.
        questions = self._questions([matter for matter in matters if matter.kind is not Kind.READONLY])

        async def why() -> None:
            if questions:
                found = await gather(
                    list(questions.values()),
                    children=self._children,
                    reader=self._reader,
                    mounts=mounts,
                    proc=self._paths.proc,
                    fstab=self._paths.fstab,
                )
                self._found.update((m, (monotonic(), evidence)) for m, evidence in zip(questions, found, strict=True))

        async def what_hangs() -> None:
            found = await radius.look(
                [_wanted_of(matter, mounts) for matter in matters],
                self._containers(),
                self._children,
                self._paths,
                limit=LOOK,
                questions=list(questions.values()),
                served=served,
            )
            self._hanging.update(zip(matters, ((monotonic(), hanging) for hanging in found), strict=True))

        now = monotonic()
        self._found = {m: kept for m, kept in self._found.items() if now - kept[0] < FRESH}
        self._hanging = {m: kept for m, kept in self._hanging.items() if now - kept[0] < FRESH}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(why)
            tasks.start_soon(what_hangs)
        # Who serves it comes of the search.
        for matter, question in questions.items():
            if (kept := self._found.get(matter)) is not None:
                self._found[matter] = kept[0], kept[1]._replace(daemons=served.by(question))

    def _questions(self, matters: Sequence[Matter]) -> dict[Matter, Question]:
        """Of what is mounted, as far as it still is."""
        mounts, targets = self._mounts(), dict[Superblock, MountState]()
        there = [matter.superblock for matter in matters if matter.place is None]
        states = self._states(there) if there else ()
        for state in sorted(states, key=lambda state: place_order(state.place)):
            targets.setdefault(superblock_of(state.mount), state)
        questions = {}
        for matter in matters:
            if matter.place is not None and matter.kind is Kind.READONLY:
                questions[matter] = Question(matter.superblock, matter.place)
            elif matter.place is not None:
                questions[matter] = question_of_absent(matter.superblock, matter.place, matter.options, mounts)
            elif (target := targets.get(matter.superblock)) is not None:
                questions[matter] = question_of(target, states, mounts)
        return questions

    def _is_known(self, matter: Matter, within: float) -> bool:
        if matter.kind is not Kind.READONLY and _fresh(self._found.get(matter), within) is None:
            return False
        return _fresh(self._hanging.get(matter), within) is not None


T = TypeVar("T")


def _fresh(found: tuple[float, T] | None, within: float = FRESH) -> T | None:
    return found[1] if found is not None and monotonic() - found[0] < within else None


def _matter_of(incident: Incident) -> Matter | None:
    """What there is to find out of it, by its foremost member."""
    member = body.foremost(incident)
    if member is None:
        return None
    superblock, place = member.subject.superblock, _place_of(member)
    if member.kind is Kind.STALE:
        return Matter(member.kind, superblock)
    if member.kind is Kind.READONLY and Place(HOST, "/") not in member.subject.places:  # on that everything hangs
        return Matter(member.kind, superblock, min(member.subject.places, key=place_order, default=None))
    if place is None or member.kind not in BY_PLACE:
        return None
    return Matter(member.kind, superblock, place, member.subject.options)


def _place_of(member: Member) -> Place | None:
    """Where the host misses it; nothing hangs on what a container alone lacks."""
    return min((p for p in member.subject.places if p.namespace == HOST), key=place_order, default=None)


def _wanted_of(matter: Matter, mounts: Sequence[Mount]) -> radius.Wanted:
    superblock, place = matter.superblock, matter.place
    like = (superblock.device, superblock.fstype)
    points = [m.mount_point for m in mounts if superblock.device and (m.device, m.fstype) == like]
    points += [place.mount_point] if place is not None and place.namespace == HOST else []
    return radius.Wanted.of(superblock, points, mounts)
