"""The Unix socket: that it is ours alone, that there is one server behind it, and that it costs nothing until asked.

aiohttp (13 MB) is loaded when somebody connects for the first time; until then the kernel keeps them waiting. Nothing
that goes wrong here ends the watching.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio.to_thread

from watcher.instance import Occupied, own_directory
from watcher.status.answers import Service

if TYPE_CHECKING:
    from watcher.status.api import Api

log = logging.getLogger(__name__)

BACKLOG = 128  # connections that the kernel keeps waiting; further ones wait in their connect()


class StatusServer:
    """Answers on a Unix socket."""

    def __init__(self, path: str, service: Service) -> None:
        """`path`: on a local file system."""
        self._path = path
        self._service = service
        self._socket: socket.socket | None = None
        self._inode = 0

    def open(self) -> None:
        """Listen; if that cannot be, say so and go on without. Raises Occupied if another process listens there."""
        try:
            own_directory(os.path.dirname(self._path))
            _make_way(self._path)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                os.fchmod(
                    listening.fileno(), 0o600
                )  # Linux gives these to the file: never anybody else's, not even at first
                listening.bind(self._path)
                listening.listen(BACKLOG)
                self._inode = os.lstat(self._path).st_ino  # noqa: TID251  # as above
            except OSError:
                listening.close()
                raise
        except OSError as e:
            log.error("%s: %s; going on without a socket for other commands", self._path, e.strerror or e)
        else:
            self._socket = listening

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._socket is None:
            return
        api: Api | None = None
        try:
            await _readable(self._socket)
            api = await _load(self._service)
            await api.start()
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(api.connection, sock=self._socket)
            try:
                await anyio.sleep_forever()
            finally:
                server.close()
        except Exception:  # whatever it is, mounts are watched without it
            log.exception("the socket for other commands does not work; going on without")
        finally:
            self.close()
            if api is not None:
                with anyio.CancelScope(shield=True):
                    await api.close()

    def close(self) -> None:
        """Take the socket away, unless another stands in its place by now."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(OSError):
            if os.lstat(self._path).st_ino == self._inode:  # noqa: TID251  # as above
                os.unlink(self._path)


async def _readable(waiting: socket.socket) -> None:
    """Until somebody connects."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(waiting.fileno(), arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(waiting.fileno())


async def _load(service: Service) -> Api:
    def load() -> Api:
        from watcher.status.api import Api

        return Api(service)

    # In a thread: it takes some tenths of a second, and reads files.
    return await anyio.to_thread.run_sync(load, abandon_on_cancel=True)


def _make_way(path: str) -> None:
    """Remove the socket of a watcher that has ended. Raises OSError, or Occupied if somebody answers."""
    try:
        status = os.lstat(path)  # noqa: TID251  # the caller has asked the mount table where it lies
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, "is there, but is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as trial:
        try:
            trial.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue is full: somebody is there
    raise Occupied(f"another process listens on {path}; stop it first")
