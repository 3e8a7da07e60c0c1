"""When a recovery checkpoint is due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from openrs.spec.experiment import Checkpointing
from openrs.worker.exits import FAILED, INTERRUPTED


def best_interval(cost: float, between_interruptions: float) -> float:
    """Seconds of work between two saves that lose least, in seconds: √(2 · C · M).

    `cost` is what one save holds training up, `between_interruptions` the mean time between two interruptions. Young, "A
    first order approximation to the optimum checkpoint interval", CACM 17(9), 1974; Daly, FGCS 22(3), 2006, refines it for a
    cost that is not small beside M, which a copy into memory is not.
    """
    return math.sqrt(2.0 * cost * between_interruptions)


def mean_between(prior: float, seconds: float, interruptions: int) -> float:
    """Seconds between interruptions: what the spec expects, and what this run has met, as one more of each.

    The posterior mean of a rate whose prior weighs as much as one interruption after `prior` seconds.
    """
    return (prior + seconds) / (1 + interruptions)


def history(events: list[dict[str, Any]]) -> tuple[float, int]:
    """Seconds that earlier attempts at training lasted, and how many of them were interrupted, from a run's ledger.

    An attempt without an end was killed; how long it lasted is known to its last word only. A clock that was set back counts
    as no time.
    """
    begun: dict[Any, float] = {}
    seconds, interruptions = 0.0, 0
    for event in events:
        attempt = event.get("attempt")
        if event.get("stage") not in ("train", None):
            continue
        if event["event"] == "start":
            interruptions += bool(begun)
            begun = {attempt: event["time"]}
        elif attempt in begun:
            seconds += max(0.0, event["time"] - begun[attempt])
            begun[attempt] = event["time"]
            if event["event"] == "end":
                interruptions += event.get("code") in (INTERRUPTED, FAILED)
                begun = {}
    return seconds, interruptions


class Due:
    """Says after which steps a recovery checkpoint is due: every so many, or as often as pays.

    With `auto` the first is due after the first step, which measures what a save costs.
    """

    def __init__(
        self,
        spec: Checkpointing,
        seconds: float = 0.0,
        interruptions: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` and `interruptions` are what earlier attempts of the run met."""
        self._every = None if spec.every_steps == "auto" else spec.every_steps
        self._between = mean_between(spec.hours_between_interruptions * 3600, seconds, interruptions)
        self._clock = clock
        self._cost: float | None = None
        self._write = 0.0
        self._saved = clock()

    @property
    def interval(self) -> float:
        """Seconds between saves where the spec says `auto`; never shorter than one takes to be written."""
        return max(best_interval(self._cost or 0.0, self._between), self._write)

    def is_due(self, step: int) -> bool:
        """Whether one is due after `step`."""
        if self._every is not None:
            return step % self._every == 0
        return self._cost is None or self._clock() - self._saved >= self.interval

    def saved(self, cost: float) -> None:
        """A save has begun, and held training up for `cost` seconds."""
        self._cost = max(cost, self._cost or 0.0)
        self._saved = self._clock()

    def written(self, seconds: float) -> None:
        """It was on disk after so many seconds."""
        self._write = seconds
