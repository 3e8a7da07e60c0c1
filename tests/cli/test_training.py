"""What the commands say of training before and after it: the estimates of `plan`, the completions of `logs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from openrs.runs import completions
from tests.cli.conftest import Openrs
from tests.cli.fake import Scheduler

ROW = {"prompt": "1+1=?", "answer": "2", "completion": "<think>\x1b[31m</think> 2", "tokens": 9, "finished": False}


def keep(directory: Path, step: int, *scores: float | None) -> None:
    rows = [{**ROW, "rewards": {"accuracy": score}} for score in scores]
    completions.write(directory, step, rows, check=lambda: None)


@pytest.fixture
def run(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Path:
    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine").code == 0
    return workdir / "runs" / "mine"


def test_completions_of_a_step(openrs: Openrs, run: Path) -> None:
    none = openrs("logs", "mine", "--completions")
    assert none.code == 1 and "no completions are here" in none.err and none.err.count("\n") == 1
    keep(run, 3, 1.0, None)
    keep(run, 12, 0.5)
    newest = openrs("logs", "mine", "--completions")
    assert newest.code == 0 and newest.out == (
        "==> step 12, 1 of 1: accuracy 0.5; 9 tokens, cut <==\n1+1=?\n--- <think>\\x1b[31m</think> 2\n--- answer: 2\n"
    )
    older = openrs("logs", "mine", "--completions", "--step", "3")
    assert "accuracy 1;" in older.out and "step 3, 2 of 2: accuracy -;" in older.out
    said = openrs("logs", "mine", "--completions", "--json").json
    assert said == {"run": "mine", "step": 12, "completions": [{**ROW, "rewards": {"accuracy": 0.5}}]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--step", "3"], "--step belongs to --completions"),
        (["--completions", "--step", "4"], "no completions of step 4; they are there for steps 3 to 3"),
        (["train", "--completions"], "are of a step"),
        (["--completions", "-f"], "not followed"),
    ],
)
def test_what_does_not_fit_together(options: list[str], words: str, openrs: Openrs, run: Path) -> None:
    keep(run, 3, 1.0)
    said = openrs("logs", "mine", *options)
    assert said.code == 2 and words in said.err and said.err.count("\n") == 1


def test_a_broken_file_of_completions_shows_what_is_whole(openrs: Openrs, run: Path) -> None:
    keep(run, 1, 1.0)
    path = run / "completions" / "step-000001.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    assert openrs("logs", "mine", "--completions", "--json").json["completions"] == []
    keep(run, 2, 1.0)
    assert completions.steps(run) == [1, 2] and completions.steps(run / "nowhere") == []


def test_the_estimates_of_a_plan(openrs: Openrs) -> None:
    found = openrs("plan", "exp3", "--cluster", "slurm", "--json").json["estimate"]
    assert found["memory_gib"]["most"] < found["memory_gib"]["gpu"] == 44.3
    shipped, server, colocate = found["steps"]
    assert colocate["step"] < server["step"] < shipped["step"] and colocate["dollars"] < 0.4 * shipped["dollars"]
    text = openrs("plan", "exp3", "--cluster", "slurm").out
    assert "to spare" in text and "assumed: every completion as long as allowed" in text
    tight = openrs("plan", "exp3", "--cluster", "slurm", "--set", "training.gradient_checkpointing=false").out
    assert "GiB: " in tight and "too much" in tight
    assert openrs("plan", "smoke", "--cluster", "local", "--json").json["estimate"] is None
