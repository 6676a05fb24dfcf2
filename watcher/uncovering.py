"""`watcher hidden`: how much lies in the directories that mounts stand on, as a document and as a table.

What is mounted there is never touched: a child clones the mount underneath. Where that is itself a remote or FUSE
mount nobody looks: it could hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from time import time
from typing import Any

from watcher.children import Children
from watcher.core.entries import inside, target_bytes
from watcher.core.explain import Address
from watcher.core.filters import Filter
from watcher.core.mountinfo import Tree, mount_of
from watcher.core.places import MAX_PLACES
from watcher.core.times import utc
from watcher.core.wording import container_name, count, name, place_in_full, place_order, printable, size
from watcher.expectations import missing_now
from watcher.model import HOST, Container, Mount, Place, TableRead
from watcher.probing.beneath import MAX_NAMES
from watcher.probing.covered import NO_DIRECTORY, NO_RIGHTS, Found, Job, job_of, look_into
from watcher.rules import rules_of
from watcher.settings import Settings
from watcher.tables import read_tables

Document = dict[str, Any]

MAX_ENTRIES = 1_000_000  # of one directory
AT_ONCE = 4  # namespaces


def uncover(settings: Settings, asked: Sequence[Address]) -> Document:
    """What lies under all watched mounts, or under those that the paths lie on. Raises OSError."""
    return asyncio.run(_uncover(settings, asked))


async def _uncover(settings: Settings, asked: Sequence[Address]) -> Document:
    children = Children()
    try:
        tables = await read_tables(settings, children)
        rows: list[Document] = []
        jobs: list[Job] = []
        notes = list(tables.notes)
        chosen = rules_of(settings).watched
        missing = await _missing(settings, tables.by_namespace, children, notes) if not asked else {}
        for place, mount, table in _wanted(chosen, asked, missing, tables.by_namespace, rows, notes):
            job, base, why = job_of(place, mount, table, chosen, expected_by=missing.get(place, ""))
            if job is not None:
                jobs.append(job)
            elif asked or why != NO_DIRECTORY:
                rows.append(_failed(place, mount, base, table.container, why))
        # Nor has what stands on a single file a directory under it.
        rows += [row for row in await _look(jobs, children) if asked or row["error"] != NO_DIRECTORY]
        rows.sort(key=lambda row: (-(row["bytes"] or 0), -(row["files"] or 0)))
        return {
            "checked_at": utc(time()),
            "places": rows,
            "notes": [printable(note) for note in notes],
        }
    finally:
        children.close()


async def _missing(
    settings: Settings, tables: Mapping[str, TableRead], children: Children, notes: list[str]
) -> dict[Place, str]:
    """What should be mounted and is not, as the service has it; by whom it is wanted."""
    found, problems = await missing_now(settings, tables, children)
    notes += problems
    return {place: by for place, (_, by) in found.items()}


def _wanted(
    chosen: Filter,
    asked: Sequence[Address],
    missing: Iterable[Place],
    tables: Mapping[str, TableRead],
    rows: list[Document],
    notes: list[str],
) -> Iterator[tuple[Place, Mount | None, TableRead]]:
    """The directories, each once; `rows` gets what cannot be one, `notes` what is left out."""
    if asked:
        for address in dict.fromkeys(asked):
            place, table = Place(*address), tables.get(address.namespace)
            if table is None:
                rows.append(_failed(place, None, None, None, "no such container runs, or it cannot be seen from here"))
                continue
            mount = mount_of(address.path, table.mounts)
            if mount is not None and (mount.mount_point == address.path or chosen.watches(address.namespace, mount)):
                yield Place(address.namespace, mount.mount_point), mount, table
            else:
                yield place, None, table
        return
    for namespace, table in tables.items():
        tree, number = Tree(table.mounts), 0
        for mount in table.mounts:
            if chosen.watches(namespace, mount) and tree.is_visible(mount):
                number += 1
                if namespace == HOST or number <= MAX_PLACES:
                    yield Place(namespace, mount.mount_point), mount, table
        if namespace != HOST and number > MAX_PLACES:
            who = container_name(namespace)
            notes.append(
                f"{who}: {count(number - MAX_PLACES, 'more mount')} not looked under, since there are too many"
            )
    for place in missing:
        yield place, None, tables[place.namespace]


# ---- the child


async def _look(jobs: Sequence[Job], children: Children) -> list[Document]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def of_namespace(mine: list[Job]) -> list[Document]:
        async with limit:
            found = await look_into(mine, children, entries=MAX_ENTRIES)
        return [_counted(*one) for one in zip(mine, found, strict=True)]

    ordered = sorted(jobs, key=lambda job: place_order(job.place))
    groups = [list(mine) for _, mine in groupby(ordered, key=lambda job: job.place.namespace)]
    return [row for rows in await asyncio.gather(*map(of_namespace, groups)) for row in rows]


# ---- rows


def _counted(job: Job, found: Found) -> Document:
    if found.is_absent and job.expected_by:
        found = Found()  # nothing is hidden, and what mounts it may make its directory, too
    row = _failed(job.place, job.mount, job.base, job.container, found.error)
    row["expected_by"] = printable(job.expected_by) or None
    if found.error:
        return row
    return row | {
        "files": found.files,
        "bytes": found.bytes,
        "names": [printable(n) for n in found.names],
        "cut": found.cut or None,
    }


def _failed(place: Place, mount: Mount | None, base: Mount | None, container: Container | None, error: str) -> Document:
    def short(m: Mount | None) -> Document | None:
        if m is None:
            return None
        return {"source": printable(m.source), "target": printable(m.mount_point), "fstype": printable(m.fstype)}

    return {
        "namespace": printable(place.namespace),
        "target": printable(place.mount_point),
        **target_bytes(place.mount_point),
        **inside(place, container),
        "mount": short(mount),
        "lies_in": short(base),
        "files": None,
        "bytes": None,
        "names": [],
        "cut": None,
        "expected_by": None,
        "error": error or None,
    }


# ---- what a person and a script get of it


def exit_code(document: Document) -> int:
    """0 nothing is hidden, 1 something is, or could not be looked for, 3 nothing could, for want of rights."""
    places = document["places"]
    if places and all(row["error"] == NO_RIGHTS for row in places):
        return 3
    hidden = any(row["error"] or (row["files"] and (row["mount"] or row["expected_by"])) for row in places)
    return 1 if hidden else 0


def lines(document: Document) -> Iterator[str]:
    """For people, what hides most first."""
    rows = document["places"]
    if not rows:
        yield "No remote or FUSE mounts here"
        return
    told = [row for row in rows if row["files"] or row["error"] or row["mount"] is None or row["cut"]]
    empty = len(rows) - len(told)
    for row in told:
        yield f"{place_in_full(row['namespace'], row['target'], row['lxc_name'] or '')}: {_said(row)}"
    if empty:
        yield f"{count(empty, 'mount point')}{' more' if told else ''}: nothing under {'it' if empty == 1 else 'them'}"


def _said(row: Document) -> str:
    if row["error"]:
        return str(row["error"])
    on = row["lies_in"]
    least = "at least " if row["cut"] else ""
    amount = f"{least}{count(row['files'], 'file')}, {size(row['bytes'])} on {on['source']} ({on['fstype']})"
    names = _names(row["names"], row["files"])
    if row["mount"] is None:
        though = f", though {name(row['expected_by'])} wants it" if row["expected_by"] else ""
        return f"nothing is mounted here{though}; {amount} in the directory itself{names}"
    return f"hidden under {row['mount']['source']}: {amount}{names}"


def _names(names: Iterable[str], files: int) -> str:
    shown = [name(n, 40) for n in names]
    return f": {', '.join(shown)}{' …' if len(shown) == MAX_NAMES else ''}" if shown and files else ""
