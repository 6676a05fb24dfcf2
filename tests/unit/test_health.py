from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import SOME_USAGE, answered, failed, probe, timed_out
from watcher.core.health import ALARMED, FAILING, TRANSITIONS, Health, IllegalTransition, Signal, describe_errno, step
from watcher.model import Cause, Pace, ProbeReport, Reach, Stage, Usage

PACE = Pace(alarm_after=20, alarm_after_error=5)
ASKED = probe()
EMPTY = Usage(0, 0, 0)
ABSURD = Usage(-4096, 0, -4096)  # os.statvfs gives all-ones block counts as -1

G, R, F, LATE = Signal.GOOD, Signal.REFUSED, Signal.FAILED, Signal.OVERDUE

# The specification once more, row by row: (state, signal) -> state; None is illegal.
TABLE: list[tuple[Reach, Signal, Reach | None]] = [
    (Reach.UNKNOWN, G, Reach.OK),
    (Reach.UNKNOWN, R, Reach.DENIED),
    (Reach.UNKNOWN, F, Reach.SUSPECT),
    (Reach.UNKNOWN, LATE, Reach.STALE),
    (Reach.OK, G, Reach.OK),
    (Reach.OK, R, None),
    (Reach.OK, F, Reach.SUSPECT),
    (Reach.OK, LATE, Reach.STALE),
    (Reach.SUSPECT, G, Reach.OK),
    (Reach.SUSPECT, R, Reach.DENIED),
    (Reach.SUSPECT, F, Reach.SUSPECT),
    (Reach.SUSPECT, LATE, Reach.STALE),
    (Reach.STALE, G, Reach.RECOVERING),
    (Reach.STALE, R, Reach.STALE),
    (Reach.STALE, F, Reach.STALE),
    (Reach.STALE, LATE, Reach.STALE),
    (Reach.RECOVERING, G, Reach.OK),
    (Reach.RECOVERING, R, Reach.STALE),
    (Reach.RECOVERING, F, Reach.STALE),
    (Reach.RECOVERING, LATE, Reach.STALE),
    (Reach.DENIED, G, Reach.OK),
    (Reach.DENIED, R, Reach.DENIED),
    (Reach.DENIED, F, Reach.SUSPECT),
    (Reach.DENIED, LATE, Reach.STALE),
]


@pytest.mark.parametrize(("reach", "signal", "after"), TABLE)
def test_step(reach: Reach, signal: Signal, after: Reach | None) -> None:
    if after is None:
        with pytest.raises(IllegalTransition, match=f"{signal} while {reach}"):
            step(reach, signal)
    else:
        assert step(reach, signal) is after


def test_the_table_is_whole() -> None:
    assert {(r, s) for r, s, _ in TABLE} == {(r, s) for r in Reach for s in Signal}
    assert set(TRANSITIONS) == set(Reach)


def test_only_good_answers_end_stale() -> None:
    assert {(r, s) for r, s, after in TABLE if r in ALARMED and after not in ALARMED} == {(Reach.RECOVERING, G)}
    assert ALARMED < FAILING


# ---- what reports mean, one after the other: (seconds, report, state after it)

OK, SUSPECT, STALE, RECOVERING = Reach.OK, Reach.SUSPECT, Reach.STALE, Reach.RECOVERING
DENIED, UNKNOWN = Reach.DENIED, Reach.UNKNOWN


def good(at: float) -> ProbeReport:
    return answered(ASKED, at)


def eio(at: float) -> ProbeReport:
    return failed(ASKED, at)


def eacces(at: float) -> ProbeReport:
    return failed(ASKED, at, errno.EACCES)


def silence(at: float) -> ProbeReport:
    """Asked 5 s before it is reported."""
    return timed_out(ASKED, at - 5)


def sized(usage: Usage | None, at: float = 0) -> ProbeReport:
    return answered(ASKED, at, usage=usage)


@pytest.mark.parametrize(
    "story",
    [
        pytest.param([(0, good, OK), (10, good, OK)], id="healthy"),
        pytest.param([(0, eio, SUSPECT), (4.9, eio, SUSPECT), (5, eio, STALE)], id="errors for 5 s"),
        pytest.param([(0, good, OK), (10, eio, SUSPECT), (15, eio, STALE)], id="errors after ok"),
        pytest.param([(5, silence, SUSPECT), (10, silence, SUSPECT), (20, silence, STALE)], id="silence for 20 s"),
        pytest.param([(5, silence, SUSPECT), (19.9, silence, SUSPECT), (20, silence, STALE)], id="from its start on"),
        pytest.param([(10, silence, SUSPECT), (11, eio, STALE)], id="an error after 6 s of silence"),
        pytest.param([(0, eio, SUSPECT), (10, silence, SUSPECT), (20, silence, STALE)], id="silence after an error"),
        pytest.param([(0, eio, SUSPECT), (3, good, OK), (6, eio, SUSPECT), (10, eio, SUSPECT)], id="good in between"),
        pytest.param([(0, eio, SUSPECT), (5, eio, STALE), (9, good, RECOVERING), (10, good, OK)], id="recovery"),
        pytest.param(
            [(0, eio, SUSPECT), (5, eio, STALE), (9, good, RECOVERING), (10, eio, STALE), (11, good, RECOVERING)],
            id="recovery that was none",
        ),
        pytest.param([(0, eacces, DENIED), (10, eacces, DENIED), (20, good, OK)], id="not ours to judge"),
        pytest.param([(0, good, OK), (10, eacces, SUSPECT), (15, eacces, STALE)], id="export withdrawn"),
        pytest.param([(0, eacces, DENIED), (10, eio, SUSPECT), (15, eio, STALE)], id="denied, then broken"),
        pytest.param([(5, silence, SUSPECT), (6, eacces, DENIED)], id="slow, but denied"),
        pytest.param([(5, silence, SUSPECT), (20, silence, STALE), (25, eacces, STALE)], id="a refusal ends nothing"),
    ],
)
def test_stories(story: Sequence[tuple[float, object, Reach]]) -> None:
    health = Health()
    for now, report, after in story:
        assert callable(report)
        health.observe(report(now), PACE, now, 0.0)
        assert health.reach is after


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_refusal_of_what_answered_in_an_earlier_run_is_a_failure(number: int) -> None:
    health = Health(answered=True)
    health.observe(failed(ASKED, 0, number), PACE, 0, 0)
    assert (health.reach, health.cause) == (SUSPECT, Cause.REFUSED)


@pytest.mark.parametrize(
    ("number", "cause", "silent"),
    [
        (errno.ESTALE, Cause.STALE_HANDLE, False),
        (errno.ENOTCONN, Cause.DISCONNECTED, False),
        (errno.ECONNABORTED, Cause.DISCONNECTED, False),
        (errno.EIO, Cause.IO_ERROR, False),
        (errno.ENOENT, Cause.ERROR, False),
        (errno.ETIMEDOUT, Cause.TIMEOUT, True),
        (errno.EHOSTDOWN, Cause.TIMEOUT, True),  # CIFS, its server stopped
        (errno.EAGAIN, Cause.TIMEOUT, True),  # CIFS, its packets dropped
        (errno.EHOSTUNREACH, Cause.TIMEOUT, True),
        (errno.EINTR, Cause.ERROR, True),
        (99999, Cause.ERROR, False),
    ],
)
def test_causes_of_errors(number: int, cause: Cause, silent: bool) -> None:
    health = Health()
    health.observe(failed(ASKED, 0, number), PACE, 0.1, 0)
    assert (health.reach, health.cause) == (SUSPECT, cause)
    health.observe(failed(ASKED, 6, number), PACE, 6.1, 0)  # past the patience with errors, not with silence
    assert health.reach is (SUSPECT if silent else STALE)


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ESTALE, "Stale file handle (ESTALE)"), (errno.EIO, "Input/output error (EIO)"), (99999, "99999")],
)
def test_describe_errno(number: int, text: str) -> None:
    assert text in describe_errno(number)


def test_a_failure_without_errno_is_an_io_error() -> None:
    health = Health()
    health.observe(failed(ASKED, 0, 0), PACE, 0, 0)
    assert health.cause is Cause.IO_ERROR


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        (Stage.WALK, "no answer within 5 s"),
        (Stage.STATFS, "no answer within 5 s"),
        (Stage.DEEP, "no answer to reading the directory within 5 s"),
    ],
)
def test_what_a_time_out_tells(stage: Stage, text: str) -> None:
    health = Health()
    health.observe(timed_out(ASKED, 0, stage=stage, stack=["rpc_wait_bit_killable"]), PACE, 5, 0)
    assert (health.cause, health.error, health.stack) == (Cause.TIMEOUT, text, ("rpc_wait_bit_killable",))
    assert health.failing_since == 0  # from its start, not from its end


@pytest.mark.parametrize("odd", [EMPTY, ABSURD, Usage((1 << 64) - 4096, 0, 0)])
def test_an_impossible_size_after_a_real_one_is_a_failure(odd: Usage) -> None:
    health = Health()
    health.observe(sized(SOME_USAGE), PACE, 0, 0)
    health.observe(sized(odd, 10), PACE, 10, 0)
    assert (health.reach, health.cause) == (SUSPECT, Cause.IMPLAUSIBLE)
    assert "size" in health.error
    health.observe(sized(SOME_USAGE), PACE, 12, 0)
    assert (health.reach, health.usage) == (OK, SOME_USAGE)


@pytest.mark.parametrize("odd", [EMPTY, ABSURD, None])
def test_without_a_size_from_the_start_is_ok(odd: Usage | None) -> None:
    """Some FUSE file systems have none."""
    health = Health()
    for now in (0, 10, 20):
        health.observe(sized(odd), PACE, now, 0)
    assert (health.reach, health.usage) == (OK, None)
    health.observe(sized(SOME_USAGE), PACE, 30, 0)
    assert health.usage == SOME_USAGE


def test_an_answer_clears_what_was_wrong() -> None:
    health = Health()
    health.observe(timed_out(ASKED, 0, stack=["x"]), PACE, 5, 0)
    health.observe(answered(ASKED, 6, readonly=True), PACE, 6, 0)
    assert (health.cause, health.error, health.stack, health.failing_since) == (None, "", (), None)
    assert (health.answered, health.readonly, health.reached_at) == (True, True, 6)


def test_denied_says_why_but_does_not_fail() -> None:
    health = Health()
    health.observe(eacces(0), PACE, 0, 0)
    assert (health.cause, health.error, health.failing_since) == (None, "Permission denied (EACCES)", None)


def test_a_refusal_while_stale_keeps_cause_and_words_together() -> None:
    health = Health()
    for now in (5, 20):
        health.observe(timed_out(ASKED, now - 5, stack=["rpc_wait_bit_killable"]), PACE, now, 0)
    health.observe(eacces(25), PACE, 25, 0)
    assert (health.cause, health.error, health.stack) in [
        (Cause.REFUSED, "Permission denied (EACCES)", ()),
        (Cause.TIMEOUT, "no answer within 5 s", ("rpc_wait_bit_killable",)),
    ]


# ---- by the clock


def suspect() -> Health:
    health = Health()
    health.observe(silence(5), PACE, 5, 0)
    return health


@pytest.mark.parametrize(("now", "reach"), [(19.9, SUSPECT), (20, STALE), (500, STALE)])
def test_silence_is_judged_by_the_clock(now: float, reach: Reach) -> None:
    health = suspect()
    assert health.overdue_at(PACE, 0) == 20
    health.elapse(PACE, now, 0)
    assert health.reach is reach
    assert (health.overdue_at(PACE, 0) is None) == (reach is STALE)


@pytest.mark.parametrize(
    ("report", "now"), [(good(0), 0), (eio(0), 0), (eacces(0), 0)], ids=["good", "error", "refusal"]
)
def test_only_silence_is_judged_by_the_clock(report: ProbeReport, now: float) -> None:
    health = Health()
    health.observe(report, PACE, now, 0)
    before = health.reach
    assert health.overdue_at(PACE, 0) is None
    health.elapse(PACE, 1000, 0)
    assert health.reach is before


def test_after_a_void_probe_time_proves_nothing() -> None:
    health = suspect()
    health.void()
    assert health.overdue_at(PACE, 0) is None
    health.elapse(PACE, 100, 0)
    assert health.reach is SUSPECT
    health.observe(silence(101), PACE, 101, 0)  # but the next verdict counts from the first failure
    assert health.reach is STALE


def test_a_void_probe_leaves_every_state_alone() -> None:
    for reach in Reach:
        health = Health(reach=reach)
        health.void()
        assert health.reach is reach


@pytest.mark.parametrize(("report", "overdue"), [(eio(0), None), (silence(5), 60.0)])
def test_nothing_is_stale_before_the_grace_is_over(report: ProbeReport, overdue: float | None) -> None:
    health = Health()
    for now in (5, 30, 59.9):
        health.observe(report, PACE, now, 60)
        assert health.reach is SUSPECT
    assert health.overdue_at(PACE, 60) == overdue
    health.elapse(PACE, 59.9, 60)
    assert health.reach is SUSPECT
    health.observe(report, PACE, 60, 60)
    assert health.reach is STALE


def test_hanging_since_an_earlier_run() -> None:
    health = Health()
    health.fail_since(-100, "an earlier probe still hangs in it")
    assert (health.reach, health.cause, health.failing_since) == (SUSPECT, Cause.TIMEOUT, -100)
    health.elapse(PACE, 0, 0)
    assert health.reach is STALE


def test_forgetting_starts_anew() -> None:
    health = suspect()
    health.forget_failure()
    assert (health.reach, health.cause, health.error, health.failing_since) == (UNKNOWN, None, "", None)


@pytest.mark.parametrize("reach", [OK, STALE, RECOVERING, DENIED])
def test_only_a_suspicion_is_forgotten(reach: Reach) -> None:
    health = Health(reach=reach)
    health.forget_failure()
    assert health.reach is reach


reports = st.sampled_from([good, eio, eacces, silence]) | st.sampled_from(
    [lambda at, u=u: answered(ASKED, at, usage=u) for u in (EMPTY, ABSURD, None)]
)


@given(st.lists(st.tuples(st.floats(0.1, 40), reports | st.just("void") | st.just("tick")), max_size=30), st.booleans())
def test_any_sequence(steps: list[tuple[float, object]], answered_before: bool) -> None:
    """No step is illegal; stale comes after patience, and ends after two good answers in a row."""
    health, now, goods = Health(answered=answered_before), 0.0, 0
    since: float | None = None
    for pause, report in steps:
        now += pause
        before = health.reach
        if callable(report):
            made: ProbeReport = report(now)
            health.observe(made, PACE, now, 0)
            is_good = health.reach in (OK, RECOVERING)
            goods = goods + 1 if is_good else 0
            if health.reach in (OK, DENIED):
                since = None
            elif since is None:
                since = made.started
        elif report == "void":
            health.void()
        else:
            health.elapse(PACE, now, 0)
        if health.reach is STALE and before is not STALE:
            assert since is not None
            assert now - since >= PACE.alarm_after_error
        if before in ALARMED and health.reach not in ALARMED:
            assert (health.reach, goods) == (OK, 2)
        assert (health.failing_since is not None) == (health.reach in FAILING)
