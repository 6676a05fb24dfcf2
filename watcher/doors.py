"""Opens what [status] asks for: the Unix socket, and a port only if its token can be had; and follows the token."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from watcher.addresses import listen_address
from watcher.configfile import secret_token
from watcher.filewatch import occasions
from watcher.model import Mount
from watcher.reading import FileReader
from watcher.secrets import SecretError
from watcher.settings import Status
from watcher.status.access import Access
from watcher.status.answers import Service
from watcher.status.server import StatusServer

log = logging.getLogger(__name__)


class TokenFile:
    """The token of the port, as its file has it; what it says is wanted from its next change on."""

    def __init__(self, path: str, reader: FileReader, mounts: Callable[[], Sequence[Mount]]) -> None:
        """`mounts`: our mount table as it is, which tells where the file may be read from."""
        self._path, self._reader, self._mounts = path, reader, mounts
        self._known = self._trouble = ""
        self.changed: Callable[[str], None] = lambda token: None

    async def first(self) -> str:
        """The token. Raises SecretError."""
        self._known = await self._read()
        return self._known

    async def run(self) -> None:
        """Look whenever it may have changed."""
        async for _ in occasions(self._path, self._mounts):
            await self.look()

    async def look(self) -> None:
        """If there is another token, that one counts from now on; if there is none, the one that was known."""
        try:
            token = await self._read()
        except SecretError as e:
            # A cluster file system may be away for a moment. The port is never open to who has no token.
            if self._trouble != (trouble := str(e)):
                log.error("%s; the token stays as it was", trouble)
                self._trouble = trouble
            return
        self._trouble = ""
        if token != self._known:
            log.info("[status] token_file: there is another token")
            self._known = token
            self.changed(token)

    async def _read(self) -> str:
        return await secret_token(self._path, self._reader, self._mounts())


class Doors(NamedTuple):
    """What is open, and the token file to be watched, if there is one."""

    server: StatusServer
    token: TokenFile | None


async def open_doors(
    status: Status, path: str, service: Service, reader: FileReader, mounts: Callable[[], Sequence[Mount]]
) -> Doors:
    """`path`: of the Unix socket; "": none. What cannot be had is said, and done without.

    Raises Occupied if another process listens on the socket.
    """
    server, file = StatusServer(service), None
    if path:
        server.open(path)
    if (address := listen_address(status.listen)) is not None:
        token = None
        try:
            if status.token_file is not None:
                file = TokenFile(status.token_file, reader, mounts)
                file.changed = server.change_token
                token = await file.first()
        except SecretError as e:
            log.error("%s; not listening on %s", e, status.listen)
            file = None
        else:
            server.open_port(address, Access(_names(status.hosts), token))
    return Doors(server, file)


def _names(hosts: Sequence[str]) -> frozenset[str]:
    """What this machine may be asked for by."""
    own = socket.gethostname().lower()
    return frozenset({own, own.partition(".")[0], *(host.lower() for host in hosts)})
