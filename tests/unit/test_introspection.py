"""What is wrong with the watcher itself: told once, of a channel through the others, and over restarts."""

from __future__ import annotations

from watcher.core.incidents import Incidents
from watcher.core.outbox import Told, Topic, pending, told_now
from watcher.introspection import Introspection
from watcher.model import Change, Transition

WALL = 1_800_000_000.0


class Told2:
    """Two channels, and what they are told."""

    def __init__(self) -> None:
        self.incidents = Incidents()
        self.ledgers: dict[str, dict[int, Told]] = {"phone": {}, "mail": {}}
        self.restart()

    def restart(self) -> None:
        self.incidents = Incidents(self.incidents)
        self.introspection = Introspection(self.incidents, self.take)

    def take(self, transition: Transition) -> None:
        self.incidents.apply(transition, now=transition.at, wall=WALL + transition.at)

    def topics(self, channel: str, at: float) -> list[tuple[Topic, str]]:
        told = []
        ledger = self.ledgers[channel]
        for news in pending(self.incidents, ledger, now=WALL + at, group_wait=3.0, max_age=86400.0, channel=channel):
            if news.due <= WALL + at:
                ledger[news.incident.number] = told_now(news.incident, WALL + at)
                [member] = news.incident.members
                told.append((news.topic, member.reason or member.error))
        return told


def test_a_channel_that_fails_for_long_is_told_of_through_the_other_and_again_when_it_works() -> None:
    story = Told2()
    failing = {"mail": (WALL - 900, "connection refused")}
    for at in (0.0, 5.0, 10.0):
        story.introspection.channels(failing, ["phone", "mail"], at)
    [(topic, words)] = story.topics("phone", 20)
    assert topic is Topic.PROBLEM
    assert words.startswith("Channel mail cannot be told anything since ")
    assert words.endswith(": connection refused")
    assert story.topics("mail", 20) == []
    story.restart()
    story.introspection.channels(failing, ["phone", "mail"], 25)
    assert story.topics("phone", 40) == []
    story.introspection.channels({}, ["phone", "mail"], 50)
    assert story.topics("phone", 60) == [(Topic.RECOVERED, "Channel mail works again")]
    assert story.topics("mail", 60) == []


def test_of_a_channel_that_is_removed_it_is_not_said_that_it_works() -> None:
    story = Told2()
    story.introspection.channels({"mail": (WALL, "x")}, ["phone", "mail"], 0)
    story.topics("phone", 10)
    story.introspection.channels({}, ["phone"], 20)
    assert story.topics("phone", 30) == [(Topic.RECOVERED, "Channel mail is no longer configured")]


def test_each_trouble_has_its_own_end_also_after_a_restart() -> None:
    story = Told2()
    story.introspection.note("configuration", "line 3", 0)
    story.introspection.note("state", "full", 0)
    story.introspection.note("state", "read-only", 2)
    assert len(story.topics("phone", 10)) == 2
    story.introspection.note("state", "", 20)
    assert story.topics("phone", 30) == [(Topic.RECOVERED, "Its state is kept on disk again")]
    story.restart()
    story.introspection.note("configuration", "", 40)
    assert story.topics("phone", 50) == [(Topic.RECOVERED, "Its configuration can be used again")]


def test_what_is_fine_is_not_mentioned() -> None:
    seen: list[Transition] = []
    introspection = Introspection([], seen.append)
    introspection.note("state", "", 0)
    introspection.channels({}, ["phone"], 0)
    assert seen == []
    introspection.note("state", "x", 0)
    assert [t.change for t in seen] == [Change.BEGAN]
