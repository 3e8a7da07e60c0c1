"""`openrs eval`, and checkpoints as they land, with a pretended scheduler (see the fixture `scheduler`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openrs.engines import JobState
from openrs.runs.directory import RunDirectory
from openrs.runs.record import Record, load
from openrs.spec.load import PACKAGE
from openrs.stage import Cell, read_spec
from tests.cli.conftest import Openrs
from tests.cli.fake import Scheduler
from tests.cli.test_runs import ALL, finish

MODEL = PACKAGE / "models" / "tiny-sums"
MORE = "name: more\ndata: {type: sums, split: held_out, count: 5, seed: 3}\nsampling: {temperature: 1, max_new_tokens: 8}\n"


@pytest.fixture
def record(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Record:
    """A run `mine` that was sent, two seeds by the full protocol, one as it is."""
    full = "evaluation.benchmarks.0.full_seeds=2"
    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine", "--set", full).code == 0
    return load(workdir / "runs", "mine")


def checkpoints(record: Record, *steps: int) -> None:
    for step in steps:
        directory = RunDirectory(Path(record.dir)).checkpoint(step)
        directory.mkdir(parents=True)
        (directory / "COMPLETE").write_text("{}")


def sent(workdir: Path, run: str = "mine") -> dict[str, list[Cell]]:
    return {stage.name: stage.cells for stage in load(workdir / "runs", run).submissions[-1].stages}


def test_the_base_model_has_the_full_protocol(record: Record) -> None:
    stages = {stage.name: stage for stage in record.submissions[0].stages}
    assert [cell.seed for cell in stages["base"].cells] == [0, 1]
    assert [(cell.step, cell.seed) for cell in stages["eval"].cells] == [(10, 0), (20, 0), (40, 0)]


def test_a_chosen_checkpoint_by_the_full_protocol(
    openrs: Openrs, record: Record, scheduler: Scheduler, workdir: Path
) -> None:
    finish(record, ALL)
    checkpoints(record, 10, 40)
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)
    said = openrs("eval", "mine", "--checkpoint", "step-000040", "--full")
    assert (said.code, said.out) == (0, "mine\n") and "1 cells sent" in said.err
    assert {name: [(cell.step, cell.seed) for cell in cells] for name, cells in sent(workdir).items()} == {
        "extra-2": [(40, 1)]
    }
    # What is under way is not sent again; other seeds are.
    said = openrs("eval", "mine", "--checkpoint", "40", "--full")
    assert said.code == 0 and "nothing to send" in said.err and len(load(workdir / "runs", "mine").submissions) == 2
    assert (
        openrs("eval", "mine", "--checkpoint", "base", "--checkpoint", "10", "--seeds", "3", "--json").json["run"]
        == "mine"
    )
    assert [(cell.step, cell.seed) for cell in sent(workdir)["extra-3"]] == [(None, 2), (10, 1), (10, 2)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["mine"], "--checkpoint is missing: base, or a step such as step-000040 of mine"),
        (["mine", "--checkpoint", "base", "--seeds", "0"], "--seeds 0: at least 1"),
        (["mine", "--checkpoint", "base", "--seeds", "2", "--full"], "two protocols"),
        (["mine", "--checkpoint", "base", "--cluster", "local"], "--cluster: mine is a run"),
        (["mine", "--checkpoint", "step-000030"], "there is base; no checkpoint of evaluation.at_steps is complete"),
        (["mine", "--checkpoint", "best"], "--checkpoint 'best': there is base"),
        (
            ["mine", "--checkpoint", "base", "--benchmarks", "aime42"],
            "unknown benchmark 'aime42'; did you mean 'aime25'?",
        ),
        (
            ["mine", "--checkpoint", "base", "--benchmarks", "aime24"],
            "others can be added only when training is complete",
        ),
        (["yours", "--checkpoint", "base"], "there is no run 'yours'"),
        (["yours", "--cluster", "local"], "neither a run, nor a directory with a model, nor a repository"),
        (["a/b"], "--cluster is missing"),
        (["a/b", "--cluster", "local", "--benchmarks", "aime24,aime24"], "aime24 stands there twice"),
        (["a/b", "--cluster", "local", "--benchmarks", "none.yaml"], "benchmark file 'none.yaml' does not exist"),
    ],
)
def test_bad_calls(words: list[str], line: str, openrs: Openrs, record: Record, workdir: Path) -> None:
    said = openrs("eval", *words)
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1, said
    assert line in said.err
    assert len(load(workdir / "runs", "mine").submissions) == 1


def test_a_directory(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    """A run without training, which can be shown and resumed as any other."""
    (workdir / "problems.jsonl").write_text('{"problem": "1+1=?", "answer": "2"}\n')
    (workdir / "mine.yaml").write_text(
        "extends: aime24\nname: two\nproblems: 1\ndata: {type: jsonl, path: problems.jsonl}\n"
    )
    said = openrs("eval", MODEL, "--cluster", "local", "--benchmarks", "mine.yaml", "--seeds", "2", "--run", "base")
    assert said.code == 0, said.err
    assert {name: [cell.seed for cell in cells] for name, cells in sent(workdir, "base").items()} == {"base": [0, 1]}
    spec = read_spec(workdir / "runs" / "base" / "spec.json")
    (benchmark,) = spec.evaluation.benchmarks
    assert (benchmark.name, benchmark.metric, benchmark.full_seeds) == ("two", "extractive-expr", None)
    assert benchmark.data.type == "jsonl" and benchmark.data.path == str(workdir / "problems.jsonl")
    assert benchmark.data.sha256 is not None
    scheduler.set(base=JobState.FAILED)
    assert openrs("status", "base", "--json").json["runs"][0]["state"] == "FAILED"
    directory = RunDirectory(workdir / "runs" / "base")
    cells = sent(workdir, "base")["base"]
    directory.write_cell(cells[0], {"score": 1.0, "n": 1, "outcomes": [1], "data": {"sha256": "x", "problems": 1}})
    assert openrs("resume", "base").code == 0
    assert sent(workdir, "base") == {"base": [cells[1]]}
    assert openrs("report", "base", "--json").json["runs"][0]["results"][0]["score"] == 1.0


def test_revisions_of_a_repository(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    first, second = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"
    said = openrs(
        "eval", "some/model", "--revision", first, "--revision", second, "--cluster", "local", "--run", "two",
        "--benchmarks", "aime24,math-500", "--full", "--json",
    )  # fmt: skip
    assert said.code == 0 and said.json["stages"] == [{"name": "base", "handle": "1-base"}]
    cells = sent(workdir, "two")["base"]
    assert len(cells) == 2 * (30 + 3) and {cell.checkpoint for cell in cells} == {
        "rev-0123456789ab",
        "rev-fedcba987654",
    }


def test_more_benchmarks_of_a_trained_run(openrs: Openrs, record: Record, scheduler: Scheduler, workdir: Path) -> None:
    finish(record, ALL)
    checkpoints(record, 40)
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)
    (workdir / "more.yaml").write_text(MORE)
    assert openrs("eval", "mine", "--checkpoint", "40", "--benchmarks", "more.yaml").code == 0
    (cell,) = sent(workdir)["extra-2"]
    assert (cell.benchmark, cell.step) == ("more", 40)
    # resume knows it too, and the run's own spec is what it was
    scheduler.set(**{"extra-2": JobState.FAILED})
    assert openrs("resume", "mine").code == 0
    assert sent(workdir)["extra-2"] == [cell]
    newest = load(workdir / "runs", "mine").submissions[-1]
    assert [stage.name for stage in newest.stages] == ["extra-2"], (
        "for the checkpoint that it was asked for, and no other"
    )
    own = json.loads((workdir / "runs" / "mine" / "spec.json").read_text())
    assert [one["name"] for one in own["evaluation"]["benchmarks"]] == ["sums-held-out"]


def test_the_runs_own_benchmarks_by_name(openrs: Openrs, record: Record, scheduler: Scheduler, workdir: Path) -> None:
    """Though they are no shipped ones; also beside others, and while training goes on."""
    said = openrs("eval", "mine", "--checkpoint", "base", "--benchmarks", "sums-held-out", "--seeds", "3")
    assert said.code == 0, said.err
    assert [(cell.benchmark, cell.seed) for cell in sent(workdir)["extra-2"]] == [("sums-held-out", 2)]
    finish(record, ALL)
    checkpoints(record, 40)
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)
    (workdir / "more.yaml").write_text(MORE)
    both = ["--benchmarks", "more.yaml,sums-held-out", "--seeds", "2"]
    assert openrs("eval", "mine", "--checkpoint", "40", *both).code == 0
    cells = [(cell.benchmark, cell.seed) for cell in sent(workdir)["extra-3"]]
    assert cells == [("sums-held-out", 1), ("more", 0), ("more", 1)]
    # What was added before is the run's own by now.
    (workdir / "more.yaml").unlink()
    assert openrs("eval", "mine", "--checkpoint", "base", "--benchmarks", "more", "--seeds", "1").code == 0
    assert [cell.benchmark for cell in sent(workdir)["extra-4"]] == ["more"]


def test_more_of_a_model(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    words = ["--cluster", "local", "--benchmarks", "aime24", "--seeds", "1", "--run", "two"]
    assert openrs("eval", "some/model", *words).code == 0
    said = openrs("eval", "two", "--seeds", "3")
    assert said.code == 2 and "two evaluates a model, and `--checkpoint base` evaluates it further" in said.err
    said = openrs("eval", "two", "--seeds", "3", "--checkpoint", "step-000050")
    assert said.code == 2 and said.err.endswith("there is base\n")
    assert openrs("eval", "two", "--seeds", "3", "--checkpoint", "base").code == 0
    assert [cell.seed for cell in sent(workdir, "two")["extra-2"]] == [1, 2]


def test_a_broken_cell_alone_is_sent_again(openrs: Openrs, record: Record, scheduler: Scheduler, workdir: Path) -> None:
    finish(record, ALL)
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)
    cell = record.submissions[0].stages[2].cells[1]
    (Path(record.dir) / cell.path).write_text('{"state": "do')
    said = openrs("report", "mine")
    assert f"{cell.path}: cannot be read as JSON; set aside" in said.out
    assert openrs("resume", "mine").code == 0
    assert sent(workdir) == {"eval": [cell]}


def test_checkpoints_as_they_land(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    said = openrs("submit", "smoke", "--cluster", "local", "--run", "mine", "--as-they-land")
    assert said.code == 0 and "when it lands" in said.err
    record = load(workdir / "runs", "mine")
    assert set(sent(workdir)) == {"base", "train"}
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.RUNNING)

    def passing(query: int) -> None:
        if query == 2:
            checkpoints(record, 10)
        if query == 6:
            checkpoints(record, 20, 40)
            finish(record, {None: 0.3})
            scheduler.set(train=JobState.SUCCEEDED)
        if query >= 12:
            for submission in load(workdir / "runs", "mine").submissions[1:]:
                for stage in submission.stages:
                    scheduler.set(**{stage.name: JobState.SUCCEEDED})
                    for cell in stage.cells:
                        RunDirectory(Path(record.dir)).write_cell(cell, {"score": 0.5, "n": 10})

    scheduler.on_query = passing
    said = openrs("watch", "mine")
    assert said.code == 0, said.err
    stages = [[stage.name for stage in submission.stages] for submission in load(workdir / "runs", "mine").submissions]
    assert stages == [["base", "train"], ["eval-000010"], ["eval-000020", "eval-000040"]]
    assert said.out.rstrip().endswith("report.html")
    assert openrs("resume", "mine").code == 2


@pytest.mark.parametrize("words", [["--seeds", "1"], ["--benchmarks", "sums-held-out", "--seeds", "1"]])
def test_what_was_sent_by_hand_is_not_all_that_lands(
    words: list[str], openrs: Openrs, scheduler: Scheduler, workdir: Path
) -> None:
    from openrs.evals import land

    seeds = ["--set", "evaluation.benchmarks.0.seeds=[0, 1, 2]"]
    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine", "--as-they-land", *seeds).code == 0
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.RUNNING)
    checkpoints(load(workdir / "runs", "mine"), 10)
    assert openrs("eval", "mine", "--checkpoint", "10", *words).code == 0
    assert [cell.seed for cell in sent(workdir)["extra-2"]] == [0]
    newer = land(workdir / "runs", load(workdir / "runs", "mine"))
    assert {name: [(cell.step, cell.seed) for cell in cells] for name, cells in sent(workdir).items()} == {
        "eval-000010": [(10, 1), (10, 2)]
    }
    assert land(workdir / "runs", newer) is newer


def test_an_added_benchmark_does_not_land(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    """It is evaluated on the checkpoint that it was asked for."""
    from openrs.evals import land

    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine", "--as-they-land").code == 0
    known = load(workdir / "runs", "mine")
    checkpoints(known, 10, 20, 40)
    land(workdir / "runs", known)
    finish(known, {None: 0.3})
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED)
    (workdir / "more.yaml").write_text(MORE)
    assert openrs("eval", "mine", "--checkpoint", "10", "--benchmarks", "more.yaml", "--seeds", "1").code == 0
    known = load(workdir / "runs", "mine")
    assert land(workdir / "runs", known) is known


def test_as_they_land_out_of_sight(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    """Where the client does not see the checkpoints, one is complete when the trainer says so, not with the next step."""
    (workdir / "openrs.toml").write_text(f'[clusters.k8s]\nimage = "registry.example/openrs@sha256:{"0" * 64}"\n')
    assert openrs("submit", "smoke", "--cluster", "k8s", "--run", "far", "--as-they-land").code == 0
    from openrs.engines import JobInfo
    from openrs.evals import land
    from openrs.status import status

    for step, saved, landed in (
        (10, 0, []),
        (15, None, []),  # an image with an older openrs does not say it
        (15, 0, []),
        (16, 10, ["eval-000010"]),
        (25, 10, []),
        (26, 23, ["eval-000020"]),
    ):
        scheduler.states["train"] = JobInfo(JobState.RUNNING, step=step, saved=saved)
        known = load(workdir / "runs", "far")
        newer = land(workdir / "runs", known, status([known])[0])
        assert [stage.name for stage in newer.submissions[-1].stages if newer is not known] == landed
    scheduler.states["train"] = JobInfo(JobState.SUCCEEDED)
    known = load(workdir / "runs", "far")
    assert [s.name for s in land(workdir / "runs", known, status([known])[0]).submissions[-1].stages] == ["eval-000040"]
