"""Has found out why a mount fails by the time that people are told: begins when an incident opens, and is never long.

What to ask is `core.evidence`'s, and how `probing.evidence`'s; this one bounds how much of it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from time import monotonic

import anyio

from watcher.children import Children
from watcher.configfile import FileReader
from watcher.core import messages
from watcher.core.evidence import Evidence, Question, question_of
from watcher.core.incident import Incident
from watcher.core.wording import place_order
from watcher.model import Kind, Mount, MountState, Superblock
from watcher.probing.evidence import gather

AT_ONCE = 2  # children
BATCH = 16  # mounts of which one child finds out
MAX_QUEUED = 64  # mounts; of more no message waits to be explained
BURST = 5.0  # seconds in which mounts that die one after the other are one trouble; later it may be another
WAIT = 1.0  # seconds for which a message waits, beyond group_wait
FRESH = 60.0  # seconds for which evidence holds


class Investigator:
    """Evidence about the foremost mount of each incident."""

    def __init__(
        self,
        children: Children,
        reader: FileReader,
        *,
        states: Callable[[Collection[Superblock]], Sequence[MountState]],
        mounts: Callable[[], Sequence[Mount]],
        proc: str,
    ) -> None:
        """`states`: of these and of the other mounts of their servers, how they stand; `mounts`: the host's table."""
        self._children = children
        self._reader = reader
        self._states = states
        self._mounts = mounts
        self._proc = proc
        self._found: dict[Superblock, tuple[float, Evidence]] = {}
        self._queued: dict[Superblock, None] = {}
        self._under_way: set[Superblock] = set()
        self._wanted, self._news = anyio.Event(), anyio.Event()

    def look(self, incident: Incident, *, within: float = FRESH) -> None:
        """Begin to find out, unless it is known already, and that for less than `within` seconds."""
        superblock = _superblock_of(incident)
        if superblock is None or self._fresh(superblock, within) is not None or superblock in self._under_way:
            return
        if len(self._queued) < MAX_QUEUED:
            self._queued[superblock] = None
            self._wanted.set()

    async def found(self, incident: Incident) -> Evidence | None:
        """What is known of it, within a second; None if that is nothing."""
        superblock = _superblock_of(incident)
        if superblock is None:
            return None
        self.look(incident)
        with anyio.move_on_after(WAIT):
            while superblock in self._queued or superblock in self._under_way:
                await self._news.wait()
        evidence = self._fresh(superblock)
        if evidence is None:
            return None
        # What the tables and the other probes tell may have changed since: the neighbours die one after the other.
        [question] = self._questions([superblock]) or [evidence.question]
        return replace(evidence, question=question)

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
            batch = list(self._queued)[:BATCH]
            for superblock in batch:
                del self._queued[superblock]
            self._under_way.update(batch)
            try:
                questions = self._questions(batch)
                if not questions:
                    continue
                found = await gather(
                    questions, children=self._children, reader=self._reader, mounts=self._mounts(), proc=self._proc
                )
                now = monotonic()
                self._found = {s: kept for s, kept in self._found.items() if now - kept[0] < FRESH}
                self._found.update((superblock, (now, evidence)) for superblock, evidence in found.items())
            finally:
                self._under_way.difference_update(batch)
                self._news.set()
                self._news = anyio.Event()

    def _questions(self, wanted: Sequence[Superblock]) -> list[Question]:
        states, mounts = self._states(wanted), self._mounts()
        targets: dict[Superblock, MountState] = {}
        for state in sorted(states, key=lambda state: place_order(state.place)):
            mount = state.mount
            targets.setdefault(Superblock(mount.device, mount.root, mount.fstype, mount.source), state)
        return [question_of(targets[s], states, mounts) for s in wanted if s in targets]

    def _fresh(self, superblock: Superblock, within: float = FRESH) -> Evidence | None:
        found = self._found.get(superblock)
        return found[1] if found is not None and monotonic() - found[0] < within else None


def _superblock_of(incident: Incident) -> Superblock | None:
    member = messages.foremost(incident)
    return member.subject.superblock if member is not None and member.kind is Kind.STALE else None
