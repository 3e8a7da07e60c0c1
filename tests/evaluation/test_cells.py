"""Cells: sampled, stored one by one, repeatable, and stopped without a trace."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openrs.evaluation.entry import _own_gpu, main
from openrs.report.cells import read_cells
from openrs.stage import CellsFile, read
from openrs.training import checkpoint
from openrs.worker.rank import Rank
from tests.training.harness import Job, make_job, seal_and_place, tiny

MODEL = Path(__file__).resolve().parents[2] / "openrs" / "models" / "tiny-sums"
FACTS = (
    "score",
    "correct",
    "n",
    "interval",
    "reasoned",
    "reasoned_accuracy",
    "completion_tokens",
    "truncated",
    "samples",
)


@pytest.fixture
def evaluate_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a task of a job in this process."""

    def evaluate(job: Job, task: int = 0, **environment: str) -> int:
        before = set(os.environ)
        job.attempt += 1
        for name, value in (job.environment() | environment).items():
            monkeypatch.setenv(name, value)
        try:
            return main([str(job.stage_path), "--task", str(task)])
        finally:
            for name in set(os.environ) - before:
                monkeypatch.delenv(name)

    return evaluate


def add_checkpoint(job: Job, step: int) -> None:
    """The base model as a checkpoint."""
    directory = checkpoint.temporary(job.run.checkpoints, step)
    shutil.copytree(MODEL, directory)
    seal_and_place(directory, step)


def result(job: Job, number: int = 0, task: int = 0) -> dict[str, Any] | None:
    cells_file = next((job.run.path / "submission" / "1" / "cells").glob("cells.json"))
    return job.run.cell(read(CellsFile, cells_file).tasks[task][number])


@pytest.mark.train
def test_a_cell_is_stored_and_repeatable(
    tmp_path: Path, evaluate_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tiny(
        "evaluation.benchmarks.0.data.count=40",
        "evaluation.benchmarks.0.seeds=[0, 1]",
        "evaluation.benchmarks.0.batch=16",
    )
    job = make_job(tmp_path / "a", experiment, [None])
    assert evaluate_here(job) == 0
    first, second = result(job, 0), result(job, 1)
    assert first is not None and second is not None
    assert first["n"] == 40 and first["score"] == first["correct"] / 40 and first["unscorable"] == 0
    assert first["interval"][0] < first["score"] < first["interval"][1]
    assert 0 < first["reasoned"] < 1 and len(first["samples"]) == 3
    assert set(first["samples"][0]) == {"problem", "completion", "gold", "correct"}
    assert first["distributions"]["torch"] and first["hardware"] and first["data"]["problems"] == 40
    assert first["samples"] != second["samples"]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["cells"] for line in lines] == [
        {"done": 1, "failed": 0, "total": 2},
        {"done": 2, "failed": 0, "total": 2},
    ]
    # Finished cells are not run again; the same cell elsewhere, after another or alone, is the same.
    assert evaluate_here(job) == 0 and capsys.readouterr().out == ""
    again = make_job(
        tmp_path / "b",
        tiny(
            *[
                "evaluation.benchmarks.0.data.count=40",
                "evaluation.benchmarks.0.seeds=[1]",
                "evaluation.benchmarks.0.batch=16",
            ]
        ),
        [None],
    )
    assert evaluate_here(again) == 0
    repeated = result(again)
    assert repeated is not None and {key: repeated[key] for key in FACTS} == {key: second[key] for key in FACTS}


@pytest.mark.train
def test_outcomes_and_completions(tmp_path: Path, evaluate_here: Callable[..., int]) -> None:
    more = ["evaluation.benchmarks.0.samples_per_problem=3", "evaluation.benchmarks.0.data.count=8"]
    job = make_job(tmp_path / "run", tiny(*more), [None])
    assert evaluate_here(job) == 0
    one = result(job)
    assert one is not None and len(one["outcomes"]) == 8 and one["samples_per_problem"] == 3 and one["n"] == 24
    (packed,) = (job.run.path / "eval").glob("*/*/*.completions.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(packed.read_bytes()).splitlines()]
    assert [row["problem"] for row in rows] == [number // 3 for number in range(24)]
    assert [sum(bool(row["correct"]) for row in rows[at : at + 3]) for at in range(0, 24, 3)] == one["outcomes"]
    found = read_cells(job.run.path, "run")
    assert found.aside == [] and found.cells[0].outcomes is not None
    assert found.cells[0].outcomes.mean() == pytest.approx(one["score"])


@pytest.mark.train
def test_processes_share_out_the_cells_of_a_task(tmp_path: Path, evaluate_here: Callable[..., int]) -> None:
    job = make_job(tmp_path / "run", tiny("evaluation.benchmarks.0.seeds=[0, 1, 2]"), [None])
    for rank, done in ((1, [1]), (0, [0, 1, 2])):
        assert evaluate_here(job, RANK=str(rank), WORLD_SIZE="2") == 0
        assert [number for number in range(3) if result(job, number) is not None] == done


@pytest.mark.parametrize(("rank", "world", "sees"), [(0, 2, "5"), (1, 2, "7"), (0, 1, "5,7")])
def test_each_process_sees_a_gpu_of_its_own(
    rank: int, world: int, sees: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path / "run", tiny(), [None])
    for name, value in (job.environment() | {"RANK": str(rank), "WORLD_SIZE": str(world)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    _own_gpu(Rank.from_environment())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == sees


@pytest.mark.train
def test_a_broken_file_is_set_aside_and_done_again(tmp_path: Path, evaluate_here: Callable[..., int]) -> None:
    job = make_job(tmp_path / "run", tiny(), [None])
    assert evaluate_here(job) == 0
    (path,) = (job.run.path / "eval").glob("*/*/*.json")
    whole = json.loads(path.read_text())
    path.write_text('{"state": "do')
    assert evaluate_here(job) == 0
    again = json.loads(path.read_text())
    assert {name: again[name] for name in FACTS} == {name: whole[name] for name in FACTS}
    assert path.with_suffix(".json.broken").read_text() == '{"state": "do'


@pytest.mark.train
def test_another_number_of_problems_is_refused(tmp_path: Path, evaluate_here: Callable[..., int]) -> None:
    job = make_job(tmp_path / "run", tiny("evaluation.benchmarks.0.problems=21"), [None])
    assert evaluate_here(job) == 1
    (failed,) = (job.run.path / "eval").glob("*/*/*.failed.json")
    assert "20 problems in its data set, and its field problems says 21" in json.loads(failed.read_text())["reason"]


@pytest.mark.train
def test_missing_and_damaged_checkpoints_are_skipped_with_a_reason(
    tmp_path: Path, evaluate_here: Callable[..., int]
) -> None:
    job = make_job(tmp_path / "run", tiny(), [1, 2])
    cells_file = job.run.path / "submission" / "1" / "cells" / "cells.json"
    tasks = read(CellsFile, cells_file)
    one_task = tasks.model_copy(update={"tasks": [[cell for task in tasks.tasks for cell in task]]})
    cells_file.write_text(one_task.model_dump_json())
    add_checkpoint(job, 2)
    assert evaluate_here(job) == 1
    missing, present = one_task.tasks[0]
    assert job.run.cell(missing) is None and job.run.cell(present) is not None
    reason = json.loads(job.run.cell_failed(missing).read_text())
    assert reason["state"] == "skipped" and reason["reason"] == "checkpoint step-000001: not there"
    # The checkpoint comes, damaged, and then whole.
    add_checkpoint(job, 1)
    weights = job.run.checkpoint(1) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert evaluate_here(job) == 1
    assert "another content" in json.loads(job.run.cell_failed(missing).read_text())["reason"]
    add_checkpoint(job, 1)
    assert evaluate_here(job) == 0
    assert job.run.cell(missing) is not None and not job.run.cell_failed(missing).exists()


@pytest.mark.train
def test_one_failure_does_not_end_the_others(
    tmp_path: Path, evaluate_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    sampling = "sampling: {temperature: 1, max_new_tokens: 4}"
    bad = f"{{name: broken, data: {{type: jsonl, path: {rows}}}, {sampling}}}"
    good = f"{{name: good, data: {{type: sums, split: held_out, count: 3}}, {sampling}, samples_per_problem: 2}}"
    job = make_job(tmp_path / "run", tiny(f"evaluation.benchmarks=[{bad}, {good}]"), [None])
    assert evaluate_here(job) == 1
    assert result(job, 0) is None
    good_result = result(job, 1)
    assert good_result is not None and good_result["n"] == 6 and good_result["completion_tokens"] <= 4
    assert good_result["truncated"] == 1.0
    rows.write_text('{"problem": "1+1=?", "answer": "2"}\n')
    capsys.readouterr()
    assert evaluate_here(job) == 0
    assert '"done": 2' in capsys.readouterr().out


@pytest.mark.train
@pytest.mark.parametrize("looks", [1, 2, 10, 60])
def test_a_stop_leaves_nothing_of_the_cell_in_progress(
    looks: int, tmp_path: Path, evaluate_here: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path / "run", tiny("evaluation.benchmarks.0.batch=5"), [None])
    count = 0

    def requested(self: Rank) -> bool:
        nonlocal count
        count += 1
        return count >= looks

    monkeypatch.setattr(Rank, "stop_requested", requested)
    assert evaluate_here(job) == 75
    assert not (job.run.path / "eval").exists()


def test_bad_calls_are_told_in_a_line(
    tmp_path: Path, evaluate_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path / "run", tiny(), [None])
    assert evaluate_here(job, 5) == 78
    assert main([]) == 78
    assert main([str(job.stage_path), "--task", "x"]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("openrs: ") for line in lines)


@pytest.mark.train
def test_a_real_process(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", tiny(), [None])
    finished = job.finish("openrs.evaluation", "--task", "0")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert json.loads(finished.stdout)["state"] == "done"
