"""Answers to problems, and the result of a cell that they add up to. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from openrs import __version__
from openrs.data.load import commit, fingerprint, load
from openrs.errors import BadInput
from openrs.evaluation.interval import wilson
from openrs.evaluation.metrics import judge
from openrs.plan import CELL_RUNNER
from openrs.spec.evaluation import Benchmark

SAMPLES = 3
"""Completions that a result shows; all of them stand in the file beside it."""

EXCERPT = 1500
"""Characters at each end of such a completion."""

DISTRIBUTIONS = ("torch", "transformers", "math-verify", "lighteval", "vllm")

Problem = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """One completion."""

    completion: str
    tokens: int
    """Its length, the token that ends it included."""
    truncated: bool
    """Cut for its length."""


@dataclass(frozen=True)
class Questions:
    """A benchmark's problems, loaded."""

    problems: list[Problem]
    identity: dict[str, Any]
    """What a result says about them."""


@lru_cache(maxsize=16)
def _loaded(as_json: str) -> Questions:
    benchmark = Benchmark.model_validate_json(as_json)
    problems = load(benchmark.data)
    wanted = benchmark.problems
    if wanted is not None and benchmark.data.type != "sums":
        wanted = min(wanted, benchmark.data.limit or wanted)
    if wanted is not None and len(problems) != wanted:
        raise BadInput(
            f"benchmark {benchmark.name}: {len(problems)} problems in its data set, and its field problems says {wanted}; "
            f"name another revision, or set problems"
        )
    identity = {
        **benchmark.data.model_dump(mode="json", exclude={"sha256"}),
        "file_sha256": benchmark.data.sha256 if benchmark.data.type == "jsonl" else None,
        "sha256": fingerprint(problems),
        "problems": len(problems),
    }
    if benchmark.data.type == "hub":
        identity["commit"] = commit(benchmark.data)
    return Questions(problems, identity)


def questions(benchmark: Benchmark) -> Questions:
    """The problems of a benchmark. Raises BadInput where they are not there or are not as many as it says."""
    return _loaded(benchmark.model_dump_json())


def result(
    benchmark: Benchmark, asked: Questions, answers: Sequence[Answer], golds: Sequence[str] | None = None
) -> dict[str, Any]:
    """The numbers of a cell. `answers` are `samples_per_problem` to each problem, problem after problem.

    `outcomes` is, in the order of the problems, how many of the answers to each were right. An answer to a gold that cannot
    be read counts as wrong, and is counted beside (`unscorable`), as is one that was given up for time (`over_limit`).
    `golds` are the problems' gold answers where they are other ones than in the data set.
    """
    samples = benchmark.samples_per_problem
    wanted = list(golds) if golds is not None else [problem["answer"] for problem in asked.problems]
    by_answer = [gold for gold in wanted for _ in range(samples)]
    verdicts = judge(benchmark.metric, by_answer, [answer.completion for answer in answers])
    right = [verdict.correct is True for verdict in verdicts]
    n, correct = len(answers), sum(right)
    reasoned = [good for good, answer in zip(right, answers, strict=True) if has_reasoning(answer.completion)]
    rows: list[dict[str, Any]] = [
        {
            "problem": index // samples,
            "completion": answer.completion,
            "tokens": answer.tokens,
            "truncated": answer.truncated,
            "correct": verdict.correct,
        }
        for index, (answer, verdict) in enumerate(zip(answers, verdicts, strict=True))
    ]
    return {
        "score": correct / n,
        "correct": correct,
        "n": n,
        "interval": list(wilson(correct, n)),
        "outcomes": [sum(right[first : first + samples]) for first in range(0, n, samples)],
        "samples_per_problem": samples,
        "metric": benchmark.metric,
        "unscorable": sum(verdict.correct is None for verdict in verdicts),
        "over_limit": sum(verdict.limit is not None for verdict in verdicts),
        "reasoned": len(reasoned) / n,
        "reasoned_accuracy": sum(reasoned) / len(reasoned) if reasoned else None,
        "completion_tokens": sum(answer.tokens for answer in answers) / n,
        "truncated": sum(answer.truncated for answer in answers) / n,
        "samples": [
            {
                "problem": asked.problems[row["problem"]]["problem"],
                "completion": _excerpt(row["completion"]),
                "gold": by_answer[index],
                "correct": row["correct"],
            }
            for index, row in enumerate(rows[:SAMPLES])
        ],
        "completions": rows,
        "data": asked.identity,
        "sampling": benchmark.sampling.model_dump(mode="json"),
    }


def _excerpt(completion: str) -> str:
    """Beginning and end of a long completion: a report reads thousands of results."""
    left_out = len(completion) - 2 * EXCERPT
    if left_out <= 0:
        return completion
    return f"{completion[:EXCERPT]}\n[… {left_out:,} characters left out …]\n{completion[-EXCERPT:]}"


def code_identity(runner: str) -> dict[str, Any]:
    """What computed a result: this package, the runner's version, the image, and the libraries."""
    return {
        "code": {"openrs": __version__, "runner": CELL_RUNNER[runner]},
        "image": os.environ.get("OPENRS_IMAGE"),
        "distributions": {name: _version(name) for name in DISTRIBUTIONS},
    }


def has_reasoning(completion: str) -> bool:
    """Whether there is text before `</think>`, be `<think>` written by the model or by its template."""
    before, closed, _ = completion.partition("</think>")
    return bool(closed) and bool(before.strip().removeprefix("<think>").strip())


def processor(threads: int) -> str:
    """The processor's name, as a result's hardware where no GPU computed it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {threads} thread(s)"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
