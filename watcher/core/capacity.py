"""How full the file systems are: events in, transitions out, probes due, beside the tracker.

Judges no health: a file system that does not answer has no capacity, and that is all this module says of it. What the
tracker asks is not asked again here; its reports serve both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from watcher.core.filesystems import MAX_ENTRIES, Entry, FilesystemKey, find
from watcher.core.filters import Filter
from watcher.core.fullness import Filesystem
from watcher.core.mountinfo import is_readonly
from watcher.model import (
    Container,
    Event,
    Mount,
    NamespaceGone,
    Place,
    Probe,
    ProbeReport,
    ProbeStarted,
    StillWedged,
    Subject,
    Superblock,
    TableRead,
    ThreadGone,
    Transition,
    Usage,
    Verdict,
)

MAX_WEDGED = 64  # stuck threads in all, above which file systems of unknown size are left alone
MAX_FRUITLESS = 3  # probes in a row that told nothing, after which one pass waits no longer
UNMOUNTED = "unmounted"


class CapacityState(NamedTuple):
    """One file system in a place as it stands now: a row of the table, an entry of the JSON."""

    place: Place
    mount: Mount
    container: Container | None = None
    usage: Usage | None = None  # None: not known, or a size of 0; `error` may say why
    readonly: bool = False
    full: bool = False  # at or above the threshold, and neither an image nor only shown
    error: str = ""


class Capacity:
    """The capacity of every file system that holds data."""

    def __init__(self, chosen: Filter, eligible: Filter, *, warn: float = 90.0, wanted: bool = True) -> None:
        """`chosen`: what the tracker watches. `eligible`: what may be looked at at all, of any type.

        `warn`: percent from which on a file system is full. `wanted`: False keeps the tables and does nothing.
        """
        self._chosen, self._eligible, self._warn, self._wanted = chosen, eligible, warn, wanted
        self._tables: dict[str, tuple[tuple[Mount, ...], Container | None]] = {}
        self._all: dict[FilesystemKey, Filesystem] = {}
        self._keys: dict[str, dict[Place, FilesystemKey]] = {}  # by namespace
        self._cut: set[str] = set()  # namespaces with more file systems than are looked at
        self._absent: set[Place] = set()  # full, and gone by one reading of the table, not yet by a second
        self._rereads: set[str] = set()
        self._restored: dict[tuple[Place, str, str], tuple[Subject, float, str]] = {}

    def restore(self, full: Iterable[tuple[Subject, float, str]]) -> None:
        """What was told to be full in an earlier run: since when by this run's clock, and how full it was."""
        for subject, since, words in full:
            for place in subject.places:
                self._restored[place, subject.fstype, subject.source] = (subject, since, words)

    # ---- what the shell asks

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in, whoever asked for the probe; give what changed by it."""
        match event:
            case TableRead():
                known, table = self._tables.get(event.namespace), (event.mounts, event.container)
                self._tables[event.namespace] = table
                if known != table or any(p.namespace == event.namespace for p in self._absent):
                    return self._arrange(event.namespace, now, UNMOUNTED)
            case NamespaceGone():
                self._tables[event.namespace] = ((), None)
                out = self._arrange(event.namespace, now, event.reason)
                del self._tables[event.namespace], self._keys[event.namespace]
                return out
            case ProbeStarted():
                found = self._find(event.probe.superblock)
                if found and not found.is_watched:
                    found.asked = event.probe
            case ProbeReport():
                return self._reported(event, now)
            case ThreadGone():
                for filesystem in self._all.values():
                    if filesystem.wedged == event.wedged:
                        filesystem.wedged, filesystem.next_at = None, now
            case StillWedged():
                if (found := self._find(event.superblock)) and found.wedged is None:
                    found.wedged, found.error = event.wedged, "an earlier probe still hangs in it"
            case _:
                pass  # the time and unreadable tables change nothing here
        return []

    def configure(
        self, chosen: Filter, eligible: Filter, now: float, *, warn: float = 90.0, wanted: bool = True
    ) -> list[Transition]:
        """Go by other rules from now on; what was known stays known, and is judged anew."""
        self._chosen, self._eligible, self._warn, self._wanted = chosen, eligible, warn, wanted
        out = [t for namespace in list(self._tables) for t in self._arrange(namespace, now, "no longer watched")]
        return out + [t for filesystem in self._all.values() for t in filesystem.judge(warn, now, margin=0.0)]

    def due(self, now: float) -> list[Probe]:
        """The probes to start now; each is to be followed by its ProbeStarted."""
        probes = []
        for filesystem, way in self._askable():
            if filesystem.asked is None and filesystem.next_at <= now:
                timeout = self._chosen.pace(way.place.namespace, way.mount).timeout
                probes.append(filesystem.probe(way, timeout))
        return probes

    def next_due(self) -> float | None:
        """When `due` next has something to give."""
        return min((f.next_at for f, _ in self._askable() if f.asked is None), default=None)

    def unsettled(self) -> list[Place]:
        """The file systems that may yet get their first answer from a probe of ours, each by one of its places."""
        return [w.place for f, w in self._askable() if not f.judged and f.fruitless < MAX_FRUITLESS]

    def take_rereads(self) -> set[str]:
        """The namespaces whose table must be read again soon, each named once."""
        wanted, self._rereads = self._rereads, set()
        return wanted

    def table(self, namespace: str) -> TableRead | None:
        """A namespace's table as last read."""
        known = self._tables.get(namespace)
        return TableRead(namespace, *known) if known is not None else None

    def snapshot(self) -> list[CapacityState]:
        """Every file system in every place as it stands now."""
        crowded = self._crowded()
        return [
            _state(self._all[key], self._all[key].entries[place], crowded)
            for keys in self._keys.values()
            for place, key in keys.items()
        ]

    def problems(self) -> dict[str, str]:
        """By namespace: what is left out, and why."""
        words = f"more than {MAX_ENTRIES} file systems: the capacity of {MAX_ENTRIES} is looked at"
        return dict.fromkeys(sorted(self._cut), words)

    # ---- tables

    def _arrange(self, namespace: str, now: float, reason: str) -> list[Transition]:
        """Bring the file systems in line with the namespace's table; `reason` is why some may be gone."""
        mounts, container = self._tables[namespace]
        entries: tuple[Entry, ...] = ()
        cut = False
        if self._wanted:
            entries, cut = find(namespace, mounts, container, self._chosen, self._eligible)
        found = {e.place: e for e in entries}
        keys: dict[Place, FilesystemKey] = {}
        absent: set[Place] = set()
        gone: dict[FilesystemKey, list[Entry]] = {}
        for place, key in self._keys.get(namespace, {}).items():
            filesystem, there = self._all[key], found.get(place)
            if there is not None and there.key == key:
                continue
            may_be_missed = filesystem.full_since is not None and reason == UNMOUNTED and place not in self._absent
            if there is None and may_be_missed:
                # A table that changes while it is read can miss a line: gone is what is gone twice.
                absent.add(place)
                keys[place] = key
            else:
                gone.setdefault(key, []).append(filesystem.entries.pop(place))
                filesystem.lost.discard(place)
        joined = list[Filesystem]()
        for entry in entries:
            filesystem = self._all.setdefault(entry.key, Filesystem(now))
            if entry.place not in filesystem.entries and filesystem not in joined:
                joined.append(filesystem)
            filesystem.entries[entry.place] = entry
            known = self._restored.pop((entry.place, entry.mount.fstype, entry.mount.source), None)
            if known is not None and filesystem.full_since is None:
                filesystem.resume(*known)
            keys[entry.place] = entry.key
        self._keys[namespace] = keys
        self._absent = {p for p in self._absent if p.namespace != namespace} | absent
        (self._cut.add if cut else self._cut.discard)(namespace)
        if absent:
            self._rereads.add(namespace)
        out = [t for key, left in gone.items() for t in self._all[key].left(left, now, reason)]
        self._all = {key: filesystem for key, filesystem in self._all.items() if filesystem.entries}
        return out + [t for filesystem in joined for t in filesystem.told_again(now)]

    # ---- probes

    def _reported(self, report: ProbeReport, now: float) -> list[Transition]:
        filesystem = self._find(report.probe.superblock)
        if filesystem is None:
            return []  # unmounted meanwhile, or of no interest
        if report.verdict is Verdict.NOT_THIS_MOUNT and filesystem.asked == report.probe:
            self._rereads.add(report.probe.place.namespace)
        return filesystem.judge(self._warn, now) if filesystem.take(report, now, self._absent) else []

    def _find(self, superblock: Superblock) -> Filesystem | None:
        for root in (superblock.root, ""):
            found = self._all.get(FilesystemKey(superblock.device, root))
            if found and any(e.mount.fstype == superblock.fstype for e in found.entries.values()):
                return found
        return None

    def _askable(self) -> list[tuple[Filesystem, Entry]]:
        """What is ours to ask, each with the place where to."""
        crowded = self._crowded()
        return [
            (filesystem, ways[0])
            for filesystem in self._all.values()
            if not filesystem.is_watched
            and filesystem.wedged is None
            and not (crowded and filesystem.usage is None)
            and (ways := filesystem.ways(self._absent))
        ]

    def _crowded(self) -> bool:
        return sum(1 for f in self._all.values() if f.wedged) >= MAX_WEDGED


def _state(filesystem: Filesystem, entry: Entry, crowded: bool) -> CapacityState:
    error = filesystem.error
    if filesystem.usage is None and not error and not entry.watched:
        if entry.on_demand:
            error = "mounted on demand: not asked, so that it can idle out"
        elif entry.stands_still:
            error = "the container is frozen: not asked"
        elif crowded:
            error = f"not probed: {MAX_WEDGED} probes hang already"
    return CapacityState(
        place=entry.place,
        mount=entry.mount,
        container=entry.container,
        usage=filesystem.usage,
        readonly=is_readonly(entry.mount),
        full=filesystem.full_since is not None and entry.alarmed,
        error=error,
    )
