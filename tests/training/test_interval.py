"""How often a checkpoint is due."""

from __future__ import annotations

from typing import Any

import pytest

from openrs.spec.experiment import Checkpointing
from openrs.training.interval import Due, best_interval, history, mean_between


def test_young_and_daly() -> None:
    # A save that costs 5 s and an interruption every 4 h: 379 s, of which both papers give the formula.
    assert best_interval(5.0, 4 * 3600) == pytest.approx(379.47, abs=0.01)
    # It is where the cost of saving and the expected loss, C/T + T/2M, are least together.
    lost = {interval: 5.0 / interval + interval / (2 * 4 * 3600) for interval in (340.0, 379.47, 420.0)}
    assert min(lost, key=lost.__getitem__) == 379.47


def test_what_a_run_meets_counts() -> None:
    assert mean_between(3600.0, 0.0, 0) == 3600.0
    assert mean_between(3600.0, 7200.0, 2) == 3600.0
    assert mean_between(3600.0, 0.0, 9) == 360.0


def start(time: float, attempt: int, stage: str = "train") -> dict[str, Any]:
    return {"event": "start", "stage": stage, "attempt": attempt, "time": time}


def test_history_of_a_ledger() -> None:
    events = [
        start(0, 1),
        {"event": "training", "attempt": 1, "time": 10},  # killed some time after this
        start(100, 1, "eval"),
        {"event": "end", "stage": "eval", "attempt": 1, "time": 200, "code": 1},
        start(300, 2),
        {"event": "end", "stage": "train", "attempt": 2, "time": 350, "code": 75},
        start(340, 3),  # a clock that was set back
        {"event": "end", "stage": "train", "attempt": 3, "time": 320, "code": 1},
        start(500, 4),
    ]
    assert history(events) == (60.0, 3)
    assert history([]) == (0.0, 0)


def test_a_fixed_interval_and_one_that_pays() -> None:
    fixed = Due(Checkpointing(every_steps=3))
    assert [step for step in range(1, 10) if fixed.is_due(step)] == [3, 6, 9]
    now = 0.0
    auto = Due(Checkpointing(every_steps="auto", hours_between_interruptions=2.0), clock=lambda: now)
    assert auto.is_due(1), "to measure what a save costs"
    auto.saved(cost=1.0)
    auto.written(10.0)
    assert auto.interval == 120.0 and not auto.is_due(2)
    now = 119.0
    assert not auto.is_due(3)
    now = 120.0
    assert auto.is_due(4)
    auto.saved(cost=0.0001)
    auto.written(600.0)
    assert auto.interval == 600.0, "never more often than it can be written"
    now = 700.0
    assert not auto.is_due(5)
