"""Asking Slurm for the state of many jobs at once: squeue for what slurmctld holds, then sacct for what it has forgotten."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from openrs.engines import FORGOTTEN, Job, JobInfo, JobState
from openrs.errors import BadInput, OpenRSError

_STATES = {
    # squeue(1), JOB STATE CODES. A job that Slurm requeues after preemption or a node failure is PENDING again in squeue;
    # these words are final only where nothing says so any more.
    JobState.PENDING: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD",
    JobState.RUNNING: "RUNNING COMPLETING SIGNALING STAGE_OUT STOPPED SUSPENDED RESIZING",
    JobState.SUCCEEDED: "COMPLETED",
    JobState.INTERRUPTED: "PREEMPTED TIMEOUT NODE_FAIL REVOKED",
    JobState.FAILED: "FAILED OUT_OF_MEMORY BOOT_FAIL DEADLINE",
    JobState.CANCELLED: "CANCELLED",
}
_BY_WORD = {word: state for state, words in _STATES.items() for word in words.split()}

_STUCK = {
    # sbatch accepts these by default (EnforcePartLimits=NO) and the job waits for ever: squeue(1), JOB REASON CODES.
    "PartitionConfig": "the partition can never run it: resources or max_minutes of the profile",
    "PartitionTimeLimit": "longer than the partition allows: set max_minutes in the profile",
    "PartitionNodeLimit": "more nodes than the partition allows",
    "BadConstraints": "no node meets the request: constraint, gpu_types or resources",
    "DependencyNeverSatisfied": "the stage before it did not succeed",
    "AssocMaxWallDurationPerJobLimit": "longer than the account allows: set max_minutes in the profile",
    "QOSMaxWallDurationPerJobLimit": "longer than the QOS allows: set max_minutes in the profile",
    "JobHeldUser": "`scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "JobHoldMaxRequeue": "requeued too often for this site; `scontrol release` lets it go",
    "launch failed requeued held": "a node could not start it; `scontrol release` lets it go",
}

EXPORTED = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG")
"""Variables of the submitter that a job gets. No more: Slurm's accounting may store a job's environment."""

_FILTERS = ("SQUEUE_", "SCANCEL_", "SACCT_")
"""Beginnings of variables by which a user narrows what these commands see; openrs asks for all of its jobs."""

UNKNOWN = f"Slurm {FORGOTTEN}"

_ARRAY = re.compile(r"^(\d+)_(?:(\d+)|\[([\d,\-]+)(?:%\d+)?\])$")


def run(command: list[str], tolerate: tuple[str, ...] = ()) -> str:
    """Standard output of a Slurm command. Raises OpenRSError with Slurm's own words; `tolerate` are words to pass over."""
    if shutil.which(command[0]) is None:
        raise BadInput(f"{command[0]} is not on PATH: run openrs where Slurm's commands are, e.g. on a login node")
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=_environment())
    except subprocess.TimeoutExpired:
        raise OpenRSError(f"{command[0]} did not answer for 120 s; is slurmctld running? (scontrol ping)") from None
    if result.returncode and not any(word in result.stderr for word in tolerate):
        words = result.stderr.strip().splitlines()
        raise OpenRSError(f"{command[0]} failed: {words[-1] if words else f'exit code {result.returncode}'}")
    return result.stdout


def take_back(handles: Iterable[str]) -> None:
    """Removes jobs of a sending that has failed halfway, if Slurm answers: its own failure is what the user is told."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", *handles], capture_output=True, timeout=60, check=False, env=_environment())


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_FILTERS)}


def job_name(run: str, stage: str, submission: int | str) -> str:
    """What Slurm shows as the name of a stage's job. By it a job is told from another that got its id later."""
    return f"{run}-{stage}-{submission}"


def state_of(word: str) -> JobState:
    """The state for Slurm's word, such as `CANCELLED by 1000` or `PREEMPTED`."""
    return _BY_WORD.get(word.split(" ")[0].rstrip("+").upper(), JobState.UNKNOWN)


def expand(job: str) -> list[tuple[str, int | None]]:
    """`12` → [(12, None)], `12_3` → [(12, 3)], `12_[0-2,5%1]` → [(12, 0), (12, 1), (12, 2), (12, 5)]."""
    match = _ARRAY.match(job)
    if match is None:
        return [(job, None)]
    array, index, ranges = match.groups()
    if index is not None:
        return [(array, int(index))]
    found: list[tuple[str, int | None]] = []
    for part in ranges.split(","):
        low, _, high = part.partition("-")
        found += [(array, number) for number in range(int(low), int(high or low) + 1)]
    return found


_Found = dict[tuple[str, int | None], tuple[JobState, str]]
"""(Job id, index in its array) → state and why."""


class _Row(NamedTuple):
    """What Slurm says of a job, or of elements of an array."""

    id: str
    word: str
    reason: str
    name: str


def inspect(jobs: list[Job]) -> dict[str, JobInfo]:
    """Handle → state of every job, and of every element of the arrays, by at most two queries."""
    if not jobs:
        return {}
    found: _Found = {}
    handles = ",".join(job.handle for job in jobs)
    # --all: also in partitions that a site hides.
    query = ["squeue", "--all", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%j", "-j", handles]
    text = run(query, tolerate=("Invalid job id",))
    _collect([_Row(*line.split("|", 3)) for line in text.splitlines() if line.count("|") >= 3], jobs, found)
    accounted = True
    if forgotten := _forgotten(jobs, found):
        accounted = _sacct(forgotten, found)
    return {job.handle: _summary(job, found, accounted) for job in jobs}


def _forgotten(jobs: list[Job], found: _Found) -> list[Job]:
    return [job for job in jobs if any(key not in found for key in _keys(job))]


def _keys(job: Job) -> list[tuple[str, int | None]]:
    return [(job.handle, None)] if job.tasks is None else [(job.handle, index) for index in range(job.tasks)]


def _collect(rows: list[_Row], jobs: list[Job], found: _Found) -> None:
    """Adds what is new. A row of another name is another's job: ids begin again when a controller loses its state."""
    names = {job.handle: job_name(job.run, job.directory.name, job.directory.parent.name) for job in jobs}
    new: _Found = {}
    for row in rows:
        # A job whose dependency failed may stay pending for ever, where the site does not remove it.
        state = JobState.CANCELLED if row.reason == "DependencyNeverSatisfied" else state_of(row.word)
        hint = f" ({_STUCK[row.reason]})" if row.reason in _STUCK else ""
        for key in expand(row.id.strip()):
            if names.get(key[0]) == row.name:
                new[key] = (state, (row.reason if row.reason not in ("None", "") else row.word) + hint)
    found.update({key: value for key, value in new.items() if key not in found})


def _sacct(jobs: list[Job], found: _Found) -> bool:
    """What slurmdbd remembers. False on a cluster without accounting."""
    handles = ",".join(job.handle for job in jobs)
    command = ["sacct", "-X", "-n", "-P", "-o", "JobID,State,JobName", "-j", handles]
    try:
        text = run(command)
    except OpenRSError:  # disabled, not installed, or slurmdbd is down: squeue has answered
        return False
    rows = []
    for job, word, name in (line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2):
        # What waits is in squeue: a PENDING here is behind the times, by seconds.
        if word == "RUNNING":  # so is what runs: its end has not reached slurmdbd (`sacctmgr show runawayjobs`)
            rows.append(_Row(job, "", f"{UNKNOWN}; its accounting takes it for running", name))
        elif word != "PENDING":
            rows.append(_Row(job, word, "", name))
    _collect(rows, jobs, found)
    return True


def _summary(job: Job, found: _Found, accounted: bool) -> JobInfo:
    missing = (JobState.UNKNOWN, UNKNOWN)
    if accounted and any(key in found for key in _keys(job)):
        # An element that is cancelled while it waits leaves no trace anywhere, but its array is known (Slurm 22.05).
        missing = (JobState.CANCELLED, "cancelled while it waited")
    states = {key[1]: found.get(key, missing) for key in _keys(job)}
    if job.tasks is None:
        return JobInfo(*states[None])
    tasks = {index: state for index, (state, _) in states.items() if index is not None}
    counts = Counter(tasks.values())
    reason = ", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items()))
    waits = Counter(why for state, why in states.values() if state == JobState.PENDING)
    if waits:
        # One that waits for ever matters more than those that wait their turn.
        why = max(waits, key=lambda why: (why.partition(" (")[0] in _STUCK, waits[why]))
        reason += f"; {why}"
    return JobInfo(array_state(counts), reason, tasks)


def array_state(counts: Counter[JobState]) -> JobState:
    """One word for an array: what still moves wins, then what went wrong."""
    if counts[JobState.RUNNING]:
        return JobState.RUNNING
    if counts[JobState.PENDING]:
        return JobState.RUNNING if counts[JobState.SUCCEEDED] else JobState.PENDING
    for state in (JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED, JobState.UNKNOWN):
        if counts[state]:
            return state
    return JobState.SUCCEEDED
