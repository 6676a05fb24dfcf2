"""The commands that ask the running service, as the command line has them; what they say is `control`'s."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

FAILURE = 3


class Refused(click.ClickException):
    """The command cannot do what it is asked; each line of its text says why."""

    exit_code = FAILURE

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))

    def show(self, file: Any = None) -> None:
        for line in self.message.split("\n"):
            click.echo(f"watcher: {line}", err=True)


config_option = click.option(
    "--config", "config_path", metavar="FILE", help="Configuration file [default: /etc/mountwatch/config.toml]."
)


def _asking(ctx: click.Context, config_path: str | None, ask: Callable[[str], int | None]) -> NoReturn:
    """Run a command of `control` with the service's socket; its failures become exit code 3."""
    from watcher.config import ConfigError
    from watcher.control import NoAnswer, Unreachable, socket_path

    try:
        code = ask(asyncio.run(socket_path(config_path or ctx.obj, os.environ)))
    except ConfigError as e:
        raise Refused(e.problems) from None
    except (Unreachable, NoAnswer) as e:
        raise Refused([str(e)]) from None
    ctx.exit(code or 0)


@click.command("silence")
@config_option
@click.argument("mounts", nargs=-1)
@click.option("--server", "servers", multiple=True, metavar="NAME", help="All mounts of this server; may be repeated.")
@click.option("--for", "for_", metavar="TIME", help="How long: 2h, 30m, 1d.")
@click.option("--until", metavar="TIME", help='Until when, in local time: 18:30, or "2026-11-20 18:30".')
@click.option("--comment", default="", metavar="TEXT", help="Why, for those who ask later.")
@click.pass_context
def silence(
    ctx: click.Context,
    config_path: str | None,
    mounts: tuple[str, ...],
    servers: tuple[str, ...],
    for_: str | None,
    until: str | None,
    comment: str,
) -> None:
    """Tell nothing of some mounts for a while.

    MOUNTS are patterns: '/mnt/*', 'ct:101:*', 'server:nas01'. What is still stale at the end is told then.
    """
    from datetime import datetime

    from watcher import control

    patterns = [*mounts, *(f"server:{server}" for server in servers)]
    if not patterns:
        raise click.UsageError("name the mounts, such as '/mnt/*' or 'ct:101:*', or a --server")
    if (for_ is None) is (until is None):
        raise click.UsageError("say for how long: --for 2h, or --until 18:30")
    if until is not None:
        try:
            wanted = {"ends": control.moment_of(until, datetime.now()).isoformat()}  # noqa: DTZ005  # the wall's
        except ValueError as e:
            raise click.UsageError(f"--until {e}") from None
    else:
        wanted = {"duration": for_ or ""}

    def warn(line: str) -> None:
        click.echo(f"watcher: {line}", err=True)

    _asking(ctx, config_path, lambda path: control.silence(path, patterns, wanted, comment, click.echo, warn))


@click.command("silences")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def silences(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """List silences and quiet windows."""
    from watcher import control

    _asking(ctx, config_path, lambda path: control.silences(path, as_json=as_json, say=click.echo))


@click.command("unsilence")
@config_option
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_context
def unsilence(ctx: click.Context, config_path: str | None, ids: tuple[str, ...]) -> None:
    """End silences now."""
    from watcher import control

    _asking(ctx, config_path, lambda path: control.unsilence(path, ids, click.echo))


@click.command("health")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def health(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """Ask the running service whether it works.

    Exit codes: 0 yes; 1 no, and why; 3 no service runs, or it cannot be asked.
    """
    from watcher import control

    _asking(ctx, config_path, lambda path: control.health(path, as_json=as_json, say=click.echo))


ASKING = (silence, silences, unsilence, health)
