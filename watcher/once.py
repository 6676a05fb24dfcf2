"""One pass over everything, for `--once`: the same tracker as the service's, judged by one probe per mount.

A fast error is tried once more after half a second, a time-out is not. Prints nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from socket import gethostname
from time import monotonic, time
from typing import NamedTuple

from watcher import procfs
from watcher.answered import load_answered, save_answered
from watcher.children import Children
from watcher.configfile import ConfigFile
from watcher.core.capacity import CapacityState
from watcher.core.filters import Filter, MountPatterns, says_where, server_of
from watcher.core.known import Identity
from watcher.core.mountinfo import parse
from watcher.core.picture import Picture, Rules, merged
from watcher.core.places import superblock_of
from watcher.core.schedule import sweeps_of
from watcher.core.wording import container_name
from watcher.expectations import Expectations
from watcher.model import (
    HOST,
    Event,
    Mount,
    MountState,
    Pace,
    Place,
    ProbeReport,
    Reach,
    Superblock,
    TableRead,
    Verdict,
)
from watcher.probing.prober import Prober
from watcher.probing.wedged import WedgedNotes
from watcher.reading import FileReader, may_hang
from watcher.rules import any_type
from watcher.schema import StoreError
from watcher.settings import Settings
from watcher.sources import mount_table
from watcher.sources.containers import ContainerTables

RETRY_ERROR = 0.5  # seconds until a fast error is tried once more
MAX_VOID = 2  # probes that said nothing, after which the mount stays unknown
LOOK_EVERY = 0.1  # seconds between two looks at the clock while nothing comes

Progress = Callable[[Sequence[Place]], None]  # given the places that have no verdict yet


class Findings(NamedTuple):
    """What one pass found."""

    states: tuple[MountState, ...]
    checked_at: float  # epoch seconds
    duration: float  # seconds
    unmatched: tuple[str, ...]  # --path patterns that no mount matches
    capacity: tuple[CapacityState, ...]  # empty where it was not asked for
    notes: tuple[str, ...]  # what could not be watched
    clock_offset: float  # epoch minus monotonic seconds: what turns `MountState.since` into a time of day


async def check(
    settings: Settings,
    *,
    paths: Sequence[str] = (),
    timeout: float | None = None,
    capacity: bool = False,
    environ: Mapping[str, str],
    progress: Progress = lambda waiting: None,
) -> Findings:
    """Look once. `paths` are globs that override the filters, `timeout` (seconds) the settings' own."""
    children = Children()
    try:
        watched = _filter(settings, paths, timeout)
        rules = Rules(
            watched,
            watched if paths else any_type(settings),
            warn=settings.capacity.warn,
            local=settings.watch.local and not paths,  # whoever names a mount has it asked, whatever it is
            missing_after=0.0,
            capacity=capacity,
        )
        return await _Pass(settings, children, rules, paths, environ, progress).run()
    finally:
        children.close()


async def load_settings(explicit: str | None, environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings, strictly: (settings, warnings). Raises ConfigError."""
    children = Children()
    try:
        file = ConfigFile(explicit, environ, FileReader(children))
        parsed = file.parse(await file.text(parse(procfs.read("/proc/self/mountinfo"))), strict=True)
        return parsed.settings, parsed.warnings
    finally:
        children.close()


class _Pass:
    def __init__(
        self,
        settings: Settings,
        children: Children,
        rules: Rules,
        paths: Sequence[str],
        environ: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self._began, self._wall = monotonic(), time()
        self._proc, self._sys = settings.paths.proc, settings.paths.sys
        self._paths = paths
        self._progress = progress
        self._void: dict[Superblock, int] = {}
        self._compared = False  # what is mounted with what should be
        self._news = asyncio.Event()
        self._picture = Picture(rules)
        self._state_path = settings.state.path
        mounts, runtime = self._read_table(), settings.paths.runtime
        self._containers = ContainerTables(
            proc=self._proc,
            cgroup=settings.paths.cgroup,
            lxc_config=settings.paths.lxc_config,
            children=children,
            reader=FileReader(children),
            host_mounts=lambda: mounts,
        )
        self._expectations = Expectations(settings, children, node=gethostname().partition(".")[0])
        self._wants_containers = settings.watch.containers
        self._prober = Prober(
            children,
            self._handle,
            notes=WedgedNotes(None if may_hang(runtime, mounts) else runtime, self._proc),
            proc=self._proc,
            environ=environ,
        )

    async def run(self) -> Findings:
        mounts = self._read_table()
        self._recall(mounts)
        self._handle(TableRead(HOST, mounts))
        self._handle(mount_table.disks(self._proc, self._sys))
        if self._picture.local.in_doubt:
            self._handle(TableRead(HOST, self._read_table()))
            self._handle(mount_table.disks(self._proc, self._sys))
        await self._look_into_containers()
        self._prober.recall()
        tasks: set[asyncio.Task[None]] = {asyncio.create_task(self._look_for_missing(mounts))}
        try:
            await self._settle(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._remember()
        states = tuple(self._picture.snapshot())
        return Findings(
            states,
            self._wall,
            monotonic() - self._began,
            tuple(glob for glob in self._paths if not _matches(glob, states)),
            tuple(self._picture.capacity.snapshot()),
            tuple(self._notes(states)),
            time() - monotonic(),
        )

    async def _settle(self, tasks: set[asyncio.Task[None]]) -> None:
        """Probe until every mount has a verdict, or cannot get one."""
        while (waiting := self._unsettled()) or self._picture.capacity.unsettled() or not self._compared:
            self._news.clear()
            if rereads := self._picture.take_rereads():
                if HOST in rereads:
                    self._handle(TableRead(HOST, self._read_table()))
                self._containers.want(rereads - {HOST})
                if rereads - {HOST}:
                    await self._look_into_containers()
                continue
            for probes in sweeps_of(self._picture.start_due(monotonic())):
                tasks.add(asyncio.create_task(self._prober.sweep(probes)))
            if keeping := [s.place for s in waiting.values()] or self._picture.capacity.unsettled():
                self._progress(keeping)
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._news.wait()
            except TimeoutError:
                pass
            for task in [t for t in tasks if t.done()]:
                tasks.discard(task)
                task.result()

    async def _look_for_missing(self, mounts: Sequence[Mount]) -> None:
        """While the probes are under way: a file in /etc/pve is read by a child."""
        self._handle(await self._expectations.read(lambda: mounts, self._picture.missing.containers()))
        if self._picture.missing.snapshot():
            self._handle(TableRead(HOST, self._read_table()))  # one that changes while it is read can miss a line
        self._compared = True
        self._news.set()

    def _unsettled(self) -> dict[Superblock, MountState]:
        """The superblocks that may yet get a verdict, each with one of its places."""
        waiting = {}
        for state in self._picture.tracker.snapshot():
            superblock = superblock_of(state.mount)
            given_up = self._void.get(superblock, 0) > MAX_VOID
            if state.reach in (Reach.UNKNOWN, Reach.SUSPECT) and state.behind is None and not given_up:
                waiting[superblock] = state
        return waiting

    def _handle(self, event: Event) -> None:
        if isinstance(event, ProbeReport) and event.verdict in (Verdict.VOID, Verdict.NOT_THIS_MOUNT):
            superblock = event.probe.superblock
            self._void[superblock] = self._void.get(superblock, 0) + 1
        self._picture.handle(event, monotonic())
        self._news.set()

    async def _look_into_containers(self) -> None:
        if self._wants_containers:
            for event in await self._containers.look():
                self._handle(event)

    def _notes(self, states: Sequence[MountState]) -> Iterator[str]:
        names = {s.place.namespace: s.container.name for s in states if s.container is not None}
        for namespace, words in merged(
            self._containers.problems, self._picture.problems(), self._expectations.problems
        ).items():
            inside = namespace.startswith("ct:")
            yield f"{container_name(namespace, names.get(namespace, '')) if inside else namespace}: {words}"

    def _read_table(self) -> tuple[Mount, ...]:
        return parse(procfs.read(f"{self._proc}/self/mountinfo"))

    # ---- which mounts have ever answered: without it, a withdrawn export would pass as "not checkable"

    def _recall(self, mounts: Sequence[Mount]) -> None:
        self._known: set[Identity] | None = None
        if may_hang(self._state_path, mounts):
            return
        try:
            self._known = load_answered(self._state_path)
        except StoreError:
            return  # the service's own trouble, and said there; or not ours to read
        self._picture.tracker.restore_answered(self._known)

    def _remember(self) -> None:
        if self._known is None or (answered := self._picture.tracker.answered()) <= self._known:
            return
        try:
            save_answered(self._state_path, answered, now=time())
        except StoreError:
            pass  # an ordinary user beside the service of root: the verdicts stand without it


def _filter(settings: Settings, paths: Sequence[str], timeout: float | None) -> Filter:
    watch, pace = settings.watch, settings.probe.pace()

    def once(pace: dict[str, float]) -> dict[str, float]:
        # Judged by the first silence, and by the second of two errors.
        changed = pace | {"alarm_after": 0.0, "alarm_after_error": RETRY_ERROR * 0.8, "stale_interval": RETRY_ERROR}
        return changed | ({} if timeout is None else {"timeout": timeout})

    return Filter(
        fstypes=["*"] if paths else watch.fstypes,
        include=[_meant(glob) for glob in paths] or watch.include,
        exclude=() if paths else watch.exclude,
        show_only=() if paths else watch.show_only,
        pace=Pace(**once(pace._asdict())),
        overrides=[(o.mounts, once(o.changes())) for o in settings.overrides],
    )


def _meant(glob: str) -> str:
    """A path without a namespace is the host's: no container can stand in for a mount that is not there."""
    return glob if says_where(glob) else f"{HOST}:{glob}"


def _matches(glob: str, states: Sequence[MountState]) -> bool:
    patterns = MountPatterns([_meant(glob)])
    return any(patterns.match(s.place, server_of(s.mount.fstype, s.mount.source)) for s in states)
