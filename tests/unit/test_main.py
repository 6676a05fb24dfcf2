"""What begins the service by itself, and what is left to the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher import cli
from watcher.__main__ import service

WORDS = (
    "-v",
    "--verbose",
    "--config",
    "--config=/x",
    "/etc/x",
    "",
    "-",
    "--",
    "--once",
    "--conf",
    "status",
    "-h",
    "-vv",
)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], (None, False)),
        (["-v"], (None, True)),
        (["--config", "/x", "--verbose"], ("/x", True)),
        (["--config", "/x", "--config", "/y"], ("/y", False)),
        (["--config"], None),
        (["--once"], None),
        (["status"], None),
        (["--help"], None),
    ],
)
def test_what_is_the_service(arguments: list[str], wanted: tuple[str | None, bool] | None) -> None:
    assert service(arguments) == wanted


@given(st.lists(st.sampled_from(WORDS), max_size=5))
def test_what_is_taken_for_the_service_is_that_to_the_command_line_too(arguments: list[str]) -> None:
    found = service(arguments)
    if found is None:
        return
    context = cli.watcher.make_context("watcher", list(arguments))
    given_ = {name: value for name, value in context.params.items() if value}
    assert (given_.pop("config_path", None), given_.pop("verbose", False)) == found
    assert not given_
