"""What several of the integration tests start from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes probe children start through a line of shell, which ends in `exec ... "$python" "$@"`."""

    def use(line: str) -> None:
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\npython="{sys.executable}"\n{line}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return use
