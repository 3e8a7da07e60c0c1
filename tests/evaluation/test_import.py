"""`openrs import lighteval`: trees of old and new lighteval, whole and damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from openrs.evaluation.lighteval_results import read_tree
from tests.cli.conftest import Openrs, Said, openrs  # noqa: F401

TIME = "2025-03-15T08-07-05.491769"


def content(score: float = 14 / 30, **more: Any) -> dict[str, Any]:
    """As the logs of Open-RS have it, of one task."""
    return {
        "config_general": {
            "lighteval_sha": "?",
            "total_evaluation_time_secondes": "612.99",
            "model_name": "someone/model",
            "model_sha": "",
        },
        "results": {
            "custom|aime24|0": {
                "extractive_match": score,
                "extractive_match_stderr": math.sqrt(score * (1 - score) / 29),
            },
            "all": {"extractive_match": score},
        },
        "config_tasks": {
            "custom|aime24": {"name": "aime24", "hf_repo": "HuggingFaceH4/aime_2024", "effective_num_docs": 30}
        },
        "summary_tasks": {
            "custom|aime24|0": {"hashes": {"hash_cont_tokens": f"{score}"}, "truncated": 0, "non_truncated": 30}
        },
        **more,
    }


def put(root: Path, label: str, text: Any, time: str = TIME) -> Path:
    path = root / label / "results" / "someone" / "model" / f"results_{time}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_the_layout_of_the_open_rs_logs(tmp_path: Path) -> None:
    put(tmp_path, "logs/Exp3_50", content())
    (cell,) = read_tree(tmp_path).cells
    assert (cell["checkpoint"], cell["series"], cell["step"], cell["benchmark"]) == ("exp3_50", "exp3", 50, "aime24")
    assert (cell["correct"], cell["n"], cell["seed"], cell["seconds"]) == (14, 30, 0, 612.99)
    assert cell["hardware"] is None and cell["model"] == {"name": "someone/model", "revision": None}


def test_a_newer_file_says_how_it_sampled(tmp_path: Path) -> None:
    general = {
        "model_name": "someone/model",
        "model_sha": "abc",
        "generation_parameters": {"temperature": 0.6, "top_p": 0.95, "seed": 7},
    }
    put(tmp_path, "", content(config_general=general))
    (cell,) = read_tree(tmp_path, hardware="A40").cells
    assert (cell["seed"], cell["model"]["revision"], cell["hardware"]) == (7, "abc", "A40")
    assert cell["checkpoint"] == "someone-model" and cell["step"] is None and cell["sampling"]["temperature"] == 0.6


def test_the_same_answers_again_count_once_and_other_answers_are_another_seed(tmp_path: Path) -> None:
    put(tmp_path, "Exp1_100", content(), "2025-03-14")
    put(tmp_path, "Exp1_100", content(), "2025-03-15")
    put(tmp_path, "Exp1_100", content(9 / 30), "2025-03-16")
    tree = read_tree(tmp_path)
    assert [(cell["seed"], cell["correct"]) for cell in tree.cells] == [(0, 14), (1, 9)]
    assert len(tree.cells[0]["source"]["repeated_in"]) == 1 and tree.files == 3


def test_without_hashes_nothing_is_taken_for_a_repetition(tmp_path: Path) -> None:
    for time in ("2025-03-14", "2025-03-15"):
        put(tmp_path, "a", content(summary_tasks={}), time)
    assert len(read_tree(tmp_path).cells) == 2


def test_one_seed_twice_is_kept_under_two_numbers(tmp_path: Path) -> None:
    general = {"model_name": "m", "generation_parameters": {"seed": 3}}
    put(tmp_path, "a", content(config_general=general), "1")
    put(tmp_path, "a", content(0.5, config_general=general), "2")
    assert sorted(cell["seed"] for cell in read_tree(tmp_path).cells) == [3, 4]


@pytest.mark.parametrize(
    ("more", "expected", "said"),
    [
        ({"config_tasks": {}}, 30, "truncated + non_truncated"),
        ({"config_tasks": {}, "summary_tasks": {}}, 30, "standard error"),
        ({"config_tasks": None, "summary_tasks": None, "config_general": None}, 30, "standard error"),
        ({"config_tasks": {"custom|aime24": "a string, as very old files have"}}, 30, "truncated + non_truncated"),
    ],
)
def test_the_number_of_problems_is_found_and_it_is_said_where(
    tmp_path: Path, more: dict[str, Any], expected: int, said: str
) -> None:
    put(tmp_path, "a", content(**more))
    (cell,) = read_tree(tmp_path).cells
    assert (cell["n"], cell["source"]["problems_from"]) == (expected, said)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"results": ', "not a JSON object"),
        ("[]", "not a JSON object"),
        ({"config_general": {}}, "no `results`"),
        (content(results={"t|x|0": {"extractive_match": 3.5}}), "not a share"),
        (content(results={"t|x|0": {"extractive_match": True}}), "not a share"),
        (content(results={"t|x|0": {"bleu": 0.4, "bleu_stderr": 0.1}}), "no metric that is known here among bleu"),
        (content(results={"t|x|0": "nothing"}), "among nothing"),
        (content(results={"t|x|0": {"em": 0.5}}, config_tasks={}, summary_tasks={}), "number of problems not recorded"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, text: Any, why: str) -> None:
    put(tmp_path, "a", text)
    tree = read_tree(tmp_path)
    assert not tree.cells and len(tree.left) == 1 and why in tree.left[0].why


def test_one_broken_file_does_not_stop_the_others(tmp_path: Path) -> None:
    put(tmp_path, "a_10", content())
    put(tmp_path, "b_20", "{")
    tree = read_tree(tmp_path)
    assert len(tree.cells) == 1 and "b_20" in tree.left[0].where


def test_outcomes_come_from_the_details(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    put(tmp_path, "a", content())
    folder = tmp_path / "a" / "details" / "someone" / "model" / TIME
    folder.mkdir(parents=True)
    rows = [{"metrics": {"extractive_match": float(number < 14)}} for number in range(30)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"details_custom|aime24|0_{TIME}.parquet")
    (cell,) = read_tree(tmp_path).cells
    assert cell["outcomes"] == [1.0] * 14 + [0.0] * 16
    (folder / f"details_custom|aime24|0_{TIME}.parquet").write_bytes(b"cut")
    assert read_tree(tmp_path).cells[0]["outcomes"] is None


def refused(said: Said, *words: str) -> None:
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1, said
    assert all(word in said.err for word in words), said.err


def test_the_command(openrs: Openrs, workdir: Path) -> None:  # noqa: F811
    put(workdir / "logs", "Exp3_50", content())
    put(workdir / "logs", "Exp3_100", content(9 / 30))
    said = openrs("import", "lighteval", "logs", "--run", "theirs")
    assert said.code == 0 and "theirs: 2 results in 2 files, 2 checkpoints" in said.out
    assert "hardware: not recorded in 2 of 2" in said.out
    (cell,) = (workdir / "runs" / "theirs" / "eval" / "exp3_50" / "aime24").iterdir()
    assert json.loads(cell.read_text())["state"] == "done"
    refused(openrs("import", "lighteval", "logs", "--run", "theirs"), "theirs", "exists already")
    summary = openrs("import", "lighteval", "logs", "--json").json
    assert summary["run"] == "import-logs" and summary["cells"] == 2
    assert openrs("status").code == 0  # an imported run is none of the scheduler's


def test_bad_input(openrs: Openrs, workdir: Path) -> None:  # noqa: F811
    (workdir / "empty").mkdir()
    put(workdir / "broken", "a", "{")
    put(workdir / "good", "a", content())
    (workdir / "file").write_text("")
    before = sorted(workdir.iterdir())
    refused(openrs("import", "lighteval", "none"), "none does not exist")
    refused(openrs("import", "lighteval", "file"), "not a directory")
    refused(openrs("import", "lighteval", "empty"), "no results_*.json")
    refused(openrs("import", "lighteval", "broken"), "none of 1 result files", "not a JSON object")
    refused(openrs("import", "helm", "good"), "'helm'", "lighteval")
    refused(openrs("import", "lighteval", "good", "--run", "No Id"), "--run")
    refused(openrs("import", "lighteval", "good", "--metric", "bleu"), "no metric bleu")
    refused(openrs("import", "lighteval", "good", "--runs", "file"), "--runs")
    assert sorted(workdir.iterdir()) == before
