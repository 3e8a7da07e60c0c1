"""The host side on Slurm: what submitit's pickle calls. It asks for the requeue; the supervisor never talks to Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openrs.runs.directory import RunDirectory
from openrs.stage import StageFile, read
from openrs.worker.exits import DONE, FAILED, INTERRUPTED
from openrs.worker.host import run_supervisor
from openrs.worker.stop import StopRequest

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission


class HostStage:
    """Runs one attempt of a stage inside a Slurm job. The pickle holds no state: the stage file is the interface."""

    def __call__(self, stage_file: str) -> None:
        """Runs the supervisor; ends the process with its exit code unless that is 0.

        submitit has just installed handlers that would call `checkpoint` in the middle of anything; ours only note.
        """
        stop = StopRequest()
        stop.install()
        path = Path(stage_file)
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        code = run_supervisor(path, None if task is None else int(task), stop, job_id())
        if code == INTERRUPTED:
            _requeue(path)
        if code != DONE:
            sys.exit(code if code > 0 else FAILED)

    def checkpoint(self, stage_file: str) -> DelayedSubmission | None:
        """What submitit asks for a signal that comes before `__call__` has taken the handlers over: the same again."""
        from submitit.core.utils import DelayedSubmission

        if is_cancelled(Path(stage_file)):
            return None
        return DelayedSubmission(self, stage_file)


def is_cancelled(stage_path: Path) -> bool:
    """Whether a person cancelled the submission of this stage."""
    stage = read(StageFile, stage_path)
    return RunDirectory(Path(stage.run_dir)).is_cancelled(stage.submission)


def job_id() -> str:
    """This job as scontrol names it: for an array element `<array>_<index>`, never the whole array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _requeue(stage_path: Path) -> None:
    """Requeues this job, unless a person ended it: a cancelled job would come back to life."""
    if is_cancelled(stage_path):
        print("openrs: cancelled, so not requeued", file=sys.stderr, flush=True)
        return
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", job_id()], capture_output=True, text=True, timeout=60, check=False
    )
    state = next((word.removeprefix("JobState=") for word in shown.stdout.split() if word.startswith("JobState=")), "")
    if state != "RUNNING":
        print(f"openrs: the job is {state or 'unknown to Slurm'}, so not requeued", file=sys.stderr, flush=True)
        return
    done = subprocess.run(["scontrol", "requeue", job_id()], capture_output=True, text=True, timeout=60, check=False)
    word = "requeued" if done.returncode == 0 else f"could not be requeued: {done.stderr.strip()}"
    print(f"openrs: job {job_id()} {word}", file=sys.stderr, flush=True)
