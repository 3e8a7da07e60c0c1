"""What a process that a supervisor started knows of it: when to stop, and whether it may still write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from openrs.runs.lease import Watch
from openrs.worker.stop import hurry_flag


@dataclass
class Rank:
    """One process of a stage. `stop_requested` and `check_lease` cost microseconds; call them often."""

    rank: int
    world: int
    attempt: int
    stop_flag: Path
    lease: Watch

    @classmethod
    def from_environment(cls) -> Self:
        """The rank that this process is. Raises KeyError where no supervisor started it."""
        return cls(
            rank=int(os.environ["RANK"]),
            world=int(os.environ["WORLD_SIZE"]),
            attempt=int(os.environ["OPENRS_ATTEMPT"]),
            stop_flag=Path(os.environ["OPENRS_STOP_FLAG"]),
            lease=Watch(
                Path(os.environ["OPENRS_LEASE"]),
                os.environ["OPENRS_LEASE_NONCE"],
                float(os.environ["OPENRS_LEASE_SECONDS"]),
            ),
        )

    def stop_requested(self) -> bool:
        """Whether the supervisor asks this attempt to end."""
        return self.stop_flag.exists()

    def hurry_requested(self) -> bool:
        """Whether it asked a second time: there is no time left to save."""
        return hurry_flag(self.stop_flag).exists()

    def check_lease(self) -> None:
        """Raises LeaseLost if another attempt may be writing: call it before every write to the run directory."""
        self.lease.check()
