"""Nothing knows `smoke`: a user's own YAML, data and model train and are evaluated, on every engine that is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]

YAML = """
name: mine
title: My own model on my own problems
model: {type: path, path: model}
data: {type: jsonl, path: problems.jsonl, problem: question, answer: gold}
rewards:
  - {type: accuracy}
  - {type: format, answer: boxed}
training: {steps: 3, prompts_per_step: 2, completions_per_prompt: 4, micro_batch: 4, learning_rate: 1.0e-3}
sampling: {temperature: 1.0, max_prompt_tokens: 32, max_new_tokens: 8}
generation: {type: transformers}
checkpoint: {every_steps: 2}
evaluation:
  at_steps: [3]
  benchmarks:
    - name: own
      data: {type: jsonl, path: problems.jsonl, problem: question, answer: gold, limit: 10}
      sampling: {temperature: 1.0, max_prompt_tokens: 32, max_new_tokens: 8}
      seeds: [0, 1]
environment: {OMP_NUM_THREADS: "1"}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A YAML file beside a Llama with random weights and a JSONL file."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from openrs.models import TINY_SUMS

    tokenizer = AutoTokenizer.from_pretrained(TINY_SUMS)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"question": f"{n}+{n}=?", "gold": str(2 * n)} for n in range(1, 30)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(YAML)
    return tmp_path / "mine.yaml"


def run_to_its_end(experiment: Path, cluster: str, environment: dict[str, str]) -> dict[str, Any]:
    where = experiment.parent

    def openrs(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "openrs", *arguments], cwd=where, env={**os.environ, **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run = json.loads(openrs("submit", "mine.yaml", "--cluster", cluster, "--json"))["run"]
    deadline = time.monotonic() + 300
    while (status := json.loads(openrs("status", run, "--json"))["runs"][0])["state"] in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    logs = "\n".join(path.read_text() for path in (where / "runs" / run / "logs").rglob("*.*") if path.is_file())
    assert status["state"] == "SUCCEEDED", f"{status}\n{logs}"
    assert (status["step"], status["attempts"]) == (3, 1)
    cells = sorted((where / "runs" / run / "eval").glob("*/own/*.json"))
    assert len(cells) == 2 * 2
    assert all(0 <= json.loads(cell.read_text())["score"] <= 1 for cell in cells)
    return dict(status)


def test_on_this_machine(experiment: Path) -> None:
    run_to_its_end(experiment, "local", {})


@pytest.mark.slurm
def test_on_slurm(experiment: Path, slurm_bed: Any) -> None:
    slurm_bed.reset()
    run_to_its_end(experiment, "slurm", slurm_bed.env)


def test_no_code_asks_whether_it_is_smoke() -> None:
    package = Path(__file__).parents[2] / "openrs"
    paths = set(package.rglob("*.py")) - set((package / "images").rglob("*.py"))  # an image has that name, too
    hits = [str(path) for path in paths if re.search("""["']smoke["']""", path.read_text())]
    assert hits == []
