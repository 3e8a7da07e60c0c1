"""The cell runner on the real lighteval: its transformers back end on a CPU, its vLLM one with a stand-in for the engine."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lighteval")
from openrs.evaluation.entry import main
from openrs.spec.experiment import Experiment
from openrs.stage import CellsFile, read
from openrs.worker.rank import Rank
from tests.training.harness import Job, make_job, tiny

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

MODEL = Path(__file__).resolve().parents[2] / "openrs" / "models" / "tiny-sums"
ROWS = [("1+2=?", "3"), ("9-4=?", "5"), ("2+2+3=?", "7"), ("8-1-1=?", "6"), ("5+4-2=?", "7")]


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer that writes a BOS of its own and a chat template that begins with one too."""
    target = tmp_path_factory.mktemp("model") / "with-bos"
    shutil.copytree(MODEL, target)
    configuration = json.loads((target / "tokenizer_config.json").read_text())
    configuration |= {"bos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    configuration["chat_template"] = "{{ bos_token }}" + configuration["chat_template"]
    (target / "tokenizer_config.json").write_text(json.dumps(configuration))
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    return target


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"problem": problem, "answer": answer}) + "\n" for problem, answer in ROWS))
    return path


def spec(data: Path, *more: str, model: Path = MODEL) -> Experiment:
    sampling = "sampling: {temperature: 0.8, top_p: 0.95, max_prompt_tokens: 64, max_new_tokens: 24}"
    entry = f"name: sums, data: {{type: jsonl, path: {data}}}, {sampling}, metric: extractive-expr, seeds: [0, 1, 2]"
    return tiny(
        f"model.path={model}",
        "evaluation.runner=lighteval",
        f"evaluation.benchmarks=[{{{entry}, samples_per_problem: 2, batch: 4}}]",
        *more,
    )


@pytest.fixture
def run_task(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], int]:
    def run(job: Job) -> int:
        before = set(os.environ)
        job.attempt += 1
        for name, value in job.environment().items():
            monkeypatch.setenv(name, value)
        try:
            return main([str(job.stage_path), "--task", "0"])
        finally:
            for name in set(os.environ) - before:
                monkeypatch.delenv(name)

    return run


def results(job: Job) -> list[dict[str, Any]]:
    cells = read(CellsFile, job.run.path / "submission" / "1" / "cells" / "cells.json").tasks[0]
    found = [job.run.cell(cell) for cell in cells]
    assert all(found), [job.run.cell_failed(cell).read_text() for cell in cells if job.run.cell(cell) is None]
    return [one for one in found if one is not None]


def completions(job: Job, result: dict[str, Any]) -> list[dict[str, Any]]:
    path = job.run.path / "eval" / result["checkpoint"] / result["benchmark"] / result["completions"]["file"]
    packed = path.read_bytes()
    assert hashlib.sha256(packed).hexdigest() == result["completions"]["sha256"]
    return [json.loads(line) for line in gzip.decompress(packed).splitlines()]


def check_cell(job: Job, one: dict[str, Any]) -> None:
    rows = completions(job, one)
    assert [row["problem"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    right = [sum(bool(row["correct"]) for row in rows[at : at + 2]) for at in range(0, 10, 2)]
    assert one["outcomes"] == right and one["samples_per_problem"] == 2 and one["n"] == 10
    assert one["score"] == sum(right) / 10 and one["correct"] == sum(right)
    for row in rows:  # lighteval says the same as a reader who looks for the box
        boxed = (
            row["completion"].rpartition("\\boxed{")[2].partition("}")[0] if "\\boxed{" in row["completion"] else None
        )
        if boxed is not None and boxed.lstrip("-").isdigit():
            assert row["correct"] == (boxed == ROWS[row["problem"]][1]), row
    assert one["truncated"] == sum(row["truncated"] for row in rows) / 10
    assert one["completion_tokens"] == sum(row["tokens"] for row in rows) / 10
    assert one["data"]["problems"] == 5 and one["data"]["sha256"].startswith("sha256:") and one["data"]["file_sha256"]
    assert one["code"]["runner"] == "lighteval-1" and one["distributions"]["lighteval"] == "0.8.1"
    assert one["hardware"] and one["seconds"] > 0 and one["model"]["name"]


def test_transformers_really_samples(data: Path, tmp_path: Path, run_task: Callable[[Job], int]) -> None:
    job = make_job(tmp_path / "a", spec(data), [None])
    assert run_task(job) == 0
    found = results(job)
    assert [one["seed"] for one in found] == [0, 1, 2]
    for one in found:
        check_cell(job, one)
    texts = [[row["completion"] for row in completions(job, one)] for one in found]
    assert texts[0] != texts[1] != texts[2], "greedy decoding would give every seed the same answers"
    assert any(first != second for first, second in zip(texts[0][::2], texts[0][1::2], strict=True))
    assert any(row["tokens"] > 3 for row in completions(job, found[0])), "lighteval's padding would leave one token"
    # One engine start for all three, and the same answers again elsewhere, a seed alone.
    assert [one["engine_start_seconds"] > 0 for one in found] == [True, False, False]
    again = make_job(tmp_path / "b", spec(data, "evaluation.benchmarks.0.seeds=[1]"), [None])
    assert run_task(again) == 0
    assert [row["completion"] for row in completions(again, results(again)[0])] == texts[1]


def test_one_bos(
    data: Path, tmp_path: Path, with_bos: Path, run_task: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat template writes one, the tokenizer would write another: on both back ends the model sees one."""
    from openrs.evaluation import backends
    from openrs.evaluation.generate import sample
    from tests.evaluation import standin_vllm

    seen: list[list[int]] = []

    def spy(model: Any, tokenizer: Any, ids: Any, mask: Any, *rest: Any) -> Any:
        seen.extend([row[row_mask.bool()].tolist() for row, row_mask in zip(ids, mask, strict=True)])
        return sample(model, tokenizer, ids, mask, *rest)

    monkeypatch.setattr(backends, "sample", spy)
    one_seed = "evaluation.benchmarks.0.seeds=[0]"
    job = make_job(tmp_path / "cpu", spec(data, one_seed, model=with_bos), [None])
    assert run_task(job) == 0
    engines: list[standin_vllm.Engine] = []
    stand_in = standin_vllm.install(monkeypatch)
    monkeypatch.setattr(standin_vllm.Engine, "__init__", _remember(standin_vllm.Engine.__init__, engines))
    gpu = make_job(tmp_path / "gpu", spec(data, one_seed, "evaluation.resources.gpus=1", model=with_bos), [None])
    monkeypatch.setattr("openrs.evaluation.entry.importlib.util.find_spec", lambda name: object())
    assert run_task(gpu) == 0
    assert len(stand_in.started) == 1
    on_vllm = [request.prompt for request in engines[0].seen]
    assert len(seen) == len(on_vllm) == 10
    for prompts in (seen, on_vllm):
        assert all(prompt[0] == 0 and prompt.count(0) == 1 for prompt in prompts)
    assert sorted(map(tuple, seen)) == sorted(map(tuple, on_vllm)), "both back ends ask the same"


def _remember(init: Callable[..., None], into: list[Any]) -> Callable[..., None]:
    def wrapped(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        into.append(self)

    return wrapped


def _preempt_first(engine: Any) -> Callable[..., bool]:
    """The engine begins one completion anew, at its very beginning."""
    ask = engine.has_unfinished_requests

    def wrapped(self: Any) -> bool:
        self.scheduler[0].num_cumulative_preemption = 1
        return bool(ask(self))

    return wrapped


def test_vllm_is_started_once_and_every_answer_has_its_own_seed(
    data: Path, tmp_path: Path, run_task: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.evaluation import standin_vllm

    engines: list[standin_vllm.Engine] = []
    stand_in = standin_vllm.install(monkeypatch)
    monkeypatch.setattr(standin_vllm.Engine, "__init__", _remember(standin_vllm.Engine.__init__, engines))
    monkeypatch.setattr(standin_vllm.Engine, "has_unfinished_requests", _preempt_first(standin_vllm.Engine))
    monkeypatch.setattr("openrs.evaluation.entry.importlib.util.find_spec", lambda name: object())
    job = make_job(tmp_path / "run", spec(data, "evaluation.resources.gpus=1"), [None])
    assert run_task(job) == 0
    (started,) = stand_in.started
    assert started["max_model_len"] == 64 + 24 and started["max_num_seqs"] == 4 and started["dtype"] == "float32"
    found = results(job)
    for one in found:
        check_cell(job, one)
        assert one["engine"] == "vllm"
    assert sorted(one["begun_anew"] for one in found) == [0] * (len(found) - 1) + [1], "each cell counts its own"
    seeds = [request.parameters.seed for request in engines[0].seen]
    assert len(seeds) == len(set(seeds)) == 30
    assert {request.parameters.temperature for request in engines[0].seen} == {0.8}
    # A cell alone has the same answers: its seeds depend on the cell, the prompt and the sample, not on the company.
    alone = make_job(
        tmp_path / "alone", spec(data, "evaluation.resources.gpus=1", "evaluation.benchmarks.0.seeds=[2]"), [None]
    )
    assert run_task(alone) == 0
    assert completions(alone, results(alone)[0]) == completions(job, found[2])


def test_a_stop_leaves_vllm_at_the_next_token(
    data: Path, tmp_path: Path, run_task: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.evaluation import standin_vllm

    engines: list[standin_vllm.Engine] = []
    standin_vllm.install(monkeypatch)
    monkeypatch.setattr(standin_vllm.Engine, "__init__", _remember(standin_vllm.Engine.__init__, engines))
    monkeypatch.setattr("openrs.evaluation.entry.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(
        Rank, "stop_requested", lambda self: bool(engines) and any(len(r.tokens) >= 3 for r in engines[0].seen)
    )
    job = make_job(tmp_path / "run", spec(data, "evaluation.resources.gpus=1"), [None])
    assert run_task(job) == 75
    assert not (job.run.path / "eval").exists()
    assert max(len(request.tokens) for request in engines[0].seen) == 3 and engines[0].aborted


def test_lightevals_own_prompts_and_choices(tmp_path: Path, run_task: Callable[[Job], int]) -> None:
    """A multiple choice is put by lighteval's prompt for GPQA, its order the same for every seed."""
    from openrs.evaluation.answers import questions
    from openrs.evaluation.lighteval_runner import documents, gold

    path = tmp_path / "choices.jsonl"
    rows = [{"q": f"Which is {n}?", "right": str(n), "a": "100", "b": "200", "c": "300"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = f"extends: gpqa_diamond, problems: 40, data: {{type: jsonl, path: {path}, problem: q, answer: right, choices: [a, b, c]}}"
    benchmark = tiny("evaluation.runner=lighteval", f"evaluation.benchmarks=[{{{entry}}}]").evaluation.benchmarks[0]
    docs = documents(benchmark, questions(benchmark))
    letters = [gold(benchmark, doc) for doc in docs]
    assert letters == [gold(benchmark, doc) for doc in documents(benchmark, questions(benchmark))]
    assert {letter.partition("/")[0] for letter in letters} == set("ABCD"), "the right answer is in every place"
    for number, (doc, letter) in enumerate(zip(docs, letters, strict=True)):
        assert f"{letter[0]}) {number}" in doc.query and "Answer: $LETTER" in doc.query
    # A template of one's own numbers the choices likewise.
    plain = benchmark.model_copy(update={"prompt": "Choose. {problem}"})
    for number, doc in enumerate(documents(plain, questions(plain))):
        assert doc.query.startswith("Choose. Which is") and f"{gold(plain, doc)[0]}) {number}" in doc.query


def test_metrics_agree_with_lightevals_own_in_this_process() -> None:
    from openrs.evaluation.extractive import correct
    from openrs.evaluation.metrics import judge

    pairs = [
        ("extractive-expr", "204", "so it is $\\boxed{204}$", True),
        ("extractive-expr", "204", "so it is $\\boxed{205}$", False),
        ("extractive-expr", "27.0", "\\boxed{27}", True),
        (
            "extractive-latex",
            "We get $\\boxed{\\frac{1}{2}}$.",
            "Therefore, the final answer is: $\\boxed{0.5}$.",
            True,
        ),
        ("extractive-latex", "\\left( 3, \\frac{\\pi}{2} \\right)", "$\\boxed{(3, \\pi/2)}$", True),
        ("extractive-latex", "\\frac{1}{2}", "I do not know", False),
        ("extractive-choice", "B/4", "Thinking about A. Answer: B", True),
        ("extractive-choice", "B/4", "Answer: C", False),
    ]
    for metric, answer, text, right in pairs:
        (verdict,) = judge(metric, [answer], [text])
        assert verdict.correct is right and verdict.limit is None, (metric, answer, text)
        assert correct(metric, answer, text) is right


def test_an_answer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm of lighteval does not end a long call in C; the pool ends the process."""
    from openrs.evaluation import metrics
    from openrs.rewards.verifier.pool import Pair

    hangs = "$\\boxed{5^{5^{5^{5^5}}}}$"
    pool = metrics._pool(os.getpid())
    pool.judge([Pair("extractive-latex", "$1$", "$\\boxed{1}$")])  # warm
    monkeypatch.setattr(pool, "seconds", 10.0)
    began = time.monotonic()
    verdicts = metrics.judge("extractive-latex", ["$7$", "$7$"], [hangs, "$\\boxed{7}$"])
    assert verdicts[0].correct is False and verdicts[1].correct is True
    assert time.monotonic() - began < 400


def test_a_changed_file_is_refused(data: Path, tmp_path: Path, run_task: Callable[[Job], int]) -> None:
    job = make_job(tmp_path / "run", spec(data), [None])
    data.write_text(data.read_text().replace('"3"', '"4"'))
    assert run_task(job) == 1
    reasons = {json.loads(path.read_text())["reason"] for path in (job.run.path / "eval").rglob("*.failed.json")}
    assert len(reasons) == 1 and "its content has changed" in reasons.pop()
