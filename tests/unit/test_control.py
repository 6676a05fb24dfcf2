from __future__ import annotations

from datetime import datetime

import pytest

from watcher.control import moment_of

NOW = datetime.fromisoformat("2026-11-20T15:04:05")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:30", "2026-11-20 18:30"),
        ("15:05", "2026-11-20 15:05"),
        ("15:04", "2026-11-21 15:04"),  # has been, today
        ("6:00", "2026-11-21 06:00"),
        ("00:00", "2026-11-21 00:00"),
        ("24:00", "2026-11-21 00:00"),
        ("2026-11-20 18:30", "2026-11-20 18:30"),
        ("2026-12-24T18:30", "2026-12-24 18:30"),
        ("2026-12-24", "2026-12-24 00:00"),
    ],
)
def test_moments_are_local_and_to_come(text: str, moment: str) -> None:
    found = moment_of(text, NOW)
    assert f"{found:%Y-%m-%d %H:%M}" == moment
    assert found.tzinfo is not None


def test_a_moment_may_bring_its_zone() -> None:
    assert moment_of("2026-11-20T18:30:00Z", NOW).timestamp() == 1_795_199_400.0


@pytest.mark.parametrize("text", ["", "noon", "25:00", "2h", "18.30", "2026-13-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not a time of day; write one such as "01:00" or "18:30" or "2026-11-20'):
        moment_of(text, NOW)
