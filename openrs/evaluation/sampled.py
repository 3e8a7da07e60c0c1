"""Sampled accuracy with transformers' own generation: the small cell runner, for any model on any machine.

On a CPU in float32 a result depends on the weights, the cell's settings and its seed alone: each batch is seeded from
(seed, number of the batch), and which problems share a batch is fixed by the settings.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from openrs.data.load import commit, fingerprint, load
from openrs.evaluation.interval import wilson
from openrs.evaluation.runner import Outcome, Subject
from openrs.rewards import verify
from openrs.spec.experiment import Benchmark, Experiment
from openrs.stage import Cell
from openrs.training.model import conversation, derived_seed, end_tokens, load_model, load_tokenizer
from openrs.training.stop import StopCriterion, StopRequested

SAMPLES = 3
"""Completions that a result shows."""

DISTRIBUTIONS = ("torch", "transformers", "math-verify", "openrs")


@dataclass(frozen=True)
class Answer:
    """One completion and what became of it."""

    problem: str
    gold: str
    completion: str
    tokens: int
    truncated: bool
    correct: bool | None
    """None where the gold answer cannot be parsed."""


class SampledRunner:
    """A cell runner that samples with transformers' `generate`."""

    def __init__(self, experiment: Experiment, stop_requested: Callable[[], bool]) -> None:
        self._experiment, self._stop_requested = experiment, stop_requested
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def evaluate(self, subject: Subject, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        """See `CellRunner`."""
        spec = self._experiment.model
        try:
            tokenizer = load_tokenizer(subject.name, subject.revision)
            model = load_model(subject.name, subject.revision, spec.dtype, spec.attention).to(self._device).eval()
        except Exception as error:
            for cell in cells:
                yield cell, error
            return
        for cell in cells:
            outcome: Outcome
            try:
                outcome = self._evaluate(subject, model, tokenizer, cell)
            except StopRequested:
                raise
            except Exception as error:
                outcome = error
            yield cell, outcome

    def _evaluate(self, subject: Subject, model: Any, tokenizer: Any, cell: Cell) -> dict[str, Any]:
        started = time.monotonic()
        benchmark = next(b for b in self._experiment.evaluation.benchmarks if b.name == cell.benchmark)
        problems = load(benchmark.data)
        rows = [row for row in problems for _ in range(benchmark.samples_per_problem)]
        answers: list[Answer] = []
        for number, first in enumerate(range(0, len(rows), benchmark.batch)):
            torch.manual_seed(derived_seed(cell.seed, number))
            answers += self._sample(model, tokenizer, benchmark, rows[first : first + benchmark.batch])
        data = benchmark.data
        identity = {**data.model_dump(mode="json"), "sha256": fingerprint(problems), "problems": len(problems)}
        if data.type == "hub":
            identity["commit"] = commit(data)
        return {
            **summary(answers),
            "seconds": round(time.monotonic() - started, 3),
            "samples": [
                {"problem": a.problem, "completion": a.completion, "gold": a.gold, "correct": a.correct}
                for a in answers[:SAMPLES]
            ],
            "model": subject.identity,
            "data": identity,
            "hardware": hardware(self._device),
            "distributions": {name: _version(name) for name in DISTRIBUTIONS},
        }

    def _sample(self, model: Any, tokenizer: Any, benchmark: Benchmark, rows: list[dict[str, str]]) -> list[Answer]:
        if self._stop_requested():
            raise StopRequested
        sampling = benchmark.sampling
        prompts = [
            tokenizer.apply_chat_template(
                conversation(benchmark.system, row["problem"]), tokenize=False, add_generation_prompt=True
            )
            for row in rows
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        ids = inputs["input_ids"][:, -sampling.max_prompt_tokens :].to(self._device)
        mask = inputs["attention_mask"][:, -sampling.max_prompt_tokens :].to(self._device)
        ends = end_tokens(model, tokenizer)
        # A whole configuration of its own: the model's may say something else about sampling.
        configuration = GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=None,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=mask,
                generation_config=configuration,
                stopping_criteria=StoppingCriteriaList([StopCriterion(self._stop_requested)]),
            )
        if self._stop_requested():
            raise StopRequested
        completions = output[:, ids.shape[1] :].cpu()
        is_end = torch.isin(completions, torch.tensor(ends))
        finished = is_end.any(dim=1)
        lengths = torch.where(finished, is_end.int().argmax(dim=1) + 1, completions.shape[1])
        texts = tokenizer.batch_decode(
            [row[:length] for row, length in zip(completions, lengths, strict=True)], skip_special_tokens=True
        )
        return [
            Answer(
                problem=row["problem"],
                gold=row["answer"],
                completion=text,
                tokens=int(length),
                truncated=not bool(done),
                correct=verify.is_correct(row["answer"], text),
            )
            for row, text, length, done in zip(rows, texts, lengths, finished, strict=True)
        ]


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """The numbers of a result. An answer to a gold that cannot be parsed counts as wrong, and is counted beside."""
    n, correct = len(answers), sum(answer.correct is True for answer in answers)
    reasoned = [answer for answer in answers if has_reasoning(answer.completion)]
    return {
        "score": correct / n,
        "correct": correct,
        "n": n,
        "interval": list(wilson(correct, n)),
        "unscorable": sum(answer.correct is None for answer in answers),
        "reasoned": len(reasoned) / n,
        "reasoned_accuracy": sum(answer.correct is True for answer in reasoned) / len(reasoned) if reasoned else None,
        "completion_tokens": sum(answer.tokens for answer in answers) / n,
        "truncated": sum(answer.truncated for answer in answers) / n,
    }


def has_reasoning(completion: str) -> bool:
    """Whether there is text before `</think>`, be `<think>` written by the model or by its template."""
    before, closed, _ = completion.partition("</think>")
    return bool(closed) and bool(before.strip().removeprefix("<think>").strip())


def hardware(device: torch.device) -> str:
    """What computed a result: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {torch.get_num_threads()} thread(s)"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
