"""The command line: options, exit codes, and all that a person sees printed.

Exit codes hold whatever happens: 0 ok, 1 warnings, 2 stale or missing, 3 usage, configuration or
internal error, interruption. Heavy modules are imported where they are used: `--once` needs no Apprise.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import click

from watcher import __version__
from watcher.commands import ASKING, FAILURE, Refused, config_option
from watcher.inspecting import INSPECTING
from watcher.printing import complain, mute_stderr, mute_stdout, verdict_stands

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what stdout says where it is a file


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.2 on
    """ "2s", "500ms": as in the configuration."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from watcher.values import parse_duration

        try:
            seconds = parse_duration(str(value))
        except ValueError as e:
            self.fail(f"{value!r}: {e}", param, ctx)
        if not 0.05 <= seconds <= 300:
            self.fail(f"{value!r} is not between 50ms and 5m", param, ctx)
        return seconds


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@click.option("--once", is_flag=True, help="Look once, print a table, exit.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON.")
@click.option(
    "--path", "paths", multiple=True, metavar="GLOB", help="With --once: only these mounts, and they must exist."
)
@click.option("--timeout", type=Duration(), metavar="TIME", help="With --once: how long a mount may take, such as 2s.")
@click.option("--capacity", is_flag=True, help="With --once: also how full file systems are, in containers too.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.version_option(__version__, prog_name="watcher")
@click.pass_context
def watcher(
    ctx: click.Context,
    config_path: str | None,
    once: bool,
    as_json: bool,
    paths: tuple[str, ...],
    timeout: float | None,
    capacity: bool,
    verbose: bool,
) -> None:
    """Tell within seconds when a remote mount goes stale.

    Without a command, watches as a service until it is stopped.

    Exit codes: 0 all ok; 1 warnings; 2 a mount is stale or missing; 3 usage, configuration or internal error.
    """
    ctx.obj = config_path
    only_once = (("--json", as_json), ("--path", paths), ("--timeout", timeout), ("--capacity", capacity))
    needs_once = [option for option, given in only_once if given]
    if ctx.invoked_subcommand is not None:
        if once or needs_once:
            raise click.UsageError(f"{'--once' if once else needs_once[0]} does not go with {ctx.invoked_subcommand}")
        return
    if once:
        wrong = [glob for glob in paths if not glob.startswith(("/", "*", "host:", "ct:", "server:"))]
        if wrong:
            raise click.UsageError(f'--path {wrong[0]}: a mount point starts with "/"')
        paths = tuple(glob.rstrip("/") or "/" for glob in paths)
        ctx.exit(_once(config_path, as_json, paths, timeout, capacity))
    if needs_once:
        raise click.UsageError(f"{needs_once[0]} needs --once")
    from watcher.serving import serve

    serve(config_path, verbose)


def _once(config_path: str | None, as_json: bool, paths: tuple[str, ...], timeout: float | None, capacity: bool) -> int:
    from watcher import once, output
    from watcher.config import ConfigError

    progress = _Progress()

    async def look() -> once.Findings:
        settings, warnings = await once.load_settings(config_path, os.environ)
        for warning in warnings:
            complain(warning)
        return await once.check(
            settings,
            paths=paths,
            timeout=timeout,
            capacity=capacity or as_json,
            environ=os.environ,
            progress=progress.show,
        )

    try:
        findings = asyncio.run(look())
    except ConfigError as e:
        raise Refused(e.problems) from None
    except OSError as e:
        raise Refused([f"{e.filename or 'watcher'}: {e.strerror or e}"]) from None
    finally:
        progress.clear()
    code = output.exit_code(findings, capacity=capacity)
    with verdict_stands():
        if as_json:
            click.echo(json.dumps(output.to_json(findings, socket.gethostname()), indent=2))
        else:
            _print_tables(findings, capacity)
        for line in (*output.note_lines(findings), *output.unmatched_lines(findings)):
            complain(line)
    return code


def _print_tables(findings: Any, capacity: bool) -> None:
    from watcher import output

    console = output.console()
    if findings.states:
        console.print(output.table(findings.states))
        console.print()
    console.print(output.summary(findings), markup=False)
    if capacity:
        console.print("\nCapacity\n", style="bold")
        if findings.capacity:
            console.print(output.capacity_table(findings.capacity))
            console.print()
        console.print(output.capacity_summary(findings), markup=False)


class _Progress:
    """A line on stderr, on a terminal only, while mounts keep us waiting."""

    def __init__(self) -> None:
        self._enabled = sys.stderr.isatty()
        self._calls = 0
        self._shown = ""

    def show(self, waiting: Sequence[Any]) -> None:
        from watcher.core.wording import count, name

        self._calls += 1
        if not self._enabled or self._calls < 3:
            return
        line = f"waiting for {count(len(waiting), 'mount')}: {name(str(waiting[0]), 50)}"
        if line != self._shown:
            self._shown = line
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[2K", nl=False, err=True)


@watcher.command("check-config")
@config_option
@click.pass_obj
def check_config(outer: str | None, config_path: str | None) -> None:
    """Check the configuration and every channel's URL; show the settings in force."""
    from watcher.channels import check

    problems = asyncio.run(check(config_path or outer, os.environ, click.echo))
    if problems:
        raise Refused(problems)


@watcher.command("test-notify")
@config_option
@click.argument("channel", required=False)
@click.pass_context
def test_notify(ctx: click.Context, config_path: str | None, channel: str | None) -> None:
    """Send a test message to CHANNEL, or to all of them."""
    from watcher.channels import send_test
    from watcher.config import ConfigError

    try:
        failed = asyncio.run(send_test(config_path or ctx.obj, os.environ, channel, click.echo))
    except ConfigError as e:
        raise Refused(e.problems) from None
    ctx.exit(1 if failed else 0)


for _command in (*ASKING, *INSPECTING):
    watcher.add_command(_command)


def main() -> int:
    """The exit code of what the arguments ask for: click's 2 and a traceback's 1 become 3."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if "_WATCHER_COMPLETE" in os.environ:
        from watcher.shells import use_ours

        use_ours()
    if sys.stderr is None:
        mute_stderr()
    try:
        return _run()
    except OSError:  # not even what is wrong can be said
        mute_stderr()
        return FAILURE


def _run() -> int:
    try:
        # Not standalone: what ctx.exit was given comes back as the result.
        return int(watcher.main(prog_name="watcher", standalone_mode=False) or 0)
    except click.ClickException as e:
        e.show()
        return FAILURE
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return FAILURE
    except (BrokenPipeError, SystemExit):
        if "_WATCHER_COMPLETE" in os.environ:
            raise  # how that ends
        # SystemExit is what click makes of a broken pipe, with 1.
        mute_stdout()
        return FAILURE
    except Exception as e:
        if isinstance(e, OSError) and e.errno in _UNWRITABLE and e.filename is None:
            mute_stdout()
            complain(f"cannot write the result: {e.strerror}")
            return FAILURE
        import traceback

        traceback.print_exc()
        return FAILURE
