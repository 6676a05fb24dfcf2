"""Opens what [status] asks for: the Unix socket, and a port only if its token can be had."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from watcher.addresses import listen_address
from watcher.configfile import FileReader, secret_token
from watcher.model import Mount
from watcher.secrets import SecretError
from watcher.settings import Status
from watcher.status.access import Access
from watcher.status.answers import Service
from watcher.status.server import StatusServer

log = logging.getLogger(__name__)


async def open_doors(
    status: Status, path: str, service: Service, reader: FileReader, mounts: Sequence[Mount]
) -> StatusServer:
    """`path`: of the Unix socket; "": none. What cannot be had is said, and done without.

    Raises Occupied if another process listens on the socket.
    """
    server = StatusServer(service)
    if path:
        server.open(path)
    if (address := listen_address(status.listen)) is not None:
        try:
            token = None
            if status.token_file is not None:
                token = await secret_token(status.token_file, reader, mounts)
        except SecretError as e:
            log.error("%s; not listening on %s", e, status.listen)
        else:
            server.open_port(address, Access(_names(status.hosts), token))
    return server


def _names(hosts: Sequence[str]) -> frozenset[str]:
    """What this machine may be asked for by."""
    own = socket.gethostname().lower()
    return frozenset({own, own.partition(".")[0], *(host.lower() for host in hosts)})
