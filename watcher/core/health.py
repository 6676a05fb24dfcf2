"""The health of one superblock: a transition table, and what a probe's report means for it.

The table is the specification; a step that it does not hold is a bug and raises. When something
is asked again is `schedule`'s matter, which places share the verdict is `places`'.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from os import strerror
from typing import Final

from watcher.model import Cause, Pace, ProbeReport, Reach, Stage, Usage, Verdict


class Signal(enum.StrEnum):
    """What one observation says."""

    GOOD = "good"
    REFUSED = "refused"  # EACCES from a mount that has never answered: not ours to judge
    FAILED = "failed"  # not good, but not yet for long enough
    OVERDUE = "overdue"  # not one good answer for too long


TRANSITIONS: Final[dict[Reach, dict[Signal, Reach]]] = {
    Reach.UNKNOWN: {
        Signal.GOOD: Reach.OK,
        Signal.REFUSED: Reach.DENIED,
        Signal.FAILED: Reach.SUSPECT,
        Signal.OVERDUE: Reach.STALE,
    },
    Reach.OK: {
        # No REFUSED: what has answered once and refuses now has failed (an export withdrawn says EACCES).
        Signal.GOOD: Reach.OK,
        Signal.FAILED: Reach.SUSPECT,
        Signal.OVERDUE: Reach.STALE,
    },
    Reach.SUSPECT: {
        Signal.GOOD: Reach.OK,
        Signal.REFUSED: Reach.DENIED,
        Signal.FAILED: Reach.SUSPECT,
        Signal.OVERDUE: Reach.STALE,
    },
    Reach.STALE: {
        # Only good answers end it, and two of them.
        Signal.GOOD: Reach.RECOVERING,
        Signal.REFUSED: Reach.STALE,
        Signal.FAILED: Reach.STALE,
        Signal.OVERDUE: Reach.STALE,
    },
    Reach.RECOVERING: {
        Signal.GOOD: Reach.OK,
        Signal.REFUSED: Reach.STALE,
        Signal.FAILED: Reach.STALE,
        Signal.OVERDUE: Reach.STALE,
    },
    Reach.DENIED: {
        Signal.GOOD: Reach.OK,
        Signal.REFUSED: Reach.DENIED,
        Signal.FAILED: Reach.SUSPECT,
        Signal.OVERDUE: Reach.STALE,
    },
}

ALARMED: Final = frozenset({Reach.STALE, Reach.RECOVERING})
FAILING: Final = frozenset({Reach.SUSPECT, Reach.STALE, Reach.RECOVERING})

REFUSALS: Final = frozenset({errno.EACCES, errno.EPERM})
# Errnos by which a client says that its server does not answer. CIFS: EHOSTDOWN after 10 s, EAGAIN after 31 to 181 s;
# who is less patient sees silence instead, and it is the same outage.
_NO_ANSWER: Final = frozenset(
    {errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}
)
_SILENCES: Final = _NO_ANSWER | {errno.EINTR, errno.EBUSY}  # no bad answer: judged with the patience for silence
_CAUSES: Final = {
    errno.ESTALE: Cause.STALE_HANDLE,
    errno.ENOTCONN: Cause.DISCONNECTED,
    errno.ECONNABORTED: Cause.DISCONNECTED,  # a FUSE connection that was aborted
    errno.EIO: Cause.IO_ERROR,
    errno.EACCES: Cause.REFUSED,
    errno.EPERM: Cause.REFUSED,
}
# f_blocks of all ones, which some file systems in trouble answer; os.statvfs gives it as -1
_ABSURD: Final = 1 << 62


class IllegalTransition(Exception):
    """A signal that the state cannot receive: a bug in the caller."""


def step(reach: Reach, signal: Signal) -> Reach:
    try:
        return TRANSITIONS[reach][signal]
    except KeyError:
        raise IllegalTransition(f"{signal} while {reach}") from None


def describe_errno(number: int) -> str:
    return f"{strerror(number)} ({errno.errorcode.get(number, number)})"


@dataclass(slots=True)
class Health:
    """One superblock's state and what is known about it."""

    reach: Reach = Reach.UNKNOWN
    answered: bool = False  # ever, also in an earlier run
    failing_since: float | None = None  # the start of the first probe without a good one after it
    reached_at: float | None = None  # when the present state began
    cause: Cause | None = None
    error: str = ""
    stack: tuple[str, ...] = ()
    latency: float | None = None
    usage: Usage | None = None
    readonly: bool | None = None
    silent: bool = False  # the last failure was silence, not an answer
    judged: bool = False  # the last report was a verdict: without one, time alone proves nothing

    def observe(self, report: ProbeReport, pace: Pace, now: float, grace_until: float) -> None:
        """Take a report with a verdict into account. `grace_until`: nothing becomes stale before it (boot)."""
        signal = self._classify(report)
        if signal in (Signal.GOOD, Signal.REFUSED):
            self._move(signal, now)
            return
        self.judged = True
        if self.failing_since is None:
            self.failing_since = report.started
        self._move(Signal.OVERDUE if self._is_overdue(pace, now, grace_until) else Signal.FAILED, now)

    def elapse(self, pace: Pace, now: float, grace_until: float) -> None:
        """Let time pass: a mount whose silent probe cannot be repeated is judged by the clock."""
        if self.overdue_at(pace, grace_until) is not None and self._is_overdue(pace, now, grace_until):
            self._move(Signal.OVERDUE, now)

    def overdue_at(self, pace: Pace, grace_until: float) -> float | None:
        """When silence alone makes a suspect mount stale; None where only a report can."""
        if self.reach is not Reach.SUSPECT or not self.silent or not self.judged or self.failing_since is None:
            return None
        return max(self.failing_since + pace.alarm_after, grace_until)

    def void(self) -> None:
        """A probe told nothing: we were slow ourselves."""
        self.judged = False

    def forget_failure(self) -> None:
        """What looked like a failure was another mount's: start anew, silently. What was alarmed stays so."""
        if self.reach is Reach.SUSPECT:
            self.reach = Reach.UNKNOWN
            self._clear()

    def fail_since(self, since: float, error: str) -> None:
        """Known from an earlier run to hang since then."""
        self.failing_since, self.cause, self.error = since, Cause.TIMEOUT, error
        self.silent = self.judged = True
        self._move(Signal.FAILED, since)

    def resume(self, since: float, cause: Cause | None, error: str, now: float) -> None:
        """It was stale in an earlier run, and is until it has answered."""
        self.reach, self.failing_since, self.reached_at = Reach.STALE, since, now
        self.cause, self.error = cause, error

    def _is_overdue(self, pace: Pace, now: float, grace_until: float) -> bool:
        patience = pace.alarm_after if self.silent else pace.alarm_after_error
        return self.failing_since is not None and now >= max(self.failing_since + patience, grace_until)

    def _move(self, signal: Signal, now: float) -> None:
        before, self.reach = self.reach, step(self.reach, signal)
        if signal is Signal.GOOD:
            self.answered = True
        if self.reach in (Reach.OK, Reach.DENIED):
            error = self.error
            self._clear()
            self.error = error if self.reach is Reach.DENIED else ""
        if self.reach is not before:
            self.reached_at = now

    def _clear(self) -> None:
        self.failing_since = self.cause = None
        self.error, self.stack, self.silent, self.judged = "", (), False, False

    def _classify(self, report: ProbeReport) -> Signal:
        self.latency = report.latency
        if report.verdict is Verdict.ANSWERED:
            total = report.usage.total if report.usage else 0
            absurd = total < 0 or total >= _ABSURD
            if (total == 0 or absurd) and self.usage is not None:
                self.cause, self.silent, self.stack = Cause.IMPLAUSIBLE, False, ()
                self.error = "answers with an impossible size" if absurd else "answers with a size of 0"
                return Signal.FAILED
            # A size of 0 from the start is how some FUSE file systems answer: ok, without capacity.
            self.usage = None if total == 0 or absurd else report.usage
            self.readonly = report.readonly
            return Signal.GOOD
        if report.verdict is Verdict.TIMED_OUT:
            self.cause, self.silent, self.stack = Cause.TIMEOUT, True, report.stack
            self.error = f"no answer within {report.probe.timeout:g} s"
            if report.stage is Stage.DEEP:
                self.error = f"no answer to reading the directory within {report.probe.timeout:g} s"
            return Signal.FAILED
        number = report.errno or errno.EIO
        self.error = describe_errno(number)
        self.cause = _CAUSES.get(number, Cause.TIMEOUT if number in _NO_ANSWER else Cause.ERROR)
        self.silent, self.stack = number in _SILENCES, ()
        return Signal.REFUSED if number in REFUSALS and not self.answered else Signal.FAILED
