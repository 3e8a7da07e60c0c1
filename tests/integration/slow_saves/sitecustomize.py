"""Makes a rank's saves slow, so that a disturbance can hit one: on PYTHONPATH, imported by Python at start."""

import os
import time

if "OPENRS_LEASE" in os.environ:
    _fsync = os.fsync

    def fsync(descriptor: int) -> None:
        time.sleep(float(os.environ["SECONDS_A_FILE"]))
        _fsync(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
