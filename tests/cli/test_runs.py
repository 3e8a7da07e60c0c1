"""submit, status, logs, cancel and resume, with a pretended scheduler (see the fixture `scheduler`)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from openrs.engines import JobInfo, JobState
from openrs.errors import OpenRSError
from openrs.runs.directory import RunDirectory
from openrs.runs.files import append_line
from openrs.runs.record import Record, load
from tests.cli.conftest import Openrs
from tests.cli.fake import FakeEngine, Scheduler

SUBMIT = ("submit", "smoke", "--cluster", "local", "--run", "mine")


@pytest.fixture
def record(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Record:
    """A run `mine` that was sent."""
    assert openrs(*SUBMIT).code == 0
    return load(workdir / "runs", "mine")


def finish(record: Record, scores: dict[int | None, float], steps: int = 40) -> None:
    """Writes what a run leaves that is done."""
    directory = RunDirectory(Path(record.dir))
    for step in range(1, steps + 1):
        share = step / 40
        line = {
            "step": step,
            "steps": 40,
            "attempt": 1,
            "seconds": 0.5,
            "reward": 1 + share,
            "rewards": {"accuracy": share, "format": 1},
        }
        append_line(directory.metrics, line)
    directory.mark_complete("train")
    for stage in record.submissions[0].stages:
        for cell in stage.cells:
            if cell.step in scores:
                score = scores[cell.step]
                sample = {
                    "problem": "3+8=?",
                    "completion": f"\\boxed{{{11 if cell.step else 12}}}",
                    "gold": "11",
                    "correct": bool(cell.step),
                }
                result = {
                    "score": score,
                    "correct": round(1000 * score),
                    "n": 1000,
                    "interval": [score - 0.03, score + 0.03],
                    "reasoned": score,
                    "reasoned_accuracy": 0.9,
                    "completion_tokens": 20.0,
                    "truncated": 0.0,
                    "seconds": 2.0,
                    "samples": [sample],
                }
                directory.write_cell(cell, result)


ALL = {None: 0.33, 10: 0.7, 20: 0.85, 40: 0.92}


def test_submit_prints_the_run_id_and_nothing_else(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    said = openrs("submit", "smoke", "--cluster", "local")
    assert said.code == 0
    assert re.fullmatch(r"smoke-\d{12}-[0-9a-f]{4}\n", said.out)
    assert (workdir / "runs" / said.out.strip() / "record.json").is_file()
    assert said.out.strip() in said.err  # what to type next


def test_submit_json(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    said = openrs(*SUBMIT, "--json").json
    assert said == {
        "run": "mine",
        "dir": str(workdir / "runs" / "mine"),
        "cluster": "local",
        "hash": openrs("show", "smoke", "--json").json["hash"],
        "stages": [{"name": name, "handle": f"1-{name}"} for name in ("base", "train", "eval")],
    }


def test_a_refusal_leaves_nothing_behind(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    scheduler.refusal = "sbatch refused: Invalid account; set account in openrs.toml"
    said = openrs(*SUBMIT)
    assert (said.code, said.out, said.err) == (1, "", f"openrs: {scheduler.refusal}\n")
    assert not list(workdir.iterdir())


def test_runs_come_from_the_environment(
    openrs: Openrs, scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENRS_RUNS", str(tmp_path / "elsewhere"))
    openrs(*SUBMIT)
    assert (tmp_path / "elsewhere" / "mine" / "record.json").is_file()
    assert [run["run"] for run in openrs("status", "--json").json["runs"]] == ["mine"]


def test_status_json(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    finish(record, {None: 0.33}, steps=7)
    scheduler.states = {"base": JobInfo(JobState.SUCCEEDED), "train": JobInfo(JobState.RUNNING, "on node01")}
    (run,) = openrs("status", "mine", "--json").json["runs"]
    stages = run.pop("stages")
    assert run == {
        "run": "mine",
        "experiment": "smoke",
        "cluster": "local",
        "state": "RUNNING",
        "step": 7,
        "steps": 40,
        "attempts": 0,
    }
    assert [(stage["name"], stage["state"], stage["handle"]) for stage in stages] == [
        ("base", "SUCCEEDED", "1-base"),
        ("train", "RUNNING", "1-train"),
        ("eval", "PENDING", "1-eval"),
    ]
    assert [stage["cells"] for stage in stages] == [
        {"done": 1, "failed": 0, "total": 1},
        {"done": 0, "failed": 0, "total": 0},
        {"done": 0, "failed": 0, "total": 3},
    ]


def test_status_asks_once_for_many_runs(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    openrs("submit", "smoke", "--cluster", "local", "--run", "other")
    scheduler.queries.clear()
    table = openrs("status").out.splitlines()
    assert len(scheduler.queries) == 1 and len(scheduler.queries[0]) == 6
    assert [line.split()[0] for line in table] == ["RUN", "mine", "other"]
    assert [run["run"] for run in openrs("status", "--json").json["runs"]] == ["mine", "other"]


def test_status_without_runs(openrs: Openrs, workdir: Path) -> None:
    assert openrs("status", "--json").json == {"runs": []}
    assert openrs("status").out == "no runs below runs\n"
    assert not list(workdir.iterdir())


def test_a_broken_record_hides_no_other_run(
    openrs: Openrs, scheduler: Scheduler, record: Record, workdir: Path
) -> None:
    broken = workdir / "runs" / "broken"
    broken.mkdir()
    (broken / "record.json").write_text('{"run": ')
    said = openrs("status", "--json")
    assert said.code == 2 and said.err.count("\n") == 1 and "broken" in said.err
    assert [run["run"] for run in said.json["runs"]] == ["mine"]
    assert openrs("status", "broken").code == 2


def test_status_watch_ends_with_the_last_run(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    def time_passes(query: int) -> None:
        if query == 2:
            scheduler.set(base=JobState.SUCCEEDED, train=JobState.RUNNING)
        if query == 4:
            finish(record, ALL)
            scheduler.set(train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)

    scheduler.queries.clear()
    scheduler.on_query = time_passes
    said = openrs("status", "mine", "--watch", "--json")
    assert [run["state"] for run in said.json["runs"]] == ["SUCCEEDED"]
    assert len(scheduler.queries) == 4


def test_watching_outlasts_a_scheduler_that_is_away(
    openrs: Openrs, scheduler: Scheduler, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(query: int) -> None:
        if query in (2, 3):
            raise OpenRSError("squeue: Unable to contact slurm controller")
        if query == 5:
            finish(record, ALL)
            scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)

    scheduler.queries.clear()
    scheduler.on_query = away
    assert openrs("status", "mine", "--watch").code == 0
    # One that stays away ends it, with the reason.
    monkeypatch.setattr("openrs.cli.progress.PATIENCE", 0.05)
    scheduler.queries.clear()
    scheduler.states.clear()

    def gone(query: int) -> None:
        if query > 1:
            raise OpenRSError("squeue: Unable to contact slurm controller")

    scheduler.on_query = gone
    said = openrs("status", "mine", "--watch", "--json")
    assert (said.code, said.out) == (1, "") and "Unable to contact" in said.err


def test_watching_a_run_that_nobody_knows_ends(
    openrs: Openrs, scheduler: Scheduler, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openrs.cli.progress.PATIENCE", 0.05)
    scheduler.set(base=JobState.UNKNOWN, train=JobState.UNKNOWN, eval=JobState.UNKNOWN)
    said = openrs("status", "mine", "--watch")
    assert said.code == 1 and "no longer knows it" in said.err


def test_watching_outlasts_a_scheduler_that_forgets_for_a_moment(
    openrs: Openrs, scheduler: Scheduler, record: Record
) -> None:
    """As where the accounting does not know a job yet that the controller has finished."""

    def forgets(query: int) -> None:
        known = JobState.UNKNOWN if query == 2 else JobState.RUNNING
        scheduler.set(base=known, train=known, eval=known)
        if query == 4:
            finish(record, ALL)
            scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)

    scheduler.queries.clear()
    scheduler.on_query = forgets
    said = openrs("status", "mine", "--watch")
    assert said.code == 0 and "no longer knows it" in said.err and "trying again for 5 min" in said.err


def submit_watched(
    openrs: Openrs, scheduler: Scheduler, workdir: Path, *options: str, end: dict[str, JobInfo]
) -> tuple[int, str, str]:
    def time_passes(query: int) -> None:
        if query == 2:
            scheduler.set(base=JobState.SUCCEEDED, train=JobState.RUNNING)
            finish(load(workdir / "runs", "mine"), {None: 0.33}, steps=12)
        if query == 3:
            finish(load(workdir / "runs", "mine"), ALL)
            scheduler.states |= end

    scheduler.on_query = time_passes
    said = openrs(*SUBMIT, "--watch", *options)
    return said.code, said.out, said.err


def test_submit_watch_shows_progress_and_results(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    end = {name: JobInfo(JobState.SUCCEEDED) for name in ("base", "train", "eval")}
    code, out, err = submit_watched(openrs, scheduler, workdir, end=end)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "mine"
    rows = {tuple(line.split()[1:3]): line for line in lines if line.startswith("sums-held-out") and " × " in line}
    assert set(rows) == {("base", "model"), ("step", "10"), ("step", "20"), ("step", "40")}
    assert " 92.0 " in rows["step", "40"] and "+59.0" in rows["step", "40"] and "90.2 - 93.5" in rows["step", "40"]
    assert "before (base model): 3+8=?" in out and "after (step 40): 3+8=?" in out
    assert any(
        line.startswith("sums-held-out +59.0 points, 95 %") and line.endswith("than the base model.") for line in lines
    )
    page = Path(lines[-1])
    assert page == workdir / "runs" / "mine" / "report" / "report.html" and "+59.0" in page.read_text()
    picture = Path(lines[-2])
    assert picture == workdir / "runs" / "mine" / "report" / "reward.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    # Progress goes to standard error.
    assert "train: step 12/40, reward 1.30, accuracy 0.30, about 14 s left" in err
    assert "train: step" not in out


def test_submit_watch_json_keeps_standard_output_pure(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    end = {name: JobInfo(JobState.SUCCEEDED) for name in ("base", "train", "eval")}
    code, out, err = submit_watched(openrs, scheduler, workdir, "--json", end=end)
    assert code == 0 and json.loads(out)["run"] == "mine"
    assert "sums-held-out" in err


def test_submit_watch_of_a_run_that_fails(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    def time_passes(query: int) -> None:
        if query == 2:
            scheduler.states = {
                "base": JobInfo(JobState.FAILED, "rank 0 ended with exit code 1"),
                "train": JobInfo(JobState.CANCELLED),
                "eval": JobInfo(JobState.CANCELLED),
            }

    scheduler.on_query = time_passes
    said = openrs(*SUBMIT, "--watch")
    assert said.code == 1 and said.out.splitlines()[0] == "mine"
    last = said.err.splitlines()[-1]
    assert (
        last == "openrs: mine FAILED in stage base (rank 0 ended with exit code 1); `openrs logs mine base` shows why"
    )


def test_ctrl_c_stops_the_watching_and_not_the_run(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    def interrupt(query: int) -> None:
        raise KeyboardInterrupt

    scheduler.on_query = interrupt
    said = openrs(*SUBMIT, "--watch")
    assert said.code == 130 and said.out == "mine\n"
    assert said.err == "openrs: stopped watching; mine goes on (`openrs cancel mine` stops it)\n"
    assert not scheduler.cancelled and (workdir / "runs" / "mine" / "record.json").is_file()


def test_a_defect_stays_a_traceback(openrs: Openrs, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        openrs("render", "smoke", "--cluster", "local")


def test_cancel_and_resume(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.RUNNING)
    finish(record, {None: 0.33}, steps=3)
    RunDirectory(Path(record.dir)).complete_marker("train").unlink()
    refused = openrs("resume", "mine")
    assert refused.code == 2 and "has not ended" in refused.err
    said = openrs("cancel", "mine")
    assert said.code == 0 and said.out.count("\n") == 1 and said.out.startswith("mine cancelled")
    assert scheduler.cancelled == ["1-train", "1-eval"]
    assert RunDirectory(Path(record.dir)).is_cancelled(1)
    scheduler.set(train=JobState.CANCELLED, eval=JobState.CANCELLED)
    assert openrs("status", "mine", "--json").json["runs"][0]["state"] == "CANCELLED"
    assert openrs("cancel", "mine").code == 2
    resumed = openrs("resume", "mine", "--json").json
    assert resumed["stages"] == [{"name": "train", "handle": "2-train"}, {"name": "eval", "handle": "2-eval"}]
    assert resumed["run"] == "mine"


def test_resume_says_one_line(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.set(base=JobState.FAILED, train=JobState.CANCELLED, eval=JobState.CANCELLED)
    said = openrs("resume", "mine")
    assert said.out == "mine resumed on local: base, train, eval (submission 2)\n"
    finish(record, ALL)
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)
    complete = openrs("resume", "mine")
    assert complete.code == 2 and "complete" in complete.err


def log(record: Record, name: str, text: str) -> Path:
    path = Path(record.dir) / "logs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_logs(openrs: Openrs, record: Record) -> None:
    none = openrs("logs", "mine")
    assert none.code == 1 and "no log yet" in none.err
    log(record, "base/task-0-attempt-1/rank-0.log", "base\n")
    log(record, "train/attempt-1/rank-0.log", "first\n")
    log(record, "train/attempt-2/supervisor.log", "sup\n")
    log(record, "train/attempt-2/rank-0.log", "10%\r20%\rdone\n\x1b[31mred")
    log(record, "train/17.out", "from the scheduler\n")
    said = openrs("logs", "mine", "train", "--json").json
    assert said == {
        "run": "mine",
        "stage": "train",
        "attempt": 2,
        "files": [
            {"name": "17.out", "text": "from the scheduler\n"},
            {"name": "attempt-2/rank-0.log", "text": "done\n\\x1b[31mred"},
            {"name": "attempt-2/supervisor.log", "text": "sup\n"},
        ],
    }
    assert openrs("logs", "mine", "--json").json["stage"] == "train"  # the newest
    assert openrs("logs", "mine", "train", "--attempt", "1").out == "==> attempt-1/rank-0.log <==\nfirst\n"
    assert openrs("logs", "mine", "base").out == "==> task-0-attempt-1/rank-0.log <==\nbase\n"
    missing = openrs("logs", "mine", "train", "--attempt", "3")
    assert missing.code == 2 and "there are 1, 2" in missing.err
    unknown = openrs("logs", "mine", "trian")
    assert unknown.code == 2 and "did you mean 'train'" in unknown.err
    assert openrs("logs", "mine", "-f", "--json").code == 2


def test_logs_show_what_only_the_scheduler_knows(openrs: Openrs, record: Record) -> None:
    """Its output holds again what the attempts' files hold, so only the rest is shown."""
    log(record, "train/attempt-1/rank-0.log", "step 1\n")
    log(record, "train/attempt-1/supervisor.log", "2025-01-01T00:00:00 openrs: attempt 1 ended\n")
    out = log(record, "train/17.out", "module: not found\nstep 1\nopenrs: attempt 1 ended\nslurmstepd: oom_kill\n")
    said = openrs("logs", "mine", "train").out
    assert said.count("step 1\n") == 1 and said.count("attempt 1 ended") == 1
    assert said.endswith("==> 17.out <==\nmodule: not found\nslurmstepd: oom_kill\n")
    out.write_text("step 1\n")
    assert "17.out" not in openrs("logs", "mine", "train").out


def test_logs_of_an_array_show_each_tasks_newest_attempt(openrs: Openrs, record: Record) -> None:
    for task, attempt in ((0, 1), (1, 1), (1, 2), (10, 1), (2, 1)):
        log(record, f"eval/task-{task}-attempt-{attempt}/rank-0.log", "x\n")
    names = [file["name"] for file in openrs("logs", "mine", "eval", "--json").json["files"]]
    assert names == [
        f"task-{task}/rank-0.log".replace("/", f"-attempt-{n}/") for task, n in ((0, 1), (1, 2), (2, 1), (10, 1))
    ]


def test_logs_follow_until_the_stage_has_ended(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    def time_passes(query: int) -> None:
        if query == 1:
            log(record, "train/attempt-1/rank-0.log", "one\n")
        if query == 2:
            with open(Path(record.dir) / "logs" / "train" / "attempt-1" / "rank-0.log", "a") as file:
                file.write("two\n")
            log(record, "train/attempt-2/rank-0.log", "three\n")
            scheduler.set(base=JobState.SUCCEEDED, train=JobState.FAILED)

    scheduler.queries.clear()
    scheduler.on_query = time_passes
    said = openrs("logs", "mine", "train", "-f")
    assert said.code == 0
    assert said.out == ("==> train/attempt-1/rank-0.log <==\none\ntwo\n==> train/attempt-2/rank-0.log <==\nthree\n")


def test_completion_of_names(
    openrs: Openrs, record: Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from openrs.cli.app import main

    def complete(words: str) -> set[str]:
        monkeypatch.setenv("_OPENRS_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([])
        return set(capsys.readouterr().out.split())

    assert {"submit", "status"} <= complete("openrs s")
    assert complete("openrs submit exp3") == {"exp3", "exp3-as-shipped", "exp3-paper"}
    assert complete("openrs submit smoke --cluster l") == {"local"}
    assert complete("openrs status m") == {"mine"}
    assert complete("openrs --runs /nowhere status m") <= {"mine"}
