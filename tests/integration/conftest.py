"""What several of the integration tests start from."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.looking import Command
from tests.integration.service import Site
from watcher.children import Children


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crashes")
    group.addoption("--kills", type=int, default=24, metavar="N", help="how often the crash test kills the service")
    group.addoption("--kill-seed", type=int, default=1, metavar="N", help="which course of events the crash test takes")


@pytest.fixture
def site() -> Iterator[Site]:
    """A host for the service."""
    with Site() as site:
        yield site


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`watcher`, configured to watch below `tmp_path/mnt`."""
    (tmp_path / "mnt").mkdir()
    return Command(tmp_path, watch=tmp_path / "mnt")


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    """Those of the test's own process."""
    children = Children()
    yield children
    children.close()


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes probe children start through a line of shell, which ends in `exec ... "$python" "$@"`."""

    def use(line: str) -> None:
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\npython="{sys.executable}"\n{line}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return use
