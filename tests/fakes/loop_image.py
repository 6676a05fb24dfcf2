"""A small ext4 file system on a loop device, for containers whose disk must be free once they are dead.

    image = LoopImage(tmp_path / "disk.ext4")
    image.device        # "/dev/loop3"
    image.detach()      # True if nothing held it: the device is free at once

Standard library only: what outlives a killed test calls `detach`, too.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

SIZE = 8 * 2**20  # bytes, sparse
LOOP_CLR_FD = 0x4C01  # linux/loop.h


class LoopImage:
    """Raises subprocess.CalledProcessError where this machine has no loop devices, or no ext4."""

    def __init__(self, path: Path, mkfs: Sequence[str] = ("mkfs.ext4", "-q", "-F")) -> None:
        """`mkfs`: what makes the file system, before the path."""
        self.path = path
        with open(path, "wb") as image:
            image.truncate(SIZE)
        _run(*mkfs, str(path))
        self.device = _run("losetup", "--find", "--show", str(path)).strip()

    def in_use(self) -> bool:
        """Whether it is mounted anywhere, in whatever namespace."""
        try:
            os.close(os.open(self.device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            return True
        return False

    def detach(self) -> bool:
        """Give the device back; False if something holds it, which then does so at its end. May be called again."""
        return detach(self.device, str(self.path))


def detach(device: str, path: str) -> bool:
    """The same by their names; without effect if the device belongs to another file by now."""
    if _is_attached(device, path):
        fd = os.open(device, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, LOOP_CLR_FD)  # succeeds on a busy device, too
        finally:
            os.close(fd)
    return not _is_attached(device, path)


def _is_attached(device: str, path: str) -> bool:
    try:
        backing = Path("/sys/block", os.path.basename(device), "loop/backing_file").read_text().rstrip("\n")
    except FileNotFoundError:
        return False
    return backing.removesuffix(" (deleted)") == path


def first_free() -> str:
    """A loop device that could be used; raises OSError or subprocess.CalledProcessError."""
    return _run("losetup", "--find").strip()


def _run(*command: str) -> str:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=30).stdout
