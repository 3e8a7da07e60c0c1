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
from openrs.worker.exits import DONE, FAILED
from openrs.worker.host import run_supervisor
from openrs.worker.stop import StopRequest, child_setup

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission


PATIENCE_SECONDS, PAUSE_SECONDS = 900, 5
"""For how long, and after what pause, Slurm is asked for a requeue. A failover alone takes SlurmctldTimeout, 120 s by default.

No shorter where little grace is left: how much only Slurm knows, and it ends the job itself.
"""

_UNANSWERED = re.compile("contact|connect|timed out|transmitted|standby|authentication|temporarily", re.IGNORECASE)
"""In what scontrol prints where a controller, or munge, is away or starts again."""


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
        code = run_supervisor(path, None if task is None else int(task), stop, job_id(), lambda: _requeue(path))
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
    """Has this job requeued; asks again while Slurm does not answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    outcome = _ask(stage_path)
    if outcome is None:
        _say(f"Slurm does not answer; the requeue is asked for again, for up to {PATIENCE_SECONDS / 60:g} minutes")
    while outcome is None and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
        outcome = _ask(stage_path)
    _say(
        outcome
        or f"Slurm did not answer, so job {job_id()} is not requeued; `openrs resume` goes on from what is saved"
    )


def _ask(stage_path: Path) -> str | None:
    """Asks once for the requeue; what came of it, None where Slurm does not answer.

    Not for a job that a person has ended, which `scontrol requeue` would bring back to life, so it looks first every time.
    """
    if is_cancelled(stage_path):
        return "cancelled, so not requeued"
    code, shown = _scontrol("--oneliner", "show", "job", job_id())
    if code:
        return None if _UNANSWERED.search(shown) else f"job {job_id()} is not requeued: {shown.strip()}"
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    if int(fields.get("Restarts", "0")) != int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return "Slurm has requeued the job already"  # asking again would end its next attempt
    # Seen from inside (Slurm 22.05): RUNNING, for a moment SIGNALING, before the time limit and in the grace time of a
    # preemption; COMPLETING after scancel and after the time limit, which only the reason tells apart.
    state, reason = fields.get("JobState"), fields.get("Reason")
    if not (state in ("RUNNING", "SIGNALING") or (state == "COMPLETING" and reason == "TimeLimit")):
        return f"the job is {state}, so not requeued"
    code, said = _scontrol("requeue", job_id())
    if code:
        return None if _UNANSWERED.search(said) else f"job {job_id()} could not be requeued: {said.strip()}"
    return f"job {job_id()} requeued"


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
