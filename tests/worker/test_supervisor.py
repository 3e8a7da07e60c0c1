"""One attempt at a stage: how it ends, what it writes, and what it survives. The ranks are `standin.py`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openrs.engines import Place, stage_file
from openrs.plan import cells, make_plan
from openrs.runs.directory import RunDirectory
from openrs.runs.lease import start_ticks
from openrs.spec.canonical import pretty, sha256
from openrs.spec.load import load_cluster, load_experiment
from openrs.stage import CellsFile, StageFile
from openrs.worker import ranks as ranks_module
from openrs.worker.stop import StopRequest, hurry_flag
from openrs.worker.supervisor import Supervisor
from tests.worker.standin import STEPS

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ranks_module.MODULES, "trainer", "tests.worker.standin")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def make_stage(tmp_path: Path) -> Callable[..., Path]:
    """Writes the stage file of a training stage, with the given fields changed; returns its path."""

    def make(**changes: Any) -> Path:
        experiment, cluster = load_experiment("smoke"), load_cluster("local")
        plan = make_plan(experiment, cluster)
        stage = next(stage for stage in plan.stages if stage.name == "train")
        content = stage_file(experiment, plan, stage, Place("r", tmp_path / "run"), cluster)
        changes = {"grace_seconds": 5, "lease_seconds": 8, **changes}
        path = tmp_path / "run" / "submission" / "1" / "train" / "stage.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pretty(StageFile.model_validate({**content.model_dump(), **changes})))
        return path

    return make


class Attempt:
    """A supervisor in a process of its own."""

    def __init__(self, path: Path, stop_file: Path | None = None, task: int | None = None) -> None:
        self.process = FORK.Process(target=_supervise, args=(path, stop_file, task))
        self.process.start()
        self.pid = self.process.pid or 0

    def code(self, timeout: float = 30) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None, "the supervisor did not end"
        return self.process.exitcode

    def ranks(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


def _supervise(path: Path, stop_file: Path | None, task: int | None) -> None:
    stop = StopRequest(stop_file)
    stop.install()
    sys.exit(Supervisor(path, task, stop).run())


@pytest.fixture
def start() -> Iterator[Callable[..., Attempt]]:
    attempts: list[Attempt] = []

    def begin(*args: Any) -> Attempt:
        attempts.append(Attempt(*args))
        return attempts[-1]

    yield begin
    for attempt in attempts:
        if attempt.process.is_alive():
            os.kill(attempt.pid, signal.SIGKILL)
        attempt.process.join()


def run_of(path: Path) -> RunDirectory:
    return RunDirectory(path.parents[3])


def steps_of(path: Path) -> list[int]:
    metrics = run_of(path).metrics
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def wait_for_step(path: Path, step: int) -> None:
    deadline = time.monotonic() + 20
    while not steps_of(path) or steps_of(path)[-1] < step:
        assert time.monotonic() < deadline, "the stand-in did not get there"
        time.sleep(0.02)


def ends(path: Path) -> list[tuple[int, str]]:
    return [(event["code"], event["reason"]) for event in run_of(path).ledger() if event["event"] == "end"]


def test_done_is_marked_and_not_done_again(make_stage: Callable[..., Path], start: Callable[..., Attempt]) -> None:
    path = make_stage()
    assert start(path).code() == 0
    assert steps_of(path) == list(range(1, STEPS + 1))
    assert ends(path) == [(0, "done")]
    assert start(path).code() == 0
    assert len(run_of(path).attempts("train")) == 1


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_signal_to_every_process_is_one_clean_stop(
    number: signal.Signals, make_stage: Callable[..., Path], start: Callable[..., Attempt]
) -> None:
    path = make_stage()
    attempt = start(path)
    wait_for_step(path, 3)
    for pid in (*attempt.ranks(), attempt.pid):
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
    assert attempt.code() == 75
    assert ends(path) == [(75, f"stopped ({number.name})")]
    assert start(path).code() == 0
    assert steps_of(path) == list(range(1, STEPS + 1))


def test_signals_before_the_ranks_are_up_are_no_harm(
    make_stage: Callable[..., Path], start: Callable[..., Attempt]
) -> None:
    path = make_stage()
    attempt = start(path)
    while not run_of(path).attempts("train"):
        time.sleep(0.005)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and attempt.process.is_alive():
        for pid in attempt.ranks() if attempt.process.is_alive() else []:
            os.kill(pid, signal.SIGUSR2)
        time.sleep(0.01)
    assert attempt.code() == 0, "ranks ignore the signals: only the supervisor takes them"


def test_stop_file_stops(make_stage: Callable[..., Path], start: Callable[..., Attempt], tmp_path: Path) -> None:
    path = make_stage()
    attempt = start(path, tmp_path / "stop")
    wait_for_step(path, 2)
    (tmp_path / "stop").touch()
    assert attempt.code() == 75


def test_a_rank_that_does_not_listen_is_killed_after_the_grace(
    make_stage: Callable[..., Path], start: Callable[..., Attempt]
) -> None:
    path = make_stage(environment={"STANDIN": "deaf"}, grace_seconds=1)
    attempt = start(path)
    while not run_of(path).attempts("train"):
        time.sleep(0.01)
    time.sleep(0.5)
    ranks = attempt.ranks()
    os.kill(attempt.pid, signal.SIGTERM)
    assert attempt.code() == 75
    assert "killed" in ends(path)[0][1]
    assert all(start_ticks(pid) is None for pid in ranks)


@pytest.mark.parametrize("by_file", [False, True])
def test_a_second_request_hastens(
    by_file: bool, make_stage: Callable[..., Path], start: Callable[..., Attempt], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The same signal twice at once is one request; only one that comes later is a second."""
    monkeypatch.setattr("openrs.worker.stop.SAME_SECONDS", 0.5)
    monkeypatch.setattr("openrs.worker.supervisor.HURRY_SECONDS", 0.2)
    path = make_stage(environment={"STANDIN": "deaf"}, grace_seconds=300)
    attempt = start(path, tmp_path / "stop")
    while not run_of(path).attempts("train"):
        time.sleep(0.01)
    time.sleep(0.5)
    for _ in range(3):
        os.kill(attempt.pid, signal.SIGTERM)
    attempt.process.join(1.5)
    assert attempt.process.is_alive(), "three signals at once were taken for a second request"
    if by_file:
        hurry_flag(tmp_path / "stop").touch()
    else:
        os.kill(attempt.pid, signal.SIGUSR2)
    assert attempt.code() == 75
    assert "killed: it had not stopped in time" in ends(path)[0][1]


@pytest.mark.parametrize(
    ("behaviour", "code", "reason"),
    [
        ("crash-0", 1, "the third step went wrong"),
        ("crash-1", 1, "the third step went wrong"),
        ("killed", 1, "killed by SIGKILL; out of memory?"),
        ("configuration", 78, "data: column 'answer' is not there"),
    ],
)
def test_failures_say_why(
    behaviour: str, code: int, reason: str, make_stage: Callable[..., Path], start: Callable[..., Attempt]
) -> None:
    trainers = [{"role": "trainer", "world": 2, "gpus": []}]
    path = make_stage(environment={"STANDIN": behaviour}, processes=trainers)
    assert start(path).code() == code
    assert reason in ends(path)[0][1]
    assert not (run_of(path).path / "lease" / "train.json").exists()


def make_cells(make_stage: Callable[..., Path], behaviour: str) -> Path:
    """The stage file of one task of cells that two processes share."""
    experiment, file = load_experiment("smoke"), "submission/1/eval/cells.json"
    processes = [{"role": "cell", "world": 2, "gpus": []}]
    path = make_stage(
        stage="eval", kind="cells", cells_file=file, processes=processes, environment={"STANDIN": behaviour}
    )
    cells_file = run_of(path).path / file
    cells_file.parent.mkdir(parents=True)
    cells_file.write_text(pretty(CellsFile(experiment_hash=sha256(experiment), tasks=[cells(experiment, [10, 20])])))
    return path


def test_a_process_whose_cell_failed_leaves_the_others_to_theirs(
    make_stage: Callable[..., Path], start: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ranks_module.MODULES, "cell", "tests.worker.standin")
    path = make_cells(make_stage, "crash-1")
    assert start(path, None, 0).code() == 1
    assert steps_of(path)[-1] == STEPS, "the first process went on to its end"
    assert "the third step went wrong" in ends(path)[0][1]


def test_a_stop_counts_more_than_a_cell_that_failed(
    make_stage: Callable[..., Path], start: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that the scheduler starts the task again, for the cells that were left."""
    monkeypatch.setitem(ranks_module.MODULES, "cell", "tests.worker.standin")
    path = make_cells(make_stage, "crash-1")
    attempt = start(path, tmp_path / "stop", 0)
    wait_for_step(path, 8)
    (tmp_path / "stop").touch()
    assert attempt.code() == 75


def test_killed_supervisor_takes_its_ranks_along_and_the_next_goes_on_at_once(
    make_stage: Callable[..., Path], start: Callable[..., Attempt]
) -> None:
    path = make_stage(lease_seconds=600)
    attempt = start(path)
    wait_for_step(path, 3)
    ranks = attempt.ranks()
    os.kill(attempt.pid, signal.SIGKILL)
    attempt.code()
    time.sleep(0.2)
    assert ranks
    assert all(start_ticks(pid) is None for pid in ranks)
    # The dead holder ran on this machine, so nobody waits 600 s for it.
    assert start(path).code() == 0
    assert [event["attempt"] for event in run_of(path).attempts("train")] == [1, 2]


def test_frozen_supervisor_writes_nothing_more(make_stage: Callable[..., Path], start: Callable[..., Attempt]) -> None:
    path = make_stage(lease_seconds=4, environment={"STANDIN": "slow"})
    first = start(path)
    wait_for_step(path, 3)
    os.kill(first.pid, signal.SIGSTOP)  # its ranks run on, and must notice by themselves
    second = start(path)
    assert second.code(60) == 0
    steps = steps_of(path)
    before = {file: file.read_bytes() for file in run_of(path).path.rglob("*") if file.is_file()}
    os.kill(first.pid, signal.SIGCONT)
    assert first.code() == 75
    after = {file: file.read_bytes() for file in run_of(path).path.rglob("*") if file.is_file()}
    assert before == after
    assert steps == list(range(1, STEPS + 1)), "no step was written twice"
    assert ends(path) == [(0, "done")]


def test_attempts_are_capped_by_submission(make_stage: Callable[..., Path], start: Callable[..., Attempt]) -> None:
    path = make_stage(environment={"STANDIN": "crash-0"}, max_attempts=2)
    assert [start(path).code() for _ in range(3)] == [1, 1, 78]
    assert "max_attempts = 2" in ends(path)[-1][1]


def test_cancelled_before_and_during(make_stage: Callable[..., Path], start: Callable[..., Attempt]) -> None:
    path = make_stage(environment={"STANDIN": "slow"})
    attempt = start(path)
    wait_for_step(path, 2)
    run_of(path).cancel(1)
    assert attempt.code() == 75
    assert ends(path) == [(75, "stopped (cancelled)")]
    assert start(path).code() == 75
    assert len(run_of(path).attempts("train")) == 1


def test_wall_time_ends_an_attempt_in_time(make_stage: Callable[..., Path], start: Callable[..., Attempt]) -> None:
    path = make_stage(wall_seconds=13, grace_seconds=10, environment={"STANDIN": "slow"})
    assert start(path).code() == 75
    assert ends(path) == [(75, "stopped (wall time)")]


def test_missing_gpus_are_the_nodes_fault(
    make_stage: Callable[..., Path], start: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openrs.runs.provenance.gpus", lambda fields: [])
    path = make_stage(gpus=4, node_fault_retries=1)
    assert [start(path).code(), start(path).code()] == [75, 78]
    assert "offers 0 of the 4 GPUs" in ends(path)[-1][1]
    assert "openrs resume" in ends(path)[-1][1]


def test_a_base_install_is_told_what_to_install(
    make_stage: Callable[..., Path], start: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ranks_module.NEEDS, "trainer", ("train", ("json", "no_such_module")))
    path = make_stage()
    assert start(path).code() == 78
    assert "has no no_such_module; install openrs[train] there" in ends(path)[-1][1]


def test_other_packages_than_at_first_are_refused(
    make_stage: Callable[..., Path], start: Callable[..., Attempt]
) -> None:
    path = make_stage(environment={"STANDIN": "crash-0"})
    assert start(path).code() == 1
    lock = run_of(path).lock
    content = json.loads(lock.read_text())
    content["distributions"]["numpy"] = "1.0.0"
    content["distributions"]["rich"] = "1.0.0"
    lock.write_text(json.dumps(content))
    assert start(path).code() == 78
    assert "numpy 1.0.0 →" in ends(path)[-1][1]
    assert "rich" not in ends(path)[-1][1]


def test_another_type_of_gpu_is_refused_and_another_driver_recorded(
    make_stage: Callable[..., Path], start: Callable[..., Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPUs are made up: none is at hand."""
    path = make_stage(environment={"STANDIN": "crash-0"})

    def have(gpu: str) -> None:
        found = {"name,driver_version": [gpu], "compute_cap": []}
        monkeypatch.setattr("openrs.runs.provenance.gpus", lambda fields: found[fields])

    have("NVIDIA A40, 550.1")
    assert start(path).code() == 1
    (first,) = run_of(path).attempts("train")
    assert (first["gpus"], len(first["hardware"]["gpus"])) == (0, 1), "what the job asked for, beside what the node has"
    have("NVIDIA A40, 560.2")
    assert start(path).code() == 1
    assert [event["differences"] for event in run_of(path).ledger() if event["event"] == "environment"] == [
        ["driver 550.1 → 560.2"]
    ]
    have("NVIDIA L40, 550.1")
    assert start(path).code() == 78
    assert "GPU NVIDIA A40 → NVIDIA L40" in ends(path)[-1][1]


def test_secrets_reach_the_ranks_and_nothing_else(
    make_stage: Callable[..., Path], start: Callable[..., Attempt], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("canary-4711\n")
    path = make_stage(environment={"STANDIN": "print-secret"}, secrets={"TOKEN": f"file:{token}"})
    token.chmod(0o644)
    assert start(path).code() == 78
    assert "chmod 600" in ends(path)[-1][1]
    token.chmod(0o600)
    assert start(path).code() == 0
    logs = [file.read_text() for file in run_of(path).path.rglob("*") if file.is_file()]
    assert any("length of the secret: 11" in text for text in logs)
    assert not any("canary-4711" in text for text in logs)


def test_a_task_that_does_not_exist_and_a_broken_stage_file(
    make_stage: Callable[..., Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from openrs.worker.__main__ import main

    path = make_stage()
    path.write_text(path.read_text().replace('"grace_seconds"', '"grace_secs"'))
    monkeypatch.setattr(sys, "argv", ["worker", str(path)])
    monkeypatch.setattr(StopRequest, "install", lambda _: None)  # pytest keeps its own handlers
    assert main() == 78
    assert "did you mean 'grace_seconds'" in capfd.readouterr().err
