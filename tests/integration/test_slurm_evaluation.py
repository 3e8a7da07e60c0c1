"""60 cells of real benchmarks on a real Slurm, by the real lighteval: a node and a worker are killed, a cell is broken by hand.

Every cell is finished once, whatever happens, and `openrs resume` sends what is missing and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrs.runs.record import load
from tests.integration.cells import done, finished
from tests.integration.test_slurm_smoke import User
from tests.testbed.slurm import SlurmBed

pytest.importorskip("lighteval")
pytestmark = [pytest.mark.slurm, pytest.mark.train, pytest.mark.timeout(1500)]

SEEDS = 10
STEPS = (1, 2, 3)


@pytest.fixture(scope="module")
def user(slurm_bed: SlurmBed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    slurm_bed.reset()
    yield User(slurm_bed, tmp_path_factory.mktemp("user"))
    slurm_bed.reset()


def settings(data: Path) -> list[str]:
    sampling = "{temperature: 0.6, top_p: 0.95, max_prompt_tokens: 256, max_new_tokens: 12}"
    more = f"sampling: {sampling}, seeds: {list(range(SEEDS))}, full_seeds: null, batch: 8"
    benchmarks = [
        f"{{extends: {name}, data: {{type: jsonl, path: {data}/{file}, answer: {answer}, limit: {limit}}}, {more}}}"
        for name, file, answer, limit in (
            ("math_500", "math500.jsonl", "solution", 8),
            ("aime24", "aime24.jsonl", "answer", 6),
        )
    ]
    return [
        f"training.steps={STEPS[-1]}",
        "training.prompts_per_step=3",
        "training.micro_batch=18",
        "checkpoint.every_steps=1",
        f"evaluation.at_steps={list(STEPS)}",
        "evaluation.base=false",
        "evaluation.runner=lighteval",
        f"evaluation.benchmarks=[{', '.join(benchmarks)}]",
        "recovery.grace_seconds=10",
    ]


def workers_on(task: int, directory: Path) -> list[int]:
    """The process ids of the evaluation of a task of that run, the oldest first: its forks come after it.

    Other tests may have evaluations of theirs on this machine.
    """
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            started = int((process / "stat").read_text().rpartition(")")[2].split()[19])  # proc(5), starttime
        except OSError:
            continue
        ours = b"openrs.evaluation" in words and any(word.startswith(bytes(directory)) for word in words)
        if ours and words[words.index(b"--task") + 1] == str(task).encode():
            found[int(process.name)] = started
    return sorted(found, key=found.__getitem__)


def test_60_cells(user: User, problem_sets: Path) -> None:
    run, bed = "many", user.bed
    directory = user.home / "runs" / run
    profile = '[clusters.cells]\nextends = "slurm"\nlease_seconds = 8\ncells_per_task = 20\narray_parallel = 3\n'
    with open(user.home / "openrs.toml", "a") as file:
        file.write(profile)
    options = [word for value in settings(problem_sets) for word in ("--set", value)]
    user.openrs("submit", "smoke", "--cluster", "cells", "--run", run, *options)
    total = len(STEPS) * 2 * SEEDS
    user.wait(lambda: len(done(directory)) >= 2, 600, "the first cells")
    # A node goes, with whatever runs there, and one task's worker is killed.
    handle = user.handle(run, "eval")
    running = {job["ArrayTaskId"]: job["NodeList"] for job in bed.jobs(handle) if job["JobState"] == "RUNNING"}
    first, *others = sorted(running, key=int)
    node = running[first]
    survivors = [task for task in others if running[task] != node]
    # Held where it is, so that it cannot finish while the node goes; where all ran there, one that is started anew.
    if survivors:
        killed = user.wait(lambda: workers_on(int(survivors[0]), directory), 120, "a worker")[0]
        os.kill(killed, signal.SIGSTOP)
        bed.kill_node(node, notice=True)
    else:
        bed.kill_node(node, notice=True)
        user.wait(lambda: not workers_on(int(first), directory), 120, "end of the node's worker and its forks")
        bed.start_node(node)
        killed = user.wait(lambda: workers_on(int(first), directory), 300, "another worker")[0]
    assert len(done(directory)) < total, "in the middle"
    os.kill(killed, signal.SIGKILL)
    bed.start_node(node)
    user.wait_for_end(run, "FAILED", timeout=900)
    states = {row["State"].split()[0] for row in bed.records(handle)}
    assert {"NODE_FAIL", "FAILED"} <= states, "sacct -D says that both hit"
    before = done(directory)
    assert 0 < len(before) < total
    shown = user.openrs("status", run)
    assert "SIGKILL" in shown
    # What is missing is sent, and nothing else.
    user.openrs("resume", run)
    sent = json.loads((directory / "submission" / "2" / "eval" / "cells.json").read_text())
    assert sum(map(len, sent["tasks"])) == total - len(before)
    user.wait_for_end(run, timeout=900)
    assert len(done(directory)) == total
    counted = finished(directory)
    assert len(counted) == total and set(counted.values()) == {1}, "every cell was finished once"
    for cell in done(directory).values():
        assert len(cell["outcomes"]) == cell["data"]["problems"] == (6 if cell["benchmark"] == "aime24" else 8)
    # One cell is broken by hand.
    path = sorted(done(directory))[17]
    untouched = {other: other.stat().st_mtime_ns for other in done(directory) if other != path}
    path.write_text(path.read_text()[:100])
    assert path.name in user.openrs("report", run)
    user.openrs("resume", run)
    sent = json.loads((directory / "submission" / "3" / "eval" / "cells.json").read_text())
    assert [len(task) for task in sent["tasks"]] == [1]
    user.wait_for_end(run, timeout=600)
    assert len(done(directory)) == total and path.with_suffix(".json.broken").is_file()
    assert {other: other.stat().st_mtime_ns for other in untouched} == untouched
    user.openrs("resume", run, code=2)
    # More seeds of one checkpoint: only those that are not there yet.
    said = user.openrs("eval", run, "--checkpoint", "step-000002", "--benchmarks", "aime24", "--seeds", str(SEEDS))
    assert said.split() == [run] and len(done(directory)) == total


def test_cells_go_out_from_the_training_job_as_checkpoints_land(user: User) -> None:
    """Nobody watches: the training job itself sends the first checkpoint's cells while it goes on."""
    run = "landing"
    options = [
        "training.steps=200",
        "checkpoint.every_steps=50",
        "evaluation.at_steps=[5,200]",
        "evaluation.base=false",
    ]
    words = [word for value in (*options, "evaluation.benchmarks.0.data.count=30") for word in ("--set", value)]
    user.openrs("submit", "smoke", "--cluster", "bed", "--run", run, "--as-they-land", *words)
    assert [stage["name"] for stage in user.status(run)["stages"]] == ["train"]
    user.wait_for_end(run)
    assert [stage["name"] for stage in user.status(run)["stages"]] == ["train", "eval-000005", "eval-000200"]
    directory = user.home / "runs" / run
    assert {cell["step"]: cell["n"] for cell in done(directory).values()} == {5: 30, 200: 30}
    first = load(user.home / "runs", run).submissions[1]
    ends = [
        event["time"]
        for file in (directory / "ledger").glob("train-*")
        for event in map(json.loads, file.read_text().splitlines())
        if event["event"] == "end"
    ]
    assert [stage.name for stage in first.stages] == ["eval-000005"]
    assert first.time < max(ends), "while it was training"
