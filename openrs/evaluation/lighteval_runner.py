"""The cell runner on lighteval 0.8.1: its tasks, prompts, model back ends and metrics, one engine for all cells of a checkpoint.

lighteval's own pipeline ends the engine after each evaluation, puts the problems into another order and keeps only means;
here its parts are put together instead.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lighteval.tasks import default_prompts
from lighteval.tasks.lighteval_task import LightevalTask, LightevalTaskConfig
from lighteval.tasks.prompt_manager import PromptManager
from lighteval.tasks.requests import Doc, GreedyUntilRequest, RequestType

from openrs.data.load import hub_problem
from openrs.errors import BadInput
from openrs.evaluation.answers import Questions, code_identity, questions, result
from openrs.evaluation.backends import Backend, answers_of, open_backend
from openrs.evaluation.extractive import metric
from openrs.evaluation.metrics import prepare
from openrs.evaluation.runner import Outcome, Subject, each_cell
from openrs.spec.evaluation import LIGHTEVAL, Benchmark
from openrs.spec.experiment import Spec
from openrs.stage import Cell
from openrs.training.model import derived_seed, load_tokenizer
from openrs.training.stop import StopRequested

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class LightevalRunner:
    """A cell runner that puts lighteval's tasks to one of its back ends."""

    def __init__(self, spec: Spec, stop_requested: Callable[[], bool]) -> None:
        self._spec, self._stop_requested = spec, stop_requested

    def evaluate(self, subject: Subject, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        """See `CellRunner`."""
        names = {cell.benchmark for cell in cells}
        benchmarks = {b.name: b for b in self._spec.evaluation.benchmarks if b.name in names}

        def start() -> Backend:
            load_tokenizer(subject.name, subject.revision)  # says in a line what is wrong with it
            for benchmark in benchmarks.values():
                prepare(benchmark.metric)
            try:
                with torch.no_grad():  # whose end undoes that lighteval turns gradients off for the whole process
                    return open_backend(self._spec, subject, list(benchmarks.values()), self._stop_requested)
            except OSError as error:
                raise hub_problem(error, f"model {subject.name} at {subject.revision}") or error from None

        def evaluate(backend: Backend, cell: Cell) -> dict[str, Any]:
            if self._stop_requested():
                raise StopRequested
            return self._evaluate(backend, subject, benchmarks[cell.benchmark], cell.seed)

        return each_cell(cells, start, evaluate)

    def _evaluate(self, backend: Backend, subject: Subject, benchmark: Benchmark, seed: int) -> dict[str, Any]:
        began = time.monotonic()
        asked = questions(benchmark)
        docs = documents(benchmark, asked)
        length = backend.begin(benchmark, seed)
        wanted = list(requests(benchmark, docs, backend, length))
        answers = answers_of(backend, backend.greedy_until(wanted, override_bs=benchmark.batch))
        return {
            **result(benchmark, asked, answers, [gold(benchmark, doc) for doc in docs]),
            "seconds": round(time.monotonic() - began, 3),
            "model": subject.identity,
            "hardware": backend.hardware(),
            **backend.facts(),
            **code_identity("lighteval"),
        }


def documents(benchmark: Benchmark, asked: Questions) -> list[Doc]:
    """Lighteval's documents, in the order of the problems. Raises BadInput for a prompt that lighteval does not have."""
    if not benchmark.prompt.startswith(LIGHTEVAL):
        return [_plain(benchmark, problem) for problem in asked.problems]
    name = benchmark.prompt.removeprefix(LIGHTEVAL)
    function = getattr(default_prompts, name, None)
    if not callable(function):
        raise BadInput(f"benchmark {benchmark.name}: prompt = {benchmark.prompt}: lighteval 0.8.1 has no such prompt")
    found = []
    for problem in asked.problems:
        random.seed(_choice_seed(problem))  # some draw the order of the choices
        try:
            found.append(function(_line(problem), benchmark.name))
        except KeyError as error:
            raise BadInput(
                f"benchmark {benchmark.name}: prompt = {benchmark.prompt} wants a column {error}, which openrs does not pass on"
            ) from None
    return found


def _line(problem: dict[str, str]) -> dict[str, Any]:
    """A row by every name under which lighteval's prompts look for its parts."""
    question, answer = problem["problem"], problem["answer"]
    wrong = [text for name, text in problem.items() if name.startswith("wrong-")]
    return {
        **dict.fromkeys(("problem", "question", "Question"), question),
        **dict.fromkeys(("answer", "solution", "Correct Answer"), answer),
        **{f"Incorrect Answer {number}": text for number, text in enumerate(wrong, start=1)},
    }


def _plain(benchmark: Benchmark, problem: dict[str, str]) -> Doc:
    text, wrong = problem["problem"], [text for name, text in problem.items() if name.startswith("wrong-")]
    choices, index = [problem["answer"]], 0
    if wrong:
        index = random.Random(_choice_seed(problem)).randrange(len(wrong) + 1)
        options = [*wrong[:index], problem["answer"], *wrong[index:]]
        text += "\n\n" + "\n".join(f"{LETTERS[at]}) {option}" for at, option in enumerate(options))
        choices = list(LETTERS[: len(options)])
    query = benchmark.prompt.replace("{problem}", text)
    return Doc(task_name=benchmark.name, query=query, choices=choices, gold_index=index)


def _choice_seed(problem: dict[str, str]) -> int:
    """The order of a problem's choices is the same for every seed and checkpoint."""
    return derived_seed(*problem["problem"].encode())


def gold(benchmark: Benchmark, doc: Doc) -> str:
    """The gold answer as the metric wants it."""
    text = str(doc.get_golds()[0])
    return f"{text.strip()}/{len(doc.choices)}" if benchmark.metric == "extractive-choice" else text


def requests(benchmark: Benchmark, docs: Sequence[Doc], backend: Backend, length: int) -> Iterator[GreedyUntilRequest]:
    """One request for each answer that is to be drawn, problem after problem, `length` tokens long."""
    task = LightevalTask(
        benchmark.name,
        LightevalTaskConfig(
            name=benchmark.name,
            prompt_function=lambda line, _: line,
            hf_repo="",
            hf_subset="default",
            metric=[metric(benchmark.metric)],
            evaluation_splits=["test"],
            generation_size=length,
        ),
    )
    prompts = PromptManager(lm=backend, task=task)
    for number, doc in enumerate(docs):
        prompts.add_context_to_doc(doc, 0, seed=0, use_chat_template=True, system_prompt=benchmark.system)
        for _ in range(benchmark.samples_per_problem):
            made = task.construct_requests(doc, doc.ctx, f"{number}_0", f"{benchmark.name}|0")
            (request,) = made[RequestType.GREEDY_UNTIL]
            request.do_sample = True  # a metric that wants one answer would have it decoded greedily
            yield request
