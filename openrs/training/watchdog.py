"""Ends a rank that stands still, and says where: a collective that waits for a lost rank, a GPU that does not answer."""

from __future__ import annotations

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from openrs.worker.exits import FAILED

REMEMBERED = 50
"""Steps whose median says how long one takes."""

OTHERS_SECONDS = 5.0
"""The first rank that ends takes the others with it: before that, each has this long to say where it stands."""


class Watchdog:
    """Waits for `beat`, called once a step. When none comes in time, writes all stacks and ends the process."""

    def __init__(self, factor: float, minimum: float, end: Callable[[], None] | None = None) -> None:
        """Time is up after `factor` × the median step, and not before `minimum` seconds; `end` is for tests."""
        self._factor, self._minimum = factor, minimum
        self._end = end or _end
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._last = time.monotonic()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begins to watch."""
        self._last = time.monotonic()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def beat(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        self._durations.append(now - self._last)
        self._last = now

    def stop(self) -> None:
        """Stops watching."""
        self._stopped.set()

    @property
    def limit(self) -> float:
        """Seconds that a step may take."""
        return (
            max(self._minimum, self._factor * statistics.median(self._durations)) if self._durations else self._minimum
        )

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._minimum / 10)):
            silent = time.monotonic() - self._last
            if silent > self.limit:
                faulthandler.dump_traceback(file=2, all_threads=True)
                print(
                    f"openrs: no step has ended for {silent:.0f} s (limit {self.limit:.0f} s: recovery.stall_factor, "
                    f"stall_minutes); where each thread stands is said above",
                    file=sys.stderr,
                    flush=True,
                )
                self._end()
                return


def _end() -> None:
    time.sleep(OTHERS_SECONDS)
    os._exit(FAILED)
