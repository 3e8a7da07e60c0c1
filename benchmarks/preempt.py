"""A preempted job comes back: openrs's smoke training beside submitit's documented checkpointing, on the test bed's Slurm.

One node, the shipped KillWait and GraceTime, preempt_send_user_signal on; the preempting job takes the node for 2 s. All
times count from its submission. `running again` is Slurm's word for the job itself (RUNNING, restarted once), so it is
what the two share; `first new step` includes what a process must do to go on: for openrs the import of torch and the
load of model, optimizer and sampler; for submitit's example, which counts and sleeps, next to nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import submitit
from submitit.helpers import DelayedSubmission

from benchmarks.common import (
    alternate,
    bytecode,
    machine,
    note,
    parser,
    ratio,
    run_openrs,
    sets,
    show,
    spread,
    verdict,
    wait,
)
from tests.testbed.slurm import SlurmBed

BEFORE = 5
"""Steps that a job has done before it is preempted."""


class Count:
    """Counts steps in a file and goes on from what stands there; requeued as submitit's documentation says."""

    def __call__(self, file: str) -> None:
        """Runs without end."""
        path = Path(file)
        step = len(path.read_text().splitlines()) if path.exists() else 0
        while True:
            time.sleep(0.2)
            step += 1
            with path.open("a") as lines:
                lines.write(json.dumps({"step": step, "time": time.time()}) + "\n")

    def checkpoint(self, file: str) -> DelayedSubmission:
        """The same again: the state is in the file."""
        return DelayedSubmission(self, file)


@dataclass(frozen=True)
class Return:
    """Seconds after the preempting job was submitted."""

    stopped: float
    """Our last step before it."""
    preemptor: float
    """The preempting job runs."""
    running: float
    """Our job runs again."""
    step: float
    """Its first new step is done."""
    lost: int
    """Steps that were done twice."""


def steps(file: Path) -> list[dict[str, float]]:
    """The steps in a file of JSON lines."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def preempt(bed: SlurmBed, handle: str, file: Path) -> Return:
    """Lets the job do some steps, preempts it, watches it come back, removes it."""
    wait(lambda: len(steps(file)) >= BEFORE, "steps", 300)
    submitted = time.time()
    high = bed.submit("#!/bin/bash\nsleep 2\n", "-p", "main", "-N1", "--exclusive", "-t", "1", "-o", "/dev/null")
    times: dict[str, float] = {}

    def came_back() -> bool:
        now = time.time()
        job, other = bed.job(handle), bed.job(high)
        if other["JobState"] != "PENDING":
            times.setdefault("preemptor", now)
        if job["Restarts"] != "0" and job["JobState"] == "RUNNING":
            times.setdefault("running", now)
        return "running" in times

    wait(came_back, "return", 180, 0.05)
    # openrs keeps one line a step; the step in progress when the signal came may still have been written.
    new = wait(lambda: [one for one in steps(file) if one["time"] > times["running"]], "new step", 300, 0.05)[0]
    old = [one for one in steps(file) if one["time"] < times["running"]]
    bed.run("scancel", handle)
    bed.run("scancel", "--signal=KILL", "--full", handle, check=False)
    bed.wait_gone(120)
    return Return(
        stopped=old[-1]["time"] - submitted,
        preemptor=times["preemptor"] - submitted,
        running=times["running"] - submitted,
        step=new["time"] - submitted,
        lost=int(old[-1]["step"] + 1 - new["step"]),
    )


class Jobs:
    """Starts the two kinds of jobs."""

    def __init__(self, bed: SlurmBed, home: Path, compiled: Path) -> None:
        self.bed, self.home, self.count = bed, home, 0
        setup = json.dumps([f"export PYTHONPYCACHEPREFIX={compiled}"])
        (home / "openrs.toml").write_text(
            f'[clusters.bed]\nextends = "slurm"\npartition = "scavenge"\nsetup = {setup}\n'
        )

    def ours(self) -> Return:
        """The smoke experiment without end and without evaluation."""
        self.count += 1
        run = f"run-{self.count}"
        options = sets({"training.steps": 100000, "evaluation.at_steps": [], "evaluation.base": "false"})
        run_openrs("submit", "smoke", "--cluster", "bed", "--run", run, *options, home=self.home)
        handle = json.loads(run_openrs("status", run, "--json", home=self.home))["runs"][0]["stages"][0]["handle"]
        return preempt(self.bed, handle, self.home / "runs" / run / "metrics.jsonl")

    def theirs(self) -> Return:
        """The example that submitit documents."""
        self.count += 1
        executor = submitit.AutoExecutor(folder=self.home / f"submitit-{self.count}")
        executor.update_parameters(timeout_min=30, slurm_partition="scavenge", slurm_mem="3G", cpus_per_task=1)
        file = self.home / f"submitit-{self.count}.jsonl"
        job = executor.submit(Count(), str(file))
        return preempt(self.bed, str(job.job_id), file)


def main() -> None:
    """Starts a bed, preempts in turn, prints."""
    args = parser(__doc__, 5).parse_args()
    compiled = bytecode(args.cache)
    with tempfile.TemporaryDirectory() as home, SlurmBed(Path(tempfile.mkdtemp(prefix="b-")), nodes=1) as bed:
        os.environ.update(bed.env)
        bed.set_preempt_user_signal(True)
        jobs = Jobs(bed, Path(home), compiled)
        calls: dict[str, Callable[[], Return]] = {"openrs": jobs.ours, "submitit": jobs.theirs}
        note("one preemption that is not counted (byte code)")
        jobs.ours()
        found = alternate(calls, args.runs)
    columns: dict[str, Callable[[Return], float]] = {
        "last step before": lambda one: one.stopped,
        "preemptor runs": lambda one: one.preemptor,
        "running again": lambda one: one.running,
        "first new step": lambda one: one.step,
        "of that, after running": lambda one: one.step - one.running,
        "steps lost": lambda one: one.lost,
    }
    values = {name: {who: [pick(one) for one in found[who]] for who in calls} for name, pick in columns.items()}
    print(f"{machine()}; {args.runs} rounds")
    show(
        "seconds after the submission of the preempting job, median (min–max)",
        ("", "openrs", "submitit", "openrs / submitit"),
        [
            (name, spread(of["openrs"], 1, 1), spread(of["submitit"], 1, 1))
            + ((ratio(of["openrs"], of["submitit"]),) if min(of["submitit"]) > 0 else ("",))
            for name, of in values.items()
        ],
    )
    print()
    again = values["running again"]
    late = [a - b for a, b in zip(again["openrs"], again["submitit"], strict=True)]
    detail = f"{spread(late, 1, 1)} s later in a round; Slurm starts a requeued job at a whole second"
    verdict("running again no later than submitit", median(late) <= 0, detail)


if __name__ == "__main__":
    main()
