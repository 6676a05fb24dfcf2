"""What the shell completes: mounts, by what the running service watches. Quick or not at all, and silent.

Imports nothing of the project before somebody presses the key.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from threading import Thread
from typing import Any

import click

PATIENCE = 1.0  # seconds; who waits for a key longer than that presses it again


def complete_mounts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The mounts that begin like this."""
    found: list[str] = []
    contexts = [ctx, *([ctx.parent] if ctx.parent is not None else [])]
    config_path = next((path for c in contexts if (path := c.params.get("config_path"))), None)
    # In a thread that nobody waits for: whatever hangs, be it the configuration's disk, ends with the process.
    asking = Thread(target=_ask, args=(config_path, found), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return [] if asking.is_alive() else [name for name in found if name.startswith(incomplete)]


def _ask(config_path: str | None, into: list[str]) -> None:
    from watcher.config import ConfigError
    from watcher.control import NoAnswer, Unreachable, ask, listed, socket_path

    try:
        path = asyncio.run(socket_path(config_path, os.environ))
        names = [_name(entry) for entry in listed(ask(path, "GET", "mounts").or_refuse(), "mounts")]
    except (ConfigError, NoAnswer, Unreachable, OSError, LookupError):
        return
    # The shell would take others apart, or more: they are not its to type.
    into += sorted(name for name in names if shlex.quote(name) == name)


def _name(entry: dict[str, Any]) -> str:
    namespace, target = str(entry["namespace"]), str(entry["target"])
    return target if namespace == "host" else f"{namespace}:{target}"
