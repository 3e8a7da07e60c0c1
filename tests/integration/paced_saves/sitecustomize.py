"""Makes a rank's saves as slow as a file says at that moment, beside this one and named like the run; imported by Python at start.

So a disturbance hits in mid-run however slow the machine is, and what comes after the last one need not wait.
"""

import os
import time
from pathlib import Path

if "OPENRS_LEASE" in os.environ:
    _fsync = os.fsync
    _pace = Path(__file__).parent / Path(os.environ["OPENRS_LEASE"]).parents[1].name

    def _seconds() -> float:
        try:
            return float(_pace.read_text())
        except (OSError, ValueError):
            return 0.0

    def fsync(descriptor: int) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < _seconds():
            time.sleep(0.05)
        _fsync(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
