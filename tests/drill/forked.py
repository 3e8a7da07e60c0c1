"""An engine for drills in a test: supervisors and ranks are forks of this process, which has imported torch already.

A fake only in that nothing is executed anew: the supervisor, the ranks, their signals, leases and files are the real ones.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import ClassVar

import torch

import openrs.training.trainer  # what every fork would have to import anew
from openrs.engines import Artifacts, Job, JobInfo, JobState, Place, common_files
from openrs.plan import Plan
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment
from openrs.training.entry import main
from openrs.worker.exits import DONE, INTERRUPTED
from openrs.worker.ranks import Member, Ranks
from openrs.worker.stop import StopRequest, child_setup
from openrs.worker.supervisor import Supervisor

assert openrs.training.trainer


class Forked:
    """A child, with what is used of subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 30.0) -> int | None:
        deadline = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.returncode


def spawn(self: Ranks, name: str, role: str, command: list[str], environment: dict[str, str]) -> None:
    """Stands in for `Ranks._spawn`."""
    parent, log = os.getpid(), self.logs / f"{name}.log"
    pid = os.fork()
    if pid:
        self.members.append(Member(name, role, Forked(pid), log))  # type: ignore[arg-type]
        return
    code = 1
    try:
        os.setpgid(0, 0)
        gc.freeze()  # what earlier tests left may have threads, which only the parent can end
        child_setup(parent)()
        _print_to(log)
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(1)
        code = main(command[3:])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _print_to(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)


def _let_go_of_locks() -> None:
    """A fork holds the locks of its parent (flock(2)); what is executed anew does not."""
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{entry}").endswith("/.sending"):
                os.close(int(entry))


class ForkEngine:
    """One supervisor a run, for its training stage. A handle is a pid."""

    children: ClassVar[dict[str, Forked]] = {}

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def render(self, experiment: Experiment, plan: Plan, place: Place) -> Artifacts:
        return Artifacts(place, plan, common_files(experiment, plan, place, self.cluster))

    def submit(self, artifacts: Artifacts) -> dict[str, str]:
        (stage,) = artifacts.plan.stages
        submission = artifacts.place.directory / "submission" / str(artifacts.place.submission)
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.setpgid(0, 0)
                gc.freeze()
                _let_go_of_locks()
                _print_to(artifacts.place.directory / "logs" / "supervisor.out")
                stop = StopRequest()
                stop.install()
                code = Supervisor(submission / stage.name / "stage.json", None, stop).run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        self.children[str(pid)] = Forked(pid)
        return {stage.name: str(pid)}

    def inspect(self, jobs: list[Job]) -> dict[str, JobInfo]:
        return {job.handle: self._info(self.children[job.handle].poll()) for job in jobs}

    def _info(self, code: int | None) -> JobInfo:
        if code is None:
            return JobInfo(JobState.RUNNING)
        if code == DONE:
            return JobInfo(JobState.SUCCEEDED)
        return JobInfo(JobState.INTERRUPTED if code in (INTERRUPTED, -signal.SIGKILL) else JobState.FAILED, str(code))

    def cancel(self, jobs: list[Job], grace: int) -> None:
        for job in jobs:
            os.killpg(int(job.handle), signal.SIGKILL)
