"""Our own small files on local disks: read without being held up, written whole and private.

Not for files on network or FUSE file systems: `reading` decides that, and reads them in a child.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: str, limit: int) -> bytes:
    """A regular file's content, at most `limit` bytes. Raises OSError, with a text for people."""
    # O_NONBLOCK: a FIFO in its place would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "is not a regular file")
        with open(fd, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(content) > limit:
        raise OSError(0, f"is larger than {limit} bytes")
    return content


def names_in(path: str) -> list[str]:
    """What a directory holds. Raises OSError."""
    return os.listdir(path)  # noqa: TID251  # the caller knows that it lies on a local disk


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by one that only we can read (0600), or leave everything as it was. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # As tempfile would; that loads shutil, and three compressors with it: 5 ms of each command.
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
