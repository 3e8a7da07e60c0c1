"""The same promise without a scheduler: detached processes of this machine, killed, cancelled, resumed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]

STEPS = 30
SETTINGS = [
    f"training.steps={STEPS}",
    "checkpoint.every_steps=5",
    f"evaluation.at_steps=[{STEPS}]",
    "evaluation.benchmarks.0.data.count=50",
]


class User:
    """Somebody at a terminal of this machine."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def openrs(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "openrs", *arguments], cwd=self.home, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def options(self, run: str) -> list[str]:
        return ["submit", "smoke", "--cluster", "local", "--run", run, *(w for s in SETTINGS for w in ("--set", s))]

    def status(self, run: str) -> dict[str, Any]:
        return dict(json.loads(self.openrs("status", run, "--json"))["runs"][0])

    def metrics(self, run: str) -> list[dict[str, Any]]:
        path = self.home / "runs" / run / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self, true: Callable[[], bool], timeout: float = 200) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.2)

    def wait_for_step(self, run: str, step: int) -> None:
        self.wait(lambda: len(self.metrics(run)) >= step)

    def wait_for_end(self, run: str, state: str) -> None:
        self.wait(lambda: self.status(run)["state"] not in ("PENDING", "RUNNING"))
        assert self.status(run)["state"] == state

    def weights(self, run: str) -> str:
        final = self.home / "runs" / run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors"
        return hashlib.sha256(final.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def undisturbed(user: User) -> str:
    user.openrs(*user.options("undisturbed"))
    user.wait_for_end("undisturbed", "SUCCEEDED")
    return user.weights("undisturbed")


def check_continued(user: User, run: str, undisturbed: str) -> None:
    metrics = user.metrics(run)
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    second = [line["step"] for line in metrics if line["attempt"] == 2]
    assert 1 < min(second) <= STEPS
    assert user.weights(run) == undisturbed
    assert user.status(run)["attempts"] == 2


def test_ctrl_c_of_the_watcher_does_not_touch_the_run(user: User, undisturbed: str) -> None:
    watcher = subprocess.Popen(
        [sys.executable, "-m", "openrs", *user.options("watched"), "--watch"], cwd=user.home, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    user.wait_for_step("watched", 2)
    os.killpg(watcher.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    watcher.communicate(timeout=20)
    user.wait_for_end("watched", "SUCCEEDED")
    assert user.weights("watched") == undisturbed
    assert user.status("watched")["attempts"] == 1


def test_cancelled_and_resumed(user: User, undisturbed: str) -> None:
    user.openrs(*user.options("cancelled"))
    user.wait_for_step("cancelled", 4)
    user.openrs("cancel", "cancelled")
    assert user.status("cancelled")["state"] == "CANCELLED"
    steps = len(user.metrics("cancelled"))
    assert 1 < steps < STEPS
    user.openrs("resume", "cancelled")
    user.wait_for_end("cancelled", "SUCCEEDED")
    check_continued(user, "cancelled", undisturbed)
    assert [line["attempt"] for line in user.metrics("cancelled")][:steps] == [1] * steps, "not a step was lost"


def test_everything_killed_at_once_and_resumed(user: User, undisturbed: str) -> None:
    user.openrs(*user.options("killed"))
    user.wait_for_step("killed", 12)
    training = next(stage for stage in user.status("killed")["stages"] if stage["name"] == "train")
    os.kill(int(training["handle"].split(".")[0]), signal.SIGKILL)  # its supervisor and ranks die with it
    user.wait_for_end("killed", "INTERRUPTED")
    assert "killed" in user.openrs("status", "killed")
    before = len(user.metrics("killed"))
    time.sleep(2)
    assert len(user.metrics("killed")) == before, "a rank outlived its supervisor"
    user.openrs("resume", "killed")
    user.wait_for_end("killed", "SUCCEEDED")
    check_continued(user, "killed", undisturbed)


@pytest.mark.usefixtures("undisturbed")
def test_every_attempt_runs_the_snapshot(user: User) -> None:
    code = user.home / "runs" / "undisturbed" / "submission" / "1"
    source = json.loads((code / "source.json").read_text())
    lock = json.loads((user.home / "runs" / "undisturbed" / "lock.json").read_text())
    events = [
        json.loads(line) for file in (code.parents[1] / "ledger").glob("*") for line in file.read_text().splitlines()
    ]
    packages = {event["package"] for event in events if event["event"] == "start"}
    assert packages == {str(code / "code" / "openrs")}, "not what stands in the checkout, which may be edited"
    assert source["code"] == lock["code"]
    assert lock["distributions"]["torch"].startswith("2.5.1")
