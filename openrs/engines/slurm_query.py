"""Asking Slurm for the state of many jobs at once: squeue for what slurmctld holds, then sacct for what it has forgotten."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable

from openrs.engines import Job, JobInfo, JobState
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
}

_ARRAY = re.compile(r"^(\d+)_(?:(\d+)|\[([\d,\-]+)(?:%\d+)?\])$")


def run(command: list[str], tolerate: tuple[str, ...] = ()) -> str:
    """Standard output of a Slurm command. Raises OpenRSError with Slurm's own words; `tolerate` are words to pass over."""
    if shutil.which(command[0]) is None:
        raise BadInput(f"{command[0]} is not on PATH: run openrs where Slurm's commands are, e.g. on a login node")
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise OpenRSError(f"{command[0]} did not answer for 120 s; is slurmctld running? (scontrol ping)") from None
    if result.returncode and not any(word in result.stderr for word in tolerate):
        words = result.stderr.strip().splitlines()
        raise OpenRSError(f"{command[0]} failed: {words[-1] if words else f'exit code {result.returncode}'}")
    return result.stdout


def take_back(handles: Iterable[str]) -> None:
    """Removes jobs of a sending that has failed halfway, if Slurm answers: its own failure is what the user is told."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", *handles], capture_output=True, timeout=60, check=False)


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


def inspect(jobs: list[Job]) -> dict[str, JobInfo]:
    """Handle → state of every job, and of every element of the arrays, by at most two queries."""
    if not jobs:
        return {}
    found: dict[tuple[str, int | None], tuple[JobState, str]] = {}
    handles = ",".join(job.handle for job in jobs)
    # --all: also in partitions that a site hides.
    query = ["squeue", "--all", "-h", "-r", "-t", "all", "-o", "%i|%T|%r", "-j", handles]
    text = run(query, tolerate=("Invalid job id",))
    _collect(text, found)
    accounted = True
    if forgotten := _forgotten(jobs, found):
        accounted = _sacct(forgotten, found)
    return {job.handle: _summary(job, found, accounted) for job in jobs}


def _forgotten(jobs: list[Job], found: dict[tuple[str, int | None], tuple[JobState, str]]) -> list[Job]:
    return [job for job in jobs if any(key not in found for key in _keys(job))]


def _keys(job: Job) -> list[tuple[str, int | None]]:
    return [(job.handle, None)] if job.tasks is None else [(job.handle, index) for index in range(job.tasks)]


def _collect(text: str, found: dict[tuple[str, int | None], tuple[JobState, str]]) -> None:
    new: dict[tuple[str, int | None], tuple[JobState, str]] = {}
    for line in text.splitlines():
        name, _, rest = line.partition("|")
        word, _, reason = rest.partition("|")
        # A job whose dependency failed may stay pending for ever, where the site does not remove it.
        state = JobState.CANCELLED if reason == "DependencyNeverSatisfied" else state_of(word)
        for key in expand(name.strip()):
            hint = f" ({_STUCK[reason]})" if reason in _STUCK else ""
            new[key] = (state, (reason if reason not in ("None", "") else word) + hint)
    found.update({key: value for key, value in new.items() if key not in found})


def _sacct(jobs: list[Job], found: dict[tuple[str, int | None], tuple[JobState, str]]) -> bool:
    """What slurmdbd remembers. False on a cluster without accounting."""
    handles = ",".join(job.handle for job in jobs)
    command = ["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", handles]
    try:
        text = run(command)
    except OpenRSError:  # disabled, not installed, or slurmdbd is down: squeue has answered
        return False
    # What waits is in squeue: a PENDING here is behind the times, by seconds.
    _collect("\n".join(line for line in text.splitlines() if not line.endswith("|PENDING")), found)
    return True


def _summary(job: Job, found: dict[tuple[str, int | None], tuple[JobState, str]], accounted: bool) -> JobInfo:
    missing = (JobState.UNKNOWN, "Slurm does not know it any more")
    if accounted and any(key in found for key in _keys(job)):
        # An element that is cancelled while it waits leaves no trace anywhere, but its array is known (Slurm 22.05).
        missing = (JobState.CANCELLED, "cancelled while it waited")
    states = {key[1]: found.get(key, missing) for key in _keys(job)}
    if job.tasks is None:
        return JobInfo(*states[None])
    tasks = {index: state for index, (state, _) in states.items() if index is not None}
    counts = Counter(tasks.values())
    reason = ", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items()))
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
