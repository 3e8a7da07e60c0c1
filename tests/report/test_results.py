"""Tables and curves, of run directories written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openrs.evaluation.interval import wilson
from openrs.report.cells import read_cells
from openrs.report.curve import draw, moving_average
from openrs.report.measure import Measured, measure
from openrs.report.table import results_text, samples_text


def cell(run: Path, step: int | None, score: float, seed: int = 0, benchmark: str = "sums", **more: Any) -> None:
    name = "rev-0123456789ab" if step is None else f"step-{step:06d}"
    content = {
        "state": "done",
        "checkpoint": name,
        "step": step,
        "benchmark": benchmark,
        "seed": seed,
        "settings": "0" * 12,
        "n": 100,
        "score": score,
        "correct": round(100 * score),
        "interval": [score - 0.1, score + 0.1],
        "reasoned": 0.5,
        "reasoned_accuracy": 0.8,
        "seconds": 1.0,
        **more,
    }
    path = run / "eval" / name / benchmark / f"{seed}-{'0' * 12}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def results(run: Path) -> list[Measured]:
    return measure(read_cells(run, "mine").cells)


def sample(problem: str, correct: bool, completion: str = "x") -> dict[str, Any]:
    return {"problem": problem, "completion": completion, "gold": "1", "correct": correct}


def test_seeds_are_taken_together(tmp_path: Path) -> None:
    cell(tmp_path, 50, 0.2, seed=0, reasoned=0.0, reasoned_accuracy=None)
    cell(tmp_path, 50, 0.4, seed=1, reasoned=0.5, reasoned_accuracy=0.8)
    (result,) = results(tmp_path)
    assert (result.problems, result.seeds, result.facts["seconds"]) == (100, [0, 1], 2.0)
    assert result.mean == pytest.approx(0.3)
    assert result.facts["reasoned"] == 0.25
    assert result.facts["reasoned_accuracy"] == pytest.approx(0.8)
    assert "2 × 100" in results_text([result])


def test_one_seed_has_wilsons_interval(tmp_path: Path) -> None:
    cell(tmp_path, 50, 0.5)
    (result,) = results(tmp_path)
    assert (result.new.low, result.new.high) == pytest.approx(wilson(50, 100))
    assert "40.4 - 59.6" in results_text([result])


def test_order_and_gain(tmp_path: Path) -> None:
    for step, score in ((100, 0.5), (20, 0.4), (None, 0.3)):
        cell(tmp_path, step, score)
    cell(tmp_path, 20, 0.1, benchmark="other")
    rows = [line.split() for line in results_text(results(tmp_path)).splitlines()[1:]]
    assert [row[:3] for row in rows] == [
        ["other", "step", "20"],
        ["sums", "base", "model"],
        ["sums", "step", "20"],
        ["sums", "step", "100"],
    ]
    assert "+20.0" in rows[3] and "+10.0" in rows[2]
    assert not any("+" in word for word in rows[0] + rows[1])  # no base model on that benchmark; itself


def test_no_gain_over_a_base_model_on_other_hardware(tmp_path: Path) -> None:
    for step, score, gpu in ((None, 0.3, "A"), (20, 0.5, "A"), (40, 0.6, "B")):
        cell(tmp_path, step, score, hardware=gpu)
    base, same, other = results_text(results(tmp_path)).splitlines()[1:]
    assert "+20.0" in same and "+" not in base + other
    assert "sums (A)" in base and "sums (A)" in same and "sums (B)" in other


def test_what_is_not_a_finished_cell_is_no_result(tmp_path: Path) -> None:
    cell(tmp_path, 20, 0.4, state="failed")
    cell(tmp_path, 40, 0.4, n=0)
    (tmp_path / "eval" / "step-000020" / "sums" / "1-cut.json").write_text('{"state": "do')
    assert results(tmp_path) == []


def test_samples_are_of_one_problem_and_show_the_change(tmp_path: Path) -> None:
    cell(
        tmp_path,
        None,
        0.3,
        samples=[sample("right before", True), sample("changed", False, "bad\x1b[31m"), sample("only here", False)],
    )
    cell(tmp_path, 10, 0.4, samples=[sample("changed", False)])
    cell(tmp_path, 40, 0.5, samples=[sample("right before", True), sample("changed", True, "line 1\nline 2")])
    assert samples_text(results(tmp_path)) == (
        "before (base model): changed   gold 1, wrong\n    bad\\x1b[31m\n"
        "after (step 40): changed   gold 1, right\n    line 1\n    line 2"
    )


def test_samples_without_a_common_problem_or_none_at_all(tmp_path: Path) -> None:
    cell(tmp_path, 10, 0.4)
    assert samples_text(results(tmp_path)) == ""
    cell(tmp_path, None, 0.3, samples=[sample("a", False, "z" * 10_000)])
    assert len(samples_text(results(tmp_path))) < 1000
    cell(tmp_path, 10, 0.4, samples=[sample("b", True)])
    text = samples_text(results(tmp_path))
    assert "base model): a" in text and "step 10): b" in text


def test_moving_average() -> None:
    assert moving_average([1, 2, 3, 4], 1) == [1, 2, 3, 4]
    assert moving_average([0, 3, 0, 3], 3) == [1.5, 1, 2, 1.5]


def test_curve(tmp_path: Path) -> None:
    assert draw(tmp_path, []) is None  # nothing was trained
    lines = [{"step": step, "reward": step / 10, "rewards": {"cosine": 0.5}} for step in (1, 2, 3, 2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "rew')
    picture = draw(tmp_path, [])
    assert picture == tmp_path / "report" / "reward.png"
    without = picture.read_bytes()
    assert without.startswith(b"\x89PNG")
    cell(tmp_path, 4, 0.5, interval=[0.5, 0.5])
    assert (
        draw(tmp_path, results(tmp_path)) == picture and picture.read_bytes() != without
    )  # a second panel with the benchmark
    assert [path.name for path in picture.parent.iterdir()] == ["reward.png"]
