"""What channels are told, message by message, whatever happens to mounts and channels: it must be a true story."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.mounts import subject, transition
from watcher.core.body import MAX_LINES
from watcher.core.incident import SETTLED, Condition, Incident
from watcher.core.incidents import Incidents
from watcher.core.messages import Message, Sender, compose
from watcher.core.outbox import (
    REMOUNT_WAIT,
    UPDATE_LAST,
    News,
    Told,
    Topic,
    attempted,
    pending,
    retry_after,
    told_now,
)
from watcher.core.resume import incidents_of
from watcher.core.saved import Saved, State
from watcher.model import Change, Subject, Superblock

GROUP_WAIT, MAX_AGE = 3.0, 86400.0
START = 1_800_000_000.0  # the epoch's seconds at the monotonic clock's 0
PLACES = {"/mnt/a1": "nas0a", "/mnt/a2": "nas0a", "/mnt/b": "nas0b"}
ALARMS, ENDS = {Topic.PROBLEM, Topic.UPDATE}, {Topic.RECOVERED, Topic.CLOSED}
NOT_OK = ALARMS | {Topic.PARTIAL, Topic.FLAPPING}
REMEMBER = 600.0  # seconds for which the tracker calls a mount in a dead one's place "remounted"


@dataclass
class Standing:
    """What is mounted in one place, if anything."""

    about: Subject | None
    down: bool = False
    departed: float | None = None  # when a dead mount was taken away from here


@dataclass
class Channel:
    """A receiver, with all that it has got."""

    name: str
    up: bool = True
    flood: float | None = None  # "too many requests, retry after": seconds
    dies_after_sending: bool = False  # the service is killed before it has noted that the next message was sent
    attempt: int = 0
    retry_at: float = 0.0
    failing_since: float | None = None
    ledger: dict[int, Told] = field(default_factory=dict)
    repeats: set[int] = field(default_factory=set)  # incidents of which a message may come once more
    story: dict[int, list[tuple[Topic, Message]]] = field(default_factory=dict)  # by incident
    knows: dict[int, Told] = field(default_factory=dict)  # the ledger, nothing ever forgotten


class Telling(RuleBasedStateMachine):
    """Two servers with three mounts, two channels; `delivery.sender` is played step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.numbers = iter(range(1, 10**9))
        self.standing = {point: Standing(self.fresh(point)) for point in PLACES}
        self.incidents = Incidents()
        self.channels = [Channel("phone"), Channel("mail")]
        self.last: dict[int, Incident] = {}  # as last seen, also when dropped
        self.silent = False
        self.hushed: set[int] = set()  # incidents over which a silence has held
        self.saved = Saved()
        self.lives = True
        self.watch()

    def fresh(self, point: str) -> Subject:
        return subject(point, source=f"{PLACES[point]}:{point}", device=f"0:{next(self.numbers)}")

    @property
    def wall(self) -> float:
        return START + self.now

    def watch(self) -> None:
        self.incidents.silenced = lambda incident: self.silent
        self.released: dict[int, float] = {}

    # ---- what happens to the service

    def save(self) -> None:
        """As the store does it: all in one, after each change."""
        told = {(c.name, number): entry for c in self.channels for number, entry in c.ledger.items()}
        self.saved = Saved(State(incidents={i.number: i for i in self.incidents}, told=told), "boot", self.wall)

    def die(self) -> None:
        """What is not on disk is lost."""
        self.lives = False
        self.incidents = Incidents()

    @precondition(lambda self: self.lives)
    @rule()
    def is_killed(self) -> None:
        self.die()

    @precondition(lambda self: not self.lives)
    @rule()
    def is_started(self) -> None:
        """The incidents are taken up; then each mount is looked at, as the tracker does it."""
        self.lives = True
        found = incidents_of(self.saved, rebooted=False)
        known = {m.subject.superblock for i in found for m in i.failing}
        self.incidents = Incidents(found, last=max(self.last, default=0))
        self.watch()
        for channel in self.channels:
            told = self.saved.state.told
            channel.ledger = {number: entry for (name, number), entry in told.items() if name == channel.name}
            channel.attempt, channel.retry_at = 0, 0.0
        for there in self.standing.values():
            if there.about is not None and there.about.superblock in known:
                self.apply(Change.RESUMED, there.about, since=self.now - 20)
        for there in self.standing.values():
            there.departed = None  # of that nothing is kept
            if there.about is None:
                continue
            if there.about.superblock in known and not there.down:
                self.apply(Change.ENDED, there.about)
            elif there.about.superblock not in known and there.down:
                self.apply(Change.BEGAN, there.about, since=self.now - 20)
        self.incidents.give_up(self.wall, ["host"])
        self.deliver()

    # ---- silences

    @rule(silent=st.booleans())
    def is_silenced(self, silent: bool) -> None:
        if self.silent and not silent:
            self.released = {i.number: self.wall for i in self.incidents}
        self.silent = silent
        self.deliver()

    # ---- what happens to mounts: the transitions that the tracker makes of it

    points = st.sampled_from(sorted(PLACES))

    def apply(self, change: Change, about: Subject, *, since: float | None = None, reason: str = "") -> None:
        if self.lives:
            self.incidents.apply(
                transition(change, about, at=self.now, since=since, reason=reason), now=self.now, wall=self.wall
            )

    def tell(self, change: Change, about: Subject, *, since: float | None = None, reason: str = "") -> None:
        self.apply(change, about, since=since, reason=reason)
        self.deliver()

    @rule(point=points)
    def dies(self, point: str) -> None:
        there = self.standing[point]
        if there.about and not there.down:
            there.down = True
            self.tell(Change.BEGAN, there.about, since=self.now - 20)

    @rule(point=points)
    def recovers(self, point: str) -> None:
        there = self.standing[point]
        if there.about and there.down:
            there.down = False
            self.tell(Change.ENDED, there.about)

    @rule(point=points)
    def is_unmounted(self, point: str) -> None:
        there = self.standing[point]
        if there.about:
            gone, was_down = there.about, there.down
            there.about, there.down = None, False
            there.departed = self.now if was_down else None
            if was_down:
                self.tell(Change.GONE, gone, reason="unmounted")

    @rule(point=points, dead=st.booleans())
    def is_mounted(self, point: str, dead: bool) -> None:
        there = self.standing[point]
        if there.about is None:
            there.about = self.fresh(point)
            departed, there.departed = there.departed, None
            if dead:
                self.time_passes(20.0)
                there.down = True
                self.tell(Change.BEGAN, there.about, since=self.now - 20)
            elif departed is not None and self.now - departed < REMEMBER:
                self.tell(Change.REMOUNTED, there.about, since=departed)

    # ---- channels and time

    @rule(number=st.sampled_from([0, 1]))
    def channel_fails(self, number: int) -> None:
        self.channels[number].up = False

    @rule(number=st.sampled_from([0, 1]))
    def channel_is_back(self, number: int) -> None:
        self.channels[number].up = True
        self.deliver()

    @rule(number=st.sampled_from([0, 1]), seconds=st.sampled_from([1.0, 30.0, 400.0]))
    def channel_is_flooded(self, number: int, seconds: float) -> None:
        self.channels[number].flood = seconds

    @precondition(lambda self: self.lives)
    @rule(number=st.sampled_from([0, 1]))
    def service_dies_at_the_next_message(self, number: int) -> None:
        self.channels[number].dies_after_sending = True

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 4.0, 9.0, 15.0, 70.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + (1.0 if end - self.now < 100 else 60.0))
            self.incidents.settle(self.wall)
            self.deliver()

    @precondition(lambda self: any(not c.up for c in self.channels))
    @rule()
    def days_pass(self) -> None:
        self.now += 2 * MAX_AGE
        self.deliver()

    def deliver(self) -> None:
        """What is due goes out, in order, to whoever can be reached."""
        if not self.lives:
            return
        for incident in self.incidents:
            self.last[incident.number] = incident
            if self.silent:
                self.hushed.add(incident.number)
        self.save()
        for channel in self.channels:
            while channel.retry_at <= self.wall and (news := self.due(channel)):
                first = news[0]
                number = first.incident.number
                told = channel.ledger.get(number)
                if not channel.up or channel.flood is not None:
                    channel.failing_since = channel.failing_since or self.wall
                    channel.attempt += 1
                    asked_for, channel.flood = (channel.flood, None) if channel.up else (None, channel.flood)
                    channel.retry_at = self.wall + retry_after(channel.attempt, asked_for, 0.5)
                    break
                channel.attempt, channel.retry_at = 0, 0.0
                sender = Sender("pve1", channel.name, channel.failing_since)
                down = len(told.down) if told else 0
                message = compose(first, down, sender, now=self.wall, local=lambda t: datetime.fromtimestamp(t, UTC))
                channel.failing_since = None
                self.check_message(channel, first.incident, first.topic, message)
                entry = told_now(first.incident, self.wall, told, first.topic)
                channel.knows[number] = entry
                channel.ledger[number] = attempted(told, entry)
                self.save()
                if channel.dies_after_sending:
                    channel.dies_after_sending = False
                    channel.repeats.add(number)
                    self.die()
                    return
                channel.ledger[number] = entry
                self.save()
        self.forget_settled()
        self.save()

    def due(self, channel: Channel) -> list[News]:
        found = pending(
            self.incidents,
            channel.ledger,
            now=self.wall,
            group_wait=GROUP_WAIT,
            max_age=MAX_AGE,
            silenced=self.incidents.silenced,
            released=self.released,
        )
        return [news for news in found if news.due <= self.wall]

    def forget_settled(self) -> None:
        """As the sender does: what every channel knows the end of."""
        for incident in self.incidents:
            if incident.closed is None or self.wall - incident.closed <= REMOUNT_WAIT:
                continue
            if not any(
                pending([incident], c.ledger, now=self.wall, group_wait=GROUP_WAIT, max_age=MAX_AGE)
                for c in self.channels
            ):
                self.incidents.drop(incident.number)
                for channel in self.channels:
                    channel.ledger.pop(incident.number, None)

    # ---- what must hold

    def check_message(self, channel: Channel, incident: Incident, topic: Topic, message: Message) -> None:
        story = channel.story.setdefault(incident.number, [])
        topics = [earlier for earlier, _ in story]
        once_more = incident.number in channel.repeats  # it was killed before it had noted the last one
        channel.repeats.discard(incident.number)
        if not topics:
            assert topic in (Topic.PROBLEM, Topic.LATE, Topic.FLAPPING), f"begins with {topic}"
        elif not once_more:
            assert topic not in (Topic.PROBLEM, Topic.LATE), "begins twice"
            assert story[-1][1] != message, "the same twice"
            if topic is Topic.PARTIAL or topic in ENDS:
                assert topics[-1] in NOT_OK, f"{topic} of what was not told to be down"
        story.append((topic, message))
        if topic is Topic.FLAPPING:
            return
        assert (message.type == "failure") == (topic in ALARMS)
        assert ("🔴" in message.title) == (topic in ALARMS)
        assert 1 <= len(message.body.splitlines()) <= MAX_LINES
        assert "\n" not in message.title
        if topic in ENDS | {Topic.LATE}:
            assert "Still" not in message.body
        # What the message says of each place is what is so. (Alarms list only what is down.)
        lines = message.body.splitlines()
        for member in incident.members if topic not in ALARMS else incident.down:
            if member.flapping:
                continue
            [place] = member.subject.places
            line = next(line for line in lines if place.mount_point in line)
            assert topic in ALARMS or ("Still" in line) == (member.condition is Condition.DOWN)

    @invariant()
    def an_open_incident_has_something_down(self) -> None:
        for incident in self.incidents:
            assert (incident.closed is None) == bool(incident.down or incident.flapping)

    @rule()
    def all_is_told(self) -> None:
        """All channels can be reached, and time has passed: each knows exactly what is down now."""
        for channel in self.channels:
            channel.up, channel.flood, channel.dies_after_sending = True, None, False
        if not self.lives:
            self.is_started()
        self.is_silenced(False)
        # What flaps has settled, updates that pause have had their turn, and the longest back-off is over.
        self.time_passes(SETTLED + UPDATE_LAST + 20.0)
        down = {s.about.superblock for s in self.standing.values() if s.about and s.down}
        for channel in self.channels:
            believed = [self.member(number, slot) for number, told in channel.knows.items() for slot in told.down]
            assert sorted(believed) == sorted(down), "believes something else than is so"
            for number, incident in self.last.items():
                if number not in channel.knows:
                    assert incident.closed is not None, "still open and never told"
                    over = incident.closed - incident.opened < GROUP_WAIT or number in self.hushed
                    assert over or self.wall - incident.closed > MAX_AGE, "lost"

    def member(self, number: int, slot: int) -> Superblock:
        [member] = [m for m in self.last[number].members if m.slot == slot]
        return member.subject.superblock


def test_what_may_have_been_told_when_the_service_was_killed_is_followed_up() -> None:
    """A second mount of a server dies; the service is killed when it has told so, and that mount is unmounted then."""
    story = Telling()
    story.dies("/mnt/a2")
    story.all_is_told()
    story.channel_fails(1)
    story.dies("/mnt/a1")
    story.service_dies_at_the_next_message(0)
    story.days_pass()
    assert not story.lives
    story.is_unmounted("/mnt/a1")
    story.all_is_told()


pytestmark = pytest.mark.timeout(900)  # thousands of steps, on a machine that may have others to do
TestTelling = Telling.TestCase
TestTelling.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining takes too long
)
