"""`watcher hidden`: how much lies in the directories that mounts stand on, as a document and as a table.

What is mounted there is never touched: a child clones the mount underneath. Where that is itself a remote or FUSE
mount nobody looks: it could hang.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from time import monotonic, time
from typing import Any, NamedTuple

from watcher.children import Child, Children
from watcher.configfile import may_hang_on
from watcher.core.entries import inside, target_bytes, utc
from watcher.core.explain import Address, base_of
from watcher.core.mountinfo import Tree, mount_of
from watcher.core.places import MAX_PLACES
from watcher.core.wording import container_name, count, name, place_order, printable, size
from watcher.model import HOST, Container, Mount, Place, TableRead
from watcher.probing import beneath
from watcher.rules import rules_of
from watcher.settings import Settings
from watcher.tables import read_tables

Document = dict[str, Any]

SECONDS = 5.0  # for one directory
GRACE = 2.0  # seconds more for its answer to come
MAX_ENTRIES = 1_000_000  # of one directory
AT_ONCE = 4  # namespaces
PATIENCE = 60.0  # seconds for all directories of one namespace
ANSWER_LIMIT = 1 << 16  # bytes of one answer

# Nobody's files lie in these.
_NO_FILES = frozenset(("proc", "sysfs", "cgroup2", "cgroup", "devpts", "securityfs", "debugfs", "tracefs", "bpf"))
_NO_RIGHTS = "needs root (CAP_SYS_ADMIN)"
_REMOTE = "the directory lies on a remote or FUSE mount itself, which is not asked"


class Job(NamedTuple):
    """A directory to be looked into."""

    place: Place
    mount: Mount | None  # that stands on it; None: none does, and the directory lies open
    base: Mount  # that it lies in
    container: Container | None


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
        for place, mount, table in _wanted(settings, asked, tables.by_namespace, rows, notes):
            base = base_of(mount, table.mounts) if mount is not None else mount_of(place.mount_point, table.mounts)
            if base is None or base.fstype in _NO_FILES:
                if asked:
                    rows.append(_failed(place, mount, base, table.container, "there is no directory of files under it"))
            elif _is_risky(base, table, settings):
                rows.append(_failed(place, mount, base, table.container, _REMOTE))
            else:
                jobs.append(Job(place, mount, base, table.container))
        rows += await _look(jobs, children, settings.paths.proc)
        rows.sort(key=lambda row: (-(row["bytes"] or 0), -(row["files"] or 0)))
        return {
            "checked_at": utc(time()),
            "places": rows,
            "notes": [printable(note) for note in notes],
        }
    finally:
        children.close()


def _wanted(
    settings: Settings,
    asked: Sequence[Address],
    tables: Mapping[str, TableRead],
    rows: list[Document],
    notes: list[str],
) -> Iterator[tuple[Place, Mount | None, TableRead]]:
    """The directories, each once; `rows` gets what cannot be one, `notes` what is left out."""
    chosen = rules_of(settings).watched
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


def _is_risky(base: Mount, table: TableRead, settings: Settings) -> bool:
    """Whether a walk to it, or a look into it, could wait for a server."""
    chosen = rules_of(settings).watched
    way = (base, *Tree(table.mounts).ancestors(base))
    return any(may_hang_on(m.fstype) or chosen.watches(table.namespace, m) for m in way)


# ---- the child


async def _look(jobs: Sequence[Job], children: Children, proc: str) -> list[Document]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def of_namespace(namespace: str, mine: list[Job]) -> list[Document]:
        async with limit:
            return await look_into(mine, children)

    ordered = sorted(jobs, key=lambda job: place_order(job.place))
    groups = [(ns, list(mine)) for ns, mine in groupby(ordered, key=lambda job: job.place.namespace)]
    return [row for rows in await asyncio.gather(*(of_namespace(*group) for group in groups)) for row in rows]


async def look_into(jobs: list[Job], children: Children) -> list[Document]:
    """One namespace's; a directory that hangs costs its time, and the others get another child."""
    rows: list[Document] = []
    ends = monotonic() + PATIENCE
    while jobs:
        container = jobs[0].container
        pid, start = (container.init_pid, container.start_time) if container is not None else (0, 0)
        try:
            child = await children.spawn([sys.executable, "-I", "-S", str(beneath.__file__), str(pid), str(start)])
        except OSError as e:
            return rows + [_of(job, f"no child can be started: {e.strerror}") for job in jobs]
        fields = [
            (str(n), str(job.base.mount_id), job.base.mount_point, job.place.mount_point, str(int(1000 * SECONDS)))
            for n, job in enumerate(jobs)
        ]
        text = "".join("".join(f"{field}\0" for field in (*job, str(MAX_ENTRIES))) for job in fields)
        child.write(text.encode("utf-8", "surrogateescape"))
        child.close_stdin()
        try:
            answers = _Answers(child)
            for done, job in enumerate(jobs):
                if monotonic() > ends:
                    return rows + [_of(left, f"not looked at within {PATIENCE:g} s: name it") for left in jobs[done:]]
                answer = await answers.next()
                if answer is None or answer.get("id") != str(done):
                    rows.append(_of(job, f"no answer from its disk within {SECONDS + GRACE:g} s"))
                    jobs = jobs[done + 1 :]
                    break
                rows.append(_counted(job, answer))
            else:
                jobs = []
        finally:
            child.kill()
    return rows


class _Answers:
    """The lines of a child."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._rest = b""

    async def next(self) -> dict[str, Any] | None:
        """None if none comes in time, or none more."""
        try:
            async with asyncio.timeout(SECONDS + GRACE):
                while b"\n" not in self._rest:
                    chunk = await self._child.read()
                    if not chunk or len(self._rest) > ANSWER_LIMIT:
                        return None
                    self._rest += chunk
        except TimeoutError:
            return None
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else None


def _counted(job: Job, answer: Mapping[str, Any]) -> Document:
    if "step" in answer:
        return _of(job, _trouble(str(answer["step"]), int(answer["errno"]), job))
    return _of(job, "") | {
        "files": answer["files"],
        "bytes": answer["bytes"],
        "names": [printable(n) for n in answer["names"]],
        "cut": answer["cut"] or None,
    }


def _trouble(step: str, code: int, job: Job) -> str:
    words = os.strerror(code)
    if code == errno.EPERM and step in ("clone", "enter"):
        return _NO_RIGHTS
    if step == "enter":
        return f"its container cannot be entered: {words}"
    if step == "clone" and code == errno.ENOSYS:
        return "the kernel is too old: open_tree(2) came with Linux 5.2"
    if step == "clone" and code == errno.EINVAL:
        return "the kernel does not let it be looked into: mounts in this container are locked to what lies under them"
    if step == "other":
        return "another mount stands in its way by now"
    if step == "open" and code == errno.ENOTDIR:
        return "is no directory"
    if code == errno.ENOENT:
        return "there is no such directory" if job.mount is None else "its directory has been removed"
    return f"cannot be looked into: {words}"


# ---- rows


def _of(job: Job, error: str) -> Document:
    return _failed(job.place, job.mount, job.base, job.container, error)


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
        "error": error or None,
    }


# ---- what a person and a script get of it


def exit_code(document: Document) -> int:
    """0 nothing is hidden, 1 something is, or could not be looked for, 3 nothing could, for want of rights."""
    places = document["places"]
    if places and all(row["error"] == _NO_RIGHTS for row in places):
        return 3
    return 1 if any(row["error"] or (row["files"] and row["mount"]) for row in places) else 0


def lines(document: Document) -> Iterator[str]:
    """For people, what hides most first."""
    rows = document["places"]
    if not rows:
        yield "No remote or FUSE mounts here"
        return
    told = [row for row in rows if row["files"] or row["error"] or row["mount"] is None or row["cut"]]
    empty = len(rows) - len(told)
    for row in told:
        yield f"{_where(row)}: {_said(row)}"
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
        return f"nothing is mounted here; {amount} in the directory itself{names}"
    return f"hidden under {row['mount']['source']}: {amount}{names}"


def _names(names: Iterable[str], files: int) -> str:
    shown = [name(n, 40) for n in names]
    return f": {', '.join(shown)}{' …' if len(shown) == beneath.MAX_NAMES else ''}" if shown and files else ""


def _where(row: Document) -> str:
    if row["namespace"] == HOST:
        return str(row["target"])
    return f"{container_name(row['namespace'], row['lxc_name'] or '')} {row['target']}"
