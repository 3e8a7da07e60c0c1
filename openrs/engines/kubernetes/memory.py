"""What was last seen of a Job, kept beside what was sent: Kubernetes removes finished Jobs after a while."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

from openrs.engines import FORGOTTEN, Job, JobInfo, JobState
from openrs.runs.files import read_object, write_atomic

FILE = "seen.json"


def keep(job: Job, info: JobInfo | None) -> JobInfo:
    """`info` once it is written down; without one, what is known of a Job that the server does not know any more.

    Step and attempts of a pod that cannot be asked now, e.g. of a lost node, are those that were seen last.
    """
    path = job.directory / FILE
    if info is None:
        return recall(job)
    if info.step is None or info.attempts is None:
        seen = recall(job)
        info = replace(info, step=info.step or seen.step, attempts=info.attempts or seen.attempts)
    if info.state.ended or info.step or info.attempts or info.tasks:
        content = {
            "state": info.state,
            "reason": info.reason,
            "tasks": {str(index): state for index, state in info.tasks.items()},
            "step": info.step,
            "attempts": info.attempts,
        }
        # Looking must work where nothing can be written.
        with contextlib.suppress(OSError):
            if read_object(path) != content:
                write_atomic(path, json.dumps(content) + "\n")
    return info


def recall(job: Job) -> JobInfo:
    """What was last seen of a Job; of one that had not ended then, its end is not known."""
    seen = read_object(job.directory / FILE)
    if seen is None:
        return JobInfo(JobState.UNKNOWN, FORGOTTEN)
    try:
        state = JobState(seen["state"])
        info = JobInfo(
            state if state.ended else JobState.UNKNOWN,
            seen["reason"] if state.ended else FORGOTTEN,
            {int(index): JobState(state) for index, state in seen["tasks"].items()},
            seen["step"],
            seen["attempts"],
        )
    except (KeyError, ValueError, AttributeError):
        return JobInfo(JobState.UNKNOWN, FORGOTTEN)
    return info
