"""The host side on Slurm: what submitit's pickle calls. It asks for the requeue; the supervisor never talks to Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from openrs.runs.directory import RunDirectory
from openrs.stage import StageFile, read
from openrs.worker.exits import DONE, FAILED, INTERRUPTED
from openrs.worker.host import run_supervisor
from openrs.worker.stop import StopRequest, child_setup

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission


TRIES, PAUSE_SECONDS = 5, 5
"""How often, and after what pause, Slurm's controller is asked."""


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
    """Requeues this job, unless a person ended it: `scontrol requeue` would bring a cancelled job back to life."""
    if is_cancelled(stage_path):
        _say("cancelled, so not requeued")
        return
    code, shown = _insist("--oneliner", "show", "job", job_id())
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    state, reason = fields.get("JobState", "unknown to Slurm"), fields.get("Reason")
    if int(fields.get("Restarts", "0")) != int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        _say("Slurm has requeued the job already")  # asking again would end its next attempt
        return
    # Seen from inside (Slurm 22.05): RUNNING, for a moment SIGNALING, before the time limit and in the grace time of a
    # preemption; COMPLETING after scancel and after the time limit, which only the reason tells apart.
    if code or not (state in ("RUNNING", "SIGNALING") or (state == "COMPLETING" and reason == "TimeLimit")):
        _say(f"the job is {state}, so not requeued")
        return
    code, said = _insist("requeue", job_id())
    _say(f"job {job_id()} could not be requeued: {said.strip()}" if code else f"job {job_id()} requeued")


def _insist(*arguments: str) -> tuple[int, str]:
    """Asks scontrol again while the controller does not answer: it may be restarting, and a save waits for it."""
    code, said = _scontrol(*arguments)
    for _ in range(TRIES - 1):
        if code == 0 or not re.search("contact|connect|time", said, re.IGNORECASE):
            break
        time.sleep(PAUSE_SECONDS)
        code, said = _scontrol(*arguments)
    return code, said


def _scontrol(*arguments: str) -> tuple[int, str]:
    """Exit code and output of scontrol, deaf to the signals that end this step."""
    try:
        done = subprocess.run(
            ["scontrol", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=child_setup(os.getpid()),
        )
    except subprocess.TimeoutExpired:
        return 1, "scontrol timed out"
    return done.returncode, done.stdout


def _say(text: str) -> None:
    print(f"openrs: {text}", file=sys.stderr, flush=True)
