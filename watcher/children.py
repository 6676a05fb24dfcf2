"""Child processes that may not die: the one place that starts any.

`subprocess.run(timeout=)`, `anyio.run_process` and `await process.wait()` all wait for a killed
child to be gone, and a child whose thread waits for a file system can take for ever. Here nobody
awaits an exit without a limit: a child that outlives its kill is abandoned, its pipes are closed,
and the loop reaps it whenever the kernel lets it go.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from subprocess import DEVNULL, PIPE, Popen
from typing import cast

KILL_GRACE = 0.2  # seconds after SIGKILL by which every thread that can die has (measured: a few ms)


class Child(asyncio.SubprocessProtocol):
    """One running child: bytes to its standard input, chunks from its standard output."""

    def __init__(self) -> None:
        self._transport: asyncio.SubprocessTransport | None = None
        self._chunks: deque[bytes] = deque()
        self._news = asyncio.Event()  # a chunk, the end of output, or the exit
        self._open_pipes = {0, 1}
        self._exited = asyncio.Event()
        self.pid = 0

    # ---- asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._chunks.append(data)
        self._news.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        self._news.set()
        self._close_if_over()

    def process_exited(self) -> None:
        self._exited.set()
        self._news.set()
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self._transport is not None and self._exited.is_set() and not self._open_pipes:
            self._transport.close()

    # ---- for the owner

    @property
    def exited(self) -> bool:
        return self._exited.is_set()

    @property
    def returncode(self) -> int | None:
        return self._transport.get_returncode() if self._transport else None

    def write(self, data: bytes) -> None:
        """Hand over bytes; they are buffered here without a limit, so only for what is bounded."""
        pipe = self._pipe(0)
        if pipe is not None and not pipe.is_closing():
            cast("asyncio.WriteTransport", pipe).write(data)

    def close_stdin(self) -> None:
        if (pipe := self._pipe(0)) is not None:
            pipe.close()  # after what is buffered has been written

    async def read(self, timeout: float | None = None) -> bytes:
        """The next chunk of output, b"" at its end. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not self._chunks:
                if 1 not in self._open_pipes:
                    return b""
                self._news.clear()
                await self._news.wait()
        return self._chunks.popleft()

    def take(self) -> bytes:
        """What output is here already, b"" if there is none."""
        return self._chunks.popleft() if self._chunks else b""

    async def wait_exit(self, timeout: float) -> bool:
        """Whether it is gone within `timeout` seconds. Never waits longer."""
        try:
            async with asyncio.timeout(timeout):
                await self._exited.wait()
        except TimeoutError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to it and all that it has started; no word with it from here on. Does not wait."""
        # Its group is its own (spawn), and the pid is no other's before the loop has reaped it.
        # The transport's own kill() polls the child and so can take its exit status away from the loop.
        if self._transport is not None and self._transport.get_returncode() is None and not self.exited:
            with suppress(ProcessLookupError):  # reaped in this very turn of the loop
                os.killpg(self.pid, signal.SIGKILL)
        stdin, stdout = self._pipe(0), self._pipe(1)
        if stdin is not None and not (stdin.is_closing() and not self._unwritten):
            cast("asyncio.WriteTransport", stdin).abort()  # a plain close would first wait for it to read the rest
        if stdout is not None:
            stdout.close()

    @property
    def _unwritten(self) -> int:
        pipe = self._pipe(0)
        return cast("asyncio.WriteTransport", pipe).get_write_buffer_size() if pipe is not None else 0

    def forget(self) -> None:
        """At the end of the loop: let go of a child that outlives it, without a warning from its destructors."""
        if self._transport is None or self.exited:
            return
        self.kill()
        popen = self._transport.get_extra_info("subprocess")
        if isinstance(popen, Popen) and popen.returncode is None:
            # Popen.__del__ would warn of a child still running; nobody is left to wait for it but init.
            popen.returncode = -signal.SIGKILL
        self._transport.close()

    def _pipe(self, fd: int) -> asyncio.BaseTransport | None:
        return self._transport.get_pipe_transport(fd) if self._transport else None


if sys.version_info < (3, 12):

    class _Pidfds(asyncio.PidfdChildWatcher):
        """The watcher that is the default from 3.12 on, which does not warn of children that outlive the loop."""

        def attach_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
            if loop is None:
                for pid in list(self._callbacks):  # type: ignore[attr-defined]  # 3.11's own, and frozen
                    self.remove_child_handler(pid)
            super().attach_loop(loop)


class Children:
    """All children of one event loop, so that none is left unattended when it ends."""

    def __init__(self) -> None:
        self._alive: set[Child] = set()
        if sys.version_info < (3, 12):
            # The default watcher keeps a thread for each child that does not exit; pidfds are 3.12's default.
            watcher = _Pidfds()
            watcher.attach_loop(asyncio.get_running_loop())
            asyncio.get_event_loop_policy().set_child_watcher(watcher)

    async def spawn(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Start a program in a session of its own, in "/", with no descriptor but its pipes. Raises OSError."""
        self._alive = {child for child in self._alive if not child.exited}
        loop = asyncio.get_running_loop()
        _, child = await loop.subprocess_exec(
            Child,
            *argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            cwd="/",
            env=dict(os.environ if env is None else env),
            close_fds=True,
            start_new_session=True,
        )
        self._alive.add(child)
        return child

    @property
    def survivors(self) -> int:
        return sum(1 for child in self._alive if not child.exited)

    @property
    def pids(self) -> list[int]:
        """Of those that have not ended."""
        return [child.pid for child in self._alive if not child.exited]

    def close(self) -> None:
        """Kill what is left and leave it to the kernel. Never waits."""
        for child in self._alive:
            child.forget()
        self._alive.clear()


# Imported by name, since the interpreter keeps the bytecode of what is imported and not that of a script: compiling
# it anew was a third of what it took to start a sweep.
_IMPORT = "import sys; path, name = sys.argv[1].rsplit('/', 1); sys.path.insert(0, path); file = __import__(name[:-3])"

# Isolated and without site: the standard library only. In UTF-8 whatever the locale: names pass through as they came.
ALONE = ("-I", "-S", "-X", "utf8")


def script(path: str) -> list[str]:
    """The command that runs `main` of a file of ours that stands alone, with the standard library only."""
    return [sys.executable, *ALONE, "-c", f"{_IMPORT}; file.main()", path]


def script_with_packages(path: str) -> list[str]:
    """The same of a file that uses what is installed, and there what lies beside it passes for nothing."""
    return [sys.executable, "-P", "-c", f"{_IMPORT}; del sys.path[0]; file.main()", path]


def framed(fields: Iterable[object]) -> bytes:
    """What such a child reads: fields that end with NUL, names in the bytes that the kernel has."""
    return "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of ours: no notification socket, no credentials directory."""
    return {k: v for k, v in environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY")}
