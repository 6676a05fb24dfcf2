"""What an administrator does with an alarm: the commands that stand in it, taken out and run as they stand there.

    done = follow(alarm.message, ("First", "Do"))      # ["root@lab:~# umount -l /mnt/nfs; mount /mnt/nfs"]

Knows the forms in which messages say what to do, and how to reach the hosts that they name; must not know what broke.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tests.system.net import ADDRESS, INSIDE, Server

HERE = "lab"
PATIENCE = 120.0  # seconds for what one line has to run
TO_MEND = ("First", "Do")
# What stands before a command that is to run on a host which a message names.
REACHED: dict[str, Sequence[str]] = {HERE: (), ADDRESS: INSIDE}

_STEP = re.compile(r"(First|Do|To give it up|To mount it anew)(?:,? on (\S+))?: (.+)")


class Step(NamedTuple):
    """One line of a message that has commands."""

    lead: str  # "First", "Do", "To give it up", "To mount it anew"
    host: str
    commands: str  # the whole line, with the remark, as it is copied

    @property
    def typed(self) -> str:
        """As it stands on a terminal."""
        return f"root@{self.host}:~# {self.commands}"

    def run(self, *, must: bool) -> None:
        """`must`: each of its commands has to succeed; of those that only look none has to."""
        command = [*REACHED[self.host], "sh", "-ec" if must else "-c", self.commands]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0 or not must, (self.typed, done.stdout, done.stderr)


class OwnAct(NamedTuple):
    """What no command of a message can do, and the test does."""

    words: str
    do: Callable[[], object]


def joined(server: Server) -> OwnAct:
    return OwnAct("the server can be reached again", server.join)


def steps(message: str, leads: Iterable[str]) -> list[Step]:
    """Those of these leads, in the message's order."""
    found = [match for line in message.splitlines() if (match := _STEP.fullmatch(line))]
    return [Step(m[1], m[2] or HERE, m[3]) for m in found if m[1] in leads]


def follow(message: str, leads: Iterable[str] = TO_MEND, *, must: bool = True) -> list[str]:
    """Do what it says, and what was typed for that; "then start what mounts it again" is the test's."""
    found = steps(message, leads)
    assert found, f"nothing to do in {message!r}"
    for step in found:
        step.run(must=must)
    return [step.typed for step in found]
