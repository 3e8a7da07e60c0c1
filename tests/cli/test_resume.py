"""resume with a spec that is not the one that was sent, with a pretended scheduler (see the fixture `scheduler`)."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from openrs.engines import JobState
from openrs.runs.record import load
from tests.cli.conftest import Openrs
from tests.cli.fake import Scheduler


@pytest.fixture
def run(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Path:
    """The directory of a run of a file of the user's that was interrupted."""
    (workdir / "mine.yaml").write_text("extends: smoke\nname: mine\n")
    assert openrs("submit", "mine.yaml", "--cluster", "local", "--run", "mine").code == 0
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.FAILED, eval=JobState.CANCELLED)
    return workdir / "runs" / "mine"


def test_a_field_that_decides_results_is_named_and_refused(openrs: Openrs, run: Path) -> None:
    for options in ((), ("--allow-change",)):
        said = openrs("resume", "mine", "--set", "training.learning_rate=1e-4", *options)
        assert said.code == 2 and said.err.count("\n") == 1
        assert "training.learning_rate was 0.0002 when it was sent and is 0.0001 now" in said.err
    assert [entry.name for entry in (run / "submission").iterdir()] == ["1"]


def test_an_edited_spec_is_seen(openrs: Openrs, run: Path) -> None:
    spec = json.loads((run / "spec.json").read_text())
    spec["training"]["seed"] = 7
    (run / "spec.json").write_text(json.dumps(spec))
    said = openrs("resume", "mine")
    assert said.code == 2 and "training.seed was 42 when it was sent and is 7 now" in said.err


def test_retention_passes_when_that_is_said(openrs: Openrs, workdir: Path, run: Path) -> None:
    keep = ("--set", "checkpoint.keep=5")
    said = openrs("resume", "mine", *keep)
    assert said.code == 2 and "checkpoint.keep was 2 when it was sent and is 5 now" in said.err
    assert "openrs resume mine --allow-change" in said.err
    said = openrs("resume", "mine", *keep, "--allow-change")
    assert said.code == 0 and said.err == ""
    for where in (run, run / "submission" / "2"):
        assert json.loads((where / "spec.json").read_text())["checkpoint"]["keep"] == 5
    stage = json.loads((run / "submission" / "2" / "train" / "stage.json").read_text())
    assert stage["experiment_hash"] == load(workdir / "runs", "mine").hash
    (line,) = (run / "ledger" / "resume-2.jsonl").read_text().splitlines()
    assert json.loads(line)["fields"] == {"checkpoint.keep": [2, 5]}
    # It is the run's spec now.
    assert openrs("resume", "mine").code == 0


def test_a_file_that_was_edited_since_changes_no_run(openrs: Openrs, workdir: Path, run: Path) -> None:
    (workdir / "mine.yaml").write_text("extends: smoke\nname: mine\ntraining: {seed: 7}\n")
    said = openrs("resume", "mine")
    assert said.code == 0 and "mine.yaml says otherwise by now (training.seed); mine goes on as it was sent" in said.err
    assert json.loads((run / "submission" / "2" / "spec.json").read_text())["training"]["seed"] == 42
    (workdir / "mine.yaml").unlink()
    said = openrs("resume", "mine", "--json")
    assert said.code == 0 and said.err == "" and said.json["run"] == "mine"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_no_obstacle(
    openrs: Openrs, run: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A stand-in for NFS without its lock daemon and for Lustre without `-o flock`, which cannot be had here."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    said = openrs("resume", "mine")
    assert said.code == 0
    (line,) = said.err.splitlines()
    assert line.startswith("openrs: warning: runs/mine: no locks on this file system (")
