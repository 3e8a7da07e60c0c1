"""Sampled accuracy with transformers' own generation: the small cell runner, for any model on any machine.

On a CPU in float32 a result depends on the weights, the cell's settings and its seed alone: each batch is seeded from
(seed, number of the batch), and which problems share a batch is fixed by the settings.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from openrs.evaluation.answers import Answer, Problem, code_identity, processor, questions, result
from openrs.evaluation.generate import sample
from openrs.evaluation.runner import Outcome, Subject, each_cell
from openrs.spec.evaluation import Benchmark
from openrs.spec.experiment import Spec
from openrs.stage import Cell
from openrs.training.model import conversation, derived_seed, load_model, load_tokenizer


class SampledRunner:
    """A cell runner that samples with transformers' `generate`."""

    def __init__(self, spec: Spec, stop_requested: Callable[[], bool]) -> None:
        self._spec, self._stop_requested = spec, stop_requested
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def evaluate(self, subject: Subject, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        """See `CellRunner`."""
        spec = self._spec.model

        def start() -> tuple[Any, Any]:
            tokenizer = load_tokenizer(subject.name, subject.revision)
            model = load_model(subject.name, subject.revision, spec.dtype, spec.attention)
            return model.to(self._device).eval(), tokenizer

        return each_cell(cells, start, lambda loaded, cell: self._evaluate(subject, *loaded, cell))

    def _evaluate(self, subject: Subject, model: Any, tokenizer: Any, cell: Cell) -> dict[str, Any]:
        started = time.monotonic()
        benchmark = next(b for b in self._spec.evaluation.benchmarks if b.name == cell.benchmark)
        asked = questions(benchmark)
        rows = [row for row in asked.problems for _ in range(benchmark.samples_per_problem)]
        answers: list[Answer] = []
        for number, first in enumerate(range(0, len(rows), benchmark.batch)):
            torch.manual_seed(derived_seed(cell.seed, number))
            answers += self._sample(model, tokenizer, benchmark, rows[first : first + benchmark.batch])
        cuda = self._device.type == "cuda"
        return {
            **result(benchmark, asked, answers),
            "seconds": round(time.monotonic() - started, 3),
            "model": subject.identity,
            "hardware": torch.cuda.get_device_name(self._device) if cuda else processor(torch.get_num_threads()),
            **code_identity("sampled"),
        }

    def _sample(self, model: Any, tokenizer: Any, benchmark: Benchmark, rows: list[Problem]) -> list[Answer]:
        sampling = benchmark.sampling
        prompts = [
            tokenizer.apply_chat_template(
                conversation(benchmark.system, benchmark.prompt.replace("{problem}", row["problem"])),
                tokenize=False,
                add_generation_prompt=True,
            )
            for row in rows
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        ids = inputs["input_ids"][:, -sampling.max_prompt_tokens :].to(self._device)
        mask = inputs["attention_mask"][:, -sampling.max_prompt_tokens :].to(self._device)
        return sample(model, tokenizer, ids, mask, sampling, self._stop_requested)[0]
