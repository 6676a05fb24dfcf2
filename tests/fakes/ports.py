"""Ports for servers of the tests that are to be known before anybody listens on them, or while nobody does.

What the kernel hands out (port 0, and each connection's own end) may be taken by any other test in between. So these
lie below its range, and each process begins at a place of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

LOOPBACK = "127.0.0.1"
FIRST, COUNT = 10_000, 22_000  # up to ip_local_port_range, which begins at 32768
APART = 997  # between two processes with numbers next to each other

_numbers = itertools.count()


def free_port(host: str = LOOPBACK) -> int:
    """A port on which nobody listens, and that nobody is given but who asks here."""
    while True:
        port = FIRST + (os.getpid() * APART + next(_numbers)) % COUNT
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of ended connections
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return port
