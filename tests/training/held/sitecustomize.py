"""Holds a rank where the file `hold` in its run directory says: once that step is recorded, and until the file is gone.

So a test meets it there, however slow the machine is. On PYTHONPATH, imported by Python at start.
"""

import json
import os
import time
from pathlib import Path

if "OPENRS_LEASE" in os.environ:
    _fsync = os.fsync
    _run = Path(os.environ["OPENRS_LEASE"]).parents[1]

    def _held() -> bool:
        try:
            step = int((_run / "hold").read_text())
            return int(json.loads((_run / "metrics.jsonl").read_text().splitlines()[-1])["step"]) >= step
        except (OSError, ValueError, IndexError):  # nothing is held, or no step is done
            return False

    def fsync(descriptor: int) -> None:
        while _held():
            time.sleep(0.02)
        _fsync(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
