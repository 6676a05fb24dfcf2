"""The way that others probe, beside the service in a lab."""

from __future__ import annotations

import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Sequence


class Control:
    """The probe of the best-known monitor: `stat -c %i` with two seconds of patience, at every other second.

    With one difference: who started it does not wait for a child that cannot be killed.
    """

    def __init__(self, place: str, inside: Sequence[str] = ()) -> None:
        """`inside`: what stands before a command that is to run in a container."""
        self._command = [*inside, "stat", "-c", "%i", place]
        self._said: list[tuple[float, str]] = []
        self._left: list[int] = []  # killed, and maybe still there
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self._said.append((began, self._probe()))
            self._over.wait(2)

    def _probe(self) -> str:
        # Without subprocess: it complains of children that are still there.
        with tempfile.TemporaryFile() as errors:
            files = [(os.POSIX_SPAWN_DUP2, errors.fileno(), 2), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
            pid = os.posix_spawnp(self._command[0], self._command, os.environ, file_actions=files)
            pidfd = os.pidfd_open(pid)
            ended = select.select([pidfd], [], [], 2)[0]
            os.close(pidfd)
            if not ended:
                os.kill(pid, signal.SIGKILL)
                self._left.append(pid)
                return "hangs"
            _, status = os.waitpid(pid, 0)
            errors.seek(0)
            return "ok" if status == 0 else errors.read().decode().strip().rpartition(": ")[2]

    def since(self, began: float) -> list[str]:
        """What it has said in probes begun since then."""
        return [said for when, said in self._said if when >= began]

    def stop(self) -> None:
        """Once what it watched answers again."""
        self._over.set()
        self._thread.join(10)
        for pid in self._left:
            os.waitpid(pid, os.WNOHANG)
