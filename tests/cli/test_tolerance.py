"""What lies broken in a run directory, a shell or a configuration: a line for a person, and the other runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openrs.drill.run import Drill
from openrs.engines import JobInfo, JobState
from openrs.runs.directory import RunDirectory
from openrs.runs.record import Record, load
from openrs.spec.load import load_cluster
from tests.cli.conftest import Openrs, Said
from tests.cli.fake import Scheduler
from tests.cli.test_bad_input import refused

OPENRS = [sys.executable, "-m", "openrs"]


@pytest.fixture
def record(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Record:
    for run in ("mine", "other"):
        assert openrs("submit", "smoke", "--cluster", "local", "--run", run).code == 0
    return load(workdir / "runs", "mine")


@pytest.mark.parametrize(
    "line",
    ['{"step": null}', '{"step": "x"}', '"x"', '{"step": NaN}', '{"step": 1e999}', "[" * 100_000, "{}", "\xff"],
    ids=range(8),
)
def test_a_bad_line_of_metrics(line: str, openrs: Openrs, record: Record) -> None:
    RunDirectory(Path(record.dir)).metrics.write_text('{"step": 3}\n' + line + "\n", encoding="latin-1")
    runs = openrs("status", "--json").json["runs"]
    assert [(run["run"], run["step"]) for run in runs] == [("mine", 3), ("other", 0)]


@pytest.mark.parametrize("line", ["{}", '{"event": "start"}', '{"event": "start", "time": "noon"}', '{"time": 1}', "["])
def test_a_bad_line_of_a_ledger(line: str, openrs: Openrs, record: Record) -> None:
    directory = RunDirectory(Path(record.dir))
    directory.log("writer", "start", stage="train", submission=1, task=None)
    with open(directory.path / "ledger" / "writer.jsonl", "a") as file:
        file.write(line + "\n")
    assert [run["attempts"] for run in openrs("status", "--json").json["runs"]] == [1, 0]


def test_directories_that_are_no_runs(openrs: Openrs, record: Record, workdir: Path) -> None:
    for name in ("a copy", "UPPER", "x" * 40):
        (workdir / "runs" / name).mkdir()
        (workdir / "runs" / name / "record.json").write_text("{")
    said = openrs("status", "--json")
    assert (said.code, said.err) == (0, "")
    assert [run["run"] for run in said.json["runs"]] == ["mine", "other"]


def test_logs_of_what_was_never_sent(openrs: Openrs, record: Record, workdir: Path) -> None:
    path = workdir / "runs" / "mine" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"submissions": []}))
    said = openrs("logs", "mine")
    assert said.code == 1 and "openrs resume mine" in said.err and said.err.count("\n") == 1
    assert openrs("status", "--json").code == 0


def test_odd_files_among_the_logs(openrs: Openrs, record: Record) -> None:
    attempt = Path(record.dir) / "logs" / "train" / "attempt-1"
    attempt.mkdir(parents=True)
    (attempt / "gone.log").symlink_to("nowhere")
    (attempt / "red\x1b[31m.log").write_text("hello\n")
    (attempt.parent / "1.out").write_text("from the scheduler\n")
    said = openrs("logs", "mine", "train")
    assert said.code == 0 and "\x1b" not in said.out and "red\\x1b[31m.log" in said.out
    assert "hello\n" in said.out and "from the scheduler\n" in said.out


def test_logs_of_a_stage_that_never_started(openrs: Openrs, record: Record) -> None:
    (Path(record.dir) / "logs" / "eval" / "1.out").write_text("")
    said = openrs("logs", "mine", "eval")
    assert said.out == "" or said.out.startswith("==>")
    assert said.code == 0 and "stage eval has not started" in said.err


@pytest.mark.parametrize(
    ("codes", "state", "reason"),
    [
        ([75], "INTERRUPTED", "ended with 75"),
        ([75, 1], "FAILED", "ended with 1"),
        ([1, 75], "INTERRUPTED", "ended with 75"),
        ([], "INTERRUPTED", "the scheduler does not know it any more"),
        ([75, None], "INTERRUPTED", "the scheduler does not know it any more"),
    ],
)
def test_a_job_that_the_scheduler_forgot(
    codes: list[int | None], state: str, reason: str, openrs: Openrs, scheduler: Scheduler, record: Record
) -> None:
    directory = RunDirectory(Path(record.dir))
    for code in codes:
        directory.log("writer", "start", stage="train", submission=1, task=None)
        if code is not None:
            directory.log(
                "writer", "end", stage="train", submission=1, task=None, code=code, reason=f"ended with {code}"
            )
    unknown = JobInfo(JobState.UNKNOWN, "Slurm does not know it any more")
    scheduler.states = {"base": unknown, "train": unknown, "eval": unknown}
    (run,) = openrs("status", "mine", "--json").json["runs"]
    train = run["stages"][1]
    assert (train["state"], train["reason"]) == (state, reason)
    assert openrs("resume", "mine").code == 0


def test_why_a_task_failed_is_said_though_another_was_killed(
    openrs: Openrs, scheduler: Scheduler, record: Record
) -> None:
    directory = RunDirectory(Path(record.dir))
    for task in (0, 1):
        directory.log("writer", "start", stage="eval", submission=1, task=task)
    scheduler.states = {"eval": JobInfo(JobState.FAILED, "2 failed")}
    assert openrs("status", "mine", "--json").json["runs"][0]["stages"][2]["reason"] == "2 failed"
    directory.log("writer", "end", stage="eval", submission=1, task=1, code=1, reason="its worker was killed")
    (run,) = openrs("status", "mine", "--json").json["runs"]
    assert (run["stages"][2]["state"], run["stages"][2]["reason"]) == ("FAILED", "its worker was killed")


def test_a_state_that_nobody_knows_stays_unknown(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.states = {"train": JobInfo(JobState.UNKNOWN, "NEW_WORD")}
    (run,) = openrs("status", "mine", "--json").json["runs"]
    assert run["stages"][1]["state"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["show", "smoke", "--set", "rewards.².weight=2"], ["'²' is not an index"]),
        (["show", "smoke", "--set", f"rewards.{'1' * 5000}.weight=2"], ["is not an index"]),
        (["show", "smoke", "--set", "model.path=~nosuch/x"], ["model.path", "no user 'nosuch'"]),
        (["show", "smoke", "--set", "data={type: jsonl, path: ~nosuch/x}"], ["--set data", "no user 'nosuch'"]),
        (["check", "smoke", "--set", f"model.path={'x' * 5000}"], ["model.path", "longer than a path"]),
        (["check", "x" * 5000 + ".yaml"], ["xxx", "too long"]),
        (["check", "~nosuch/x.yaml"], ["no user 'nosuch'"]),
        (["check", "x" * 5000], ["unknown experiment"]),
        (["status", "x" * 5000], ["run id"]),
        (["status", "--runs", "a" * 5000], ["--runs", "longer than a path"]),
        (["status", "--runs", "a\udcffb"], ["--runs", "UTF-8"]),
        (["status", "--runs", "a:b"], ["--runs a:b", "PYTHONPATH"]),
        (["status", "--runs", "a\nb"], ["--runs", "control characters"]),
        (["status", "--runs", "~nosuch/runs"], ["--runs", "no user"]),
        (["render", "smoke", "--cluster", "local", "--out", "a" * 300], ["--out", "too long"]),
        (["show", "smoke", "--set", f"environment.{'a.' * 5000}a=x"], ["--set", "more than 50 levels"]),
    ],
)
def test_command_lines(line: list[str], words: list[str], openrs: Openrs, workdir: Path) -> None:
    said = openrs(*line)
    refused(said, *words)
    assert len(said.err) < 500
    assert not list(workdir.iterdir())


def test_runs_in_the_home_directory(
    openrs: Openrs, monkeypatch: pytest.MonkeyPatch, scheduler: Scheduler, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENRS_RUNS", "~/runs")
    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine").code == 0
    assert (tmp_path / "runs" / "mine" / "record.json").is_file()


def test_runs_that_are_a_file(openrs: Openrs, workdir: Path) -> None:
    (workdir / "file").write_text("")
    refused(openrs("status", "--runs", "file"), "--runs file", "cannot be read")


def test_a_configuration_without_end(openrs: Openrs, workdir: Path) -> None:
    (workdir / "openrs.toml").write_text("a = " + "[" * 20_000)
    refused(openrs("list"), "openrs.toml", "nested")


def run(workdir: Path, *args: str, before: Callable[[], None], **streams: int) -> Said:
    done = subprocess.run(
        [*OPENRS, *args],
        cwd=workdir,
        preexec_fn=before,
        text=True,
        timeout=120,
        check=False,
        **streams,  # type: ignore[call-overload]
    )
    return Said(done.returncode, done.stdout or "", done.stderr or "")


def test_closed_streams(workdir: Path) -> None:
    refused(run(workdir, "list", before=lambda: os.close(1), stderr=subprocess.PIPE), "standard output is closed")
    said = run(workdir, "show", "nothing", before=lambda: os.close(2), stdout=subprocess.PIPE)
    assert (said.code, said.out) == (2, "")


def test_a_working_directory_that_is_gone(workdir: Path) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, [sys.executable, '-P', '-m', 'openrs', 'list'])"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workdir,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    refused(Said(done.returncode, done.stdout, done.stderr), "working directory does not exist any more")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dir": "a\0b"}, ["dir", "NUL"]),
        ({"schema_version": 2, "new": 1}, ["written by a later openrs (schema 2, this one reads 1)", "upgrade openrs"]),
        ({"submissions": [{"number": 1, "time": 1.0, "stages": [{"name": "a\0"}]}]}, ["submissions.0"]),
        (None, ["no whole JSON", "was cut"]),
    ],
)
def test_a_broken_record_is_named_and_the_others_are_shown(
    change: dict[str, object] | None, words: list[str], openrs: Openrs, record: Record, workdir: Path
) -> None:
    path = workdir / "runs" / "mine" / "record.json"
    text = path.read_text()
    path.write_text(text[:200] if change is None else json.dumps(json.loads(text) | change))
    for line in (["status", "--json"], ["status", "mine", "other", "--json"]):
        said = openrs(*line)
        assert said.code == 2 and [run["run"] for run in said.json["runs"]] == ["other"]
        assert "runs/mine/record.json" in said.err and all(word in said.err for word in words), said.err
        assert said.err.count("\n") == 1
    for command in ("status", "diff", "cancel", "resume", "watch"):
        refused(openrs(command, "mine"), "record.json", *words)


def test_watch_as_json_ends_with_the_status(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.set(base=JobState.FAILED, train=JobState.FAILED, eval=JobState.CANCELLED)
    said = openrs("watch", "mine", "--json")
    assert said.code == 1 and said.json == openrs("status", "mine", "--json").json


def test_a_drill_that_is_interrupted_cancels_its_run(
    scheduler: Scheduler, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    scheduler.on_query = interrupt
    lines: list[str] = []
    drill = Drill(load_cluster("local"), workdir / "runs", say=lines.append, period=0.0)
    with pytest.raises(KeyboardInterrupt):
        drill.run([])
    assert scheduler.cancelled == ["1-train"] and "interrupted after 0 of 0 kills; cancelling drill-" in lines[0]
