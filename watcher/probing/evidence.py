"""Finds out why a mount fails, without touching it: a child with a time limit that looks around (`asking`).

Decides nothing, and words nothing: what to ask and what it means is `core.evidence`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from watcher.children import Children, environment
from watcher.configfile import FileReader
from watcher.core import evidence
from watcher.core.evidence import Daemon, Evidence, Findings, Origin, Port, Question
from watcher.core.mountstats import NFS
from watcher.model import HOST, Mount

LIMIT = 4.0  # seconds for the child: a connection has one of them, starting it on a slow machine another
MAX_OUTPUT = 1 << 20  # bytes of what it says
CONNECTIONS = "/sys/fs/fuse/connections"  # fusectl

_ASKING = str(Path(__file__).with_name("asking.py"))


async def gather(
    questions: Sequence[Question],
    *,
    children: Children,
    reader: FileReader,
    mounts: Sequence[Mount],
    proc: str = "/proc",
    fstab: str = "/etc/fstab",
    limit: float = LIMIT,
) -> list[Evidence]:
    """What can be found out within `limit` seconds; of what cannot be, the tables' own evidence. Never raises OSError.

    In the order of the questions, with one child for all of them. `mounts`: the host's table, which tells where a
    file may be read.
    """
    findings, text = _Findings(), ""
    try:
        async with asyncio.timeout(limit):
            await _ask(children, questions, proc, findings)
    except TimeoutError:
        pass  # what it has said by now counts
    try:
        async with asyncio.timeout(limit):
            text = (await reader.read(fstab, mounts)).decode("utf-8", "surrogateescape")
    except OSError:  # TimeoutError, too
        pass
    return [evidence.assemble(q, findings.of(q), text) for q in questions]


async def _ask(children: Children, questions: Sequence[Question], proc: str, findings: _Findings) -> None:
    """Until the child has said its last word."""
    try:
        child = await children.spawn([sys.executable, "-I", "-S", _ASKING], environment(os.environ))
    except OSError:
        return
    try:
        child.write(json.dumps(_wanted(questions, proc)).encode())
        child.close_stdin()
        rest, size = b"", 0
        while size < MAX_OUTPUT and (chunk := await child.read()):
            size += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if any(findings.take(line) for line in lines):
                return
    finally:
        child.kill()


def _network_of(question: Question) -> int:
    """A process in whose network namespace the file system's client is; 0: ours."""
    return question.init_pid if question.place.namespace != HOST else 0


def _wanted(questions: Sequence[Question], proc: str) -> dict[str, Any]:
    return {
        "proc": proc,
        "connections": CONNECTIONS,
        "ports": sorted({(*endpoint, _network_of(q)) for q in questions for endpoint in q.endpoints}),
        "stats": sorted({_network_of(q) for q in questions if q.superblock.fstype in NFS}),
        "fuse": [
            [q.connection, q.place.mount_point, q.init_pid, q.likely]
            for q in questions
            if q.connection is not None and not q.gone
        ],
        "units": sorted(
            {evidence.mount_unit(q.place.mount_point) for q in questions if q.place.namespace == HOST}
            if any(q.origin is Origin.UNKNOWN for q in questions)
            else ()
        ),
    }


class _Findings:
    """What the child has said so far."""

    def __init__(self) -> None:
        self._ports: dict[tuple[str, int, int], Port] = {}
        self._waiting: dict[int, int] = {}
        self._holders: dict[int, Daemon] = {}
        self._serves: defaultdict[int, list[int]] = defaultdict(list)  # connection -> pids
        self._untold: set[int] = set()  # pids of which the kernel does not tell what they serve
        self._named: defaultdict[int, list[int]] = defaultdict(list)  # connection -> pids, by their command lines
        self._complete = False
        self._stats: dict[int, str] = {}
        self._units: set[str] = set()

    def take(self, line: bytes) -> bool:
        """Whether it was the last word."""
        match json.loads(line):
            case ["port", str(address), int(port), int(pid), str(result)]:
                self._ports[address, port, pid] = Port(result)
            case ["waiting", int(number), int(count)]:
                self._waiting[number] = count
            case ["holder", int(pid), str(comm), str(cgroup), list(connections)]:
                self._holders[pid] = Daemon(pid, comm, *evidence.unit_of(cgroup))
                for number in connections:
                    self._serves[number].append(pid)
                if not connections:
                    self._untold.add(pid)
            case ["names", int(pid), int(number)]:
                self._named[number].append(pid)
            case ["looked", bool(complete)]:
                self._complete = complete
            case ["stats", int(pid), str(text)]:
                self._stats[pid] = text
            case ["unit", str(name)]:
                self._units.add(name)
            case ["end"]:
                return True
        return False

    def of(self, question: Question) -> Findings:
        network = _network_of(question)
        asked = [(endpoint, self._ports.get((*endpoint, network))) for endpoint in question.endpoints]
        stats: Mapping[int, str] = self._stats if question.superblock.fstype in NFS else {}
        return Findings(
            ports=tuple((endpoint, port) for endpoint, port in asked if port is not None),
            waiting=self._waiting.get(question.connection) if question.connection is not None else None,
            daemons=() if question.gone else self._daemons(question.connection),
            unanswered=evidence.unanswered(stats.get(network, ""), question.place.mount_point),
            has_unit=evidence.mount_unit(question.place.mount_point) in self._units,
        )

    def _daemons(self, connection: int | None) -> tuple[Daemon, ...] | None:
        if connection is None:
            return None
        # A kernel that tells of one tells of all; then who has /dev/fuse open and no connection serves nothing.
        pids = (self._serves if self._serves else self._named).get(connection, [])
        if pids:
            return tuple(self._holders[pid] for pid in sorted(set(pids)) if pid in self._holders)
        return () if self._complete and (self._serves or not self._untold) else None
