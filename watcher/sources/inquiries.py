"""What must be asked of a child process or of a file that may hang: command lines, lxc-info, host names.

Every question has a time limit. Knows nothing of which container runs.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from time import monotonic

from watcher.children import Children, environment
from watcher.core import lxc
from watcher.model import Mount
from watcher.reading import FileReader

LIMIT = 2.0  # seconds for a child
HANGING_FOR = 60.0  # seconds for which a directory that did not answer is left alone
AT_ONCE = 8  # files of one directory, if each needs a child

_TITLES = str(Path(__file__).with_name("titles.py"))


async def _output(children: Children, argv: Sequence[str]) -> bytes:
    """What a program prints within the limit, whether it has ended by then or not. Raises OSError."""
    child = await children.spawn(argv, environment(os.environ))
    child.close_stdin()
    parts = []
    try:
        async with asyncio.timeout(LIMIT):
            while part := await child.read():
                parts.append(part)
            await child.wait_exit(LIMIT)
    except TimeoutError:
        pass
    finally:
        child.kill()
    return b"".join(parts)


async def cmdlines(children: Children, proc: str, pids: Iterable[int]) -> dict[int, bytes]:
    """The command lines of processes; what cannot be read in time is left out. Raises OSError (no child)."""
    output = await _output(children, [sys.executable, "-I", "-S", _TITLES, proc, *map(str, pids)])
    found = {}
    for line in output.split(b"\n")[:-1]:  # a line that was cut short is none
        pid, _, text = line.partition(b" ")
        found[int(pid)] = bytes.fromhex(text.decode("ascii"))
    return found


async def init_pid(children: Children, ctid: str) -> int | None:
    """What LXC itself says is the init of a container. Raises OSError (lxc-info cannot be started)."""
    output = (await _output(children, ["lxc-info", "-p", "-H", "-n", ctid])).strip()
    return int(output) if output.isdigit() and 1 < int(output) < 1 << 31 else None


class HostNames:
    """Looks for containers' host names where their configuration lies."""

    def __init__(self, directories: Sequence[str], reader: FileReader, mounts: Callable[[], Sequence[Mount]]) -> None:
        self._directories = [(directory, asyncio.Semaphore(AT_ONCE)) for directory in directories]
        self._reader = reader
        self._mounts = mounts
        self._hanging: dict[str, float] = {}  # directory -> until when

    async def find(self, ctid: str) -> str:
        """The name, "" if none is set. Raises OSError: it could not be told, for what its text says."""
        trouble: OSError | None = None
        for directory, turn in self._directories:
            for form, name_in in _forms(directory):
                path = f"{directory}/{form.format(ctid)}"
                try:
                    async with turn:
                        text = await self._read(directory, path)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as e:
                    trouble = OSError(e.errno, f"{path}: {e.strerror or e}")
                    if isinstance(e, TimeoutError):
                        break
                    continue
                if name := name_in(text):
                    return name
        if trouble is not None:
            raise trouble
        return ""

    async def _read(self, directory: str, path: str) -> bytes:
        if monotonic() < self._hanging.get(directory, 0.0):
            raise TimeoutError(errno.ETIMEDOUT, "its file system did not answer a moment ago")
        try:
            return await self._reader.read(path, self._mounts())
        except TimeoutError:
            self._hanging[directory] = monotonic() + HANGING_FOR
            raise


def _forms(directory: str) -> list[tuple[str, Callable[[bytes], str]]]:
    """File names and how to read them, as LXC or as Proxmox VE lays a directory out; the likelier one first.

    Each wrong guess in /etc/pve costs a child.
    """
    forms: list[tuple[str, Callable[[bytes], str]]] = [
        ("{}/config", lxc.name_from_config),
        ("{}.conf", lxc.name_from_pve_config),
    ]
    return forms[::-1] if "pve" in PurePosixPath(directory).parts else forms
