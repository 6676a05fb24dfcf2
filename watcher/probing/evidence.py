"""Finds out why a mount fails, without touching it: a child with a time limit that looks around (`asking`).

Decides nothing, and words nothing: what to ask and what it means is `core.evidence`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from watcher.children import Children, environment, framed, script
from watcher.core import evidence
from watcher.core.evidence import Endpoint, Evidence, Findings, Origin, Port, Question
from watcher.core.mountstats import NFS
from watcher.core.units import unit_name
from watcher.model import HOST, Mount
from watcher.reading import FileReader

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
    file may be read. Who serves FUSE mounts is not asked: the search for who
    uses them finds that (`radius.look`).
    """
    if not questions:
        return []
    findings, text = _Findings(_also_from_host(questions, mounts)), ""
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
        child = await children.spawn(script(_ASKING), environment(os.environ))
    except OSError:
        return
    try:
        child.write(framed(_fields(questions, findings.from_host, proc)))
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


def _also_from_host(questions: Sequence[Question], mounts: Sequence[Mount]) -> frozenset[Endpoint]:
    """Servers of containers' own mounts to which the host connects, too: `evidence.hosts_own`.

    It tells whether the server is away, or the container's network.
    """
    theirs = {endpoint for q in questions if _network_of(q) for endpoint in q.endpoints}
    return evidence.hosts_own(mounts) & theirs if theirs else frozenset()


def _fields(questions: Sequence[Question], from_host: frozenset[Endpoint], proc: str) -> Iterator[str | int]:
    """As `asking` reads them."""
    yield proc
    ports = {(*endpoint, _network_of(q)) for q in questions for endpoint in q.endpoints}
    for port in sorted(ports | {(*endpoint, 0) for endpoint in from_host}):
        yield from ("port", *port)
    for pid in sorted({_network_of(q) for q in questions if q.superblock.fstype in NFS and not q.gone}):
        yield from ("stats", pid)
    for number in sorted({q.connection for q in questions if q.connection is not None and not q.gone}):
        yield from ("waiting", CONNECTIONS, number)
    of_host = [q for q in questions if q.place.namespace == HOST and q.origin is not Origin.AUTOMOUNT]
    for unit in sorted({unit_name(q.place.mount_point) for q in of_host}):
        yield from ("unit", unit)


class _Findings:
    """What the child has said so far."""

    def __init__(self, from_host: frozenset[Endpoint]) -> None:
        """`from_host`: what of containers' servers is asked from the host, too."""
        self.from_host = from_host
        self._ports: dict[tuple[str, int, int], Port] = {}
        self._waiting: dict[int, int] = {}
        self._stats: dict[int, str] = {}
        self._units: set[str] = set()

    def take(self, line: bytes) -> bool:
        """Whether it was the last word."""
        match json.loads(line):
            case ["port", str(address), int(port), int(pid), str(result)]:
                self._ports[address, port, pid] = Port(result)
            case ["waiting", int(number), int(count)]:
                self._waiting[number] = count
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
        shared = [endpoint for endpoint in question.endpoints if network and endpoint in self.from_host]
        of_host = [(endpoint, self._ports.get((*endpoint, 0))) for endpoint in shared]
        stats: Mapping[int, str] = self._stats if question.superblock.fstype in NFS else {}
        return Findings(
            ports=tuple((endpoint, port) for endpoint, port in asked if port is not None),
            from_host=tuple((endpoint, port) for endpoint, port in of_host if port is not None),
            waiting=self._waiting.get(question.connection) if question.connection is not None else None,
            unanswered=evidence.unanswered(stats.get(network, ""), question.place.mount_point),
            has_unit=unit_name(question.place.mount_point) in self._units,
        )
