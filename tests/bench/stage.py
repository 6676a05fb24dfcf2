"""The mounts that are measured: real FUSE mounts in a private mount namespace, of which nothing stays.

Only the bench's main process makes them; what it starts inherits the namespace.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import enter_mount_namespace
from tests.fakes.fuse import FuseMount, FuseServer
from tests.fakes.fuse_server import mount, unmount


class Unavailable(Exception):
    """This machine or user lacks what is needed to measure; its text goes on "needs ..."."""


class Stage:
    """A directory in memory, and FUSE mounts below it."""

    def __init__(self, directory: str, server: FuseServer) -> None:
        self.directory = directory
        self._server = server
        self._mounts: list[FuseMount] = []

    def mounts(self, count: int) -> list[FuseMount]:
        """So many mounts, all of them answering; the same ones each time, and no more than these."""
        while len(self._mounts) > count:
            self._mounts.pop().unmount()
        while len(self._mounts) < count:
            number = len(self._mounts)
            path = self.make_directory(f"nas{number % 10:02}/share{number:04}")
            source = f"nas{number % 10:02}:/export/{number}"
            self._mounts.append(self._server.mount(path, source=source, options="allow_other"))
        return list(self._mounts)

    def of_servers(self, count: int, servers: int) -> list[FuseMount]:
        """So many mounts that name their servers, and none but these."""
        self.mounts(0)
        for number in range(count):
            path = self.make_directory(f"of{number % servers:02}/share{number:04}")
            source = f"nas{number % servers:02}:/export/{number}"
            self._mounts.append(self._server.mount(path, source=source, fstype="fuse.sshfs", options="allow_other"))
        return list(self._mounts)

    def one(self, name: str, source: str) -> FuseMount:
        """A mount of its own, and none but this."""
        self.mounts(0)
        self._mounts.append(self._server.mount(self.make_directory(name), source=source))
        return self._mounts[0]

    @property
    def process(self) -> int:
        """The pid of who serves them."""
        return self._server.pid

    def make_directory(self, name: str) -> str:
        path = os.path.join(self.directory, name)
        os.makedirs(path, exist_ok=True)
        return path


@contextmanager
def stage() -> Iterator[Stage]:
    """Enter a namespace of our own for the rest of this process's life. Raises Unavailable."""
    if missing := enter_mount_namespace():
        raise Unavailable(missing)
    directory = tempfile.mkdtemp(prefix="bench-")  # short: a socket's path has 107 bytes at most
    try:
        mount(b"bench", os.fsencode(directory), b"tmpfs")
        try:
            with FuseServer() as server:
                yield Stage(directory, server)
        finally:
            unmount(os.fsencode(directory))
    finally:
        os.rmdir(directory)
