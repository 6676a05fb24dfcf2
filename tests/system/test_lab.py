"""The lab itself."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab("base")


def test_is_a_machine_of_its_own() -> None:
    assert platform.node() == "lab"
    assert Path("/proc/1/comm").read_text() == "systemd\n"
