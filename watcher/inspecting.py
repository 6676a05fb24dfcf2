"""The commands that look at single paths, as the command line has them: `explain`, `hidden`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from watcher.commands import Refused, address_of, config_option
from watcher.completion import complete_mounts
from watcher.printing import complain, verdict_stands

if TYPE_CHECKING:
    from watcher.settings import Settings


Document = dict[str, Any]


def _settings(config_path: str | None) -> Settings:
    from watcher.config import ConfigError
    from watcher.control import settings_in_force

    try:
        return asyncio.run(settings_in_force(config_path, os.environ))
    except ConfigError as e:
        raise Refused(e.problems) from None


def _found(look: Callable[[], Document]) -> Document:
    try:
        return look()
    except OSError as e:
        raise Refused([f"{e.filename or 'watcher'}: {e.strerror or e}"]) from None


def _say(document: Document, lines: Callable[[Document], Iterable[str]], *, as_json: bool) -> None:
    with verdict_stands():
        if as_json:
            click.echo(json.dumps(document, indent=2))
        else:
            for line in lines(document):
                click.echo(line)
        for note in document["notes"]:
            complain(note)


@click.command("explain")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("path", shell_complete=complete_mounts)
@click.pass_context
def explain(ctx: click.Context, config_path: str | None, as_json: bool, path: str) -> None:
    """Tell all that is known of the mount that PATH lies on.

    PATH is a mount point or any path below one, of the host or of a container: /mnt/nas/films, ct:101:/media; or what
    is mounted: nas01:/export. It is found in the mount tables and never touched; links on the host's own disks are
    followed.

    Exit codes: 0 ok; 1 a warning; 2 stale, missing, or no watched mount there; 3 usage or internal error.
    """
    from watcher import explained, explaining

    asked = address_of(path)
    document = _found(lambda: explaining.explain(_settings(config_path or ctx.obj), asked, os.environ, path))
    _say(document, explained.lines, as_json=as_json)
    ctx.exit(explained.exit_code(document))


@click.command("hidden")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("paths", nargs=-1, metavar="[PATH]...", shell_complete=complete_mounts)
@click.pass_context
def hidden(ctx: click.Context, config_path: str | None, as_json: bool, paths: tuple[str, ...]) -> None:
    """Tell what lies under mount points: files that were written while nothing was mounted there.

    Of all watched mounts, or of those that the PATHs (/mnt/nas, ct:101:/media) lie on. What is mounted is not touched.

    Exit codes: 0 nothing is hidden; 1 something is, or could not be looked for; 3 usage, no rights or internal error.
    """
    from watcher import uncovering

    asked = [address_of(path) for path in paths]
    document = _found(lambda: uncovering.uncover(_settings(config_path or ctx.obj), asked))
    _say(document, uncovering.lines, as_json=as_json)
    ctx.exit(uncovering.exit_code(document))


INSPECTING = (explain, hidden)
