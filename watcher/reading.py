"""Several small files at once that may hang, read in one child: one hanging file costs the others nothing but time.

In a container a path is walked from its root without following a link, so that it leads nowhere else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from watcher.children import Child, Children

LIMIT = 5.0  # seconds for a child, and for each further one that reads what is behind a file that hangs
TRIES = 3
SIZE_LIMIT = 1 << 18  # bytes of one file: one that is larger counts as unreadable
_OK, _UNREADABLE, _ABSENT = 0, 1, 2

_READ = f"""import os, stat, sys
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
        while len(content) <= {SIZE_LIMIT} and (part := os.read(fd, 65536)):
            content += part
        if len(content) > {SIZE_LIMIT}:
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
            child = await self._children.spawn([sys.executable, "-I", "-S", "-c", _READ])
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
