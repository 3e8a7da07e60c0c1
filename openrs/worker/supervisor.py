"""The supervisor: one attempt at a stage (or at one task of it), on every engine. Its exit code says how it ended.

It takes the lease, starts the ranks, passes a request to stop on to them, and writes down what happened. The scheduler's
side of things (requeue, retry) is not here: a supervisor speaks exit codes and the run directory only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.runs import provenance
from openrs.runs.directory import RunDirectory
from openrs.runs.lease import Lease, LeaseLost
from openrs.spec.load import PACKAGE
from openrs.stage import SECRET_PREFIX, CellsFile, StageFile, read
from openrs.worker import environment
from openrs.worker.exits import CONFIGURATION, DONE, FAILED, INTERRUPTED
from openrs.worker.ranks import Ranks, check_packages
from openrs.worker.stop import TURN_SECONDS, StopRequest, hurry_flag

NODE_FAULT = "node fault"

HURRY_SECONDS = 5.0
"""From a second request to stop to the end."""


class Supervisor:
    """One attempt. `run` returns the exit code."""

    def __init__(self, stage_path: Path, task: int | None, stop: StopRequest) -> None:
        self._started = self._looked = time.monotonic()
        self._stage_path = stage_path
        self._stage = read(StageFile, stage_path)
        self._task = task
        self._stop = stop
        self._directory = RunDirectory(Path(self._stage.run_dir))
        self._label = self._stage.stage if task is None else f"{self._stage.stage}-{task}"
        self._writer = ""
        self._logs = Path()
        self.attempt = 0
        """Number of this start of the stage (of the task); 0 before the lease is held."""
        self.reason = ""
        """How it ended, in one line."""

    @property
    def step(self) -> int | None:
        """Last training step that the run has finished."""
        return self._directory.progress().get("step")

    def run(self) -> int:
        """Makes the attempt. Raises BadInput for what the set-up decides (exit code 78)."""
        stage, directory = self._stage, self._directory
        if not directory.path.is_dir():
            raise BadInput(
                f"the run directory {directory.path} is not there on {socket.gethostname()}; is it on the shared file system?"
            )
        if directory.is_cancelled(stage.submission):
            self._say("cancelled before it started")
            return INTERRUPTED
        if self._complete():
            self._say("complete already")
            return DONE
        lease = Lease(
            directory.path / "lease" / f"{self._label}.json",
            stage.lease_seconds,
            {"stage": self._label, "handle": _handle()},
        )
        if lease.path.exists():
            self._say("another attempt may still be writing; watching its lease")
        if not lease.acquire(give_up=lambda: bool(self._stop)):
            return INTERRUPTED
        try:
            return self._hold(lease)
        except LeaseLost as lost:
            # Not a word to the run directory: it is another's now.
            self.reason = f"{lost}; this attempt ends without writing"
            print(f"openrs: {self.reason}", file=sys.stderr, flush=True)
            return INTERRUPTED

    def _hold(self, lease: Lease) -> int:
        """The attempt, once the lease is held."""
        stage, directory = self._stage, self._directory
        if self._complete():
            lease.release()
            return DONE
        starts = directory.attempts(stage.stage, self._task)
        self.attempt = len(starts) + 1
        self._writer = f"{self._label}-attempt-{self.attempt}-{lease.nonce[:4]}"
        name = f"attempt-{self.attempt}" if self._task is None else f"task-{self._task}-attempt-{self.attempt}"
        self._logs = directory.path / "logs" / stage.stage / name
        self._logs.mkdir(parents=True, exist_ok=True)
        machine = provenance.hardware()
        self._say(f"attempt {self.attempt} on {machine['node']}")
        self._log(
            "start",
            pid=os.getpid(),
            node=machine["node"],
            gpus=stage.gpus,  # what the job has; the node, as nvidia-smi shows it, may have more
            gpu_type=(machine["gpus"] or [None])[0],
            handle=_handle(),
            package=str(PACKAGE),
            hardware=machine,
        )
        try:
            used = sum(event.get("submission") == stage.submission for event in starts)
            if used >= stage.max_attempts:
                raise BadInput(
                    f"recovery.max_attempts = {stage.max_attempts} starts are used up; `openrs resume {stage.run}` grants as many again"
                )
            code, reason = self._check_gpus(machine["gpus"], machine["node"]) or self._attend(lease, machine)
        except BadInput as error:
            code, reason = CONFIGURATION, str(error)
        except OSError as error:
            code, reason = FAILED, f"{error.filename or directory.path}: {error.strerror}"
        self.reason = reason
        with contextlib.suppress(OSError):
            self._log("end", code=code, reason=reason, step=self.step)
        self._say(f"attempt {self.attempt} ended with code {code}: {reason}")
        lease.release()
        return code

    def _attend(self, lease: Lease, machine: dict[str, Any]) -> tuple[int, str]:
        """Starts the ranks and attends them to their end. Returns exit code and reason. Raises LeaseLost."""
        check_packages(self._stage.processes)
        differences = environment.compare(self._stage, self._directory, self._writer, machine)
        if differences:
            self._log("environment", differences=differences)
        secrets = _resolve_secrets(self._stage)
        scratch = Path(tempfile.mkdtemp(prefix="openrs-"))
        ranks = Ranks(
            self._stage,
            self._stage_path,
            self._task,
            self.attempt,
            self._logs,
            scratch / "stop",
            lease,
            secrets,
        )
        try:
            ranks.start()
            return self._loop(lease, ranks)
        finally:
            ranks.kill()
            ranks.forward(sys.stdout.buffer)
            shutil.rmtree(scratch, ignore_errors=True)

    def _loop(self, lease: Lease, ranks: Ranks) -> tuple[int, str]:
        stage = self._stage
        deadline: float | None = None
        while True:
            if lease.late:
                raise LeaseLost(f"the lease {lease.path} could not be renewed in time")
            if lease.due:
                lease.renew()
            ranks.forward(sys.stdout.buffer)
            codes = ranks.codes()
            if deadline is None and self._stop_reason(leaving=INTERRUPTED in codes):
                deadline = time.monotonic() + stage.grace_seconds
                ranks.stop_flag.touch()
                self._say(f"stopping ({self._stop.reason}); up to {stage.grace_seconds} s to save")
            if deadline is not None and self._stop.hurry and not hurry_flag(ranks.stop_flag).exists():
                hurry_flag(ranks.stop_flag).touch()
                deadline = min(deadline, time.monotonic() + HURRY_SECONDS)
                self._say(f"asked again; {HURRY_SECONDS:.0f} s to leave, without saving")
            if None not in codes:
                return self._verdict(ranks, [code for code in codes if code is not None])
            # The processes of training need each other. Those of a task of cells do not: the others finish theirs.
            together = stage.cells_file is None or CONFIGURATION in codes
            if together and any(code not in (None, DONE, INTERRUPTED) for code in codes):
                return _failure(codes), ranks.complaint()
            server = ranks.server_died()
            if server is not None:
                return FAILED, f"the generation server ended: {ranks.complaint()}"
            if deadline is not None and time.monotonic() > deadline:
                return (
                    INTERRUPTED,
                    f"killed: it had not stopped in time after {self._stop.reason}; the newest checkpoint stands",
                )
            time.sleep(TURN_SECONDS)

    def _stop_reason(self, leaving: bool) -> bool:
        """Whether to stop, for whatever reason there is; a rank that left takes the others with it."""
        if not self._stop:
            elapsed = time.monotonic() - self._started
            if self._stage.wall_seconds is not None and elapsed > self._stage.wall_seconds - min(
                self._stage.grace_seconds, self._stage.wall_seconds / 2
            ):
                self._stop.ask("wall time")
            elif leaving:
                self._stop.ask("a rank left")
            elif time.monotonic() - self._looked > 1:
                self._looked = time.monotonic()
                with contextlib.suppress(OSError):  # the file system may not answer for a while: looked at again
                    if self._directory.is_cancelled(self._stage.submission):
                        self._stop.ask("cancelled")
        return bool(self._stop)

    def _verdict(self, ranks: Ranks, codes: list[int]) -> tuple[int, str]:
        """Exit code and reason, once all workers have ended."""
        if all(code == DONE for code in codes):
            if self._complete():
                return DONE, "done"
            return FAILED, "the processes ended well, but the stage is not marked complete"
        cells = self._stage.cells_file is not None and INTERRUPTED in codes and CONFIGURATION not in codes
        if cells or all(code in (DONE, INTERRUPTED) for code in codes):
            return INTERRUPTED, f"stopped ({self._stop.reason or 'the ranks left'})"
        return _failure(list(codes)), ranks.complaint()

    def _complete(self) -> bool:
        if self._stage.cells_file is None:
            return self._directory.is_complete(self._stage.stage)
        tasks = read(CellsFile, self._directory.path / self._stage.cells_file).tasks
        if self._task is None or not 0 <= self._task < len(tasks):
            raise BadInput(f"--task {self._task}: the cells file has the tasks 0 to {len(tasks) - 1}")
        return all(self._directory.cell(cell) is not None for cell in tasks[self._task])

    def _check_gpus(self, found: list[str], node: str) -> tuple[int, str] | None:
        """A GPU or driver that is missing on an allocated node is the node's fault, and another one may do."""
        stage = self._stage
        if len(found) >= stage.gpus:
            return None
        cause = (
            "no NVIDIA driver: nvidia-smi is not on PATH"
            if shutil.which("nvidia-smi") is None
            else "nvidia-smi lists no more"
        )
        reason = f"{NODE_FAULT}: {node} offers {len(found)} of the {stage.gpus} GPUs of this job ({cause})"
        faults = sum(
            event["event"] == "end"
            and event.get("stage") == stage.stage
            and event.get("task") == self._task
            and event.get("submission") == stage.submission
            and str(event.get("reason")).startswith(NODE_FAULT)
            for event in self._directory.ledger()
        )
        if faults < stage.node_fault_retries:
            return INTERRUPTED, f"{reason}; retry {faults + 1} of {stage.node_fault_retries}"
        return (
            CONFIGURATION,
            f"{reason}; exclude the node in the cluster profile or mend it, then `openrs resume {stage.run}`",
        )

    def _log(self, event: str, **facts: object) -> None:
        self._directory.log(
            self._writer,
            event,
            stage=self._stage.stage,
            task=self._task,
            submission=self._stage.submission,
            attempt=self.attempt,
            **facts,
        )

    def _say(self, text: str) -> None:
        line = f"openrs: {self._stage.run}/{self._label}: {text}"
        print(line, file=sys.stderr, flush=True)
        if self.attempt:
            with contextlib.suppress(OSError), open(self._logs / "supervisor.log", "a") as log:
                log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")


def _failure(codes: list[int | None]) -> int:
    return CONFIGURATION if CONFIGURATION in codes else FAILED


def _handle() -> str | None:
    """The scheduler's id of this job, passed on by the engine's host."""
    return os.environ.get("OPENRS_HANDLE")


def _resolve_secrets(stage: StageFile) -> dict[str, str]:
    """Values of the secret references. Raises BadInput without ever naming a value."""
    values = {}
    for name, reference in stage.secrets.items():
        kind, _, where = reference.partition(":")
        if kind == "env":
            if where not in os.environ:
                raise BadInput(f"secrets.{name} = {reference}: no such environment variable in the job")
            values[name] = os.environ[where]
        elif kind == "file":
            path = Path(where).expanduser()
            try:
                if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                    raise BadInput(f"secrets.{name} = {reference}: others may read that file; chmod 600 it")
                values[name] = path.read_text().strip()
            except OSError as error:
                raise BadInput(f"secrets.{name} = {reference}: cannot be read ({error.strerror})") from None
        elif f"{SECRET_PREFIX}{name}" in os.environ:
            values[name] = os.environ[f"{SECRET_PREFIX}{name}"]
        else:
            raise BadInput(f"secrets.{name} = {reference}: secret: is for Kubernetes; use file: here")
    return values
