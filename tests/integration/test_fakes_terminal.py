from __future__ import annotations

import pytest

from tests.fakes.terminal import Terminal


async def test_what_stands_on_the_screen_and_what_is_typed() -> None:
    program = r"""printf 'old\033[H\033[1;31mred\033[0m\a\r\nasks '; read -r word; printf "got $word "; tty; exit 7"""
    async with Terminal(["sh", "-c", program]) as terminal:
        assert await terminal.wait("asks") == "red\nasks "
        terminal.press("this\n")
        await terminal.wait("got this /dev/pts/")
        assert await terminal.end() == 7


async def test_what_does_not_come_is_said() -> None:
    async with Terminal(["sh", "-c", "echo this; read -r word"]) as terminal:
        await terminal.wait("this")
        with pytest.raises(AssertionError, match="'that'\nthis\n"):
            await terminal.wait("that", limit=0.1)
