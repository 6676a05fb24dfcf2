"""`watcher explain`: one mount with all that is known of it, as a document; `explained` has its words for people.

The state comes from the running service, or from one probe where none runs. Never touches what the path names.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Mapping
from time import monotonic, time
from typing import Any

from watcher import once, radius
from watcher.children import Children
from watcher.control import NoAnswer, Unreachable, mount_on
from watcher.core.entries import detailed_entry, inside, target_bytes
from watcher.core.evidence import Evidence, question_of, question_of_absent
from watcher.core.explain import (
    MAX_NEARBY,
    Address,
    Elsewhere,
    advice_on,
    by_source,
    evidence_on,
    nearby,
    normalised,
    same_file_system,
    watched_on_the_way,
)
from watcher.core.filters import Filter, literal
from watcher.core.mountinfo import is_below, mount_of
from watcher.core.places import superblock_of
from watcher.core.radius import Radius, line
from watcher.core.served import Served
from watcher.core.times import utc
from watcher.core.underneath import Underneath
from watcher.core.wording import container_name, place_order, printable
from watcher.expectations import missing_now
from watcher.history import load_history
from watcher.model import HOST, Cause, Mount, MountState, Place, Reach, TableRead
from watcher.probing.evidence import gather
from watcher.reading import FileReader, may_hang, resolved
from watcher.rules import rules_of
from watcher.schema import StoreError
from watcher.settings import Settings
from watcher.tables import Tables, read_tables

Document = dict[str, Any]


def explain(settings: Settings, named: Address, environ: Mapping[str, str], text: str = "") -> Document:
    """All that is known of the mount that a path lies on. Raises OSError. `text`: as it was given, a source perhaps."""
    tables = asyncio.run(_tables(settings))
    notes = list(tables.notes)
    chosen = rules_of(settings).watched
    asked, likely = _meant(named, text, tables, chosen)
    table = tables.by_namespace.get(asked.namespace)
    lies_on = mount_of(asked.path, table.mounts) if table is not None else None
    entry, answered_by = _from_service(settings, asked, lies_on, notes), "service"
    if entry is None and (state := _missing(settings, asked, lies_on, tables, notes)) is not None:
        entry, answered_by = detailed_entry(state, time() - monotonic()) | {"advice": advice_on(state)}, "tables"
    if entry is None and (state := _disk_in_its_place(asked, tables, chosen)) is not None:
        entry, answered_by = detailed_entry(state, time() - monotonic()) | {"advice": advice_on(state)}, "tables"
    if entry is None and lies_on is not None and chosen.watches(asked.namespace, lies_on):
        entry, answered_by = (
            _by_probe(settings, Place(asked.namespace, lies_on.mount_point), tables, environ, notes),
            "probe",
        )
    document: Document = {
        "asked": {"namespace": named.namespace, "path": printable(named.path), "text": printable(text)},
        "leads_to": _place(Place(*asked), tables.by_namespace) if asked != named else None,
        "checked_at": utc(time()),
        "answered_by": answered_by if entry is not None else None,
        "mount": entry,
        "advice": entry.pop("advice", []) if entry is not None else [],
    }
    if entry is None:
        near, more = nearby(asked, tables.by_namespace, chosen)
        near = list(dict.fromkeys([*likely, *near]))[: len(near)]
        document |= {
            "lies_on": _short(lies_on) if lies_on is not None else None,
            "nearby": [_place(p, tables.by_namespace) for p in near],
            "more_nearby": more,
        }
        if asked.namespace not in tables.by_namespace:
            notes.append(_absent(asked.namespace, settings))
    else:
        at = (
            _place_in(entry)
            if lies_on is None or entry["status"] == "missing"
            else Place(asked.namespace, lies_on.mount_point)
        )
        document |= _places(lies_on, entry, at, tables)
        target = _failing(lies_on, entry, at, tables)
        found, hanging = _look(settings, lies_on, entry, target, tables)
        document["evidence"] = evidence_on(target, found) if target is not None and found is not None else []
        if target is not None and found is not None:
            document["advice"] = advice_on(target, _other_places(lies_on, at, target, tables), found)
        document["radius"] = _radius(hanging, notes) if hanging is not None else None
        document["history"] = _history(settings, entry, at, tables, notes)
    return document | {"notes": [printable(note) for note in notes]}


def _meant(named: Address, text: str, tables: Tables, chosen: Filter) -> tuple[Address, list[Place]]:
    """Where the path leads, if it has links of the host's in it; else the mount whose source it names: of several, all.

    Nothing on a mount that is watched is touched.
    """
    if (table := tables.by_namespace.get(named.namespace)) is None:
        return named, []

    def is_watched(path: str) -> bool:
        mount = mount_of(path, table.mounts)
        return mount is not None and chosen.watches(named.namespace, mount)

    if named.namespace != HOST:
        return named, []
    # Not "/mnt/nas", which a FUSE file system may have for its source.
    is_path = text.startswith("host:") or (text.startswith("/") and not text.startswith("//"))
    likely = by_source(text, tables.by_namespace, chosen) if text.strip("/:") and not is_path else []
    if is_watched(named.path) and not (likely and (":" in text or text.startswith("//"))):
        return named, []  # a relative path: "films"
    barred = [m._replace(fstype="autofs") if chosen.watches(HOST, m) else m for m in table.mounts]
    if (path := normalised(resolved(named.path, barred))) != named.path:
        return Address(HOST, path), []
    hosts = [place for place in likely if place.namespace == HOST] or likely  # from where it may be bound elsewhere
    return (Address(*hosts[0]), []) if len(hosts) == 1 else (named, likely[:MAX_NEARBY])


def _place_in(entry: Document) -> Place:
    """Where it stands, or should."""
    path = str(entry["target"])
    if "target_bytes" in entry:
        path = b64decode(entry["target_bytes"]).decode("utf-8", "surrogateescape")
    return Place(str(entry["namespace"]), path)


async def _tables(settings: Settings) -> Tables:
    children = Children()
    try:
        return await read_tables(settings, children)
    finally:
        children.close()


def _from_service(settings: Settings, asked: Address, lies_on: Mount | None, notes: list[str]) -> Document | None:
    """What the running service says of it; None where there is none, or where it watches something else there."""
    path = settings.status.socket
    if not path:
        return None
    try:
        entry = mount_on(path, f"{asked.namespace}:{asked.path}")
    except NoAnswer as e:
        notes.append(str(e))
        return None
    except Unreachable as e:
        if "no service is running" not in str(e):
            notes.append(str(e))
        return None
    if entry is None or lies_on is None:
        return entry
    # Another mount, which the service does not watch (yet), may stand between that one and the path.
    target = entry.get("target")
    return entry if printable(lies_on.mount_point) == target or len(str(target)) > len(lies_on.mount_point) else None


def _by_probe(
    settings: Settings, place: Place, tables: Tables, environ: Mapping[str, str], notes: list[str]
) -> Document | None:
    glob = f"{place.namespace}:{literal(place.mount_point)}"
    findings = asyncio.run(once.check(settings, paths=[glob], environ=environ))
    notes += [note for note in findings.notes if note not in notes]
    state = watched_on_the_way(Address(*place), findings.states)
    if state is None:
        return None
    elsewhere, _ = same_file_system(state.mount, state.place, tables.by_namespace)
    others = [e.place for e in elsewhere if e.root == state.mount.root]
    return detailed_entry(state, time() - monotonic()) | {"advice": advice_on(state, others)}


def _missing(
    settings: Settings, asked: Address, lies_on: Mount | None, tables: Tables, notes: list[str]
) -> MountState | None:
    """What should be mounted there and is not, by the files that want it."""

    async def look() -> MountState | None:
        children = Children()
        try:
            found, problems = await missing_now(settings, tables.by_namespace, children)
        finally:
            children.close()
        state = watched_on_the_way(asked, (state for state, _ in found.values()))
        notes.extend(problems if state is None else [])
        return state

    state = asyncio.run(look())
    if state is None or lies_on is None or is_below(lies_on.mount_point, state.place.mount_point):
        return None  # or something is mounted between it and the path
    return state


def _disk_in_its_place(asked: Address, tables: Tables, chosen: Filter) -> MountState | None:
    """That a container sees the disk under a mount of the host's there, which the tables alone tell."""
    underneath = Underneath(chosen)
    for namespace in (HOST, asked.namespace):
        if (table := tables.by_namespace.get(namespace)) is not None:
            underneath.handle(table, monotonic())
    return watched_on_the_way(asked, underneath.snapshot())


def _short(mount: Mount) -> Document:
    target = printable(mount.mount_point)
    return {"source": printable(mount.source), "target": target, "fstype": printable(mount.fstype)}


def _place(place: Place, tables: Mapping[str, TableRead]) -> Document:
    table = tables.get(place.namespace)
    container = inside(place, table.container if table is not None else None)
    entry = {"namespace": place.namespace, "target": printable(place.mount_point), **container}
    return entry | target_bytes(place.mount_point)


def _places(mount: Mount | None, entry: Document, at: Place, tables: Tables) -> Document:
    """Where else the same file system stands, if the entry is of the mount in the table."""
    if mount is None or entry.get("device") != mount.device:
        return {"places": [], "more_places": 0}
    found, more = same_file_system(mount, at, tables.by_namespace)

    def one(elsewhere: Elsewhere) -> Document:
        return _place(elsewhere.place, tables.by_namespace) | {"root": printable(elsewhere.root)}

    return {"places": [one(e) for e in found], "more_places": more}


def _failing(mount: Mount | None, entry: Document, at: Place, tables: Tables) -> MountState | None:
    """What is stale, or missing on the host, as an alarm has it: what the host has is the host's, wherever bound."""
    if entry["status"] == "missing" and at.namespace == HOST:
        like = Mount(0, 0, "", "/", at.mount_point, "", entry["fstype"], entry["source"], "")
        context = entry.get("context") or ""
        return MountState(at, like, Reach.UNKNOWN, "missing", error=entry["error"] or "", context=context)
    if mount is None or entry.get("device") != mount.device or entry["status"] != "stale":
        return None
    first = min(_all_places(mount, at, tables), key=place_order)
    table = tables.by_namespace[first.namespace]
    return MountState(
        first,
        mount_of(first.mount_point, table.mounts) or mount,
        Reach.STALE,
        "stale",
        cause=next((cause for cause in Cause if cause == entry["cause"]), None),
        error=entry["error"] or "",
        stacked=entry.get("stacked", 1),
        stack=tuple(entry.get("stack", ())),
        context=entry.get("context") or "",
        container=table.container,
    )


def _all_places(mount: Mount, at: Place, tables: Tables) -> list[Place]:
    elsewhere, _ = same_file_system(mount, at, tables.by_namespace)
    return [at, *(e.place for e in elsewhere if e.root == mount.root)]


def _other_places(mount: Mount | None, at: Place, target: MountState, tables: Tables) -> list[Place]:
    return [p for p in _all_places(mount, at, tables) if p != target.place] if mount is not None else []


def _look(
    settings: Settings, mount: Mount | None, entry: Document, target: MountState | None, tables: Tables
) -> tuple[Evidence | None, Radius | None]:
    """What can be found out about why it fails, and what hangs on it; None where no mount stands, or should."""
    host = tables.by_namespace[HOST].mounts
    if target is not None and target.status == "missing":
        mount = target.mount
        points: tuple[str, ...] = (target.place.mount_point,)
        questions = [question_of_absent(superblock_of(mount), target.place, "", host)]
    elif mount is not None and entry.get("device") == mount.device:
        points = tuple(m.mount_point for m in host if (m.device, m.fstype) == (mount.device, mount.fstype))
        questions = [question_of(target, (), host)] if target is not None else []
    else:
        return None, None
    containers = [table.container for table in tables.by_namespace.values() if table.container is not None]
    wanted = radius.Wanted.of(superblock_of(mount), points, host)
    served = Served()

    async def look() -> tuple[list[Evidence], list[Radius]]:
        children = Children()
        try:
            return await asyncio.gather(
                gather(
                    questions,
                    children=children,
                    reader=FileReader(children),
                    mounts=host,
                    proc=settings.paths.proc,
                    fstab=settings.paths.fstab,
                ),
                radius.look(
                    [wanted],
                    containers,
                    children,
                    settings.paths,
                    limit=radius.PATIENT,
                    allowance=radius.ALLOWANCE,
                    questions=questions,
                    served=served,
                ),
            )
        finally:
            children.close()

    evidence, [hanging] = asyncio.run(look())
    for found in evidence:
        return found._replace(daemons=served.by(found.question)), hanging
    return None, hanging


def _radius(found: Radius, notes: list[str]) -> Document:
    """What hangs on it."""
    notes += found.unknown
    notes += [f"what hangs on it may be more: {found.unseen}"] if found.unseen else []
    return {
        "line": line(found),
        "complete": not (found.unknown or found.unseen),
        "storages": [printable(s) for s in found.storages],
        "guests": [
            {
                "id": printable(u.guest.id),
                "type": "vm" if u.guest.is_vm else "ct",
                "name": printable(u.guest.name) or None,
                "how": u.how.lower(),
                "key": u.key or None,
            }
            for u in found.guests
        ],
        "docker": [{"id": printable(d.id), "namespace": d.inside, "old": d.is_old} for d in found.docker],
        "jobs": [printable(job) for job in found.jobs],
        "processes": [
            {
                "pid": p.pid,
                "name": printable(p.name),
                "namespace": p.namespace,
                "unit": printable(p.unit) or None,
                "blocked": p.blocked,
                "uses": p.uses,
            }
            for p in found.processes
        ],
        "users": found.users,
        "blocked": found.blocked,
        "maybe": found.maybe,
    }


def _absent(namespace: str, settings: Settings) -> str:
    who = container_name(namespace)
    if not settings.watch.containers:
        return f"{who}: containers are not looked into: [watch] containers is false in the configuration"
    return f"{who}: no such container runs, or it cannot be seen from here (run it as root, on the host)"


def _history(settings: Settings, entry: Document, at: Place, tables: Tables, notes: list[str]) -> list[Document]:
    path = settings.state.path
    if may_hang(path, tables.by_namespace[HOST].mounts):
        return []
    try:
        past = load_history(path, at)
    except StoreError as e:
        notes.append(str(e))
        return []
    return [
        {
            "at": utc(p.at),
            "kind": printable(p.kind),
            "change": printable(p.change),
            "source": printable(p.source),
            "error": printable(p.error) or None,
        }
        for p in past
    ]
