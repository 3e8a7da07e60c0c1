"""Benchmarks by name, by file, and changed; and what of them decides a cell's key."""

from __future__ import annotations

from pathlib import Path

import pytest

from openrs.errors import BadInput
from openrs.plan import base_cells, cells, make_plan, settings_hash
from openrs.report.published import canonical_benchmark
from openrs.spec.benchmarks import shipped
from openrs.spec.evaluation import Benchmark
from openrs.spec.load import load_cluster, load_experiment, named_benchmarks

PROBLEMS = {
    "aime24": (30, 30),
    "aime25": (30, 30),
    "amc23": (40, 30),
    "math_500": (500, 3),
    "minerva": (272, 3),
    "olympiadbench": (675, 3),
    "gpqa_diamond": (198, 3),
}


def test_the_catalogue() -> None:
    """Problems, seeds and sampling as the papers say; every name is one that published scores go by."""
    found = [Benchmark.model_validate(entry) for entry in named_benchmarks(list(shipped()))]
    assert {one.name: (one.problems, one.full_seeds) for one in found} == PROBLEMS
    for one in found:
        sampling = one.sampling
        assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.6, 0.95, 32768)
        assert one.protocol(full=False) == [0] and one.protocol(full=True) == list(range(PROBLEMS[one.name][1]))
        assert canonical_benchmark(one.name) is not None


@pytest.mark.parametrize(
    ("said", "name"), [("math-500", "math_500"), ("gpqa:diamond", "gpqa_diamond"), ("AIME24", "aime24")]
)
def test_names_as_people_write_them(said: str, name: str) -> None:
    assert named_benchmarks([said])[0]["name"] == name


def with_benchmarks(*entries: str, runner: str = "lighteval") -> list[str]:
    return [f"evaluation.runner={runner}", f"evaluation.benchmarks=[{', '.join(entries)}]"]


def test_an_entry_changes_what_it_says(tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    data.write_text('{"problem": "?", "answer": "1"}\n')
    (tmp_path / "mine.yaml").write_text("extends: aime24\nseeds: [4]\ndata: {type: jsonl, path: own.jsonl}\n")
    changed = f"{{extends: math_500, batch: 2, data: {{type: jsonl, path: {data}, answer: solution}}}}"
    spec = load_experiment("smoke", with_benchmarks(changed, str(tmp_path / "mine.yaml"), "amc23"))
    math, mine, amc = spec.evaluation.benchmarks
    assert (math.name, math.batch, math.problems, math.data.type) == ("math_500", 2, 500, "jsonl")
    assert (mine.name, mine.seeds, mine.metric) == ("mine", [4], "extractive-expr")
    assert mine.data.type == "jsonl" and mine.data.path == str(data) and mine.data.sha256 is not None
    assert amc == Benchmark.model_validate(named_benchmarks(["amc23"])[0])
    # A file of one's own, its benchmarks beside it, and an override of one of them.
    (tmp_path / "experiment.yaml").write_text(
        "extends: smoke\nname: own\nevaluation: {runner: lighteval, benchmarks: [mine.yaml]}\n"
    )
    own = load_experiment(str(tmp_path / "experiment.yaml"), ["evaluation.benchmarks.0.batch=3"])
    assert own.evaluation.benchmarks == [mine.model_copy(update={"batch": 3})]


@pytest.mark.parametrize(
    ("entries", "runner", "line"),
    [
        (["aime42"], "lighteval", "unknown benchmark 'aime42'; did you mean"),
        (["{extends: [1]}"], "lighteval", "is no name of a benchmark"),
        (["nowhere.yaml"], "lighteval", "benchmark file 'nowhere.yaml' does not exist"),
        (["aime24", "aime24"], "lighteval", "two of them have the same name aime24"),
        (["aime24"], "sampled", "prompt = lighteval:aime_prompt_fn is lighteval's; set evaluation.runner to lighteval"),
        (["{extends: aime24, prompt: 'Answer!'}"], "lighteval", "must hold {problem}"),
        (["{extends: aime24, prompt: 'lighteval:a b'}"], "lighteval", "is followed by the name of a function"),
        (["{extends: aime24, full_seeds: 0}"], "lighteval", "full_seeds"),
        (["{extends: aime24, seeds: []}"], "lighteval", "seeds"),
        (["{extends: aime24, metric: exact}"], "lighteval", "metric"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(entries: list[str], runner: str, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_experiment("smoke", with_benchmarks(*entries, runner=runner))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_extends_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"extends: {tmp_path}/a.yaml\n")
    with pytest.raises(BadInput, match="more than 8 extends"):
        named_benchmarks([str(tmp_path / "a.yaml")])


def test_the_key_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    def key(name: str, content: str, more: str = "") -> str:
        path = tmp_path / name
        path.write_text(content)
        spec = load_experiment(
            "smoke", with_benchmarks(f"{{extends: aime24, data: {{type: jsonl, path: {path}}}{more}}}")
        )
        return settings_hash(spec, spec.evaluation.benchmarks[0])

    first = key("a.jsonl", '{"problem": "?", "answer": "1"}\n')
    assert key("b.jsonl", '{"problem": "?", "answer": "1"}\n') == first
    assert key("a.jsonl", '{"problem": "?", "answer": "2"}\n') != first
    assert key("a.jsonl", '{"problem": "?", "answer": "1"}\n', ", seeds: [7], minutes: 3") == first
    assert key("a.jsonl", '{"problem": "?", "answer": "1"}\n', ", prompt: 'Say: {problem}'") != first


def test_what_is_sent() -> None:
    """The base model by the full protocol, each checkpoint with one seed; a checkpoint's cells in as few tasks as can be."""
    spec = load_experiment("exp3")
    assert len(base_cells(spec)) == 30 * 3 + 3 * 3
    assert len(cells(spec, spec.evaluation.at_steps)) == 10 * 6
    assert len(cells(spec, [50], full=True)) == 99
    cluster = load_cluster("slurm").model_copy(update={"cells_per_task": 6})
    base, _, evaluation = make_plan(spec, cluster).stages
    assert [len(task) for task in base.tasks or []] == [6] * 16 + [3]
    assert [{cell.step for cell in task} for task in evaluation.tasks or []] == [{step} for step in range(50, 501, 50)]
    four = load_experiment("exp3", ["evaluation.resources.gpus=4"])
    assert make_plan(four, cluster).stages[0].processes[0].world == 4, "an engine a GPU"
