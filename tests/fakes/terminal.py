"""A terminal with a person before it: a command on a pseudo-terminal, and what stands on its screen.

async with Terminal(["watcher", "status", "--watch"]) as terminal:
    await terminal.wait("STALE +/mnt/nas")
    terminal.press("\x03")
    assert await terminal.end() == 0
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

LIMIT = 60.0  # seconds for anything that takes one or two
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0-9A-B]|[=>78]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_ANEW = re.compile(r"\x1b\[H|\x1b\[2J")  # from here on the screen is drawn from its top


class Terminal:
    """One command, the leader of a session whose terminal this is."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, *, width: int = 200) -> None:
        self._command, self._width = command, width
        # Without pytest's own idea of a terminal (COLUMNS), which goes before what the kernel says.
        inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self._env = {**inherited, "TERM": "xterm-256color", **(env or {})}
        self._said = ""
        self._written = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._fd, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, self._width, 0, 0))
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *self._command],  # not preexec_fn: the test may have threads
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd="/",
            env=self._env,
        )
        os.close(theirs)
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        try:
            self._said += os.read(self._fd, 1 << 16).decode("utf-8", "replace")
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the other end open
            asyncio.get_running_loop().remove_reader(self._fd)
        self._written.set()

    @property
    def screen(self) -> str:
        """What was written since it was last drawn anew, without colours and bells."""
        return re.sub("[\r\x07]", "", _ESCAPE.sub("", _ANEW.split(self._said)[-1]))

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    async def wait(self, pattern: str, limit: float = LIMIT) -> str:
        """The screen, once this regular expression matches in it."""
        try:
            async with asyncio.timeout(limit):
                while not re.search(pattern, self.screen):
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            raise AssertionError(f"not within {limit:g} s: {pattern!r}\n{self.screen}") from None
        return self.screen

    async def end(self) -> int:
        """The exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return await asyncio.to_thread(self._process.wait, LIMIT)
        raise AssertionError(f"still running\n{self.screen}")
