"""The lines of fstab(5). What they mean for a mount is said elsewhere. Whatever the text, nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from watcher.core.mountinfo import unescape

_BLANKS = re.compile(r"[ \t]+")  # str.split() would take a no-break space for one


class Entry(NamedTuple):
    source: str
    target: str
    fstype: str
    options: str


def entries(text: str) -> Iterator[Entry]:
    for line in text.split("\n"):
        fields = _BLANKS.split(line.strip(" \t\r"))
        if len(fields) >= 3 and not fields[0].startswith("#"):
            options = fields[3] if len(fields) > 3 else "defaults"
            yield Entry(unescape(fields[0]), unescape(fields[1]), unescape(fields[2]), options)
