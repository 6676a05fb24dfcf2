"""Printing to a reader that may be gone, or to a full disk: the exit code says what was found all the same."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def verdict_stands() -> Iterator[None]:
    """What is printed within may not get there."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        mute_stdout()  # the reader has seen enough
    except OSError as e:
        mute_stdout()
        click.echo(f"watcher: cannot write the result: {e.strerror}", err=True)


def mute_stdout() -> None:
    """So that the interpreter's own flush at exit does not fail again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def nobody_reads() -> bool:
    """Whether the reader of a pipe, or the terminal, is gone; a write would tell, but there may be none for days."""
    try:
        fd = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(fd, 0)  # for errors alone, which are always told
    return bool(poll.poll(0))
