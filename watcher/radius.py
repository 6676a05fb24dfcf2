"""Gathers what hangs on mounts, through one child with a time limit. What came by then counts."""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any, NamedTuple

from watcher import procfs
from watcher.children import Child, Children, environment, framed, script
from watcher.core import radius as core
from watcher.core.evidence import Question, unit_of
from watcher.core.lxc import valid_id
from watcher.core.mountinfo import is_below
from watcher.core.radius import Docker, Guest, Process, Radius, Storage
from watcher.core.served import Served
from watcher.model import HOST, Container, Mount, Superblock
from watcher.probing import child as probe_child
from watcher.probing.evidence import CONNECTIONS
from watcher.settings import Paths

LIMIT = 3.0  # seconds
LINE_LIMIT = 1 << 20  # bytes
TOTAL = 1 << 25  # bytes
PATIENT = 8.0  # the same where a person waits for it
ALLOWANCE = 20.0  # and how many times as much of the processor it may take then
FOR_PROCESSES = 0.6  # of the time; the rest is for the configurations
FOR_CONFIGURATIONS = 3.0  # seconds at most: one that hangs will not come later
USERS = str(Path(__file__).with_name("sources") / "users.py")  # not to be imported here: it stands alone
# Ours hang in it as well, and are of no interest.
_OWN = [str(Path(probe_child.__file__).with_name(name)) for name in ("child.py", "inside.py")]
_CUT = "there are too many processes to look for all that have files open on it; those that wait in it are all there"
_LOST = "there are too many processes to look for all that wait in it or have files open on it"
_NO_END = "what is configured on it could not all be read in time"
_NOT_ROOT = "only root sees all"
_OUT_OF_SIGHT = "some processes cannot be seen"


class Wanted(NamedTuple):
    """A file system, and where it stands on the host, or should."""

    device: str  # "major:minor"; "" of what is not mounted: nobody uses that
    fstype: str
    points: tuple[str, ...]
    source: str = ""
    others: tuple[str, ...] = ()  # where other mounts stand below these points

    @classmethod
    def of(cls, superblock: Superblock, points: Iterable[str], mounts: Iterable[Mount]) -> Wanted:
        """`mounts`: the host's table; `points`: where it stands there, or should."""
        where, like = tuple(dict.fromkeys(points)), (superblock.device, superblock.fstype)
        others = (m.mount_point for m in mounts if (m.device, m.fstype) != like)
        below = tuple(other for other in others if any(is_below(other, point) for point in where))
        return cls(superblock.device, superblock.fstype, where, superblock.source, below)


async def look(
    wanted: Sequence[Wanted],
    containers: Iterable[Container],
    children: Children,
    paths: Paths,
    *,
    limit: float = LIMIT,
    allowance: float = 1.0,
    questions: Sequence[Question] = (),
    served: Served | None = None,
) -> list[Radius]:
    """What hangs on each of these, wherever it stands. Never raises for what cannot be seen: it says so.

    `containers`: those that run, to name processes by. `allowance`: how many times as much of the processor it may
    take as when an incident opens. `questions`: about FUSE mounts, of which on the same way it is
    found out who serves them: for `served`.
    """
    try:
        child = await children.spawn(script(USERS), environment(os.environ))
    except OSError as e:
        return [Radius(unknown=(f"what hangs on it cannot be looked for: {e.strerror}",)) for _ in wanted]
    said = _Said([], [], [], [], served or Served(), {})
    try:
        child.write(framed(_fields(wanted, questions, paths, limit * FOR_PROCESSES, allowance)))
        child.close_stdin()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit) as patience:
                await _read(child, said, patience)
    finally:
        child.kill()
    spaces = _spaces(containers, paths.proc) if any(f["processes"] for f in said.found) else {}
    return [_radius(one, said.found[n] if n < len(said.found) else {}, said, spaces) for n, one in enumerate(wanted)]


def _fields(
    wanted: Sequence[Wanted], questions: Sequence[Question], paths: Paths, seconds: float, allowance: float
) -> Iterator[str | int | float]:
    """As `sources.users` reads them."""
    yield from ("proc", paths.proc, "seconds", seconds, "allowance", allowance)
    yield from ("waiting", CONNECTIONS, "file", paths.storage)
    for file in _OWN:
        yield from ("own", file)
    for one in wanted:
        yield from ("wanted", one.device, one.fstype, one.source)
    for q in questions:
        if q.connection is not None and not q.gone:
            first, second = (*q.likely, "")[:2]
            yield from ("fuse", q.connection, q.place.mount_point, q.init_pid, first, second)
    for directory in paths.lxc_config:
        yield from ("directory", directory)


@dataclass
class _Said:
    """What the child has said so far."""

    found: list[dict[str, Any]]  # of each that is wanted
    storages: list[Storage]
    guests: list[Guest]
    running: list[str]  # UPIDs of backups
    served: Served
    links: dict[str, str]  # of paths that are configured, where they lead
    has_ended: bool = False
    all_seen: bool = True


async def _read(child: Child, said: _Said, patience: asyncio.Timeout) -> None:
    """Until it has come to its end."""
    rest, total = b"", 0
    while chunk := await child.read():
        rest, total = rest + chunk, total + len(chunk)
        *lines, rest = rest.split(b"\n")
        if len(rest) > LINE_LIMIT or total > TOTAL:
            return
        for line in lines:
            words = json.loads(line)
            if isinstance(words, list):
                said.served.take(words)
            elif "end" in words:
                said.has_ended, said.all_seen = True, bool(words["seen"])
                return
            elif "file" in words:
                _take(str(words["file"]), b64decode(words["text"]), said.storages, said.guests)
            elif "link" in words:
                said.links[str(words["link"])] = str(words["to"])
            elif "running" in words:
                said.running.extend(map(str, words["running"]))
                soon = asyncio.get_running_loop().time() + FOR_CONFIGURATIONS
                patience.reschedule(min(patience.when() or soon, soon))
            else:
                said.found.append(words)


def _radius(one: Wanted, found: Mapping[str, Any], said: _Said, spaces: Mapping[str, str]) -> Radius:
    storages, using = core.on_mount(one.points, said.storages, said.guests, one.others, said.links)
    jobs = core.jobs_on(found.get("jobs", ()), said.running, using, said.guests)
    leads = ((said.links.get(each.path, each.path), each.id) for each in said.storages if each.is_mounted)
    return Radius(
        storages=tuple(storages),
        mounted=tuple((path, ident) for path, ident in leads if path in one.points),
        guests=tuple(using),
        processes=tuple(
            Process(
                int(p["pid"]),
                str(p["comm"]),
                spaces.get(str(p["mnt"]), "other"),
                blocked=bool(p["blocked"]),
                uses=bool(p["uses"]),
                unit=unit(str(p["cgroup"])),
            )
            for p in found.get("processes", ())
        ),
        users=int(found.get("users", 0)),
        blocked=int(found.get("blocked", 0)),
        maybe=int(found.get("maybe", 0)),
        docker=tuple(
            Docker(str(d), f"ct:{ctid}" if ctid else HOST, bool(old)) for d, ctid, old in found.get("docker", ())
        ),
        jobs=tuple(jobs),
        unknown=(*_unlooked(found), *([] if said.has_ended else [_NO_END])),
        unseen="" if said.all_seen else _OUT_OF_SIGHT if os.geteuid() == 0 else _NOT_ROOT,
    )


def unit(cgroup: str) -> str:
    """The service of the host's that a process belongs to, for systemctl(1)."""
    unit, is_systems, inside = unit_of(cgroup)
    return unit if is_systems and not inside and unit.endswith(".service") else ""


def _unlooked(found: Mapping[str, Any]) -> list[str]:
    return [_LOST] if found.get("lost") else [_CUT] if found.get("cut") else []


def _take(path: str, text: bytes, there: list[Storage], guests: list[Guest]) -> None:
    directory, _, leaf = path.rpartition("/")
    if leaf == "storage.cfg":
        there += core.storages(text, gethostname().partition(".")[0])
        return
    ident = leaf.removesuffix(".conf") if leaf != "config" else directory.rpartition("/")[2]
    is_vm = directory.endswith("/qemu-server")
    if valid_id(os.fsencode(ident)) is None:
        return
    one = core.guest(ident, is_vm, text)
    # PVE writes a configuration of its own from which LXC's is made: they are one guest.
    known = next((n for n, g in enumerate(guests) if (g.id, g.is_vm) == (ident, is_vm)), None)
    if known is None:
        guests.append(one)
        return
    guests[known] = core.joined(guests[known], one)


def _spaces(containers: Iterable[Container], proc: str) -> dict[str, str]:
    """Whose each mount namespace is, by what the links in /proc call it."""
    spaces: dict[str, str] = {}
    inits: list[tuple[int | str, str]] = [("self", HOST), *((c.init_pid, c.namespace) for c in containers)]
    for pid, namespace in inits:
        with suppress(OSError):
            spaces[f"mnt:[{procfs.namespace(proc, pid, 'mnt')}]"] = namespace
    return spaces
