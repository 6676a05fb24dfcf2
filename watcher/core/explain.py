"""What `explain` and `hidden` make of a path: which mount it lies on, where else that stands, what is near.

By the mount tables alone: a path is text here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from watcher.core.advice import advice
from watcher.core.causes import cause_lines
from watcher.core.evidence import Evidence
from watcher.core.filters import Filter, server_of
from watcher.core.incident import Condition, Member
from watcher.core.lxc import PATH_MAX, valid_id
from watcher.core.mountinfo import Tree, is_below
from watcher.core.places import superblock_of
from watcher.core.wording import place_order
from watcher.model import HOST, Container, Kind, Mount, MountState, Place, Subject, TableRead

MAX_NEARBY = 12
MAX_PLACES = 64


class Address(NamedTuple):
    """A path, and where it is to be looked up."""

    namespace: str
    path: str  # absolute and normalised


def address(text: str, directory: str = "/") -> Address:
    """ "/mnt/nas/x", "host:/mnt/nas", "ct:101:/data", or relative to `directory`. Raises ValueError in words."""
    namespace, path = HOST, text
    if text.startswith(f"{HOST}:"):
        path = text.removeprefix(f"{HOST}:")
    elif text.startswith("ct:"):
        ctid, _, path = text.removeprefix("ct:").partition(":")
        if valid_id(ctid.encode("utf-8", "surrogateescape")) is None:
            raise ValueError("names no container; write such as ct:101:/mnt/media")
        namespace = f"ct:{ctid}"
    if not path or (text != path and not path.startswith("/")):
        raise ValueError("names no path; write such as /mnt/media or ct:101:/mnt/media")
    if "\0" in path or len(path) >= PATH_MAX:
        raise ValueError("is no path: it is too long, or has a zero byte in it")
    return Address(namespace, normalised(path if path.startswith("/") else f"{directory}/{path}"))


def normalised(path: str) -> str:
    """Without "//", "." and "..", as text."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def watched_on_the_way(asked: Address, states: Iterable[MountState]) -> MountState | None:
    """Of what is watched the deepest mount that the path lies on; what is missing there comes first."""
    on_it = [
        s
        for s in states
        if s.place.namespace == asked.namespace
        and (s.place.mount_point == asked.path or is_below(asked.path, s.place.mount_point))
    ]
    return max(on_it, key=lambda s: (len(s.place.mount_point), s.status == "missing"), default=None)


class Elsewhere(NamedTuple):
    """A place in which the same file system stands."""

    place: Place
    root: str  # the directory of the file system that is seen there
    container: Container | None


def same_file_system(mount: Mount, at: Place, tables: Mapping[str, TableRead]) -> tuple[list[Elsewhere], int]:
    """Where else it stands, the host's first: (places, how many more there are)."""
    found = []
    for namespace, table in tables.items():
        like = [m for m in table.mounts if m.device == mount.device and m.fstype == mount.fstype]
        tree = Tree(table.mounts) if like else None
        for other in like:
            place = Place(namespace, other.mount_point)
            if place != at and tree is not None and tree.is_visible(other):
                found.append(Elsewhere(place, other.root, table.container))
    found.sort(key=lambda e: place_order(e.place))
    return found[:MAX_PLACES], max(0, len(found) - MAX_PLACES)


def by_source(text: str, tables: Mapping[str, TableRead], chosen: Filter) -> list[Place]:
    """The watched mounts of a source ("nas01:/export", "//nas01/share"), else of a server, the host's first."""

    def alike(source: str) -> str:
        return source.replace("\\", "/").rstrip("/:")

    sources, servers = list[Place](), list[Place]()
    for place, mount in _watched(tables, chosen):
        if alike(mount.source) == alike(text):
            sources.append(place)
        elif server_of(mount.fstype, mount.source) == text.strip("/:"):
            servers.append(place)
    return sorted(sources or servers, key=place_order)


def _watched(tables: Mapping[str, TableRead], chosen: Filter) -> Iterator[tuple[Place, Mount]]:
    """Those that a path can lie on."""
    for namespace, table in tables.items():
        candidates = [m for m in table.mounts if chosen.watches(namespace, m)]
        tree = Tree(table.mounts) if candidates else None
        yield from ((Place(namespace, m.mount_point), m) for m in candidates if tree is not None and tree.is_visible(m))


def nearby(asked: Address, tables: Mapping[str, TableRead], chosen: Filter) -> tuple[list[Place], int]:
    """The watched mounts that may have been meant, the likeliest first: (places, how many more there are)."""
    found = [place for place, _ in _watched(tables, chosen)]

    def strangeness(place: Place) -> tuple[bool, bool, int, tuple[bool, tuple[str | int, ...]]]:
        below = is_below(place.mount_point, asked.path) and asked.path != "/"
        return (
            place.namespace != asked.namespace,
            not below,
            -_common(place.mount_point, asked.path),
            place_order(place),
        )

    found.sort(key=strangeness)
    return found[:MAX_NEARBY], max(0, len(found) - MAX_NEARBY)


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def places_of(state: MountState, states: Iterable[MountState]) -> list[Place]:
    """Where else the same superblock directory is watched."""
    superblock = superblock_of(state.mount)
    return [s.place for s in states if s.place != state.place and superblock_of(s.mount) == superblock]


def advice_on(state: MountState, others: Iterable[Place] = (), found: Evidence | None = None) -> list[str]:
    """What to do about it, in the words of an alarm; nothing where all is well. `others`: where else it stands."""
    member = _member(state, others)
    return advice(member, server_of(state.mount.fstype, state.mount.source), found) if member is not None else []


def evidence_on(state: MountState, found: Evidence) -> list[str]:
    """Why it fails, as far as that was found out, in the words of an alarm."""
    member = _member(state, ())
    return cause_lines(member, found) if member is not None else []


def _member(state: MountState, others: Iterable[Place]) -> Member | None:
    """It as a part of an incident; None where all is well."""
    kind = _kind(state)
    if kind is None:
        return None
    mount = state.mount
    names = ((state.container.namespace, state.container.name),) if state.container is not None else ()
    options = mount.all_options
    places = (state.place,) if kind is Kind.VANISHED else (state.place, *others)
    return Member(
        kind=kind,
        subject=Subject(superblock_of(mount), places, options, names),
        condition=Condition.DOWN,
        since=0.0,
        changed=0.0,
        cause=state.cause,
        error=state.error,
        stack=state.stack,
        context=state.context,
    )


def _kind(state: MountState) -> Kind | None:
    if state.status == "missing":
        return Kind.VANISHED
    if state.status in ("stale", "slow"):
        return Kind.STALE
    return Kind.READONLY if state.unexpected_readonly else None


def base_of(mount: Mount, tables: Sequence[Mount]) -> Mount | None:
    """The mount in which the directory lies that this one covers; None for a root.

    Of several on one directory all are left aside.
    """
    return next((a for a in Tree(tables).ancestors(mount) if a.mount_point != mount.mount_point), None)
