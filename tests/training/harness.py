"""A stand-in for the supervisor: it makes a run directory with a stage, and starts one rank on it by hand."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrs.plan import cells
from openrs.runs.directory import RunDirectory
from openrs.runs.files import write_atomic
from openrs.runs.lease import Lease, Watch
from openrs.spec.canonical import pretty, sha256
from openrs.spec.experiment import Experiment
from openrs.spec.load import load_experiment
from openrs.stage import CellsFile, Process, StageFile
from openrs.training import checkpoint
from openrs.training.observe import VARIES
from openrs.worker.rank import Rank
from openrs.worker.ranks import free_port

OURS = checkpoint.Identity(run="test", trains="sha256:a", world=1)

HELD = Path(__file__).parent / "held"
"""On PYTHONPATH, it makes a rank obey `Job.hold`."""

WAIT_SECONDS = 300.0
"""For what a process does next; on a busy machine its imports alone take minutes."""

TTL = 3600.0
"""Long enough that nothing has to renew a test's lease."""


def tiny(*overrides: str) -> Experiment:
    """The smoke experiment made small: two steps of three prompts, on 60 problems."""
    small = [
        "training.steps=2",
        "training.prompts_per_step=3",
        "training.micro_batch=18",
        "data.count=60",
        "checkpoint.every_steps=1",
        "evaluation.at_steps=[]",
        "evaluation.benchmarks.0.data.count=20",
    ]
    return load_experiment("smoke", [*small, *overrides])


@dataclass
class Job:
    """One stage of a run in a temporary directory."""

    run: RunDirectory
    stage_path: Path
    experiment: Experiment
    lease: Lease
    stop_flag: Path
    attempt: int = 0
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    """The ranks of the newest attempt."""

    def environment(self, rank: int = 0, port: int = 0) -> dict[str, str]:
        """What a supervisor would set for a rank."""
        world = str(self.experiment.trainer_ranks)
        return os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port or free_port()),
            "CUDA_VISIBLE_DEVICES": "",
            "ACCELERATE_USE_CPU": "true",
            "OPENRS_ATTEMPT": str(self.attempt),
            "OPENRS_STOP_FLAG": str(self.stop_flag),
            "OPENRS_LEASE": str(self.lease.path),
            "OPENRS_LEASE_NONCE": self.lease.nonce,
            "OPENRS_LEASE_SECONDS": str(TTL),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def start(self, module: str = "openrs.training", *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts the ranks of the next attempt; the first one is returned, the others say nothing."""
        self.attempt += 1
        self.stop_flag.unlink(missing_ok=True)
        port = free_port()
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(self.stage_path), *arguments],
                env=self.environment(rank, port) | environment,
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                text=True,
            )
            for rank in range(self.experiment.trainer_ranks)
        ]
        return self.processes[0]

    def codes(self) -> list[int]:
        """Exit codes of the ranks that `start` has started, once all have ended."""
        try:
            wait_for(lambda: all(process.poll() is not None for process in self.processes))
        finally:
            for process in self.processes:
                process.kill()
                process.communicate()
        return [process.returncode for process in self.processes]

    def rank(self, number: int) -> Rank:
        """What a rank of the newest attempt knows of itself."""
        watch = Watch(self.lease.path, self.lease.nonce, TTL)
        return Rank(number, self.experiment.trainer_ranks, self.attempt, self.stop_flag, watch)

    def finish(
        self, module: str = "openrs.training", *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs the rank of the next attempt to its end."""
        process = self.start(module, *arguments, **environment)
        out, err = process.communicate(timeout=WAIT_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def hold(self, step: int | None) -> None:
        """Lets ranks (of `start` with HELD) wait once that step is in the metrics; None lets them go on."""
        file = self.run.path / "hold"
        if step is None:
            file.unlink(missing_ok=True)
        else:
            write_atomic(file, str(step))

    def wait_for_step(self, step: int, process: subprocess.Popen[str]) -> None:
        """Returns once a step is in the metrics, or the process has ended."""
        wait_for(lambda: self.run.progress().get("step", 0) >= step or process.poll() is not None)

    def stop_after(self, step: int, process: subprocess.Popen[str]) -> int:
        """Asks to stop once a step is in the metrics; the exit code."""
        self.wait_for_step(step, process)
        self.stop_flag.touch()
        self.hold(None)
        process.communicate(timeout=WAIT_SECONDS)
        return process.returncode

    def seen(self) -> list[dict[str, Any]]:
        """The metrics lines; none before the first step."""
        return self.metrics() if self.run.metrics.exists() else []

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics lines without what differs from run to run."""
        lines = [json.loads(line) for line in self.run.metrics.read_text().splitlines()]
        return [{key: line[key] for key in line if key not in VARIES} for line in lines]


def seal_and_place(directory: Path, step: int, ours: checkpoint.Identity = OURS) -> Path:
    """Makes what has been written into `directory` the checkpoint of `step`, as a rank does."""
    entries = checkpoint.seal(directory, [path for path in directory.rglob("*") if path.is_file()])
    checkpoint.write_manifest(directory, step, entries, ours)
    return checkpoint.place(directory, step)


def wait_for(condition: Any) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def make_job(root: Path, experiment: Experiment, steps: list[int | None] | None = None) -> Job:
    """A run directory in `root` with one stage: training, or the cells of the checkpoints of `steps`, a task each."""
    run = RunDirectory(root)
    kind = "train" if steps is None else "cells"
    directory = run.submission(1) / kind
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(run.submission(1) / "spec.json", pretty(experiment))
    cells_file = None
    if steps is not None:
        cells_file = f"submission/1/{kind}/cells.json"
        tasks = CellsFile(experiment_hash=sha256(experiment), tasks=[cells(experiment, [step]) for step in steps])
        write_atomic(run.path / cells_file, pretty(tasks))
    stage = StageFile(
        run="test",
        submission=1,
        stage=kind,
        kind="train" if steps is None else "cells",
        experiment=experiment.name,
        experiment_hash=sha256(experiment),
        run_dir=str(root),
        cells_file=cells_file,
        processes=[
            Process(role="trainer", world=experiment.trainer_ranks, gpus=[])
            if steps is None
            else Process(role="cell", world=1, gpus=[])
        ],
        gpus=0,
        environment={},
        secrets={},
        steps=experiment.training.steps,
        wall_seconds=None,
        grace_seconds=30,
        max_attempts=10,
        node_fault_retries=0,
        lease_seconds=int(TTL),
    )
    write_atomic(directory / "stage.json", pretty(stage))
    lease = Lease(root / "leases" / f"{kind}-{secrets.token_hex(2)}.json", TTL, {"attempt": 1})
    assert lease.acquire(wait=lambda seconds: None)
    return Job(run, directory / "stage.json", experiment, lease, root / f"stop-{kind}")
