"""The commands that ask the running service, as the command line has them; what they say is `control`'s."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from watcher.completion import complete_files, complete_mounts, complete_silences
from watcher.printing import complain

if TYPE_CHECKING:
    from watcher.core.explain import Address

FAILURE = 3


class Refused(click.ClickException):
    """The command cannot do what it is asked; each line of its text says why."""

    exit_code = FAILURE

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))

    def show(self, file: Any = None) -> None:
        for line in self.message.split("\n"):
            complain(line)


def _a_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value == "":  # a variable of a script that is not set
        raise click.BadParameter("names no file")
    return value


config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    callback=_a_file,
    shell_complete=complete_files,
    help="Configuration file [default: /etc/mountwatch/config.toml].",
)


def address_of(text: str) -> Address:
    """What an argument names; a relative path is one below the working directory."""
    from watcher.core.explain import address

    try:
        # getcwd(2) asks no file system.
        return address(text, os.getcwd() if not text.startswith(("/", "ct:", "host:")) else "/")
    except ValueError as e:
        from watcher.values import shown

        raise click.UsageError(f"{shown(text)} {e}") from None
    except OSError as e:
        raise Refused([f"the working directory: {e.strerror}; give a path that starts with /"]) from None


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
@click.argument("mounts", nargs=-1, shell_complete=complete_mounts)
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

    from watcher import quieting

    # As a shell completes a directory's name.
    patterns = [*(mount.rstrip("/") or mount for mount in mounts), *(f"server:{server}" for server in servers)]
    if not patterns:
        raise click.UsageError("name the mounts, such as '/mnt/*' or 'ct:101:*', or a --server")
    if (for_ is None) is (until is None):
        raise click.UsageError("say for how long: --for 2h, or --until 18:30")
    if until is not None:
        try:
            wanted = {"ends": quieting.moment_of(until, datetime.now()).isoformat()}  # noqa: DTZ005  # the wall's
        except ValueError as e:
            raise click.UsageError(f"--until {e}") from None
    else:
        wanted = {"duration": for_ or ""}

    def warn(line: str) -> None:
        click.echo(f"watcher: {line}", err=True)

    _asking(ctx, config_path, lambda path: quieting.silence(path, patterns, wanted, comment, click.echo, warn))


@click.command("silences")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def silences(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """List silences and quiet windows."""
    from watcher import quieting

    _asking(ctx, config_path, lambda path: quieting.silences(path, as_json=as_json, say=click.echo))


@click.command("unsilence")
@config_option
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=complete_silences)
@click.pass_context
def unsilence(ctx: click.Context, config_path: str | None, ids: tuple[str, ...]) -> None:
    """End silences now."""
    from watcher import quieting

    _asking(ctx, config_path, lambda path: quieting.unsilence(path, ids, click.echo))


@click.command("health")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def health(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """Ask the running service whether it works.

    Exit codes: 0 yes; 1 no, and why; 3 no service runs, or it cannot be asked.
    """
    from watcher import overview

    _asking(ctx, config_path, lambda path: overview.health(path, as_json=as_json, say=click.echo))


@click.command("status")
@config_option
@click.option("--watch", is_flag=True, help="Go on, and show each change as it comes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch each change on a line of its own.")
@click.pass_context
def status(ctx: click.Context, config_path: str | None, watch: bool, as_json: bool) -> None:
    """Show how the running service sees all mounts, the worst first.

    Exit codes: 0 all ok; 1 warnings; 2 a mount is stale or missing; 3 no service runs, or it cannot be asked.
    """
    from watcher import overview

    show = overview.watch if watch else overview.status
    _asking(ctx, config_path, lambda path: show(path, as_json=as_json, say=click.echo))


@click.command("history")
@config_option
@click.option("--since", default="24h", metavar="TIME", show_default=True, help="How far back: 24h, 7d.")
@click.option("--limit", type=click.IntRange(1, 1000), default=1000, metavar="N", help="How many changes at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def history(ctx: click.Context, config_path: str | None, since: str, limit: int, as_json: bool) -> None:
    """List what has changed, the latest first.

    Exit codes: 0; 3 wrong usage, no service runs, or it cannot be asked.
    """
    from watcher import overview
    from watcher.values import parse_duration

    try:
        parse_duration(since)
    except ValueError as e:
        raise click.UsageError(f"--since {e}") from None
    _asking(ctx, config_path, lambda path: overview.history(path, since, limit, as_json=as_json, say=click.echo))


@click.command("probe")
@config_option
@click.argument("mount", shell_complete=complete_mounts)
@click.pass_context
def probe(ctx: click.Context, config_path: str | None, mount: str) -> None:
    """Have the running service look at MOUNT now: a mount point such as /mnt/nas or ct:101:/media.

    Exit codes: 0 ok; 1 a warning, or it cannot be probed now; 2 stale or missing; 3 not watched, or no service runs.
    """
    from watcher import overview

    asked = address_of(mount)
    _asking(ctx, config_path, lambda path: overview.probe(path, asked, click.echo))


@click.command("channels")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def channels(ctx: click.Context, config_path: str | None, as_json: bool) -> None:
    """Show how it stands with each channel.

    Exit codes: 0 all work; 1 one fails; 3 no service runs, or it cannot be asked.
    """
    from watcher import overview

    _asking(ctx, config_path, lambda path: overview.channels(path, as_json=as_json, say=click.echo))


ASKING = (status, history, probe, channels, silence, silences, unsilence, health)
