"""The promise on a real Slurm: whatever happens to the job, the run ends with the same weights, bit for bit.

Real slurmctld, slurmd, slurmdbd; real GRPO on the tiny model. Only the size differs from `openrs submit --cluster slurm smoke`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.testbed.slurm import SlurmBed

pytestmark = [pytest.mark.slurm, pytest.mark.train, pytest.mark.timeout(900)]

STEPS = 60
SETTINGS = [
    f"training.steps={STEPS}",
    "checkpoint.every_steps=10",
    f"evaluation.at_steps=[30,{STEPS}]",
    "evaluation.benchmarks.0.data.count=100",
    "recovery.grace_seconds=25",
]
CANARY = "canary-5b1e0f"
T = TypeVar("T")


class User:
    """Somebody at a login node: types commands, reads what they print."""

    def __init__(self, bed: SlurmBed, home: Path) -> None:
        self.bed, self.home = bed, home
        slow = f"export PYTHONPATH={Path(__file__).parent / 'slow_saves'}"
        profiles: dict[str, dict[str, Any]] = {
            "bed": {},
            "scavenge": {"partition": "scavenge"},
            "slow": {"partition": "scavenge", "setup": [slow, "export SECONDS_A_FILE=0.15"]},
            "very-slow": {"setup": [slow, "export SECONDS_A_FILE=0.2"]},
        }
        text = ""
        for name, fields in profiles.items():
            text += f'[clusters.{name}]\nextends = "slurm"\nlease_seconds = 8\n'
            text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
        (home / "openrs.toml").write_text(text)

    def openrs(self, *arguments: str, code: int = 0) -> str:
        environment = {**os.environ, **self.bed.env, "OPENRS_RUNS": str(self.home / "runs"), "MY_TOKEN": CANARY}
        done = subprocess.run(
            [sys.executable, "-m", "openrs", *arguments],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"openrs {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, run: str, cluster: str, *overrides: str) -> None:
        options = [word for value in (*SETTINGS, *overrides) for word in ("--set", value)]
        assert self.openrs("submit", "smoke", "--cluster", cluster, "--run", run, *options).split()[0] == run

    def status(self, run: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.openrs("status", run, "--json"))["runs"][0]
        return status

    def handle(self, run: str, stage: str = "train") -> str:
        return str(next(item["handle"] for item in self.status(run)["stages"] if item["name"] == stage))

    def wait_for_step(self, run: str, step: int, timeout: float = 300) -> None:
        self.wait(
            lambda: self.metrics(run)[-1:] != [] and self.metrics(run)[-1]["step"] >= step, timeout, f"step {step}"
        )

    def wait_for_end(self, run: str, state: str = "SUCCEEDED", timeout: float = 400) -> None:
        ended = ("SUCCEEDED", "FAILED", "CANCELLED", "INTERRUPTED")
        self.wait(lambda: self.status(run)["state"] in ended, timeout, "the end")
        assert self.status(run)["state"] == state, f"{self.status(run)}\n{self.logs(run)}"

    def wait(self, look: Callable[[], T | None], timeout: float, what: str) -> T:
        """What it sees as soon as that is something."""
        deadline = time.monotonic() + timeout
        while not (seen := look()):
            assert time.monotonic() < deadline, f"no {what} after {timeout} s\n{self.bed.tails()}"
            time.sleep(0.3)
        return seen

    def metrics(self, run: str) -> list[dict[str, Any]]:
        path = self.home / "runs" / run / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def starts(self, run: str, stage: str) -> list[dict[str, Any]]:
        lines = [
            line for file in (self.home / "runs" / run / "ledger").glob("*") for line in file.read_text().splitlines()
        ]
        return [event for event in map(json.loads, lines) if event["event"] == "start" and event["stage"] == stage]

    def logs(self, run: str) -> str:
        return "\n".join(path.read_text() for path in (self.home / "runs" / run / "logs").rglob("*.out"))

    def weights(self, run: str) -> str:
        final = self.home / "runs" / run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors"
        return hashlib.sha256(final.read_bytes()).hexdigest()

    def rows(self, run: str) -> list[dict[str, str]]:
        return self.bed.records(self.handle(run))


@pytest.fixture(scope="module")
def user(slurm_bed: SlurmBed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    slurm_bed.reset()
    yield User(slurm_bed, tmp_path_factory.mktemp("user"))
    slurm_bed.reset()


@pytest.fixture(scope="module")
def undisturbed(user: User) -> str:
    """(a): the weights that every disturbed run must end with."""
    user.submit("undisturbed", "bed")
    user.wait_for_end("undisturbed")
    assert [row["State"] for row in user.rows("undisturbed")] == ["COMPLETED"]
    check_whole(user, "undisturbed", attempts=1)
    return user.weights("undisturbed")


def check_whole(user: User, run: str, attempts: int) -> None:
    """Every step once, in order; every cell once; no job left; no secret anywhere."""
    metrics = user.metrics(run)
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    assert len(user.starts(run, "train")) == attempts
    for stage in ("base", "eval"):
        starts = user.starts(run, stage)
        assert len(starts) == len({start["task"] for start in starts}), "a cell was evaluated twice"
    assert {stage["name"]: stage["cells"]["done"] for stage in user.status(run)["stages"]} == {
        "base": 1,
        "train": 0,
        "eval": 2,
    }
    user.bed.wait_gone()
    for path in (user.home / "runs" / run).rglob("*"):
        assert not (path.is_file() and CANARY.encode() in path.read_bytes()), f"a secret in {path}"
    handles = ",".join(user.handle(run, stage) for stage in ("base", "train", "eval"))
    for what in ("--env-vars", "--batch-script"):
        assert CANARY not in user.bed.run("sacct", "-j", handles, what)
    assert CANARY not in user.bed.run("scontrol", "show", "job", user.handle(run))


def check_interrupted(user: User, run: str, first: tuple[str, ...]) -> None:
    """The scheduler's own record says that the first attempt was hit, and it was in mid-run; the next went on from there."""
    rows = user.rows(run)
    assert rows[0]["State"].split()[0] in first, rows
    assert rows[-1]["State"] == "COMPLETED"
    by_attempt: dict[int, list[int]] = {}
    for line in user.metrics(run):
        by_attempt.setdefault(line["attempt"], []).append(line["step"])
    assert len(by_attempt) >= 2
    last_of_first = max(by_attempt[1])
    assert 1 < last_of_first < STEPS
    assert min(by_attempt[max(by_attempt)]) > 1, "the next attempt began where the last one was, not at the start"


@pytest.mark.usefixtures("undisturbed")
def test_undisturbed_learns(user: User) -> None:
    cells = [json.loads(path.read_text()) for path in (user.home / "runs" / "undisturbed" / "eval").rglob("*.json")]
    scores = {cell["step"]: cell["score"] for cell in cells}
    assert scores[None] < 0.5 < 0.7 < scores[STEPS]


@pytest.mark.parametrize(
    ("user_signal", "cluster"), [(True, "scavenge"), (False, "slow")], ids=["with-user-signal", "term-only-slow-saves"]
)
def test_preempted(user: User, undisturbed: str, user_signal: bool, cluster: str) -> None:
    run = f"preempted-{str(user_signal).lower()}"
    user.bed.set_preempt_user_signal(user_signal)
    user.submit(run, cluster)
    user.wait_for_step(run, 12)
    high = user.bed.submit("#!/bin/bash\nsleep 2\n", "-o", "/dev/null", "-p", "main", "-N3", "--exclusive", "-t", "1")
    user.bed.wait_state(high, "COMPLETED", timeout=120)
    user.wait_for_end(run)
    user.bed.set_preempt_user_signal(True)
    # The job requeues itself once it has saved; had it been too slow, Slurm would have written PREEMPTED.
    check_interrupted(user, run, ("REQUEUED", "PREEMPTED"))
    check_whole(user, run, attempts=2)
    assert user.weights(run) == undisturbed


def test_past_its_time_limit(user: User, undisturbed: str) -> None:
    run = "time-limit"
    # Slurm looks every 30 s and sends the signal up to that much early: here 35 to 65 s after the start.
    user.submit(run, "very-slow", "resources.minutes=2", "recovery.grace_seconds=55")
    user.wait_for_end(run)
    check_interrupted(user, run, ("REQUEUED",))
    check_whole(user, run, attempts=len(user.starts(run, "train")))
    assert user.weights(run) == undisturbed


def test_node_killed(user: User, undisturbed: str) -> None:
    run = "node-killed"
    user.submit(run, "bed")
    user.wait_for_step(run, 12)
    node = user.bed.job(user.handle(run))["NodeList"]
    user.bed.kill_node(node, notice=True)
    user.wait(lambda: len(user.starts(run, "train")) == 2, 200, "second attempt")
    user.bed.start_node(node)
    user.wait_for_end(run)
    check_interrupted(user, run, ("NODE_FAIL",))
    check_whole(user, run, attempts=2)
    assert user.weights(run) == undisturbed


def test_cancelled_and_resumed(user: User, undisturbed: str) -> None:
    run = "cancelled"
    user.submit(run, "slow")
    user.wait_for_step(run, 12)
    handle = user.handle(run)
    user.openrs("cancel", run)
    assert user.status(run)["state"] == "CANCELLED"
    steps = len(user.metrics(run))
    assert 1 < steps < STEPS
    user.bed.wait_gone()
    assert len(user.bed.records(handle)) == 1, "nobody requeued it"
    user.openrs("cancel", run, code=2)
    user.openrs("resume", run)
    user.wait_for_end(run)
    assert user.handle(run) != handle
    assert [line["attempt"] for line in user.metrics(run)] == [1] * steps + [2] * (STEPS - steps), "not a step was lost"
    check_whole(user, run, attempts=2)
    assert user.weights(run) == undisturbed
    user.openrs("resume", run, code=2)


def test_controller_restarted(user: User, undisturbed: str) -> None:
    run = "controller"
    user.submit(run, "bed")
    user.wait_for_step(run, 12)
    before = len(user.metrics(run))
    user.bed.restart_controller()
    user.wait_for_end(run)
    assert 1 < before < STEPS
    assert [row["State"] for row in user.rows(run)] == ["COMPLETED"]
    check_whole(user, run, attempts=1)
    assert user.weights(run) == undisturbed


def test_raw_scancel_stays_cancelled(user: User) -> None:
    run = "scancelled"
    user.submit(run, "bed")
    user.wait_for_step(run, 3)
    handle = user.handle(run)
    user.bed.run("scancel", handle)
    user.bed.wait_gone()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert user.bed.job(handle)["JobState"] == "CANCELLED"
        time.sleep(2)
    assert [row["State"].split()[0] for row in user.bed.records(handle)] == ["CANCELLED"]
    assert len(user.starts(run, "train")) == 1
    assert user.status(run)["state"] in ("CANCELLED", "INTERRUPTED")
