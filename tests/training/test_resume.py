"""Stopping and going on: the run that was interrupted is, bit for bit, the run that was not (float32, one process)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openrs.training import checkpoint
from openrs.worker.rank import Rank
from tests.training.harness import HELD, WAIT_SECONDS, Job, make_job, tiny, wait_for

pytestmark = pytest.mark.train

VARIANTS = {
    "plain": [],
    "accumulated": ["training.micro_batch=6"],
    "with-kl": ["training.beta=0.04"],
    "second-epoch": ["data.count=7"],
    "second-epoch-accumulated-with-kl": ["data.count=7", "training.micro_batch=6", "training.beta=0.04"],
}


STATE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def weights(job: Job, step: int) -> str:
    """Hash of model, optimizer, schedule and state of a checkpoint."""
    directory = job.run.checkpoint(step)
    content = [(directory / name).read_bytes() for name in STATE]
    return hashlib.sha256(b"".join(content)).hexdigest()


def same(job: Job, other: Job, step: int) -> None:
    assert job.metrics() == other.metrics()
    assert weights(job, step) == weights(other, step)
    mine, theirs = ((each.run.path / "completions").iterdir() for each in (job, other))
    assert {file.name: file.read_bytes() for file in mine} == {file.name: file.read_bytes() for file in theirs}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_goes_on_bitwise(
    variant: str, job_of: Callable[..., Job], train_here: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies in the middle of a step, two steps after a checkpoint; those two are done again."""
    experiment = tiny("training.steps=5", "checkpoint.every_steps=2", *VARIANTS[variant])
    whole, cut = job_of(experiment, "whole"), job_of(experiment, "cut")
    assert train_here(whole) == 0

    from openrs.training.rollout import Roller

    judge = Roller._judge

    def die(self: Roller, rows: Any, drawn: Any) -> Any:
        if cut.run.progress().get("step") == 3:
            raise RuntimeError("killed")
        return judge(self, rows, drawn)

    with monkeypatch.context() as patch:
        patch.setattr(Roller, "_judge", die)
        with pytest.raises(RuntimeError, match="killed"):
            train_here(cut)
    assert [line["step"] for line in cut.metrics()] == [1, 2, 3]
    assert checkpoint.steps_in(cut.run.checkpoints) == [2]
    assert train_here(cut) == 0
    same(whole, cut, 5)
    attempts = [json.loads(line)["attempt"] for line in cut.run.metrics.read_text().splitlines()]
    assert attempts == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("looks", [1, 3, 20, 60, 110, 140, 230, 330])
def test_a_stop_at_any_moment_loses_only_the_step_in_progress(
    looks: int, job_of: Callable[..., Job], train_here: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request comes at the so-manieth look at the flag: inside generation, between phases, between steps."""
    experiment = tiny("training.steps=4", "checkpoint.every_steps=100", "training.micro_batch=6")
    whole, stopped = job_of(experiment, "whole"), job_of(experiment, "stopped")
    assert train_here(whole) == 0
    count = 0

    def requested(self: Rank) -> bool:
        nonlocal count
        count += 1
        return count >= looks

    monkeypatch.setattr(Rank, "stop_requested", requested)
    code = train_here(stopped)
    monkeypatch.undo()
    finished = [line["step"] for line in stopped.metrics()] if stopped.run.metrics.exists() else []
    assert checkpoint.steps_in(stopped.run.checkpoints) == finished[-1:]
    assert code == (0 if finished[-1:] == [4] else 75)
    assert stopped.run.is_complete("train") == (code == 0)
    assert train_here(stopped) == 0
    same(whole, stopped, 4)


def test_a_stop_while_the_model_is_loaded_comes_before_an_engine_is_built(
    job_of: Callable[..., Job], train_here: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from openrs.training.model import load_model

    job, built = job_of(tiny()), []

    def load(*arguments: Any) -> Any:
        job.stop_flag.touch()
        return load_model(*arguments)

    monkeypatch.setattr("openrs.training.trainer.load_model", load)
    monkeypatch.setattr("openrs.training.trainer.make_generator", lambda *arguments: built.append(arguments))
    assert train_here(job) == 75
    assert not built


def test_a_damaged_checkpoint_is_passed_over(job_of: Callable[..., Job], train_here: Callable[[Job], int]) -> None:
    experiment = tiny("training.steps=3")
    whole, damaged = job_of(experiment, "whole"), job_of(experiment, "damaged")
    assert train_here(whole) == 0
    shutil.copytree(
        whole.run.path, damaged.run.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("leases", "submission")
    )
    damaged.run.complete_marker("train").unlink()
    model = damaged.run.checkpoint(3) / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    (damaged.run.checkpoints / ".step-000003.dead").mkdir()
    assert train_here(damaged) == 0
    same(whole, damaged, 3)
    event = [event for event in damaged.run.ledger() if event["event"] == "training"][-1]
    assert event["from_step"] == 2 and event["removed"] == [".step-000003.dead"]
    assert event["rejected"] == [
        {"checkpoint": "step-000003", "reason": "model.safetensors has another content than was written"}
    ]


def test_a_checkpoint_of_another_experiment_is_refused(
    job_of: Callable[..., Job], train_here: Callable[[Job], int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = job_of(tiny("training.steps=1"), "first")
    assert train_here(first) == 0
    second = job_of(tiny("training.steps=2"), "second")
    shutil.copytree(first.run.checkpoints, second.run.checkpoints)
    capsys.readouterr()
    assert train_here(second) == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("openrs: ") and "another experiment" in lines[0]


def fill_disk(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    """The write of that step's checkpoint finds no room, when most of it is there."""
    from openrs.training.snapshot import Host, snapshot

    def full(trainer: Any, directory: Path, host: Host) -> Callable[[], list[Path]]:
        step, write = trainer.state.global_step, snapshot(trainer, directory, host)

        def fail() -> list[Path]:
            written = write()
            if step == at_step:
                raise OSError(28, "No space left on device")
            return written

        return fail

    monkeypatch.setattr("openrs.training.saving.snapshot", full)


def test_a_full_disk_costs_a_recovery_checkpoint_and_nothing_else(
    job_of: Callable[..., Job],
    train_here: Callable[[Job], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = job_of(tiny("training.steps=3"))
    fill_disk(monkeypatch, at_step=1)
    assert train_here(job) == 0
    assert checkpoint.steps_in(job.run.checkpoints) == [2, 3]
    assert not list(job.run.checkpoints.glob(".*"))
    assert "no room for the checkpoint of step 1" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system can only be mounted by root: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(ballast: Path) -> None:
    """Writes until there is no room left."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_disk_that_others_fill_to_the_last_byte(
    small_disk: Path, job_of: Callable[..., Job], train_here: Callable[[Job], int]
) -> None:
    """For some steps there is room for nothing at all: training goes on, and says what it could not write."""
    experiment = tiny("training.steps=12", "checkpoint.every_steps=2")
    whole, job = job_of(experiment, "whole"), make_job(small_disk / "run", experiment)
    assert train_here(whole) == 0
    job.hold(3)
    process = job.start(PYTHONPATH=str(HELD))
    job.wait_for_step(3, process)
    wait_for(lambda: checkpoint.steps_in(job.run.checkpoints) == [2])
    ballast = small_disk / "ballast"
    fill(ballast)
    job.hold(None)
    assert process.stderr is not None
    said = ""
    while "no room for the metrics" not in said:  # some lines still fit into the last page
        line = process.stderr.readline()
        assert line, said
        said += line
    ballast.unlink()
    said += process.communicate(timeout=WAIT_SECONDS)[1]
    assert process.returncode == 0, said
    for what in ("journal", "completions", "checkpoint"):
        assert f"warning: no room for the {what} of step" in said
    assert job.metrics() == whole.metrics()
    assert weights(job, 12) == weights(whole, 12)
    assert not list(job.run.checkpoints.glob(".*"))


def test_a_full_disk_at_the_last_step_is_a_failure(
    job_of: Callable[..., Job], train_here: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tiny("training.steps=1"))
    fill_disk(monkeypatch, at_step=1)
    with pytest.raises(OSError, match="No space"):
        train_here(job)
    assert not job.run.is_complete("train")


def test_sigkill_and_stop_of_a_real_process(
    tmp_path: Path, job_of: Callable[..., Job], train_here: Callable[[Job], int]
) -> None:
    """One process is killed, the next asked to stop, the third finishes: as if nothing had happened."""
    experiment = tiny("training.steps=10", "checkpoint.every_steps=3")
    whole, cut = job_of(experiment, "whole"), job_of(experiment, "cut")
    assert train_here(whole) == 0
    cut.hold(5)
    process = cut.start(PYTHONPATH=str(HELD))
    cut.wait_for_step(5, process)
    process.send_signal(signal.SIGKILL)
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    assert checkpoint.steps_in(cut.run.checkpoints) == [3]
    cut.hold(7)
    assert cut.stop_after(7, cut.start(PYTHONPATH=str(HELD))) == 75
    assert checkpoint.steps_in(cut.run.checkpoints)[-1] == cut.run.progress()["step"] == 7
    last = cut.finish()
    assert (last.returncode, last.stderr) == (0, "")
    same(whole, cut, 10)
