"""What should be mounted, read from where it is written: fstab, units, PVE's storages, containers, our own file.

What lies on a local disk is read here and watched through inotify; what does not is read by a child, and polled.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os.path
import shlex
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from socket import gethostname
from time import monotonic

from watcher import procfs
from watcher.children import Children
from watcher.core import bound as binds
from watcher.core import expected as texts
from watcher.core.missing import Missing
from watcher.files import names_in, read_regular
from watcher.model import HOST, Container, Expected, ExpectedRead, Mount, MountState, Place, TableRead
from watcher.reading import BatchReader, File, may_hang, may_hang_on, resolved
from watcher.rules import rules_of
from watcher.settings import Expect, Settings

log = logging.getLogger(__name__)

SWEEP = 60.0  # seconds between two readings that no event asked for
FSTABS_EVERY = 600.0  # seconds until containers' own fstabs are read again, all in one child
DOUBTED_EVERY = 10.0  # seconds between two such readings because something is not mounted any more
GATHER = 0.5  # seconds in which containers that start together are taken together
MAX_UNITS = 1000
PMXCFS = "/usr/bin/pmxcfs"  # Proxmox VE's pve-cluster, which mounts /etc/pve
_SIZE_LIMIT = 1 << 20


class Expectations:
    """Reads all of it, and remembers the last good content of each file."""

    def __init__(self, settings: Settings, children: Children, *, node: str) -> None:
        """`node`: our name in a Proxmox VE cluster."""
        self._node = node
        self._reader = BatchReader(children)
        self._content: dict[File, bytes] = {}
        self._unread: set[File] = set()  # never read yet, though they may be there
        self._fstabs: dict[Container, bytes] = {}
        self._fstabs_read = self._doubts_read = -math.inf
        self._doubted: dict[str, float] = {}  # by namespace: until when
        self._troubles: dict[File, str] = {}
        self.wanted = asyncio.Event()  # read again: a container came, the configuration changed
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """What is written in our own file, and where the others are."""
        self._expect, self._paths = settings.expect, settings.paths
        self._inside, self._patience = settings.watch.containers, settings.watch.missing_after
        self.wanted.set()

    def doubt(self, namespace: str) -> None:
        """Something is not mounted any more in this container: it may be that it is not meant to be.

        Until that is told: who unmounts it may delete its line a little later.
        """
        self._doubted[namespace] = monotonic() + self._patience
        self.wanted.set()

    async def read(self, table: Callable[[], Sequence[Mount]], containers: Sequence[Container]) -> ExpectedRead:
        """All that should be mounted now. `table`: the host's mounts at any time; `containers`: those that run."""
        containers = containers if self._inside else ()
        configs = {c: self._config_files(c.ctid) for c in containers}
        fstab, storage = File(self._paths.fstab), File(self._paths.storage)
        await self._refresh([fstab, storage, *(f for files in configs.values() for f in files)], table)
        await self._read_fstabs(containers)
        mounts = table()
        units, enabled = self._units(mounts)
        host = [
            *(from_settings(each) for each in self._expect),
            *texts.from_fstab(self._content.get(fstab, b"")),
            *texts.from_units([texts.Unit(*unit) for unit in units.items()], enabled),
            *texts.from_storages(self._content.get(storage, b""), self._node),
        ]
        bound_on_host = self._bound_on_host(self._content.get(fstab, b""), mounts)
        host += [e for e in binds.binds_on_host(bound_on_host, host, mounts) if may_hang_on(e.fstype)]
        host = texts.without_masked([_without_links(e, mounts) for e in host], units)
        bound = {c.ctid: list(self._bound(files)) for c, files in configs.items()}
        remote = [m for m in mounts if may_hang_on(m.fstype) and m.fstype != "autofs"]
        inside = [e for c in containers for e in self._inside_fstab(c)]
        expected = (*host, *binds.binds(bound, host, remote), *inside)
        inside_known = frozenset(c.namespace for c in self._fstabs)
        written = frozenset(Place(HOST, resolved(b.target, mounts)) for b in bound_on_host)
        return ExpectedRead(expected, not self._unread, inside_known, written)

    async def events(
        self, mounts: Callable[[], Sequence[Mount]], containers: Callable[[], Sequence[Container]]
    ) -> AsyncGenerator[ExpectedRead, None]:
        """What should be mounted, at first and whenever it is something else."""
        from watcher.sources.inotify import DirectoryChanges, WatchError  # one look does without pyinotify

        last: ExpectedRead | None = None
        while True:
            self.wanted.clear()
            watch: DirectoryChanges | None = None
            local = [d for d in self._directories() if not may_hang(d, mounts())]
            try:
                watch = DirectoryChanges(local, self._is_ours, self.wanted.set)
            except WatchError as e:
                log.debug("%s", e)
            try:
                # Looked at once the watch stands, so that no change falls between the two.
                if (now := await self.read(mounts, containers())) != last:
                    last = now
                    yield now
                try:
                    async with asyncio.timeout(self._until_next()):
                        await self.wanted.wait()
                    await asyncio.sleep(GATHER)
                except TimeoutError:
                    pass
            finally:
                if watch:
                    watch.close()

    def _until_next(self) -> float:
        """Seconds to the next reading that no event asks for."""
        return min(SWEEP, max(0.0, self._doubts_read + DOUBTED_EVERY - monotonic())) if self._doubted else SWEEP

    # ---- the files

    def _directories(self) -> list[str]:
        return list(dict.fromkeys([os.path.dirname(self._paths.fstab), *self._paths.units]))

    def _is_ours(self, entry: str) -> bool:
        return entry == os.path.basename(self._paths.fstab) or entry.endswith((".mount", ".automount"))

    async def _refresh(self, files: Sequence[File], table: Callable[[], Sequence[Mount]]) -> None:
        """Read them again; what cannot be read now is as it was."""
        answers = dict[File, bytes | OSError]()
        # Reading takes seconds, in which others may become remote.
        while remote := _remote([file for file in files if file not in answers], table()):
            answers |= await self._reader.read(remote)
        for file in files:
            if file not in answers:
                answers[file] = _not_mounted(file.path, _local(file.path), was_there=file in self._content)
        self._content = {file: content for file, content in self._content.items() if file in answers}
        self._unread &= answers.keys()
        self._troubles.clear()
        for file, answer in answers.items():
            if isinstance(answer, bytes):
                self._content[file] = answer
            elif isinstance(answer, FileNotFoundError):
                self._content.pop(file, None)
            else:
                if file not in self._content:
                    self._unread.add(file)
                self._troubles[file] = answer.strerror or str(answer)
                continue
            self._unread.discard(file)

    @property
    def problems(self) -> dict[str, str]:
        """By namespace: what could not be read."""
        words = [f"{file.path}: {why}" for file, why in sorted(self._troubles.items())]
        return {HOST: f"what should be mounted is not known in full: {'; '.join(words[:3])}"} if words else {}

    @staticmethod
    def _bound_on_host(fstab: bytes, mounts: Sequence[Mount]) -> list[binds.Bound]:
        return [binds.Bound(resolved(source, mounts), target) for source, target in binds.bound_by_fstab(fstab)]

    def _units(self, mounts: Sequence[Mount]) -> tuple[Mapping[str, bytes], frozenset[str]]:
        """The mount units, of which the earlier directory's counts (systemd.unit(5)), and what some unit wants."""
        units, enabled = dict[str, bytes](), set[str]()
        for directory in self._paths.units:
            if may_hang(directory, mounts):
                continue
            for entry in _names(directory):
                path = f"{directory}/{entry}"
                if not entry.endswith((".mount", ".automount", ".wants", ".requires")) or may_hang(path, mounts):
                    continue  # the latter where it is a link, as that of `systemctl link`
                if entry.endswith((".wants", ".requires")):
                    enabled.update(_names(path))
                elif entry not in units and len(units) < MAX_UNITS:
                    answer = _local(path)
                    if isinstance(answer, bytes):
                        units[entry] = answer
                    elif _is_masked(path):
                        units[entry] = b""
        return units, frozenset(enabled)

    # ---- containers

    def _config_files(self, ctid: str) -> list[File]:
        return [
            File(f"{directory}/{ctid}.conf" if "pve" in directory.split("/") else f"{directory}/{ctid}/config")
            for directory in self._paths.lxc_config
        ]

    def _bound(self, files: Sequence[File]) -> Iterator[tuple[str, str, str]]:
        for file in files:
            content = self._content.get(file, b"")
            for bound in (*binds.bound_by_pve(content), *binds.bound_by_lxc(content)):
                yield bound.source, bound.target, file.path

    async def _read_fstabs(self, containers: Sequence[Container]) -> None:
        """Those of containers that are new or in doubt, and of all now and then: a child each time costs more."""
        now = monotonic()
        self._fstabs = {c: text for c, text in self._fstabs.items() if any(_same(c, other) for other in containers)}
        doubted = self._doubted if now - self._doubts_read >= DOUBTED_EVERY else {}
        new = [c for c in containers if not any(_same(c, known) for known in self._fstabs)]
        if now - self._fstabs_read >= FSTABS_EVERY:
            wanted, self._fstabs_read = list(containers), now
        else:
            wanted = [c for c in containers if c in new or c.namespace in doubted]
        if doubted:
            self._doubts_read = now
            self._doubted = {namespace: until for namespace, until in doubted.items() if until > now}
        if not wanted:
            return
        proc = self._paths.proc
        answers = await self._reader.read([_fstab_of(proc, c) for c in wanted])
        for container in wanted:
            answer = answers[_fstab_of(proc, container)]
            # That it is still the same process proves that it was all along.
            same = procfs.start_time(proc, container.init_pid) == container.start_time
            if isinstance(answer, BlockingIOError) or (container not in new and not same):
                continue  # other containers' files hang: at the next round; or it is over with this one
            if isinstance(answer, bytes) and same:
                self._note_fstab(container, answer)
            elif container in new or isinstance(answer, FileNotFoundError):
                self._note_fstab(container, b"")

    def _note_fstab(self, container: Container, text: bytes) -> None:
        self._fstabs = {c: old for c, old in self._fstabs.items() if not _same(c, container)} | {container: text}

    def _inside_fstab(self, container: Container) -> list[Expected]:
        text = next((text for c, text in self._fstabs.items() if _same(c, container)), b"")
        ctid = container.ctid
        run = f"pct exec {ctid} -- " if ctid.isdecimal() else f"lxc-attach -n {shlex.quote(ctid)} -- "
        return texts.from_fstab(text, namespace=container.namespace, run=run, where="its /etc/fstab")


async def missing_now(
    settings: Settings, tables: Mapping[str, TableRead], children: Children
) -> tuple[dict[Place, tuple[MountState, str]], list[str]]:
    """What is not mounted at this moment, as one look has it, and by whom it is wanted; and what could not be read."""
    expectations = Expectations(settings, children, node=gethostname().partition(".")[0])
    missing, now = Missing(rules_of(settings).watched, after=0.0), monotonic()
    for table in tables.values():
        missing.handle(table, now)
    read = await expectations.read(lambda: tables[HOST].mounts, missing.containers())
    missing.handle(read, now)
    wanted_by = {expected.place: expected.origin for expected in reversed(read.expected)}
    found = {state.place: (state, wanted_by[state.place]) for state in missing.snapshot()}
    return found, [f"{namespace}: {words}" for namespace, words in expectations.problems.items()]


def from_settings(expect: Expect) -> Expected:
    """An [[expect]] as the core takes it."""
    where, slash, rest = expect.mount.partition("/")
    path = texts.path_of(slash + rest) or expect.mount
    namespace = where.removesuffix(":") or HOST
    mend = texts.mount_command(path) if namespace == HOST else ""
    return Expected(Place(namespace, path), expect.source, expect.fstype, "[[expect]]", mend, True, expect.ro)


def _without_links(expected: Expected, mounts: Sequence[Mount]) -> Expected:
    """Where the mount table will have it."""
    if expected.place.namespace != HOST:
        return expected
    return expected._replace(place=Place(HOST, resolved(expected.place.mount_point, mounts)))


def _same(one: Container, other: Container) -> bool:
    """Whether it is the same run of a container, by whatever name it is known."""
    return (one.ctid, one.init_pid, one.start_time) == (other.ctid, other.init_pid, other.start_time)


def _fstab_of(proc: str, container: Container) -> File:
    return File("/etc/fstab", f"{proc}/{container.init_pid}/root")


def _remote(files: Sequence[File], mounts: Sequence[Mount]) -> list[File]:
    return [file for file in files if may_hang(file.path, mounts)]


def _not_mounted(path: str, answer: bytes | OSError, *, was_there: bool) -> bytes | OSError:
    """The answer, but of a file of Proxmox VE's that is absent since their file system is not mounted by now."""
    above, pve, _ = path.rpartition("/pve/")
    if not pve or not isinstance(answer, FileNotFoundError):
        return answer
    if not was_there and isinstance(_local(PMXCFS), FileNotFoundError):
        return answer  # the directory is a leftover
    try:
        is_empty = not names_in(f"{above}/pve")
    except OSError:
        return answer  # none of Proxmox's hosts
    return OSError(errno.ENXIO, f"{above}/pve is not mounted") if is_empty else answer


def _local(path: str) -> bytes | OSError:
    try:
        return read_regular(path, _SIZE_LIMIT)
    except NotADirectoryError as e:
        return FileNotFoundError(e.errno, e.strerror)
    except OSError as e:
        return e


def _is_masked(path: str) -> bool:
    try:
        return os.readlink(path) == "/dev/null"
    except OSError:
        return False


def _names(directory: str) -> list[str]:
    try:
        return sorted(names_in(directory))
    except OSError:
        return []
