"""Mounts that are down and back all the time, and alarms that are told again."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.unit.mounts import subject, transition
from watcher.core.flapping import FLAPS
from watcher.core.incident import SETTLED, Condition
from watcher.core.incidents import Incidents
from watcher.core.messages import Message, Sender, compose
from watcher.core.outbox import Told, Topic, pending, told_now
from watcher.model import Change, Kind

WALL = 1_800_000_000.0
A, B = subject("/mnt/a", source="nas01:/a", device="0:1"), subject("/mnt/b", source="nas01:/b", device="0:2")


class Diary:
    """One channel that is always there."""

    def __init__(self, repeat_interval: float = 0.0) -> None:
        self.incidents = Incidents()
        self.ledger: dict[int, Told] = {}
        self.told: list[tuple[float, Topic, Message]] = []
        self.repeat_interval = repeat_interval
        self.now = 0.0

    def apply(self, change: Change, at: float, about: object = A, kind: Kind = Kind.STALE) -> None:
        self.until(at)
        subject = A if about is A else B
        self.incidents.apply(transition(change, subject, at=at, kind=kind), now=at, wall=WALL + at)
        self.until(at)

    def until(self, at: float) -> None:
        while self.now < at:
            self.now = min(at, self.now + 5.0)
            self.incidents.settle(WALL + self.now)
            self.tell()

    def tell(self) -> None:
        wall = WALL + self.now
        for news in pending(
            self.incidents,
            self.ledger,
            now=wall,
            group_wait=3.0,
            max_age=86400.0,
            repeat_interval=self.repeat_interval,
        ):
            if news.due <= wall:
                told = self.ledger.get(news.incident.number)
                message = compose(
                    news,
                    len(told.down) if told else 0,
                    Sender("pve1", "phone"),
                    now=wall,
                    local=lambda t: datetime.fromtimestamp(t, UTC),
                )
                self.told.append((self.now, news.topic, message))
                self.ledger[news.incident.number] = told_now(news.incident, wall, told, news.topic)

    @property
    def topics(self) -> list[Topic]:
        return [topic for _, topic, _ in self.told]

    def flap(self, times: int, start: float = 10.0, step: float = 30.0) -> float:
        """So many changes; when the last of them was."""
        for n in range(times):
            self.apply(Change.BEGAN if n % 2 == 0 else Change.ENDED, start + n * step)
        return start + (times - 1) * step


SIX = [Topic.PROBLEM, Topic.RECOVERED, Topic.PROBLEM, Topic.RECOVERED, Topic.PROBLEM]


def test_few_changes_are_told_each() -> None:
    diary = Diary()
    diary.until(diary.flap(FLAPS) + 3600)
    assert diary.topics == SIX


def test_slow_changes_are_told_each() -> None:
    diary = Diary()
    diary.until(diary.flap(8, step=130.0) + 3600)
    assert diary.topics == [*SIX, Topic.RECOVERED, Topic.PROBLEM, Topic.RECOVERED]


def test_it_is_told_that_it_flaps_and_that_it_is_ok_in_the_end() -> None:
    diary = Diary()
    last = diary.flap(20)
    assert diary.topics == [*SIX, Topic.FLAPPING]
    assert diary.told[-1][2].title == "🟠 pve1: /mnt/a flaps: NO ANSWER and back, time and again"
    diary.until(last + SETTLED - 10)
    assert len(diary.told) == 6
    diary.until(last + 7200)
    at, topic, message = diary.told[-1]
    assert (diary.topics[6:], at <= last + SETTLED + 10) == ([topic], True)
    assert (topic, message.type) == (Topic.RECOVERED, "success")
    assert message.body.splitlines() == ["Ok: host /mnt/a", "It flapped: 20 changes, none in the last 10 min"]
    assert all(i.closed for i in diary.incidents)


def test_that_it_is_down_in_the_end_is_told_with_its_time() -> None:
    diary = Diary()
    last = diary.flap(21)
    diary.until(last + 7200)
    assert diary.topics == [*SIX, Topic.FLAPPING, Topic.UPDATE]
    message = diary.told[-1][2]
    assert message.title == "🔴 pve1: /mnt/a NO ANSWER"
    assert "It flapped: 21 changes, none in the last 10 min" in message.body
    assert "Told late" not in message.body
    assert message.body.splitlines()[0].endswith(f"{datetime.fromtimestamp(WALL + last, UTC):%H:%M:%S} UTC")
    diary.apply(Change.ENDED, last + 7300)
    diary.until(last + 8000)
    assert diary.topics[-1] is Topic.RECOVERED


def test_what_is_unmounted_while_it_flaps_is_told_as_that() -> None:
    diary = Diary()
    last = diary.flap(7)
    diary.apply(Change.GONE, last + 20)
    diary.until(last + 7200)
    assert diary.topics == [*SIX, Topic.FLAPPING, Topic.CLOSED]


def test_another_of_the_same_server_is_told_beside_it() -> None:
    diary = Diary()
    last = diary.flap(6)
    diary.apply(Change.BEGAN, last + 10, B)
    diary.until(last + 30)
    assert diary.topics == [*SIX, Topic.FLAPPING, Topic.UPDATE]
    assert "Flapping: host /mnt/a" in diary.told[-1][2].body
    diary.apply(Change.ENDED, last + 40, B)
    diary.until(last + 7200)
    assert diary.topics[7:] == [Topic.PARTIAL, Topic.RECOVERED]


def test_after_it_has_settled_it_counts_anew() -> None:
    diary = Diary()
    last = diary.flap(6)
    diary.apply(Change.BEGAN, last + 2000)
    diary.apply(Change.ENDED, last + 2100)
    diary.until(last + 3000)
    assert diary.topics[6:] == [Topic.RECOVERED, Topic.PROBLEM, Topic.RECOVERED]


def test_over_a_restart_it_goes_on_flapping() -> None:
    diary = Diary()
    last = diary.flap(7)
    diary.incidents = Incidents(diary.incidents)
    diary.apply(Change.RESUMED, last + 20)
    diary.until(last + 30)
    assert diary.topics == [*SIX, Topic.FLAPPING]
    diary.apply(Change.ENDED, last + 40)
    diary.until(last + 7200)
    assert diary.topics[6:] == [Topic.RECOVERED]


def test_what_is_still_down_is_told_again() -> None:
    diary = Diary(repeat_interval=3600.0)
    diary.apply(Change.BEGAN, 10)
    diary.apply(Change.BEGAN, 10, B)
    diary.until(2 * 3600 + 60)
    assert diary.topics == [Topic.PROBLEM, Topic.REPEAT, Topic.REPEAT]
    assert diary.told[-1][2].title == "🔴 pve1: nas01 still NO ANSWER, 2 mounts, for 2 h"
    diary.apply(Change.ENDED, 8000)
    diary.until(8100)
    assert diary.topics[3:] == [Topic.PARTIAL]
    diary.until(8000 + 3700)
    assert diary.topics[4:] == [Topic.REPEAT]
    diary.apply(Change.ENDED, 12000, B)
    diary.until(30000)
    assert diary.topics[5:] == [Topic.RECOVERED]


def test_conditions_told() -> None:
    diary = Diary()
    diary.until(diary.flap(6) + 5)
    [told] = [t for t in diary.ledger.values() if t.flapping]
    assert set(told.conditions.values()) == {Condition.FLAPPING}


def test_many_mounts_of_one_source_that_die_together_do_not_flap() -> None:
    incidents = Incidents()
    for n in range(2 * FLAPS):
        about = subject(f"/mnt/{n}", source="drive:", device=f"0:{n}", fstype="fuse.rclone")
        incidents.apply(transition(Change.BEGAN, about, at=0.1), now=0.1, wall=WALL)
    assert not any(m.condition is Condition.DOWN and m.flapping for i in incidents for m in i.members)
