"""The requeue of a Slurm job that has been interrupted: with a stand-in for scontrol, and with a real controller that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openrs.engines import Place, stage_file
from openrs.plan import make_plan
from openrs.runs.directory import RunDirectory
from openrs.spec.canonical import pretty
from openrs.spec.load import load_cluster, load_experiment
from openrs.worker import slurm
from tests.testbed.slurm import SlurmBed

AWAY = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"; exit 1'
RUNNING = 'echo "JobId=7 JobState=RUNNING Reason=None Restarts=2"'

Scontrol = Callable[..., list[str]]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    experiment, cluster = load_experiment("smoke"), load_cluster("local")
    plan = make_plan(experiment, cluster)
    train = next(stage for stage in plan.stages if stage.name == "train")
    path = tmp_path / "run/submission/1/train/stage.json"
    path.parent.mkdir(parents=True)
    path.write_text(pretty(stage_file(experiment, plan, train, Place("r", tmp_path / "run"), cluster)))
    return path


@pytest.fixture
def requeue(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    """Requeues job 7, in its third run, where scontrol answers so; returns what scontrol was asked for."""
    monkeypatch.setattr(slurm, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def requeue(show: str, requeue: str = "true") -> list[str]:
        asked = tmp_path / "asked"
        (tmp_path / "scontrol").write_text(
            f'#!/bin/bash\necho "$*" >> {asked}\nn=$(grep -c . {asked})\n'
            f"case $1 in requeue) {requeue};; *) {show};; esac\n"
        )
        (tmp_path / "scontrol").chmod(0o755)
        slurm._requeue(stage)
        return [line.split()[0] for line in asked.read_text().splitlines()]

    return requeue


def test_a_running_job_is_requeued(requeue: Scontrol, capsys: pytest.CaptureFixture[str]) -> None:
    assert requeue(RUNNING) == ["--oneliner", "requeue"]
    assert capsys.readouterr().err == "openrs: job 7 requeued\n"


def test_it_goes_on_asking_while_slurm_is_away(requeue: Scontrol, capsys: pytest.CaptureFixture[str]) -> None:
    asked = requeue(f"((n > 8)) || {{ {AWAY}; }}; {RUNNING}", f"((n > 12)) || {{ {AWAY}; }}")
    assert asked[:9] == ["--oneliner"] * 9
    # It looks anew before each requeue: the answer to the one before may have been lost.
    assert asked[9:] == ["requeue", "--oneliner", "requeue", "--oneliner", "requeue"][: len(asked) - 9]
    assert capsys.readouterr().err.splitlines() == [
        "openrs: Slurm does not answer; the requeue is asked for again, for up to 15 minutes",
        "openrs: job 7 requeued",
    ]


def test_a_slurm_that_stays_away_is_called_so(
    requeue: Scontrol, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.2)
    assert set(requeue(AWAY)) == {"--oneliner"}
    assert capsys.readouterr().err.splitlines()[-1].startswith("openrs: Slurm did not answer, so job 7 is not requeued")


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (RUNNING.replace("Restarts=2", "Restarts=3"), "Slurm has requeued the job already"),
        (RUNNING.replace("RUNNING", "CANCELLED"), "the job is CANCELLED, so not requeued"),
        ('echo "slurm_load_jobs error: Invalid job id specified"; exit 1', "not requeued: slurm_load_jobs error"),
    ],
)
def test_what_is_not_requeued(requeue: Scontrol, capsys: pytest.CaptureFixture[str], shown: str, words: str) -> None:
    assert requeue(shown) == ["--oneliner"]
    assert words in capsys.readouterr().err


def test_a_run_that_is_cancelled_while_slurm_is_away(
    requeue: Scontrol, stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(stage.parents[3])
    monkeypatch.setattr(time, "sleep", lambda _: directory.cancel(1))
    assert requeue(AWAY) == ["--oneliner"]
    assert capsys.readouterr().err.endswith("openrs: cancelled, so not requeued\n")


@pytest.mark.slurm
def test_a_controller_that_comes_back(
    slurm_bed: SlurmBed, stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm_bed.reset()
    for name, value in slurm_bed.env.items():
        monkeypatch.setenv(name, value)
    ask = slurm._ask

    def ask_and_start(stage_path: Path) -> str | None:
        outcome = ask(stage_path)
        if outcome is None:
            slurm_bed.start_controller()
        return outcome

    monkeypatch.setattr(slurm, "_ask", ask_and_start)
    job = slurm_bed.submit("sleep 600\n", "-o", "/dev/null", "--requeue")
    slurm_bed.wait_state(job, "RUNNING")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    slurm_bed.stop_controller()
    try:
        slurm._requeue(stage)
    finally:
        slurm_bed.start_controller()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("openrs: Slurm does not answer")
    assert said[1:] == [f"openrs: job {job} requeued"]
    assert slurm_bed.job(job)["Restarts"] == "1"
    slurm._requeue(stage)
    assert capsys.readouterr().err == "openrs: Slurm has requeued the job already\n"
    slurm_bed.run("scancel", job)
