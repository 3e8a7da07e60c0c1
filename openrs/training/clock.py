"""Where the seconds of a step go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up the wall time of named phases."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block as part of the phase."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def take(self) -> tuple[float, dict[str, float]]:
        """Seconds since the last call, and of each phase in them."""
        now = time.monotonic()
        elapsed, phases = now - self._since, self._seconds
        self._since, self._seconds = now, {}
        return elapsed, phases
