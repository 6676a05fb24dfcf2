"""Processes that are not our children, and what we say to them: the tests' side of `container_init.py`.

Calls are synchronous, by non-blocking sockets and poll(2).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.fakes.fuse import LIMIT


class ContainerError(Exception):
    """A process does not answer, or has ended."""


class Process:
    """A process that is not our child: its pid in our namespace, and what tells a later one with the same number."""

    def __init__(self, pidfd: int) -> None:
        """Takes the descriptor over, and does not keep it."""
        try:
            with open(f"/proc/self/fdinfo/{pidfd}") as info:
                (self.pid,) = [int(line[4:]) for line in info if line.startswith("Pid:")]
            self.start_time = self._start_time()  # in clock ticks since boot, field 22 of /proc/<pid>/stat
        finally:
            os.close(pidfd)

    def __repr__(self) -> str:
        return f"Process({self.pid})"

    def _start_time(self) -> int:
        try:
            return int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[19])
        except OSError:
            return -1

    def _open(self) -> int | None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.start_time == self._start_time():
            return pidfd
        os.close(pidfd)
        return None

    def alive(self) -> bool:
        try:
            self.wait(0)
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        pidfd = self._open()
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            os.close(pidfd)

    def wait(self, timeout: float = LIMIT) -> int:
        """Until it has ended: then its namespaces are gone too. Raises subprocess.TimeoutExpired; gives -1."""
        pidfd = self._open()
        if pidfd is not None:
            try:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                if not poll.poll(timeout * 1000):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            finally:
                os.close(pidfd)
        return -1


class Channel:
    """Our end of a process's control socket; its answers come in the order of the calls."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._socket, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)

    def call(self, command: str, *fds: int, **arguments: Any) -> list[int]:
        """The descriptors of the answer; raises OSError as the process had it, or ContainerError."""
        with self._lock:
            try:
                self._poll(select.POLLOUT)
                socket.send_fds(self._socket, [json.dumps({"command": command, **arguments}).encode()], fds)
                return self._receive(command)
            except ConnectionError:
                raise ContainerError(f"{command}: {self._name} has ended") from None

    def hello(self) -> list[int]:
        """The first answer, to the process's own start."""
        with self._lock:
            return self._receive("start")

    def _receive(self, command: str) -> list[int]:
        self._poll(select.POLLIN)
        data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, 2, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise ContainerError(f"{command}: {self._name} has ended")
        reply = json.loads(data)
        if "errno" in reply:
            raise OSError(reply["errno"], f"{command}: {reply['error']}", reply["path"])
        return fds

    def _poll(self, event: int) -> None:
        if self._socket.fileno() < 0:
            raise ContainerError(f"{self._name} was stopped")
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(LIMIT * 1000):
            raise ContainerError(f"{self._name} did not answer within {LIMIT:g} s")

    def close(self) -> None:
        self._socket.close()
        self.theirs.close()


def process_of(channel: Channel, through: Channel, command: str, **arguments: Any) -> Process:
    """Have a process started that says itself when it is ready."""
    with channel.theirs:
        through.call(command, channel.theirs.fileno(), **arguments)
    return Process(*channel.hello())
