"""Stands in for a training rank where a test is about the supervisor: real training takes 15 s to start and cannot be
told to hang. It keeps the same contract (environment, stop flag, lease, exit codes), step by step.
"""

import os
import signal
import sys
import time
from pathlib import Path

from openrs.runs.directory import RunDirectory
from openrs.runs.files import append_line, last_line
from openrs.stage import StageFile, read
from openrs.worker.rank import Rank

STEPS = 20


def main() -> int:
    stage = read(StageFile, Path(sys.argv[1]))
    directory = RunDirectory(Path(stage.run_dir))
    rank = Rank.from_environment()
    behaviour = os.environ.get("STANDIN", "")
    step = int((last_line(directory.metrics) or {}).get("step", 0))
    while step < STEPS:
        time.sleep(0.4 if behaviour == "slow" else 0.05)
        if behaviour == "deaf":
            time.sleep(600)
        if behaviour == f"crash-{rank.rank}" and step >= 3:
            raise RuntimeError("the third step went wrong")
        if behaviour == "killed" and step >= 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "configuration":
            print("openrs: data: column 'answer' is not there", file=sys.stderr)
            return 78
        if behaviour == "print-secret" and step >= 3:
            print("length of the secret:", len(os.environ["TOKEN"]))
        if rank.stop_requested():
            return 75
        step += 1
        if rank.rank == 0:
            rank.check_lease()
            append_line(directory.metrics, {"step": step, "attempt": rank.attempt})
    if rank.rank == 0:
        directory.mark_complete("train", step=step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
