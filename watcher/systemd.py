"""Word to the service manager: sd_notify(3) is one datagram."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from time import clock_gettime_ns

log = logging.getLogger(__name__)


class ServiceManager:
    """Tells systemd how we are; does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket:
            self._socket.setblocking(False)
        self._status = ""
        self._stopping = False
        # sd_watchdog_enabled(3)
        own = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "") if own else ""
        self.watchdog_interval = int(usec) / 2e6 if usec.isdecimal() and int(usec) > 0 else None  # seconds

    def ready(self) -> None:
        self._tell("READY=1")

    def reloading(self) -> None:
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(1) // 1000}")  # CLOCK_MONOTONIC

    def stopping(self) -> None:
        """The last word: whoever still runs in this turn of the loop would contradict it."""
        self._tell("STOPPING=1")
        self._stopping = True

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; told only when it differs from the last."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def _tell(self, message: str) -> None:
        if self._socket is None or (self._stopping and message != "STOPPING=1"):
            return
        try:
            self._socket.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as e:
            log.debug("sd_notify: %s", e)
