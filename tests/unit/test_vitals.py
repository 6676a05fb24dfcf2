from __future__ import annotations

import pytest

from watcher.core.vitals import OVERDUE, RETURN, SILENT, STUCK, TABLES, Delivery, Signs, verdict

WELL = Signs(table_read=2.0, overdue=-3.0, sweeps=(-4.9, -1.0), told_nothing=None, deliveries=(Delivery("ops"),))


def test_all_well() -> None:
    assert verdict(WELL) == (True, ())
    assert verdict(Signs(table_read=None, overdue=0.0, sweeps=(), told_nothing=None, running=TABLES)) == (True, ())


@pytest.mark.parametrize(
    ("signs", "reason"),
    [
        (WELL._replace(table_read=TABLES), None),
        (WELL._replace(table_read=TABLES + 60), "the mount table was last read 3 min ago"),
        (WELL._replace(table_read=None), "the mount table has never been read"),
        (WELL._replace(overdue=OVERDUE), None),
        (WELL._replace(overdue=45.0), "no probe is started, though one has been due for 45 s"),
        (WELL._replace(sweeps=(RETURN,)), None),
        (WELL._replace(sweeps=(-1.0, 31.0)), "1 round of probes did not return, 31 s after the time-out"),
        (WELL._replace(sweeps=(31.0, 55.0)), "2 rounds of probes did not return, 55 s after the time-out"),
        (WELL._replace(told_nothing=SILENT), None),
        (WELL._replace(told_nothing=180.0), "no probe has told anything for 3 min: this machine is too slow"),
        (WELL._replace(deliveries=(Delivery("ops", failing=STUCK),)), None),
        (
            WELL._replace(deliveries=(Delivery("ops", failing=400.0, error="refused\n"), Delivery("mail"))),
            "channel ops could not be told anything for 7 min: refused\\n",
        ),
        (WELL._replace(deliveries=(Delivery("ops", waiting=STUCK),)), None),
        (
            WELL._replace(deliveries=(Delivery("ops", waiting=400.0),)),
            "channel ops: a message has been waiting for 7 min",
        ),
        # Between two attempts something waits, of course.
        (WELL._replace(deliveries=(Delivery("ops", failing=10.0, waiting=400.0),)), None),
    ],
)
def test_verdicts(signs: Signs, reason: str | None) -> None:
    assert verdict(signs) == (reason is None, () if reason is None else (reason,))


def test_all_reasons_are_given() -> None:
    signs = Signs(None, 99.0, (99.0,), 999.0, (Delivery("a", failing=999.0), Delivery("b", waiting=999.0)))
    assert len(verdict(signs).reasons) == 6
