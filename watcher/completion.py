"""What the shell completes: mounts and silences, by what the running service says. Quick or not at all, and silent.

Imports nothing of the project before somebody presses the key.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PATIENCE = 1.0  # seconds; who waits for a key longer than that presses it again


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, which the shell looks for itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_silences(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of silences that begin like this, and what they are about."""
    from click.shell_completion import CompletionItem

    from watcher.core.wording import name

    return [
        CompletionItem(str(entry["id"]), help=name(", ".join(map(str, entry["mounts"])), 60))
        for entry in _listed(ctx, "silences")
        if str(entry["id"]).startswith(incomplete)
    ]


def complete_mounts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The mounts that begin like this."""
    names = sorted(map(_name, _listed(ctx, "mounts")))
    # The shell would take others apart, or more: they are not its to type.
    return [name for name in names if name.startswith(incomplete) and shlex.quote(name) == name]


def _listed(ctx: click.Context, what: str) -> list[dict[str, Any]]:
    """What the service answers; nothing if it does not at once."""
    found: list[dict[str, Any]] = []
    contexts = [ctx, *([ctx.parent] if ctx.parent is not None else [])]
    config_path = next((path for c in contexts if (path := c.params.get("config_path"))), None)
    # In a thread that nobody waits for: whatever hangs, be it the configuration's disk, ends with the process.
    asking = Thread(target=_ask, args=(config_path, what, found), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return [] if asking.is_alive() else found


def _ask(config_path: str | None, what: str, into: list[dict[str, Any]]) -> None:
    from watcher.config import ConfigError
    from watcher.control import NoAnswer, Unreachable, ask, listed, socket_path

    try:
        path = asyncio.run(socket_path(config_path, os.environ))
        into += listed(ask(path, "GET", what).or_refuse(), what)
    except (ConfigError, NoAnswer, Unreachable, OSError, LookupError):
        return


def _name(entry: dict[str, Any]) -> str:
    namespace, target = str(entry["namespace"]), str(entry["target"])
    return target if namespace == "host" else f"{namespace}:{target}"
