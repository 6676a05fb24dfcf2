"""What several of the integration tests start from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.service import Site


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
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes probe children start through a line of shell, which ends in `exec ... "$python" "$@"`."""

    def use(line: str) -> None:
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\npython="{sys.executable}"\n{line}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return use
