"""Slurm's commands, run against one cluster and read back; they need nothing but its environment."""

import os
import re
import subprocess
import time
from collections.abc import Collection, Mapping

from tests.testbed.slurm.daemons import BedError, system_path

# Slurm 22.05 has no field for restarts: a requeued job has one record per run (`sacct -D`).
FIELDS = (
    *("JobID", "JobIDRaw", "JobName", "State", "Start", "End", "Submit", "Elapsed", "ExitCode"),
    *("DerivedExitCode", "NodeList", "Partition", "Account", "QOS", "AllocTRES", "ReqTRES", "Timelimit"),
    *("Reason", "Comment", "SubmitLine", "WorkDir"),
)
_KEY = re.compile(r"(?:^| )([A-Z][A-Za-z_]*(?:[:/][A-Za-z]+)*)=")
_OWN = re.compile(r"(SLURM|SBATCH|SRUN|SALLOC|SACCT|SQUEUE|SINFO)")


class CommandFailed(BedError):
    """A command ended with another code than 0."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        super().__init__(f"{done.args} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        self.returncode, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr


def parse_job(line: str) -> dict[str, str]:
    """One line of `scontrol show job -o`.

    The format has no quoting: in a value (a comment, say) that itself holds ` Word=`, what follows
    is taken for the next key.
    """
    marks = list(_KEY.finditer(line))
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    pairs = ((mark[1], line[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True))
    job: dict[str, str] = {}
    for key, value in pairs:
        job.setdefault(key, value)
    return job


class SlurmCommands:
    """What a user of a cluster can do and see, given the environment in `env`."""

    def __init__(self, env: Mapping[str, str], accounting: bool = True) -> None:
        self.env = dict(env)
        self.accounting = accounting

    def environment(self) -> dict[str, str]:
        """This process's environment, made to mean this cluster.

        A test that itself runs in a Slurm job, or beside somebody's SBATCH_*, must not reach
        through to the jobs.
        """
        own = {key: value for key, value in os.environ.items() if not _OWN.match(key)}
        return {**own, "PATH": system_path(), **self.env}

    def call(
        self, *args: str, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command; the caller looks at its code."""
        environment = {**self.environment(), **(env or {})}
        return subprocess.run(args, env=environment, input=stdin, capture_output=True, text=True, timeout=timeout)

    def run(self, *args: str, check: bool = True, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
        """Run a command and give what it printed; with `check`, CommandFailed unless it ended with 0."""
        done = self.call(*args, env=env, stdin=stdin)
        if check and done.returncode != 0:
            raise CommandFailed(done)
        return done.stdout

    def submit(self, script: str, *options: str, env: Mapping[str, str] | None = None) -> str:
        """Submit a script's text (`#!/bin/bash` is put before it if it has no such line); the job's id."""
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}"
        return self.run("sbatch", "--parsable", *options, env=env, stdin=text).strip()

    def node_states(self) -> dict[str, str]:
        """The word of sinfo for every node (`idle`, `down*`, …); empty when no controller answers."""
        done = self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T")
        return dict(line.split() for line in done.stdout.splitlines()) if done.returncode == 0 else {}

    def jobs(self, jobid: str) -> list[dict[str, str]]:
        """What the controller knows of a job: one entry, or one per array element that has started."""
        shown = self.run("scontrol", "show", "job", "-o", str(jobid))
        return [parse_job(line) for line in shown.splitlines() if line.startswith("JobId=")]

    def job(self, jobid: str) -> dict[str, str]:
        """The controller's entry for one job (of an array, the first that it lists)."""
        return self.jobs(jobid)[0]

    def batch_script(self, jobid: str) -> str:
        """The script as the controller stored it at submission."""
        return self.run("scontrol", "write", "batch_script", str(jobid), "-")

    def rows(self, jobid: str, steps: bool = False) -> list[dict[str, str]]:
        """The accounting's records now, every run of a requeued job, oldest first."""
        only = () if steps else ("-X",)
        query = ("sacct", "-D", *only, "-n", "--parsable2", "-j", str(jobid), "-o", ",".join(FIELDS))
        # A comment may hold the separator, so one is taken that nobody types.
        lines = self.run(*query, "--delimiter=\x1f").splitlines()
        return [dict(zip(FIELDS, line.split("\x1f"), strict=True)) for line in lines if line]

    def records(self, jobid: str, steps: bool = False, timeout: float = 20) -> list[dict[str, str]]:
        """`rows`, once the accounting has caught up with the controller.

        It trails by seconds: this waits until each job has a record per run, the last one in the
        controller's state (never COMPLETING, which accounting does not know).
        """
        if not self.accounting:
            raise BedError("this bed has no accounting")
        deadline = time.monotonic() + timeout
        while True:
            expected = {job["JobId"]: (int(job["Restarts"]) + 1, job["JobState"]) for job in self.jobs(jobid)}
            rows = self.rows(jobid, steps)
            found = {raw: [row["State"].split()[0] for row in rows if row["JobIDRaw"] == raw] for raw in expected}
            if all(len(found[raw]) >= count and found[raw][-1] == state for raw, (count, state) in expected.items()):
                return rows
            if time.monotonic() > deadline:
                raise BedError(f"accounting has {found} for {expected} (runs, state) after {timeout:g} s")
            time.sleep(0.3)

    def wait_state(self, jobid: str, states: str | Collection[str], timeout: float = 60) -> dict[str, str]:
        """Wait until the job (an array: every element) is in one of `states`; its (first) entry."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout
        while True:
            jobs = self.jobs(jobid)
            if all(job["JobState"] in wanted for job in jobs):
                return jobs[0]
            if time.monotonic() > deadline:
                seen = {job["JobId"]: (job["JobState"], job.get("Reason")) for job in jobs}
                raise BedError(f"job {jobid} is {seen} and not {sorted(wanted)} after {timeout:g} s")
            time.sleep(0.1)

    def wait_gone(self, timeout: float = 60) -> None:
        """Wait until no job is pending, running or completing."""
        deadline = time.monotonic() + timeout
        while queue := self.run("squeue", "-h", "-o", "%i %T %r").strip():
            if time.monotonic() > deadline:
                raise BedError(f"still queued after {timeout:g} s:\n{queue}")
            time.sleep(0.1)
