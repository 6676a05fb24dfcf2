"""What should be mounted and is not: the expectations against the tables.

Says nothing of what is mounted, be it dead: that is the tracker's matter. Nor does what vanishes and
comes back within the patience that is set concern it: Proxmox VE remounts its storages so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, deepest
from watcher.core.reasons import MOUNTED, NO_LONGER
from watcher.core.wording import name
from watcher.model import (
    HOST,
    Cause,
    Change,
    Container,
    Event,
    Expected,
    ExpectedRead,
    Kind,
    Mount,
    MountState,
    NamespaceGone,
    Place,
    Reach,
    Subject,
    Superblock,
    TableRead,
    Tick,
    Transition,
)

NOT_EXPECTED = "no longer expected"
MAX_INSIDE = 64  # expected of one container


@dataclass(slots=True)
class _Lack:
    """Something that is not mounted."""

    expected: Expected
    since: float
    stood: bool  # it has been mounted before
    known: bool  # since the start, or it has stood: else somebody has just written it down, and may yet mount it
    show_only: bool
    cover: Mount | None = None  # it is mounted, and out of sight under this
    instead: Mount | None = None  # what stands in its place
    shown: bool = False  # for long enough
    told: bool = False


class Missing:
    """Which mounts are missing, as tables and files come."""

    def __init__(self, chosen: Filter, *, after: float = 30.0, grace_until: float = 0.0) -> None:
        """`after`: seconds until it counts. `grace_until`: nothing is missing before it."""
        self._filter, self._after, self._grace_until = chosen, after, grace_until
        self._expected: dict[str, dict[Place, Expected]] | None = None  # by namespace; None: not read yet
        self._complete = False
        self._heard: frozenset[str] = frozenset()  # whose files were read, as of the last reading
        self._binds: frozenset[Place] = frozenset()  # that were written down by then
        self._fresh: set[Place] = set()  # written down since, and not mounted since
        self._tables: dict[str, Sequence[Mount]] = {}
        self._containers: dict[str, Container | None] = {}
        self._stood: set[Place] = set()
        self._lacks: dict[Place, _Lack] = {}
        self._restored: dict[Place, tuple[Subject, float]] = {}

    def restore(self, missed: Iterable[tuple[Subject, float]]) -> None:
        """What was missing in an earlier run, and told so; since when, by this run's clock."""
        for subject, since in missed:
            for place in subject.places:
                self._restored[place] = (subject, since)

    def configure(self, chosen: Filter, now: float, *, after: float) -> list[Transition]:
        """Look by other rules from now on."""
        self._filter, self._after = chosen, after
        return [t for namespace in list(self._tables) for t in self._review(namespace, now)]

    def handle(self, event: Event, now: float) -> list[Transition]:
        """Take an event in; give what began or ended by it."""
        match event:
            case TableRead():
                self._tables[event.namespace] = event.mounts
                self._containers[event.namespace] = event.container
                return self._review(event.namespace, now)
            case NamespaceGone():
                return self._gone(event.namespace, event.reason, now)
            case ExpectedRead():
                return self._read(event, now)
            case Tick():
                return self._elapsed(now)
        return []

    def containers(self) -> list[Container]:
        """Those whose tables are known."""
        return [container for container in self._containers.values() if container is not None]

    def next_due(self) -> float | None:
        """When a Tick next has something to say."""
        return min((self._due(lack) for lack in self._lacks.values() if not lack.shown), default=None)

    def snapshot(self) -> list[MountState]:
        """A row for each that is missing."""
        return [
            MountState(
                place=place,
                mount=_mount(lack.expected),
                reach=Reach.UNKNOWN,
                status="missing",
                cause=Cause.VANISHED,
                error=_error(lack),
                since=lack.since,
                show_only=lack.show_only,
                context=_mend(lack),
                container=self._containers.get(place.namespace),
            )
            for place, lack in self._lacks.items()
            if lack.shown
        ]

    # ---- what has changed

    def _read(self, read: ExpectedRead, now: float) -> list[Transition]:
        before, self._expected = self._expected, {}
        for each in read.expected:
            # The first to name a place has it: what is written in our own configuration, then the system's files.
            inside = self._expected.setdefault(each.place.namespace, {})
            if each.place.namespace == HOST or len(inside) < MAX_INSIDE:
                inside.setdefault(each.place, each)
        self._complete = read.complete
        if before is not None:
            known = self._binds.union(*before.values())
            by_hand = {e.place for inside in self._expected.values() for e in inside.values() if e.by_hand} | read.binds
            self._fresh = by_hand & (
                self._fresh | {p for p in by_hand if p.namespace in self._heard and p not in known}
            )
        self._heard, self._binds = read.inside | {HOST}, read.binds
        return [t for namespace in list(self._tables) for t in self._review(namespace, now)]

    def _review(self, namespace: str, now: float) -> list[Transition]:
        """Compare what should be with what is."""
        if self._expected is None:
            return []
        mounts, wanted, out = self._tables[namespace], self._expected.get(namespace, {}), list[Transition]()
        seen, covers = _seen_at({place.mount_point for place in wanted}, mounts)
        for place in [p for p in self._lacks if p.namespace == namespace and p not in wanted]:
            out += self._end(place, now, NOT_EXPECTED)
        for place, expected in wanted.items():
            like = _mount(expected)
            if not self._is_watched(expected, like):
                out += self._end(place, now, "no longer watched")
            elif _is_there(expected, seen.get(place.mount_point)) or _is_behind_a_link(expected, mounts):
                self._stood.add(place)
                self._fresh.discard(place)
                out += self._end(place, now, "")
            elif place not in self._lacks:
                stood = place in self._stood
                known = stood or place not in self._fresh
                show_only = self._filter.shows_only(namespace, like)
                self._lacks[place] = _Lack(expected, now, stood, known, show_only)
            else:
                self._lacks[place].expected = expected
            if place in self._lacks:
                self._lacks[place].cover = covers.get(place.mount_point)
                self._lacks[place].instead = seen.get(place.mount_point)
        return out + self._resume(namespace, now) + self._elapsed(now)

    def _is_watched(self, expected: Expected, like: Mount) -> bool:
        if not expected.fstype or (expected.exact and not expected.by_hand):
            # Whoever asks for it by name ([[expect]]) may leave the type open, or mean a local disk.
            return self._filter.chooses(expected.place.namespace, like._replace(fstype=like.fstype or "nfs4"))
        return self._filter.watches(expected.place.namespace, like)

    def _resume(self, namespace: str, now: float) -> list[Transition]:
        """What an earlier run has told goes on, or has ended meanwhile."""
        out = []
        for place in [p for p in self._restored if p.namespace == namespace]:
            lack = self._lacks.get(place)
            there = any(m.mount_point == place.mount_point for m in self._tables[namespace])
            if lack is None and not there and not self._complete:
                continue  # who wants it may only not have been heard yet
            subject, since = self._restored.pop(place)
            if lack is not None and not lack.show_only:
                lack.since, lack.shown, lack.told = since, True, True
                out.append(_transition(lack, Change.RESUMED, self._subject(lack.expected), now))
                continue
            change, reason = (Change.ENDED, "") if there else (Change.GONE, NOT_EXPECTED)
            out.append(Transition(Kind.MISSING, change, subject, now, since, reason=reason))
        return out

    def _elapsed(self, now: float) -> list[Transition]:
        out = []
        for lack in self._lacks.values():
            if lack.shown or self._due(lack) > now:
                continue
            lack.shown = True
            if lack.known and not lack.show_only:
                lack.told = True
                out.append(_transition(lack, Change.BEGAN, self._subject(lack.expected), now))
        return out

    def _due(self, lack: _Lack) -> float:
        return max(lack.since + self._after, self._grace_until)

    def _end(self, place: Place, now: float, reason: str) -> list[Transition]:
        """It is there; or, with a reason, it is missed no more."""
        lack = self._lacks.pop(place, None)
        if lack is None or not lack.told:
            return []
        subject = self._subject(lack.expected)
        if reason:
            return [_transition(lack, Change.GONE, subject, now, reason)]
        return [_transition(lack, Change.ENDED, subject, now, "" if lack.stood else MOUNTED)]

    def _gone(self, namespace: str, reason: str, now: float) -> list[Transition]:
        self._tables.pop(namespace, None)
        out = [t for p in list(self._lacks) if p.namespace == namespace for t in self._end(p, now, reason)]
        self._containers.pop(namespace, None)
        self._stood = {place for place in self._stood if place.namespace != namespace}
        self._fresh = {place for place in self._fresh if place.namespace != namespace}
        self._heard -= {namespace}
        return out

    def _subject(self, expected: Expected) -> Subject:
        place, container = expected.place, self._containers.get(expected.place.namespace)
        names = ((container.namespace, container.name),) if container is not None else ()
        return Subject(Superblock("", "/", expected.fstype, expected.source), (place,), "", names)


def _is_there(expected: Expected, mount: Mount | None) -> bool:
    if mount is None:
        return False
    if mount.fstype == "autofs" or not expected.exact:
        return True  # a trigger mounts it when somebody comes
    if not _is_of_type(expected, mount):
        return False
    # NFS mounts by itself what the server has mounted below, and takes it away when it is idle, but no bind of it.
    below = _is_bind(expected) and mount.source.startswith(f"{expected.source.rstrip('/')}/")
    return below or expected.source in ("", mount.source)


def _is_bind(expected: Expected) -> bool:
    """Whether fstab wants it to show what stands elsewhere: an [[expect]] is exact, too, but not by hand."""
    return expected.exact and expected.by_hand


def _is_behind_a_link(expected: Expected, mounts: Iterable[Mount]) -> bool:
    """Whether a container has it elsewhere: links in its paths are not followed from outside."""
    if expected.place.namespace == HOST or not expected.source or not expected.by_hand:
        return False  # of binds many have one source
    return any(m.source == expected.source and _is_of_type(expected, m) for m in mounts)


def _is_of_type(expected: Expected, mount: Mount) -> bool:
    return expected.fstype in ("", mount.fstype) or {expected.fstype, mount.fstype} == {"nfs", "nfs4"}


def _mount(expected: Expected) -> Mount:
    """As it would stand in the table."""
    return Mount(0, 0, "", "/", expected.place.mount_point, "", expected.fstype, expected.source, "")


def _seen_at(points: Collection[str], mounts: Sequence[Mount]) -> tuple[dict[str, Mount], dict[str, Mount]]:
    """What a look there finds; and where it finds none of what is mounted there, what that lies under."""
    found = [m for m in mounts if m.mount_point in points]
    if not found:
        return {}, {}
    tree = Tree(mounts)
    seen = {m.mount_point: m for m in found if tree.is_visible(m)}
    out_of_sight = {m.mount_point for m in found} - seen.keys()
    visible = {m.mount_point: m for m in mounts if tree.is_visible(m)} if out_of_sight else {}
    return seen, {p: visible[over] for p in out_of_sight if (over := deepest(p, visible)) is not None}


def _error(lack: _Lack) -> str:
    if lack.cover is not None:
        over = f"{name(lack.cover.source, 40)} on {name(lack.cover.mount_point)}"
        return f"hidden under {over}; {lack.expected.origin} wants it"
    if lack.instead is not None:
        other = f"{name(lack.instead.source, 40)} ({name(lack.instead.fstype, 20)})"
        return f"{other} stands in its place; {lack.expected.origin} wants it"
    return f"{NO_LONGER if lack.stood else 'not mounted'}; {lack.expected.origin} wants it"


def _mend(lack: _Lack) -> str:
    """The command that mounts it, to be copied; none if it cannot be shown as it is."""
    mend = lack.expected.mend
    if lack.cover is not None and not mend.startswith(("mount ", "pct exec ", "lxc-attach ")):
        # Only mount(8) mounts it anew, on top: PVE and systemd find it mounted, a container's start hides it again.
        return "Do: unmount what hides it, or have it mounted elsewhere"
    if lack.instead is not None and mend.startswith("mount "):
        mend = f"u{mend} && {mend}"
    return f"Do: {mend}" if mend and name(mend, 400) == mend else ""


def _transition(lack: _Lack, change: Change, subject: Subject, now: float, reason: str = "") -> Transition:
    began = change in (Change.BEGAN, Change.RESUMED)
    return Transition(
        Kind.MISSING,
        change,
        subject,
        now,
        lack.since,
        Cause.VANISHED,
        _error(lack) if began else "",
        reason=reason,
        context=_mend(lack) if began else "",
    )
