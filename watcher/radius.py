"""Gathers what hangs on a mount, through a child with a time limit. What came by then counts."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from watcher import procfs
from watcher.children import Child, Children, environment
from watcher.core import radius as core
from watcher.core.lxc import valid_id
from watcher.core.radius import Guest, Process, Radius, Storage
from watcher.model import HOST, Mount, TableRead
from watcher.probing import child as probe_child
from watcher.settings import Paths
from watcher.sources import users

LIMIT = 3.0  # seconds
LINE_LIMIT = 1 << 20  # bytes
TOTAL = 1 << 25  # bytes
# Ours hang in it as well, and are of no interest.
_OWN = "\n".join(str(Path(probe_child.__file__).with_name(name)) for name in ("child.py", "inside.py"))
_CUT = "there are too many processes to look for all that have files open on it; those that wait in it are all there"
_NO_END = "what is configured on it could not all be read in time"


async def look(mount: Mount, tables: Mapping[str, TableRead], children: Children, paths: Paths) -> Radius:
    """What hangs on this mount, wherever its file system stands. Never raises for what cannot be seen: it says so."""
    argv = [sys.executable, "-I", "-S", str(users.__file__), paths.proc, mount.device, mount.fstype, _OWN]
    try:
        child = await children.spawn([*argv, *paths.lxc_config], environment(os.environ))
    except OSError as e:
        return Radius(unknown=(f"what hangs on it cannot be looked for: {e.strerror}",))
    child.close_stdin()
    found: dict[str, Any] = {}
    there: list[Storage] = []
    guests: list[Guest] = []
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                await _read(child, found, there, guests)
    finally:
        child.kill()
    points = [m.mount_point for m in tables[HOST].mounts if (m.device, m.fstype) == (mount.device, mount.fstype)]
    storages, using = core.on_mount(points, there, guests)
    return Radius(
        storages=tuple(storages),
        guests=tuple(using),
        processes=_processes(found, tables, paths.proc),
        users=int(found.get("users", 0)),
        blocked=int(found.get("blocked", 0)),
        maybe=int(found.get("maybe", 0)),
        unknown=(*([_CUT] if found.get("cut") else []), *([] if found.get("end") else [_NO_END])),
    )


async def _read(child: Child, found: dict[str, Any], there: list[Storage], guests: list[Guest]) -> None:
    rest, total = b"", 0
    while chunk := await child.read():
        rest, total = rest + chunk, total + len(chunk)
        *lines, rest = rest.split(b"\n")
        if len(rest) > LINE_LIMIT or total > TOTAL:
            return
        for line in lines:
            said = json.loads(line)
            if "file" not in said:
                found.update(said)
                continue
            _take(str(said["file"]), b64decode(said["text"]), there, guests)


def _take(path: str, text: bytes, there: list[Storage], guests: list[Guest]) -> None:
    directory, _, leaf = path.rpartition("/")
    if leaf == "storage.cfg":
        there += core.storages(text)
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
    old = guests[known]
    guests[known] = old._replace(
        name=one.name or old.name, volumes=old.volumes + one.volumes, paths=old.paths + one.paths
    )


def _processes(found: Mapping[str, Any], tables: Mapping[str, TableRead], proc: str) -> tuple[Process, ...]:
    listed = found.get("processes", [])
    spaces: dict[str, str] = {}
    for namespace, table in tables.items() if listed else ():
        pid: int | str = table.container.init_pid if table.container is not None else "self"
        with suppress(OSError):
            spaces[f"mnt:[{procfs.namespace(proc, pid, 'mnt')}]"] = namespace
    return tuple(
        Process(
            int(p["pid"]),
            str(p["comm"]),
            spaces.get(str(p["mnt"]), "other"),
            blocked=bool(p["blocked"]),
            uses=bool(p["uses"]),
        )
        for p in listed
    )
