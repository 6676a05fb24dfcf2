"""Printing to a reader that may be gone, or to a full disk: the exit code says what was found all the same."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def reader_may_go() -> Iterator[None]:
    """What is printed within is read as far as somebody wants to."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        mute_stdout()


@contextmanager
def verdict_stands() -> Iterator[None]:
    """What is printed within may not get there, to nobody's harm: the exit code says it, too."""
    try:
        with reader_may_go():
            yield
    except OSError as e:
        mute_stdout()
        complain(f"cannot write the result: {e.strerror}")


def complain(text: str) -> None:
    """On stderr, which may be on the same full disk."""
    try:
        click.echo(f"watcher: {text}", err=True)
    except OSError:
        mute_stderr()


def mute_stdout() -> None:
    """So that the flush at the end does not fail again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def mute_stderr() -> None:
    """The same, and that it is there: whoever runs us may have closed it."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process
    else:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def nobody_reads() -> bool:
    """Whether the reader of a pipe, or the terminal, is gone; a write would tell, but there may be none for days."""
    try:
        fd = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(fd, 0)  # for errors alone, which are always told
    return bool(poll.poll(0))
