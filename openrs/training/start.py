"""What rank 0 tells the others before there is a process group: the step to go on from, or to leave. Imports no torch.

Until the group is up it alone looks, at checkpoints and for a request to stop: a rank that left by itself would keep the
others waiting for it. One that fails is the supervisor's affair, which then ends them all.
"""

from __future__ import annotations

import time
from pathlib import Path

from openrs.runs.files import write_atomic
from openrs.training.stop import StopRequested
from openrs.worker.rank import Rank

POLL_SECONDS = 0.05

_LEAVE = "leave"


def tell(rank: Rank, step: int | None) -> None:
    """Rank 0 tells the step; None: to leave. Once in an attempt."""
    if rank.world > 1:
        write_atomic(_file(rank), _LEAVE if step is None else str(step))


def told(rank: Rank) -> int:
    """The step that rank 0 goes on from, once it has said so. Raises StopRequested where it leaves."""
    while True:
        try:
            said = _file(rank).read_text()
        except FileNotFoundError:
            time.sleep(POLL_SECONDS)
            continue
        if said == _LEAVE:
            raise StopRequested
        return int(said)


def _file(rank: Rank) -> Path:
    return rank.stop_flag.with_name(f"start-{rank.attempt}")
