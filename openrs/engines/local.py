"""Engine `local`: a detached process for each stage on this machine, in order, without a scheduler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from openrs.engines import Artifacts, Job, JobInfo, JobState, Place, check_setup, common_files
from openrs.errors import BadInput, OpenRSError
from openrs.plan import Plan
from openrs.runs.files import read_object, tail
from openrs.runs.lease import start_ticks
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Spec
from openrs.worker.exits import DONE, INTERRUPTED

ENDED = "exit.json"
"""Written by the stage's process when it ends: exit code and reason."""

LOG = "local-{}.out"
"""What the stage's process prints, by submission."""


class LocalEngine:
    """Processes of this machine. A handle is `<pid>.<start ticks>`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def render(self, experiment: Spec, plan: Plan, place: Place) -> Artifacts:
        """Spec, stage files, and for each stage the command that runs it."""
        check_setup(self.cluster)
        files = common_files(experiment, plan, place, self.cluster)
        code = place.directory / "submission" / str(place.submission) / "code"
        for index, stage in enumerate(plan.stages):
            command = {
                "experiment_hash": plan.hash,
                "argv": [self.cluster.python or sys.executable, "-m", "openrs.worker.local", "stage.json"],
                "environment": {"PYTHONPATH": str(code)},
                "setup": self.cluster.setup,
                "follows": [other.name for other in plan.stages[:index]],
                "needs": stage.after,
            }
            files[f"{stage.name}/command.json"] = json.dumps(command, indent=2) + "\n"
        return Artifacts(place, plan, files)

    def submit(self, artifacts: Artifacts) -> dict[str, str]:
        """Starts one process a stage; each waits for those before it."""
        started: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for stage in artifacts.plan.stages:
                started[stage.name] = self._start(artifacts, stage.name)
        except BaseException:
            for process in started.values():
                process.kill()
                process.wait()
            raise
        # A process that has ended already is a zombie of ours, whose start can still be read.
        return {name: f"{process.pid}.{start_ticks(process.pid, zombie=True)}" for name, process in started.items()}

    def _start(self, artifacts: Artifacts, stage: str) -> subprocess.Popen[bytes]:
        directory, submission = artifacts.place.directory, str(artifacts.place.submission)
        where = directory / "submission" / submission / stage
        command = json.loads(artifacts.files[f"{stage}/command.json"])
        argv = command["argv"]
        if self.cluster.setup:
            # One line a command, as in a script; `exec` keeps the pid.
            argv = ["bash", "-c", "\n".join(["set -e", *self.cluster.setup, 'exec "$@"']), "openrs", *argv]
        with open(directory / "logs" / stage / LOG.format(submission), "ab") as log:
            try:
                return subprocess.Popen(
                    argv,
                    cwd=where,
                    env={**os.environ, **command["environment"]},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise BadInput(
                    f"python: {argv[0]} of cluster {self.cluster.name} cannot be started ({error.strerror})"
                ) from None

    def inspect(self, jobs: list[Job]) -> dict[str, JobInfo]:
        """What the processes are and what the ended ones have written."""
        return {job.handle: _inspect(job) for job in jobs}

    def cancel(self, jobs: list[Job], grace: int) -> None:
        """Asks every process to stop and waits; what has not stopped `grace` seconds later is killed."""
        for job in jobs:
            _signal(job.handle, signal.SIGTERM)
        deadline = time.monotonic() + grace + 5
        while any(_alive(job.handle) for job in jobs):
            if time.monotonic() > deadline:
                for job in jobs:
                    _signal(job.handle, signal.SIGKILL)
                raise OpenRSError(
                    f"the run had not stopped after {grace} s and was killed; its newest checkpoint stands"
                )
            time.sleep(0.1)


def _last_words(job: Job) -> str:
    """The end of what a process printed that ended before it could say how: a setup line that failed, a bad python."""
    if (job.directory / "process.json").exists():
        return ""
    run, submission = job.directory.parents[2], job.directory.parent.name
    lines = tail(run / "logs" / job.directory.name / LOG.format(submission))
    return f"it did not start: {lines[-1]}" if lines else "it did not start, and printed nothing"


def _alive(handle: str) -> bool:
    pid, _, start = handle.partition(".")
    return pid.isdecimal() and str(start_ticks(int(pid))) == start


def _signal(handle: str, number: int) -> None:
    if _alive(handle):
        try:
            os.kill(int(handle.partition(".")[0]), number)
        except ProcessLookupError:
            return


def _inspect(job: Job) -> JobInfo:
    ended = job.directory / ENDED
    # Asked in this order, since a process writes the file and then ends.
    alive = _alive(job.handle)
    content = read_object(ended)
    if content is None:
        if alive:
            waiting = not (job.directory / "started").exists()
            return JobInfo(
                JobState.PENDING if waiting else JobState.RUNNING, "waits for the stage before it" if waiting else ""
            )
        return JobInfo(JobState.INTERRUPTED, _last_words(job) or "its process was killed, or the machine restarted")
    code, reason = content.get("code"), str(content.get("reason", ""))
    if code == DONE:
        return JobInfo(JobState.SUCCEEDED)
    if code is None:
        return JobInfo(JobState.CANCELLED, reason)
    return JobInfo(JobState.INTERRUPTED if code == INTERRUPTED else JobState.FAILED, reason)
