"""What is listened on: that the Unix socket is ours alone, and that there is one server behind all, free until asked.

aiohttp (8 MB, without its client) is loaded when somebody connects for the first time; until then the kernel keeps them
waiting. Nothing that goes wrong here ends the watching.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import anyio.to_thread

from watcher.instance import Occupied, own_directory
from watcher.status import serverside
from watcher.status.access import Access
from watcher.status.answers import Service

if TYPE_CHECKING:
    from watcher.status.api import Api
    from watcher.status.connections import Connections

log = logging.getLogger(__name__)

PEER_LIMIT = 30_000  # milliseconds for which what was sent may go unacknowledged
BACKLOG = 128  # connections that the kernel keeps waiting; further ones wait in their connect()


class Door(NamedTuple):
    """What is listened on, and who may ask through it."""

    socket: socket.socket
    access: Access | None  # None: whoever gets there


class StatusServer:
    """Answers on a Unix socket, and on a port."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._doors: list[Door] = []
        self._connections: list[Connections] = []  # of the doors, once somebody has come
        self._path = ""
        self._inode = 0

    def open(self, path: str) -> None:
        """Listen on a Unix socket, on a local file system; if that cannot be, say so and go on without.

        Raises Occupied if another process listens there.
        """
        try:
            own_directory(os.path.dirname(path))
            _make_way(path)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                os.fchmod(
                    listening.fileno(), 0o600
                )  # Linux gives these to the file: never anybody else's, not even at first
                listening.bind(path)
                listening.listen(BACKLOG)
                self._inode = os.lstat(path).st_ino  # noqa: TID251  # as above
            except OSError:
                listening.close()
                raise
        except OSError as e:
            log.error("%s: %s; going on without a socket for other commands", path, e.strerror or e)
        else:
            self._path = path
            self._doors.append(Door(listening, None))

    def open_port(self, address: tuple[str, int], access: Access) -> None:
        """Listen on a port; if that cannot be, say so and go on without."""
        host, port = address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Its connections inherit it: a peer that is gone without a word, as a laptop is, is given up.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_LIMIT)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError as e:
            listening.close()
            log.error("[status] listen: %s: %s; going on without", where, e.strerror or e)
        else:
            log.info("answering on http://%s", where)
            self._doors.append(Door(listening, access))

    def change_token(self, token: str) -> None:
        """From now on the port wants this one; who follows events by another is dropped."""
        for n, door in enumerate(self._doors):
            if door.access is not None:
                self._doors[n] = door._replace(access=door.access._replace(token=token))
        for connections in self._connections:
            connections.change_token(token)

    async def run(self) -> None:
        """Serve until cancelled."""
        if not self._doors:
            return
        api: Api | None = None
        servers: list[asyncio.Server] = []
        try:
            await _readable([door.socket for door in self._doors])
            api = await _load(self._service)
            await api.start()
            loop = asyncio.get_running_loop()
            for listening, access in self._doors:
                create = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
                self._connections.append(connections := api.connections(access))
                servers.append(await create(connections, sock=listening))
            await anyio.sleep_forever()
        except Exception:  # whatever it is, mounts are watched without it
            log.exception("the socket for other commands does not work; going on without")
        finally:
            for server in servers:
                server.close()
            self.close()
            if api is not None:
                with anyio.CancelScope(shield=True):
                    await api.close()

    def close(self) -> None:
        """Take the socket away, unless another stands in its place by now."""
        for door in self._doors:
            door.socket.close()
        self._doors.clear()
        if not self._path:
            return
        with suppress(OSError):
            if os.lstat(self._path).st_ino == self._inode:  # noqa: TID251  # as above
                os.unlink(self._path)
        self._path = ""


async def _readable(waiting: Sequence[socket.socket]) -> None:
    """Until somebody connects to one of them."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    for each in waiting:
        loop.add_reader(each.fileno(), arrived.set)
    try:
        await arrived.wait()
    finally:
        for each in waiting:
            loop.remove_reader(each.fileno())


async def _load(service: Service) -> Api:
    def load() -> Api:
        serverside.prepare()
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
