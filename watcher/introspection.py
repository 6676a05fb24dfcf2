"""What is wrong with the watcher itself, as transitions: each begins once and ends once, and is told like any other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from watcher.core.incident import CHANNEL, Incident
from watcher.core.wording import name
from watcher.delivery.sender import local_time
from watcher.model import Change, Kind, Subject, Superblock, Transition

AGAIN = {
    "configuration": "Its configuration can be used again",
    "state": "Its state is kept on disk again",
}


class Introspection:
    """Keeps what is wrong by now, over restarts."""

    def __init__(self, incidents: Iterable[Incident], take: Callable[[Transition], None]) -> None:
        self._take = take
        self._wrong = {m.subject.source: m.error for i in incidents if i.is_own for m in i.down}

    def note(self, what: str, trouble: str, now: float) -> None:
        """`trouble`: what is wrong with it, for people; empty if nothing is."""
        self._note(what, trouble, AGAIN[what], now)

    def channels(self, unreachable: Mapping[str, tuple[float, str]], known: Collection[str], now: float) -> None:
        """`unreachable`: since when (of the epoch), and the last error, of each channel that has failed for long."""
        for channel in self._channels() - unreachable.keys():
            ended = "works again" if channel in known else "is no longer configured"
            self._note(CHANNEL + channel, "", f"Channel {name(channel)} {ended}", now)
        for channel in unreachable.keys() - self._channels():
            since, error = unreachable[channel]
            words = f"Channel {name(channel)} cannot be told anything since {local_time(since):%Y-%m-%d %H:%M %Z}"
            self._note(CHANNEL + channel, f"{words}: {error}", "", now)

    def _channels(self) -> set[str]:
        return {what.removeprefix(CHANNEL) for what in self._wrong if what.startswith(CHANNEL)}

    def _note(self, what: str, trouble: str, ended: str, now: float) -> None:
        if trouble == self._wrong.get(what, ""):
            return
        subject = Subject(Superblock("", "", "", what), (), "")
        if trouble:
            self._wrong[what] = trouble
            self._take(Transition(Kind.WATCHER, Change.BEGAN, subject, now, now, error=trouble))
        else:
            del self._wrong[what]
            self._take(Transition(Kind.WATCHER, Change.ENDED, subject, now, now, reason=ended))
