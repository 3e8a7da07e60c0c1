"""What a training run leaves behind, how it starts, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openrs.runs import completions
from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_lines
from openrs.runs.lease import Lease
from openrs.training import checkpoint
from tests.training.harness import TTL, Job, tiny


@pytest.mark.train
def test_what_a_run_leaves_behind(
    job_of: Callable[..., Job], train_here: Callable[[Job], int], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tiny(
        "training.steps=4",
        "training.beta=0.04",
        "checkpoint.keep=1",
        "evaluation.at_steps=[2]",
        "prompt.system=Work it out.",
        "rewards=[{type: cosine, max_len: 48}, {type: accuracy}, {type: format, answer: boxed}, {type: format}, "
        "{type: random, weight: 0}]",
    )
    job = job_of(experiment)
    assert train_here(job) == 0
    assert checkpoint.steps_in(job.run.checkpoints) == [2, 4]
    assert job.run.is_complete("train")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert printed == list(read_lines(job.run.metrics))
    assert [line["step"] for line in printed] == [1, 2, 3, 4]
    saved = [line["saved"] for line in printed]
    assert saved == sorted(saved) and all(0 <= line["saved"] < line["step"] for line in printed) and saved[3] >= 2
    for line in printed:
        assert set(line["rewards"]) == {"cosine", "accuracy", "format", "format#2", "random"}
        assert line["accuracy"] == line["rewards"]["accuracy"]
        assert line["steps"] == 4 and line["attempt"] == 1 and line["seconds"] > 0 and line["kl"] >= 0
        assert 1 <= line["completion_tokens"] <= 48 and 0 <= line["truncated"] <= 1 and line["entropy"] > 0
        assert {"sync", "generation", "rewards", "learning"} <= set(line["phases"]) and line["clipped"] == 0
    kept = completions.read(job.run.path, 2)
    assert completions.steps(job.run.path) == [1, 2, 3, 4]
    assert len(kept) == experiment.training.log_completions
    assert set(kept[0]["rewards"]) == set(printed[0]["rewards"]) and kept[0]["prompt"].endswith("=?")
    first_group = kept[: experiment.training.completions_per_prompt]
    assert len({line["prompt"] for line in first_group}) == 1 and len({line["completion"] for line in first_group}) > 1
    [training] = [event for event in job.run.ledger() if event["event"] == "training"]
    assert training["problems"] == 60


@pytest.mark.train
def test_a_step_counts_what_it_has_judged_and_nothing_before(
    job_of: Callable[..., Job], train_here: Callable[[Job], int]
) -> None:
    from openrs.rewards import verify

    verify.judge(["$$"] * 5, ["\\boxed{1}"] * 5)  # somebody else in this process, whose gold answer cannot be read
    job = job_of(tiny("training.steps=1"))
    assert train_here(job) == 0
    assert [line["unscorable"] for line in job.metrics()] == [0.0]


@pytest.mark.train
def test_too_few_problems_are_refused(
    job_of: Callable[..., Job], train_here: Callable[[Job], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(job_of(tiny("data.count=2"))) == 78
    assert "2 problems are fewer than training.prompts_per_step = 3" in capsys.readouterr().err


@pytest.mark.train
def test_the_options_of_a_gpu_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As far as they can be looked at without a GPU."""
    from openrs.spec.load import load_experiment
    from openrs.training import config

    seen: dict[str, Any] = {}
    monkeypatch.setattr(config, "TrainingArguments", lambda **options: seen.update(options))
    experiment = load_experiment("exp3")
    config.arguments(experiment, tmp_path)
    assert seen["bf16"] and not seen["use_cpu"] and seen["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}
    assert seen["deepspeed"]["zero_optimization"]["stage"] == 2 and seen["deepspeed"]["bf16"]["enabled"]
    assert seen["per_device_train_batch_size"] == experiment.completions_per_rank
    assert config.training_dtype(experiment) == "bfloat16"
    single = load_experiment("exp3", ["resources.gpus=1", "generation={type: transformers}"])
    assert config.training_dtype(single) == "float32"


@pytest.mark.train
def test_a_lost_lease_writes_nothing_more(job_of: Callable[..., Job]) -> None:
    job = job_of(tiny())
    job.lease.release()
    other = Lease(job.lease.path, TTL, {})
    assert other.acquire(wait=lambda seconds: None)
    result = job.finish()
    assert (result.returncode, result.stdout, result.stderr) == (75, "", "")
    assert sorted(path.name for path in job.run.path.iterdir()) == ["leases", "submission"]


def test_a_complete_run_and_bad_input_end_before_torch(job_of: Callable[..., Job]) -> None:
    code = (
        "import sys; from openrs.training.entry import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )

    def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    job = job_of(tiny())
    stage = str(job.stage_path)
    for arguments, words in [
        ((), "usage"),
        (("nowhere.json",), "nowhere.json: cannot be read"),
        ((stage,), "RANK is not set"),
    ]:
        result = start(*arguments)
        assert result.returncode == 78, result.stderr
        assert result.stderr.startswith("openrs: ") and words in result.stderr and result.stderr.count("\n") == 1
    job.stop_flag.touch()
    assert start(stage, environment=job.environment()).returncode == 75
    job.run.mark_complete("train", step=2)
    assert start(stage).returncode == 0
    (job.run.submission(1) / "spec.json").write_text(tiny("training.steps=3").model_dump_json())
    job.run.complete_marker("train").unlink()
    assert "not the experiment" in start(stage).stderr


def test_storage_that_is_gone_is_one_line(
    job_of: Callable[..., Job],
    train_here: Callable[[Job], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A stand-in for a file system that became read-only: for root, permissions are no obstacle."""
    job = job_of(tiny())

    def read_only(run: RunDirectory, writer: str, event: str, **facts: object) -> None:
        raise OSError(30, "Read-only file system", str(run.path / "ledger"))

    monkeypatch.setattr(RunDirectory, "log", read_only)
    assert train_here(job) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"openrs: {job.run.path / 'ledger'}: Read-only file system; what is complete there stays"]
