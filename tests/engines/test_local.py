"""The local engine's own processes: what they do when things around them go wrong. The ranks are `standin.py`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openrs import launch
from openrs.engines import Artifacts, JobState
from openrs.engines.local import LocalEngine
from openrs.errors import BadInput
from openrs.runs import record
from openrs.runs.lease import start_ticks
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment
from openrs.spec.load import load_cluster, load_experiment
from openrs.status import status

ROOT = Path(__file__).parents[2]

# Runs before the snapshot's code, and puts the stand-in rank in place of training.
SITECUSTOMIZE = """
import os, sys
if "OPENRS_HANDLE" in os.environ and "RANK" not in os.environ:
    sys.path.append({root!r})
    from openrs.worker import ranks
    ranks.MODULES["trainer"] = "tests.worker.standin"
"""


@pytest.fixture
def experiment() -> Experiment:
    return load_experiment("smoke", ["evaluation.benchmarks=[]", f"environment.PYTHONPATH={ROOT}"])


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE.format(root=str(ROOT)))
    setup = [f'export PYTHONPATH="$PYTHONPATH:{tmp_path}/site"']
    return Cluster.model_validate({**load_cluster("local").model_dump(), "setup": setup, "lease_seconds": 8})


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "runs"
    yield root
    for pid in processes(root):
        os.kill(pid, 9)


def processes(root: Path) -> list[int]:
    """Pids of everything that works on a run below `root`, by its working directory or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = os.readlink(entry / "cwd") + (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(root) in words and start_ticks(int(entry.name)) is not None:
                found.append(int(entry.name))
    return found


def wait(true: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def state(runs: Path, run: str) -> JobState:
    return status([record.load(runs, run)])[0].state


def test_it_runs_the_snapshot_whatever_the_spec_puts_on_the_path(
    experiment: Experiment, cluster: Cluster, runs: Path
) -> None:
    launch.submit(experiment, cluster, runs, "r")
    wait(lambda: state(runs, "r") == JobState.SUCCEEDED)
    lines = [line for file in (runs / "r" / "ledger").glob("*") for line in file.read_text().splitlines()]
    starts = [event for event in map(json.loads, lines) if event["event"] == "start"]
    assert [event["package"] for event in starts] == [str(runs / "r" / "submission" / "1" / "code" / "openrs")]


def test_of_two_resumes_at_once_one_is_sent(experiment: Experiment, cluster: Cluster, runs: Path) -> None:
    launch.submit(experiment, cluster, runs, "r")
    wait(lambda: (runs / "r" / "metrics.jsonl").exists())
    launch.cancel(runs, "r")
    outcomes: list[object] = []

    def resume() -> None:
        try:
            outcomes.append(launch.resume(runs, "r"))
        except BadInput as error:
            outcomes.append(error)

    threads = [threading.Thread(target=resume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, record.Record) for outcome in outcomes) == 1
    assert [submission.number for submission in record.load(runs, "r").submissions] == [1, 2]
    wait(lambda: state(runs, "r") == JobState.SUCCEEDED)


def test_waiting_stages_end_when_the_run_is_removed(cluster: Cluster, runs: Path) -> None:
    launch.submit(load_experiment("smoke"), cluster, runs, "r")
    wait(lambda: (runs / "r" / "submission" / "1" / "eval" / "process.json").exists())
    shutil.rmtree(runs / "r", ignore_errors=True)
    wait(lambda: processes(runs) == [], timeout=90)


def test_a_submission_that_fails_halfway_leaves_no_process(
    experiment: Experiment, cluster: Cluster, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "save", full)
    with pytest.raises(BadInput, match="No space left"):
        launch.submit(experiment, cluster, runs, "r")
    wait(lambda: processes(runs) == [])
    assert not runs.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"setup": ["module load nothing-like-this"]}, "module"),
        ({"setup": [], "python": "/bin/true"}, "printed nothing"),
    ],
)
def test_what_ends_before_it_can_say_how_is_quoted(
    experiment: Experiment, cluster: Cluster, runs: Path, changes: dict[str, object], words: str
) -> None:
    launch.submit(experiment, Cluster.model_validate({**cluster.model_dump(), **changes}), runs, "r")
    wait(lambda: state(runs, "r") == JobState.INTERRUPTED)
    reason = status([record.load(runs, "r")])[0].stages[0].reason
    assert "did not start" in reason
    assert words in reason


@pytest.mark.parametrize("setup", [["if"], ["true \\"]])
def test_setup_that_is_no_shell_is_refused(
    experiment: Experiment, cluster: Cluster, runs: Path, setup: list[str]
) -> None:
    with pytest.raises(BadInput, match=r"^cluster local: setup: "):
        launch.submit(experiment, Cluster.model_validate({**cluster.model_dump(), "setup": setup}), runs, "r")
    assert not runs.exists()


def test_wall_time_ends_an_attempt_and_not_the_run(
    experiment: Experiment, cluster: Cluster, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = experiment.model_copy(update={"environment": {**experiment.environment, "STANDIN": "slow"}})
    render = LocalEngine.render

    def in_seconds(*args: Any) -> Artifacts:  # a spec counts in minutes, too long for a test
        artifacts = render(*args)
        text = artifacts.files["train/stage.json"].replace('"wall_seconds": 1800', '"wall_seconds": 12')
        return dataclasses.replace(artifacts, files={**artifacts.files, "train/stage.json": text})

    monkeypatch.setattr(LocalEngine, "render", in_seconds)
    launch.submit(slow, cluster, runs, "r")
    wait(lambda: state(runs, "r") == JobState.SUCCEEDED)
    attempts = [json.loads(line)["attempt"] for line in (runs / "r" / "metrics.jsonl").read_text().splitlines()]
    assert attempts[0] == 1 < attempts[-1]


def test_a_killed_supervisor_is_no_failure_of_the_run(experiment: Experiment, cluster: Cluster, runs: Path) -> None:
    slow = experiment.model_copy(update={"environment": {**experiment.environment, "STANDIN": "slow"}})
    launch.submit(slow, cluster, runs, "r")
    wait(lambda: (runs / "r" / "metrics.jsonl").exists())
    supervisors = [pid for pid in processes(runs) if b"openrs.worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(supervisors) == 1
    os.kill(supervisors[0], 9)
    wait(lambda: state(runs, "r") == JobState.INTERRUPTED)
    assert "killed by SIGKILL" in status([record.load(runs, "r")])[0].stages[0].reason
    launch.resume(runs, "r")
    wait(lambda: state(runs, "r") == JobState.SUCCEEDED)


def test_a_cluster_that_does_not_answer_hides_no_other(
    experiment: Experiment, cluster: Cluster, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    slow = experiment.model_copy(update={"environment": {**experiment.environment, "STANDIN": "slow"}})
    here = launch.submit(slow, cluster, runs, "here")  # slow: an engine is asked about what has not ended
    elsewhere = here.model_copy(update={"run": "elsewhere", "cluster": load_cluster("k8s")})
    seen = status([here, elsewhere])
    assert seen[0].state != JobState.UNKNOWN
    assert "no kubeconfig" in seen[1].stages[0].reason
    with pytest.raises(BadInput, match="no kubeconfig"):
        status([elsewhere])
