"""The three experiments of the paper, number by number, against what paper and recipe say (not against the YAML)."""

from __future__ import annotations

from typing import Any

import pytest

from openrs.spec.load import EXPERIMENTS as EXPERIMENT_FILES
from openrs.spec.load import load_experiment

SYSTEM = (
    "You solve the user's problem. First think it through inside <think> </think>, then give the answer inside "
    "<answer> </answer>, with the final answer in \\boxed{}."
)
EVALUATION = {"temperature": 0.6, "top_p": 0.95, "max_prompt_tokens": 2048, "max_new_tokens": 32768}
REVISIONS = {
    "HuggingFaceH4/aime_2024": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    "yentinglin/aime_2025": "6f71d77b0b89b9dabe07ab466c51df33f514df7f",
    "HuggingFaceH4/MATH-500": "ff5b20257d8185524591543f8ff5993951537bb8",
}


def benchmark(
    name: str, data: str, problems: int, seeds: int, minutes: float, metric: str = "expr", **columns: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "data": {
            "type": "hub",
            "name": data,
            "revision": REVISIONS.get(data, "main"),
            "subset": None,
            "split": "train",
            "problem": "problem",
            "answer": "answer" if metric == "expr" else "solution",
            "choices": [],
            "limit": None,
            **columns,
        },
        "problems": problems,
        "prompt": f"lighteval:{'aime_prompt_fn' if name.startswith('aime') else 'math_500'}",
        "system": None,
        "sampling": EVALUATION,
        "metric": f"extractive-{metric}",
        "samples_per_problem": 1,
        "seeds": [0],
        "full_seeds": seeds,
        "batch": 32,
        "minutes": minutes,
    }


def expected(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "fidelity": "corrected",
        "model": {
            "type": "hub",
            "name": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            "revision": "ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562",
            "dtype": "bfloat16",
            "attention": "flash_attention_2",
        },
        "training": {
            "steps": 500,
            "prompts_per_step": 12,
            "completions_per_prompt": 6,
            "micro_batch": 18,
            "micro_batch_tokens": 24576,
            "loss": "dapo",
            "learning_rate": 1e-6,
            "schedule": "cosine_with_min_lr",
            "min_lr_rate": 0.1,
            "warmup_ratio": 0.1,
            "adam_beta2": 0.999,
            "max_grad_norm": 1.0,
            "beta": 0.04,
            "epsilon": 0.2,
            "epsilon_high": None,
            "scale_rewards": True,
            "mask_truncated": False,
            "logprob_temperature": None,
            "max_dropped_steps": 3,
            "gradient_checkpointing": True,
            "seed": 42,
            "log_completions": 6,
        },
        "generation": {"type": "vllm", "layout": "colocate", "max_sequences": None},
        "checkpoint": {"every_steps": 10, "hours_between_interruptions": 12.0, "keep": 2},
        "evaluation": {
            "at_steps": [50, 100, 150, 200, 250, 300, 350, 400, 450, 500],
            "base": True,
            "runner": "lighteval",
            "gpu_memory_utilization": 0.8,
            "benchmarks": [
                benchmark("aime24", "HuggingFaceH4/aime_2024", 30, 30, 12.0),
                benchmark("aime25", "yentinglin/aime_2025", 30, 30, 12.0),
                benchmark("amc23", "knoveleng/AMC-23", 40, 30, 12.0),
                benchmark("math_500", "HuggingFaceH4/MATH-500", 500, 3, 38.0, "latex", split="test"),
                benchmark("minerva", "knoveleng/Minerva-Math", 272, 3, 25.0, "latex"),
                benchmark(
                    "olympiadbench",
                    "knoveleng/OlympiadBench",
                    675,
                    3,
                    97.0,
                    "latex",
                    problem="question",
                    answer="answer",
                ),
            ],
            "resources": {"gpus": 1, "cpu_ranks": 1, "gpu_type": "A40", "cpus": 8, "memory_gb": 64, "minutes": 720},
        },
        "resources": {"gpus": 4, "cpu_ranks": 1, "gpu_type": "A40", "cpus": 16, "memory_gb": 192, "minutes": 1440},
        "recovery": {
            "grace_seconds": 600,
            "max_attempts": 100,
            "node_fault_retries": 3,
            "stall_factor": 20.0,
            "stall_minutes": 60.0,
        },
        "tracking": None,
        "environment": {},
        "secrets": {},
        **changes,
    }


def data(name: str) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "subset": None,
        "split": "train",
        "problem": "problem",
        "answer": "answer",
        "choices": [],
        "limit": None,
    }
    return {"type": "hub", "name": name, "revision": "main", **columns}


def sampling(max_new_tokens: int) -> dict[str, Any]:
    return {"temperature": 0.7, "top_p": 1.0, "max_prompt_tokens": 512, "max_new_tokens": max_new_tokens}


COSINE = {
    "type": "cosine",
    "weight": 2.0,
    "form": "corrected",
    "strict": False,
    "max_len": 3584,
    "min_value_wrong": -0.5,
    "max_value_wrong": 0.0,
    "min_value_correct": 0.5,
    "max_value_correct": 1.0,
}
ACCURACY = {"type": "accuracy", "weight": 1.0, "form": "corrected", "strict": False}
FORMAT = {"type": "format", "weight": 1.0, "form": "corrected", "answer": "answer-tag"}

# As shipped: the code's defaults, with the bounds of wrong answers the wrong way round.
SHIPPED_COSINE = {**COSINE, "form": "as-shipped", "min_value_wrong": 0.0, "max_value_wrong": -0.5}
SHIPPED_FORMAT = {**FORMAT, "form": "as-shipped"}
SHIPPED_SYSTEM = f"{SYSTEM} Write in English and in no other language.".replace("{}", "{{}}")
ANY_FORMAT = {**FORMAT, "answer": "any"}

EXPERIMENTS = {
    "exp1": expected(
        name="exp1",
        title="Open-RS Experiment 1: accuracy reward on open-s1, 4,096 tokens",
        data=data("knoveleng/open-s1"),
        prompt={"system": SYSTEM},
        rewards=[ACCURACY, FORMAT],
        sampling=sampling(4096),
    ),
    "exp2": expected(
        name="exp2",
        title="Open-RS Experiment 2: accuracy reward on the open-rs mix",
        data=data("knoveleng/open-rs"),
        prompt={"system": SYSTEM},
        rewards=[ACCURACY, FORMAT],
        sampling=sampling(3584),
    ),
    "exp3": expected(
        name="exp3",
        title="Open-RS Experiment 3: cosine length reward on the open-rs mix",
        data=data("knoveleng/open-rs"),
        prompt={"system": f"{SYSTEM} Write in English and in no other language."},
        rewards=[COSINE, FORMAT],
        sampling=sampling(3584),
    ),
}


SHIPPED_TRAINING = {"loss": "bnpo", "micro_batch": 6, "micro_batch_tokens": None, "logprob_temperature": 1.0}
SHIPPED = {"fidelity": "as-shipped", "prompt": {"system": SHIPPED_SYSTEM}}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "exp1-paper": ("exp1", {"fidelity": "paper", "rewards": [ACCURACY, ANY_FORMAT]}),
    "exp2-paper": ("exp2", {"fidelity": "paper", "rewards": [ACCURACY, ANY_FORMAT]}),
    "exp3-paper": ("exp3", {"fidelity": "paper", "rewards": [{**COSINE, "weight": 1.0}, ANY_FORMAT]}),
    "exp1-as-shipped": ("exp1", {**SHIPPED, "rewards": [{**SHIPPED_COSINE, "max_len": 1000}, SHIPPED_FORMAT]}),
    "exp2-as-shipped": ("exp2", {**SHIPPED, "rewards": [{**SHIPPED_COSINE, "max_len": 1000}, SHIPPED_FORMAT]}),
    "exp3-as-shipped": ("exp3", {**SHIPPED, "rewards": [SHIPPED_COSINE, SHIPPED_FORMAT]}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_this_and_nothing_else(name: str) -> None:
    parent, changes = VARIANTS[name]
    spec = load_experiment(name)
    wanted = {**EXPERIMENTS[parent], **changes, "name": name, "title": spec.title}
    if spec.fidelity == "as-shipped":
        wanted["data"] = {**wanted["data"], "answer": "solution"}
        wanted["training"] = {**wanted["training"], **SHIPPED_TRAINING}
    wanted["generation"] = {**wanted["generation"], "layout": "server"}
    assert spec.model_dump(mode="json") == wanted


@pytest.mark.parametrize("name", [*EXPERIMENTS, *VARIANTS])
def test_every_line_of_an_experiment_says_where_it_comes_from(name: str) -> None:
    """Inside `rewards`, `data` and `sampling` of the file itself: a comment on every line that sets a value."""
    section = ""
    for line in (EXPERIMENT_FILES / f"{name}.yaml").read_text().splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            section = line.partition(":")[0]
        elif section in ("rewards", "sampling") and ":" in line.partition("#")[0]:
            lone_type = line.strip() in ("- type: cosine", "- type: format")
            assert lone_type or line.partition("#")[2].strip(), f"{name}: {line}"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_number(name: str) -> None:
    assert load_experiment(name).model_dump(mode="json") == EXPERIMENTS[name]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_papers_arithmetic(name: str) -> None:
    """72 completions = 12 prompts × 6: 24 a rank on the paper's three (6 a device × 4 accumulated), 18 on four."""
    assert load_experiment(name).completions_per_rank == 18
    for variant in ("paper", "as-shipped"):
        experiment = load_experiment(f"{name}-{variant}")
        assert experiment.trainer_ranks == 3 and experiment.completions_per_rank == 24
    assert experiment.training.micro_batch * 4 == 24
    assert experiment.window <= 4608  # the recipe's window of vLLM
