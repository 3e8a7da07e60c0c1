"""`openrs diff`: what a submit now would change, with pretended schedulers (see the fixture `scheduler`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openrs.engines import JobState
from openrs.runs.record import Record, load
from tests.cli.conftest import Openrs
from tests.cli.fake import Scheduler
from tests.cli.test_bad_input import refused
from tests.cli.test_eval import checkpoints

PROFILE = '[clusters.mine]\nextends = "{}"\nlease_seconds = {}\n'


@pytest.fixture
def record(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Record:
    """A run `mine` of a file and a profile of its user's own."""
    (workdir / "openrs.toml").write_text(PROFILE.format("local", 20))
    (workdir / "own.yaml").write_text("extends: smoke\nname: own\n")
    sent = openrs("submit", "own.yaml", "--cluster", "mine", "--run", "mine", "--set", "training.steps=50")
    assert sent.code == 0
    return load(workdir / "runs", "mine")


def test_nothing_has_changed(openrs: Openrs, record: Record) -> None:
    said = openrs("diff", "mine", "--exit-code")
    assert (said.code, said.out, said.err) == (0, "mine: a submit now would send the same\n", "")
    assert openrs("diff", "mine", "--json").json == {"run": "mine", "different": False, "files": [], "code": None}


def test_what_was_asked_for_is_found_from_anywhere(
    openrs: Openrs, record: Record, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record.asked is not None and record.asked.overrides == ["training.steps=50"]
    assert record.asked.experiment == str(workdir / "own.yaml")
    (workdir / "elsewhere").mkdir()
    monkeypatch.chdir(workdir / "elsewhere")
    (workdir / "elsewhere" / "openrs.toml").write_text(PROFILE.format("local", 20))
    assert openrs("diff", "mine", "--runs", workdir / "runs", "--exit-code").code == 0


def test_another_field(openrs: Openrs, record: Record) -> None:
    said = openrs("diff", "mine", "--set", "training.steps=51")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[:2] == ["--- sent/spec.json", "+++ now/spec.json"]
    assert '-    "steps": 50,' in lines and '+    "steps": 51,' in lines
    assert "+++ now/train/stage.json" in lines
    assert openrs("diff", "mine", "--set", "training.steps=51", "--exit-code").code == 1
    found = openrs("diff", "mine", "--set", "training.steps=51", "--json").json
    assert found["different"] and found["files"][0]["name"] == "spec.json"
    refused(openrs("diff", "mine", "--set", "training.stepz=31"), "stepz", "steps")


def test_another_profile_or_file(openrs: Openrs, record: Record, workdir: Path) -> None:
    (workdir / "openrs.toml").write_text(PROFILE.format("local", 21))
    said = openrs("diff", "mine").out
    assert '+  "lease_seconds": 21,' in said or '+  "lease_seconds": 21' in said
    assert "spec.json" not in said
    (workdir / "own.yaml").write_text("extends: smoke\nname: own\ntitle: Another\n")
    assert '+  "title": "Another",' in openrs("diff", "mine").out
    (workdir / "own.yaml").unlink()
    refused(openrs("diff", "mine"), "experiment file", "does not exist")
    (workdir / "own.yaml").write_text("extends: smoke\n")
    (workdir / "openrs.toml").write_text("")
    refused(openrs("diff", "mine"), "mine")


def test_stages_that_would_come_or_go(openrs: Openrs, record: Record) -> None:
    said = openrs("diff", "mine", "--set", "evaluation.base=false").out
    for name in ("stage.json", "cells.json"):
        assert f"--- sent/base/{name}\n+++ /dev/null\n" in said
    assert "stage.json" in said and "source.json" not in said


def test_other_code(openrs: Openrs, record: Record) -> None:
    path = Path(record.dir) / "submission" / "1" / "source.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"code": "sha256:other"}))
    assert openrs("diff", "mine").out == f"code: sha256:other was sent, {content['code']} is here now\n"
    said = openrs("diff", "mine", "--json").json
    assert said["different"] and said["code"] == {"sent": "sha256:other", "now": content["code"]}
    path.unlink()
    assert openrs("diff", "mine", "--exit-code").code == 1


def test_a_run_that_does_not_know_what_was_asked_for(openrs: Openrs, record: Record, workdir: Path) -> None:
    path = workdir / "runs" / "mine" / "record.json"
    content = json.loads(path.read_text())
    del content["asked"]
    path.write_text(json.dumps(content))
    refused(openrs("diff", "mine"), "not on record", "openrs render")
    refused(openrs("diff", "nobody"), "does not exist")


def test_checkpoints_as_they_land_are_no_difference(openrs: Openrs, record: Record, workdir: Path) -> None:
    from openrs.evals import land

    assert openrs("submit", "smoke", "--cluster", "mine", "--run", "lands", "--as-they-land").code == 0
    assert openrs("diff", "lands", "--exit-code").out == "lands: a submit now would send the same\n"
    known = load(workdir / "runs", "lands")
    checkpoints(known, 10)
    assert len(land(workdir / "runs", known).submissions) == 2
    assert openrs("diff", "lands", "--exit-code").code == 0
    assert "+++ now/train/stage.json" in openrs("diff", "lands", "--set", "training.steps=51").out


@pytest.mark.parametrize("cluster", ["local", "k8s"])
def test_what_a_resume_has_changed_since(cluster: str, openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    """The comparison is with the first sending, and says so."""
    assert "was first sent with" in " ".join(openrs("diff", "--help").out.split())
    assert openrs("submit", "smoke", "--cluster", cluster, "--run", "mine").code == 0
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.FAILED, eval=JobState.CANCELLED)
    assert openrs("resume", "mine").code == 0
    assert openrs("diff", "mine").err == "", "nothing has changed"
    assert openrs("resume", "mine", "--set", "checkpoint.keep=5", "--allow-change").code == 0
    said = openrs("diff", "mine", "--exit-code")
    assert (said.code, said.out) == (0, "mine: a submit now would send the same\n")
    assert said.err == (
        "openrs: mine has been resumed with another checkpoint.keep; this compares with its first sending\n"
    )


def test_runs_that_are_no_experiment(openrs: Openrs, record: Record, workdir: Path) -> None:
    words = ["--cluster", "local", "--benchmarks", "aime24", "--seeds", "1", "--run", "two"]
    assert openrs("eval", "some/model", *words).code == 0
    refused(openrs("diff", "two"), "run two evaluates a model, and there is no experiment to compare")
    imported = workdir / "runs" / "import-x"
    imported.mkdir()
    (imported / "import.json").write_text("{}")
    refused(openrs("diff", "import-x"), "import-x was imported and never sent", "openrs report import-x")
    refused(openrs("diff", "import-y"), "does not exist")


def test_what_the_server_has(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    assert openrs("submit", "smoke", "--cluster", "k8s", "--run", "far").code == 0
    # The image holds the code; whose hash is here, says nothing.
    (workdir / "runs/far/submission/1/source.json").write_text("{}")
    scheduler.server = {
        "train/job.yaml": ("kind: Job\nmemory: 3Gi\n", "kind: Job\nmemory: 4Gi\n"),
        "eval/job.yaml": ("--- {}\n", "kind: Job\n"),
    }
    said = openrs("diff", "far")
    assert said.code == 0 and said.out == (
        "--- server/train/job.yaml\n+++ now/train/job.yaml\n@@ -1,2 +1,2 @@\n kind: Job\n-memory: 3Gi\n+memory: 4Gi\n"
    )
    assert said.err == "openrs: eval/job.yaml: the server has nothing of it any more\n"
    found = openrs("diff", "far", "--json").json
    assert found["server"]["gone"] == ["eval/job.yaml"] and found["different"]
    scheduler.server.pop("train/job.yaml")  # finished Jobs are removed after a while: that is no difference
    assert openrs("diff", "far", "--exit-code").out == "far: a submit now would send the same\n"
