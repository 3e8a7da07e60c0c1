"""Reports: what they say of run directories, whole, poor and broken, and that they name what is missing."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrs.errors import BadInput
from openrs.report.build import Part, build, report_json
from openrs.report.export import csv_text, markdown
from openrs.report.page import page, unbroken
from openrs.report.table import samples_text
from openrs.report.words import detail
from openrs.runs.record import IMPORTED
from openrs.spec.canonical import pretty
from openrs.spec.load import load_evaluation, load_experiment, named_benchmarks
from tests.cli.conftest import Openrs, Said, openrs  # noqa: F401
from tests.report.runs import drawn, whole_run, write_cell

RNG = np.random.default_rng(5)


def part(runs: Path, name: str = "mine", **options: Any) -> Part:
    (found,) = build(runs, [name], **options).parts
    return found


def refused(said: Said, *words: str) -> None:
    assert said.code == 2 and said.out == "" and said.err.startswith("openrs: ") and said.err.count("\n") == 1, said
    assert all(word in said.err for word in words), said.err


# Verdicts.


def test_a_gain_is_called_one_and_noise_is_not(tmp_path: Path) -> None:
    whole_run(tmp_path / "better", gain=0.3)
    whole_run(tmp_path / "same")
    better, same = (part(tmp_path, name) for name in ("better", "same"))
    assert [one.outcome for one in better.verdicts] == ["better", "better"]
    assert [one.outcome for one in same.verdicts] == ["not distinguishable"] * 2
    assert re.fullmatch(
        r"AIME24 \+\d+\.\d points, 95 % −?\d+\.\d … \d+\.\d: better than the base model\.", better.verdicts[0].sentence
    )
    assert better.how_chosen.startswith("the last step") and {one.step for one in better.chosen} == {150}
    assert better.verdicts[0].comparison is not None and "by problem" in better.verdicts[0].comparison.method
    assert better.verdicts[0].here is not None  # and on these problems


def test_without_outcomes_shares_are_compared_and_it_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path / "mine", None, None, score=0.3, n=1000)
    write_cell(tmp_path / "mine", 40, None, score=0.8, n=1000)
    found = part(tmp_path)
    assert found.verdicts[0].outcome == "better" and "cannot be paired" in found.verdicts[0].why
    assert any("outcomes by problem" in line for line in found.missing)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"n": 20, "data": {"problems": 20}}, "fewer problems (20, ours 30)"),
        ({"hardware": "NVIDIA L40"}, "other hardware (NVIDIA L40; ours NVIDIA A40)"),
        ({"settings": "1" * 12}, "other settings"),
        ({"data": {"sha256": "sha256:b", "problems": 30}}, "data set changed"),
        ({"benchmark": "other"}, "no result there"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    outcomes = drawn(RNG, np.full(more.get("n", 30), 0.5))
    write_cell(tmp_path / "mine", 50, drawn(RNG, np.full(30, 0.5)))
    write_cell(tmp_path / "mine", None, outcomes, **more)
    (verdict,) = part(tmp_path).verdicts
    assert verdict.outcome == "not compared" and why in verdict.sentence


def test_hardware_is_pooled_on_request_only(tmp_path: Path) -> None:
    for hardware, seed in (("NVIDIA A40", 0), ("NVIDIA L40", 1)):
        write_cell(tmp_path / "mine", 50, drawn(RNG, np.full(30, 0.5)), seed, hardware=hardware)
        write_cell(tmp_path / "mine", None, drawn(RNG, np.full(30, 0.5)), seed, hardware=hardware)
    apart = part(tmp_path)
    assert len(apart.measured) == 4 and any("kept apart" in line for line in apart.missing)
    assert [one.outcome for one in apart.verdicts] == ["not distinguishable"] * 2  # each with the base model on its own
    together = part(tmp_path, pool_hardware=True)
    assert [(len(one.seeds), one.hardware) for one in together.measured] == [(2, "NVIDIA A40 + NVIDIA L40")] * 2


def test_a_data_set_that_changed_is_kept_apart(tmp_path: Path) -> None:
    write_cell(tmp_path / "mine", 50, [1, 0] * 15)
    write_cell(tmp_path / "mine", 50, [1, 0] * 15, seed=1, data={"sha256": "sha256:new", "problems": 30})
    found = part(tmp_path)
    assert len(found.measured) == 2 and any("data set changed between its cells" in line for line in found.missing)


def test_a_verdict_says_what_its_seeds_could_have_seen(tmp_path: Path) -> None:
    few, many = (
        part(whole_run(tmp_path / f"s{seeds}", seeds=seeds).parent, f"s{seeds}").verdicts[0] for seeds in (3, 30)
    )
    assert few.detectable is not None and many.detectable is not None and few.detectable > 2 * many.detectable
    assert "four times out of five" in detail(many)


def test_many_benchmarks_are_counted(tmp_path: Path) -> None:
    """A difference that one test sees and ten do not."""
    theirs, ours = [0] * 30, [1] * 7 + [0] * 23
    for number in range(10):
        write_cell(tmp_path / "mine", None, theirs, benchmark=f"b{number}")
        write_cell(tmp_path / "mine", 10, ours if number == 0 else theirs, benchmark=f"b{number}")
    first = part(tmp_path).verdicts[0]
    assert first.comparison is not None and first.comparison.distinguishable()
    assert first.outcome == "not distinguishable" and "several benchmarks were looked at" in first.sentence


# Baselines and checkpoints.


def test_another_run_a_checkpoint_or_a_published_model_as_baseline(tmp_path: Path) -> None:
    for name, gain in (("mine", 0.3), ("other", 0.0)):
        whole_run(tmp_path / name, gain=gain, steps=(50, 100))
    assert part(tmp_path, baseline="other").baseline == "other (base model)"
    against = part(tmp_path, baseline="other/step-000050")
    assert against.baseline == "other (step 50)" and against.verdicts[0].outcome == "better"
    published = part(tmp_path, baseline="deepseek-r1-distill-qwen-1.5b")
    assert published.baseline == "DeepSeek-R1-Distill-Qwen-1.5B" and "published score" in published.verdicts[0].why
    assert published.verdicts[1].outcome == "not compared"  # 120 problems of ours against 500
    with pytest.raises(BadInput, match="neither a run below .* nor a model"):
        part(tmp_path, baseline="nobody")
    with pytest.raises(BadInput, match="no such checkpoint; there are rev-0123456789ab, step-000050"):
        part(tmp_path, baseline="other/step-000051")


def test_a_checkpoint_of_choice(tmp_path: Path) -> None:
    whole_run(tmp_path / "mine")
    assert {one.step for one in part(tmp_path, checkpoint="step-000050").chosen} == {50}
    assert {one.step for one in part(tmp_path, checkpoint="75").chosen} == {75}
    with pytest.raises(BadInput, match="--checkpoint 'step-000051'.*there are .*step-000050, step-000075"):
        part(tmp_path, checkpoint="step-000051")


def test_the_best_of_several_loses_its_luck(tmp_path: Path) -> None:
    found = part(whole_run(tmp_path / "mine").parent)
    for one in found.best:
        assert one.checkpoints == 6 and one.corrected < one.raw and "half of 5 seeds" in one.method
    assert len(found.trends) == 2 and all(0 < one.adjusted <= 1 for one in found.trends)


STEPS = range(10, 90, 10)
OTHERS = [
    ({"settings": "1" * 12}, "settings 111111111111", "settings 000000000000", "several settings"),
    ({"hardware": "NVIDIA L40"}, "NVIDIA L40", "NVIDIA A40", "several kinds of hardware"),
    ({"data": {"sha256": "sha256:b", "problems": 30}}, "data b", "data a", "data set changed"),
]
"""What else cells may have, what sets them apart then from those without, and what is said of it."""


@pytest.mark.parametrize(("other", "there", "here"), [one[:3] for one in OTHERS])
def test_each_checkpoint_counts_once_where_all_were_evaluated_twice(
    tmp_path: Path, other: dict[str, Any], there: str, here: str
) -> None:
    """Another setting, hardware or data set gives each another result, and no second checkpoint to choose from."""
    for step, outcomes in zip(STEPS, RNG.integers(0, 2, (len(STEPS), 30)).tolist(), strict=True):
        for name, more in (("one", {}), ("two", {}), ("two", {"seed": 1, **other})):
            write_cell(tmp_path / name, step, outcomes, **more)
    (best,), (trend,) = (alone := part(tmp_path, "one")).best, alone.trends
    assert (best.title, trend.title) == ("AIME24", "AIME24")
    found = part(tmp_path, "two")
    titles = {f"AIME24 ({here})", f"AIME24 ({there})"}
    assert {one.title for one in found.best} == {one.title for one in found.trends} == titles
    for one in found.best:
        assert (one.checkpoints, one.expected, one.corrected) == (8, best.expected, best.corrected)
    for two in found.trends:
        assert two.split == trend.split and two.adjusted == min(1, 2 * trend.split.p)  # two tests, for Holm
    report = build(tmp_path, ["two"])
    assert all(title in page(report) and title in markdown(report) for title in titles)
    said = report_json(report)["runs"][0]
    for section in (said["best_of"], said["later_steps"]):
        assert len({(one["settings"], one["hardware"], one["data"]) for one in section}) == 2
    json.dumps(said, allow_nan=False)


@pytest.mark.parametrize(("other", "why"), [(one[0], one[3]) for one in OTHERS])
def test_what_changed_midway_makes_no_trend(tmp_path: Path, other: dict[str, Any], why: str) -> None:
    """Later steps that score higher only where they were evaluated in another way."""
    for step in range(10, 110, 10):
        right, more = (9, {}) if step <= 50 else (18, other)
        write_cell(tmp_path / "mine", step, [1] * right + [0] * (30 - right), **more)
    found = part(tmp_path)
    assert found.trends == [] and [one.checkpoints for one in found.best] == [5, 5]
    assert [line for line in found.missing if line.startswith("AIME24") and why in line and "kept apart" in line]


def test_pooled_hardware_is_one_row_of_steps(tmp_path: Path) -> None:
    """Whichever kinds each checkpoint ran on, and though those of some are not known."""
    for step, hardware in zip(STEPS, ("NVIDIA A40", "NVIDIA L40") * 4, strict=True):
        write_cell(tmp_path / "mine", step, drawn(RNG, np.full(30, 0.5)), hardware=hardware)
    write_cell(tmp_path / "mine", 80, drawn(RNG, np.full(30, 0.5)), seed=1, hardware=None)
    found = part(tmp_path, pool_hardware=True)
    assert [(one.title, one.checkpoints) for one in found.best] == [("AIME24", 8)]
    assert [(one.title, one.split.checkpoints) for one in found.trends] == [("AIME24", 8)]
    assert not any("kept apart" in line for line in found.missing)


# What is broken or absent.


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "running"}, "not a finished cell"),
        ({"score": 1.5}, "score is no share"),
        ({"score": None}, "score is no share"),
        ({"n": 0}, "n is below 1"),
        ({"step": "50"}, "step is no whole number"),
        ({"seed": "0"}, "seed is missing"),
        ({"outcomes": [1, 0]}, "do not fit 30 problems"),
        ({"outcomes": [2] * 30}, "do not fit"),
        ({"outcomes": "all"}, "no list of numbers"),
        ({"outcomes": [1] * 30, "score": 0.5}, "outcomes give 1.0000, but score is 0.5000"),
    ],
)
def test_a_corrupt_cell_is_named_and_set_aside(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = write_cell(tmp_path / "mine", 50, [1, 0] * 15)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    write_cell(tmp_path / "mine", 50, [1, 0] * 15, seed=1)
    found = part(tmp_path)
    assert [one.seeds for one in found.measured] == [[1]]
    assert any(why in line and "0-000000000000.json" in line and "set aside" in line for line in found.missing)


def test_cut_files_and_failures_are_named(tmp_path: Path) -> None:
    path = write_cell(tmp_path / "mine", 50, [1, 0] * 15)
    path.with_name("1-cut.json").write_text('{"state": "do')
    path.with_name("2-000000000000.failed.json").write_text('{"state": "failed", "reason": "no memory"}')
    path.with_name("0-000000000000.failed.json").write_text('{"state": "failed", "reason": "done later"}')
    missing = "\n".join(part(tmp_path).missing)
    assert "1-cut.json: cannot be read as JSON" in missing and "failed (no memory)" in missing
    assert "done later" not in missing


def test_samples_per_problem_make_shares(tmp_path: Path) -> None:
    path = write_cell(tmp_path / "mine", 50, None, n=4, data={"problems": 4}, score=0.5)
    path.write_text(json.dumps({**json.loads(path.read_text()), "outcomes": [4, 2, 0, 2], "samples_per_problem": 4}))
    (one,) = part(tmp_path).measured
    assert one.means is not None and one.means.tolist() == [1.0, 0.5, 0.0, 0.5]


def test_a_run_without_cells_is_still_reported(tmp_path: Path) -> None:
    whole_run(tmp_path / "mine", seeds=0)
    report = build(tmp_path, ["mine"])
    assert any("no finished evaluation cell" in line for line in report.parts[0].missing)
    text = page(report)
    assert "Reward" in text and "there is no verdict" in text


def test_an_empty_run_is_still_reported(tmp_path: Path) -> None:
    (tmp_path / "mine" / "eval").mkdir(parents=True)
    report = build(tmp_path, ["mine"])
    missing = " ".join(report.parts[0].missing)
    assert all(word in missing for word in ("spec.json", "lock.json", "ledger", "metrics.jsonl"))
    assert page(report) and markdown(report) and csv_text(report)


def test_an_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    whole_run(run, seeds=1, steps=(25,))
    spec = ["training.steps=160", "training.beta=0", "evaluation.at_steps=[25, 50, 75]"]
    (run / "spec.json").write_text(pretty(load_experiment("smoke", spec)))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["kl"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_cell(run, 50, [1, 0] * 15, benchmark="sums-held-out")
    missing = part(tmp_path).missing
    assert "training has come to step 150 of 160" in missing
    assert "no result of base model, step 25, step 75 on sums-held-out" in missing
    assert not any("kl" in line for line in missing) and "entropy is not recorded" in missing
    for step in (None, 25, 75):
        write_cell(run, step, [1, 0] * 15, benchmark="sums-held-out")
    (run / "spec.json").write_text(pretty(load_experiment("smoke", ["training.steps=150", *spec[1:]])))
    assert not any("no result" in line or "has come to" in line for line in part(tmp_path).missing)
    (run / "spec.json").write_text(
        pretty(load_experiment("smoke", ["training.steps=150", "training.beta=0.04", *spec[2:]]))
    )
    assert "kl is not recorded" in part(tmp_path).missing


def test_many_results_that_are_missing_are_a_line(tmp_path: Path) -> None:
    whole_run(tmp_path / "mine", seeds=0)
    steps = ", ".join(str(step) for step in range(10, 100, 10))
    spec = load_experiment("exp3", ["training.steps=150", f"evaluation.at_steps=[{steps}]"])
    (tmp_path / "mine" / "spec.json").write_text(pretty(spec))
    assert "no result of base model, step 10 … step 90 (10) on any of 6 benchmarks" in part(tmp_path).missing


def test_imported_results_and_examples_miss_nothing(tmp_path: Path) -> None:
    whole_run(tmp_path / "mine", seeds=1, steps=(25,))
    assert any("no result of" in line for line in part(tmp_path).missing)
    (tmp_path / "mine" / IMPORTED).write_text("{}")
    for name in ("mine", "example:open-rs"):
        assert not any("no result of" in line or "has come to" in line for line in part(tmp_path, name).missing)


def test_a_model_as_it_is_goes_by_its_name(tmp_path: Path) -> None:
    """It is neither before anything nor the base of anything."""
    run = tmp_path / "ev1"
    write_cell(run, None, [1, 0] * 15, model={"name": "lab/model", "revision": "a" * 40})
    raw = {
        "name": "ev1",
        "title": "x",
        "model": {"type": "hub", "name": "lab/model", "revision": "a" * 40},
        "evaluation": {"runner": "lighteval", "benchmarks": [*named_benchmarks(["aime24", "aime25"])]},
    }
    (run / "spec.json").write_text(pretty(load_evaluation(raw)))
    whole_run(tmp_path / "mine", seeds=1, steps=(25,))
    found = part(tmp_path, "ev1")
    assert samples_text(found.measured).startswith("lab/model at aaaaaaaaaaaa: 1+1=?")
    assert "no result of lab/model at aaaaaaaaaaaa on aime25" in found.missing
    assert part(tmp_path, baseline="ev1").baseline == "ev1 (lab/model at aaaaaaaaaaaa)"


# Time and money.


def test_a_killed_attempt_costs_and_its_steps_were_done_again(tmp_path: Path) -> None:
    history = part(whole_run(tmp_path / "mine").parent).history
    assert history.repeated_steps == 10 and history.repeated == 100.0
    assert [attempt.cut for attempt in history.attempts] == [True, False]
    assert history.waited == 200.0  # its last sign of life was its last step
    assert history.gpu_hours == pytest.approx(4 * (600 + 1000) / 3600)
    assert ("training.steps", "150", "500") in history.differences and history.reference == "exp3"


# Output.


def test_every_format_says_the_same(tmp_path: Path) -> None:
    whole_run(tmp_path / "mine")
    report = build(tmp_path, ["mine"])
    content = json.loads(json.dumps(report_json(report), allow_nan=False))["runs"][0]
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert len(rows) == len(content["results"]) == 14
    assert [float(row["score"]) for row in rows] == [one["score"] for one in content["results"]]
    for sentence in (one["sentence"] for one in content["verdicts"]):
        assert sentence in markdown(report) and unbroken(sentence) in page(report)


def test_the_page_needs_nothing_and_runs_nothing(tmp_path: Path) -> None:
    whole_run(tmp_path / "mine")
    text = page(build(tmp_path, ["mine"]))
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text and "A run &lt;b&gt;of&lt;/b&gt; ours" in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|@import|url\((?!#)', text)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(ids)
    figures = re.findall(r'<svg class="figure"[^>]*aria-label="([^"]*)"', text)
    assert len(figures) >= 8 and all(len(words) > 20 for words in figures)
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]|#01011", text)  # every colour is one of the page's
    assert text == page(build(tmp_path, ["mine"]))


def test_the_worked_example(tmp_path: Path) -> None:
    report = build(tmp_path, ["example:open-rs"])
    (found,) = report.parts
    aime, *others = found.verdicts
    assert aime.of == 21 and aime.outcome == "not distinguishable"
    assert aime.reported is not None and aime.reported.gain == pytest.approx(0.467 - 0.287, abs=1e-3)
    assert aime.comparison is not None and aime.comparison.gain == pytest.approx(0.013, abs=1e-3)
    assert all(one.outcome == "not distinguishable" for one in others)
    best = {one.title: one for one in found.best}
    assert best["AIME24"].expected == pytest.approx(0.463, abs=1e-3) and best["AIME24"].corrected == pytest.approx(
        0.30, abs=1e-3
    )
    trend = {one.title: one for one in found.trends}
    assert trend["MATH-500"].split.gain == pytest.approx(-0.033, abs=1e-3) and trend["MATH-500"].adjusted < 0.05
    assert sum(len(one.scores) for one in found.measured) == 69
    text = page(report)
    assert "What 46.7 on AIME24 is worth" in text and "23.3 on L40" in text and "chosen after the fact" in text


# The command.


def test_the_command(openrs: Openrs, workdir: Path) -> None:  # noqa: F811
    whole_run(workdir / "runs" / "mine")
    said = openrs("report", "mine", "--out", "deep/report.html")
    assert said.code == 0 and said.out == "deep/report.html\n" and "AIME24" in said.err
    assert (workdir / "deep" / "report.html").read_text().startswith("<!doctype html>")
    assert openrs("report", "mine", "--json").json["runs"][0]["run"] == "mine"
    assert openrs("report", "mine", "--csv").out.startswith("run,series,checkpoint")
    assert openrs("report", "runs/mine", "--markdown").out.startswith("## mine")
    assert "AIME24" in openrs("report", "mine").out
    claims = openrs("report", "--claims")
    assert claims.code == 0 and "Open-RS3: 46.7 on AIME24" in claims.out and "contradicted" in claims.out
    assert len(openrs("report", "--claims", "--json").json["claims"]) > 70
    assert "The paper’s claims" in Path(openrs("report", "--claims", "--out", "c.html").out.strip()).read_text()


def test_bad_input(openrs: Openrs, workdir: Path) -> None:  # noqa: F811
    whole_run(workdir / "runs" / "mine", seeds=1, steps=(50,))
    (workdir / "file").write_text("")
    refused(openrs("report"), "RUN is missing")
    refused(openrs("report", "nobody"), "run 'nobody' does not exist")
    refused(openrs("report", "example:none"), "no such example; there is example:open-rs")
    refused(openrs("report", "../up"), "run id")
    refused(openrs("report", "mine", "--json", "--csv"), "two formats")
    refused(openrs("report", "--claims", "--csv"), "--csv needs a RUN")
    refused(openrs("report", "mine", "--baseline", "nobody"), "--baseline 'nobody'")
    refused(openrs("report", "mine", "--checkpoint", "step-000051"), "--checkpoint", "there are", "step-000050")
    refused(openrs("report", "mine", "--out", "file/below.html"), "--out file/below.html")


def test_a_run_whose_results_lie_on_the_cluster(openrs: Openrs, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("openrs.report.build.record.load", lambda *_: type("R", (), {"dir": "/nowhere/runs/far"})())
    refused(openrs("report", "far"), "cannot be seen from here", "openrs pull far")


@pytest.mark.parametrize("line", ["report --help", "import --help"])
def test_help_loads_nothing_heavy(line: str) -> None:
    code = (
        "import sys\nfrom openrs.cli.app import main\ntry: main(sys.argv[1:])\n"
        "finally: print(sorted({'numpy', 'scipy', 'matplotlib', 'pydantic'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line.split()], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"
