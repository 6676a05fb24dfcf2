"""Small files that may hang: by the mount table whether one may, and reading it in a child with a time limit.

`FileReader` reads one, wherever it lies; `BatchReader` several in one child, where one that hangs costs the others
nothing but time. In a container a path is walked from its root without following a link, so that it leads nowhere else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from watcher.children import Child, Children
from watcher.core.mountinfo import mount_of
from watcher.files import read_regular
from watcher.model import Mount
from watcher.settings import Watch

LIMIT = 5.0  # seconds for a child, and for each further one that reads what is behind a file that hangs
TRIES = 3
SIZE_LIMIT = 1 << 22  # bytes of a file that is read by itself
BATCH_SIZE_LIMIT = 1 << 18  # bytes of one of several: one that is larger counts as unreadable
_OK, _UNREADABLE, _ABSENT = 0, 1, 2

# Not cat(1), which cannot say that there is no such file but in words.
_NO_SUCH_FILE = 2
_READ = f"""import os, sys
try:
    with open(sys.argv[1], "rb") as f:
        sys.stdout.buffer.write(f.read())
        sys.stdout.flush()
except (FileNotFoundError, NotADirectoryError):
    os._exit({_NO_SUCH_FILE})
except OSError:
    os._exit(1)
"""

_READ_ALL = f"""import os, stat, sys
def read(root, path):
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if not root:
        fd = os.open(path, flags)
    else:
        at = os.open(root, os.O_PATH | os.O_DIRECTORY)
        *way, last = [part for part in path.split(b"/") if part]
        for part in way:
            fd = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = fd
        fd = os.open(last, flags | os.O_NOFOLLOW, dir_fd=at)
        os.close(at)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError
        content = b""
        while len(content) <= {BATCH_SIZE_LIMIT} and (part := os.read(fd, 65536)):
            content += part
        if len(content) > {BATCH_SIZE_LIMIT}:
            raise OSError
        return content
    finally:
        os.close(fd)
words = sys.stdin.buffer.read().split(b"\\0")
for root, path in zip(words[::2], words[1::2]):
    try:
        status, content = {_OK}, read(root, path)
    except (FileNotFoundError, NotADirectoryError):
        status, content = {_ABSENT}, b""
    except OSError:
        status, content = {_UNREADABLE}, b""
    sys.stdout.buffer.write(b"%d %d\\n" % (status, len(content)) + content)
    sys.stdout.buffer.flush()
os._exit(0)
"""


@lru_cache(256)  # each of 200 containers has a configuration file to be looked for
def may_hang_on(fstype: str) -> bool:
    """Whether a file system of this type is watched by default, or is an autofs trigger."""
    return fstype == "autofs" or any(fnmatchcase(fstype, pattern) for pattern in Watch().fstypes)


def may_hang(path: str, mounts: Sequence[Mount]) -> bool:
    """Whether `path`, or a link on the way to it, lies on a file system that is watched by default (or autofs).

    Follows links itself, and looks at nothing beyond the first such mount.
    """
    return _walk(path, mounts)[1]


def resolved(path: str, mounts: Sequence[Mount]) -> str:
    """The path without the links in it, as the mount table will have it; from the first remote mount on as it is."""
    return _walk(path, mounts)[0]


def _walk(path: str, mounts: Sequence[Mount]) -> tuple[str, bool]:
    """Where the path leads, and whether to go on from there may hang."""
    at, rest, links = "/", path.split("/")[::-1], 0
    while rest:
        name = rest.pop()
        if name in ("", "."):
            continue
        step = os.path.dirname(at) if name == ".." else f"{at.rstrip('/')}/{name}"
        mount = mount_of(step, mounts)
        if mount is not None and may_hang_on(mount.fstype):
            return "/".join([step, *(part for part in rest[::-1] if part not in ("", "."))]), True
        try:
            link = os.readlink(step)
        except OSError:
            at = step
            continue
        links += 1
        if links > 40:  # the kernel's own limit (MAXSYMLINKS)
            return path, True
        rest += link.split("/")[::-1]
        at = "/" if link.startswith("/") else at
    return at, False


class FileReader:
    """Reads small files wherever they lie; where that may hang, in a child, and never in two for one file."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._hanging: dict[str, Child] = {}

    async def read(self, path: str, mounts: Sequence[Mount]) -> bytes:
        """A file's content. Raises OSError, TimeoutError among them."""
        if not may_hang(path, mounts):
            return read_regular(path, SIZE_LIMIT)
        if (earlier := self._hanging.get(path)) is not None and not earlier.exited:
            raise TimeoutError(errno.ETIMEDOUT, "no answer from its file system; an earlier attempt still hangs")
        try:
            child = self._hanging[path] = await self._children.spawn([sys.executable, "-I", "-S", "-c", _READ, path])
        except OSError as e:
            raise OSError(errno.EIO, f"cannot be read in a child: {e.strerror or e}") from None  # never "no such file"
        child.close_stdin()
        content = b""
        try:
            async with asyncio.timeout(LIMIT):
                while chunk := await child.read():
                    content += chunk
                    if len(content) > SIZE_LIMIT:
                        raise OSError(errno.EFBIG, "is too large")
                await child.wait_exit(LIMIT)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from its file system within {LIMIT:g} s") from None
        finally:
            child.kill()
        if child.returncode == _NO_SUCH_FILE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if child.returncode != 0:
            raise OSError(errno.EIO, "cannot be read (it lies on a network or FUSE file system)")
        return content


# ---- several at once


class File(NamedTuple):
    """What to read."""

    path: str
    root: str = ""  # a directory such as /proc/<pid>/root from which the path starts; "": ours


Answers = dict[File, bytes | OSError]


class BatchReader:
    """Reads files in children; what still hangs in an earlier one is left alone."""

    def __init__(self, children: Children, *, limit: float = LIMIT) -> None:
        self._children = children
        self._limit = limit
        self._hanging: dict[File, Child] = {}

    async def read(self, files: Sequence[File]) -> Mapping[File, bytes | OSError]:
        """Each file's content, or why there is none; BlockingIOError: it has not been asked."""
        self._hanging = {file: child for file, child in self._hanging.items() if not child.exited}
        slow = TimeoutError(errno.ETIMEDOUT, f"no answer from its file system within {self._limit:g} s")
        answers: Answers = {file: slow for file in files if file in self._hanging}
        for _ in range(TRIES):
            left = [file for file in files if file not in answers]
            if not left:
                return answers
            child = await self._ask(left, answers)
            stuck = next((file for file in left if file not in answers), None)
            if stuck is not None:
                answers[stuck] = slow
                if child is not None:
                    self._hanging[stuck] = child
        crowded = BlockingIOError(errno.EAGAIN, "not asked, since others hang; later again")
        return answers | {file: crowded for file in files if file not in answers}

    async def _ask(self, files: Sequence[File], answers: Answers) -> Child | None:
        """Take the answers of one child in, as far as they come."""
        try:
            child = await self._children.spawn([sys.executable, "-I", "-S", "-c", _READ_ALL])
        except OSError as e:
            answers |= {file: OSError(errno.EIO, f"cannot be read in a child: {e.strerror or e}") for file in files}
            return None
        child.write(b"\0".join(os.fsencode(word) for file in files for word in (file.root, file.path)))
        child.close_stdin()
        buffer, waiting = b"", list(files)[::-1]
        try:
            async with asyncio.timeout(self._limit):
                while waiting and (chunk := await child.read()):
                    buffer += chunk
                    while waiting and (taken := _answer(buffer)) is not None:
                        answers[waiting.pop()], buffer = taken
        except TimeoutError:
            pass
        finally:
            child.kill()
        return child


def _answer(buffer: bytes) -> tuple[bytes | OSError, bytes] | None:
    """The first answer and what follows it; None if it is not all there."""
    head, newline, rest = buffer.partition(b"\n")
    if not newline:
        return None
    status, size = (int(word) for word in head.split())
    if len(rest) < size:
        return None
    content, rest = rest[:size], rest[size:]
    if status == _OK:
        return content, rest
    if status == _ABSENT:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), rest
    return OSError(errno.EIO, "cannot be read"), rest
