"""Silences: what is held back, what is told when they end, what is never told."""

from __future__ import annotations

from tests.unit.mounts import subject, transition
from watcher.core.incident import Incident
from watcher.core.incidents import Incidents
from watcher.core.outbox import News, Told, Topic, pending, told_now
from watcher.model import Change

WALL = 1_800_000_000.0
A, B = subject("/mnt/a", source="nas01:/a", device="0:1"), subject("/mnt/b", source="nas01:/b", device="0:2")


class Story:
    """One channel, and a silence that can be switched."""

    def __init__(self) -> None:
        self.incidents = Incidents()
        self.incidents.silenced = lambda incident: self.silent
        self.silent = False
        self.ledger: dict[int, Told] = {}
        self.released: dict[int, float] = {}

    def apply(self, change: Change, about: object, at: float) -> Incident | None:
        assert about in (A, B)
        return self.incidents.apply(transition(change, A if about is A else B, at=at), now=at, wall=WALL + at)

    def pending(self, at: float) -> list[News]:
        return pending(
            self.incidents,
            self.ledger,
            now=WALL + at,
            group_wait=3.0,
            max_age=86400.0,
            silenced=self.incidents.silenced,
            released=self.released,
        )

    def told(self, at: float) -> list[Topic]:
        """Tell what is due."""
        topics = []
        for news in self.pending(at):
            if news.due <= WALL + at:
                number = news.incident.number
                self.ledger[number] = told_now(news.incident, WALL + at, self.ledger.get(number))
                topics.append(news.topic)
        return topics


def test_what_is_down_when_the_silence_ends_is_told_then_with_its_own_time() -> None:
    story = Story()
    story.silent = True
    story.apply(Change.BEGAN, A, 10)
    assert story.told(2 * 86400) == []  # nor has it expired
    story.silent = False
    story.released = {1: WALL + 2 * 86400}
    [news] = story.pending(2 * 86400 + 1)
    assert (news.topic, news.due, news.incident.since) == (Topic.PROBLEM, WALL + 2 * 86400, WALL + 10)


def test_what_began_and_ended_within_the_silence_is_never_told() -> None:
    story = Story()
    story.silent = True
    story.apply(Change.BEGAN, A, 10)
    story.apply(Change.ENDED, A, 100)
    story.silent = False
    assert story.pending(200) == []


def test_what_began_before_the_silence_and_could_not_be_told_is_told_when_it_is_over() -> None:
    story = Story()
    story.apply(Change.BEGAN, A, 10)
    story.silent = True
    story.apply(Change.ENDED, A, 100)
    assert story.told(150) == []
    story.silent = False
    assert story.told(200) == [Topic.LATE]


def test_what_began_within_the_silence_and_ended_after_it_is_told() -> None:
    story = Story()
    story.silent = True
    story.apply(Change.BEGAN, A, 10)
    story.silent = False
    story.apply(Change.ENDED, A, 100)
    assert story.told(200) == [Topic.LATE]


def test_an_alarm_that_was_told_is_followed_up_in_a_silence() -> None:
    story = Story()
    story.apply(Change.BEGAN, A, 10)
    assert story.told(20) == [Topic.PROBLEM]
    story.silent = True
    story.apply(Change.BEGAN, B, 30)
    assert story.told(40) == []  # an update waits
    story.apply(Change.ENDED, A, 50)
    assert story.told(60) == [Topic.PARTIAL]
    story.apply(Change.ENDED, B, 70)
    assert story.told(80) == [Topic.RECOVERED]


def test_a_silence_over_one_that_opens_again_is_judged_anew() -> None:
    story = Story()
    story.silent = True
    story.apply(Change.BEGAN, A, 10)
    story.apply(Change.GONE, A, 20)
    story.silent = False
    story.apply(Change.BEGAN, A, 30)
    assert story.told(40) == [Topic.PROBLEM]
