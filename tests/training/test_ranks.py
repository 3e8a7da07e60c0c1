"""Several training ranks: two processes under ZeRO-2, over gloo, do what one does, and stop and go on together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from safetensors.torch import load_file

from openrs.models import TINY_SUMS
from openrs.training import checkpoint
from openrs.training.entry import main
from openrs.worker.rank import Rank
from tests.training.harness import Job, tiny, wait_for

pytestmark = [pytest.mark.train, pytest.mark.slow]

STEP = ["training.prompts_per_step=4", "training.micro_batch=5", "training.beta=0.04", "training.steps=3"]


@pytest.mark.parametrize("beta", [0.04, 0.0])
def test_two_ranks_learn_what_one_learns(beta: float, tmp_path: Path, job_of: Callable[..., Job]) -> None:
    """Without β each rank leaves out its own groups of equal rewards, and makes as many passes as the other."""
    step = [*STEP, f"training.beta={beta}"]
    one, two = job_of(tiny(*step), "one"), job_of(tiny(*step, "resources.cpu_ranks=2"), "two")
    results = [one.finish(), two.finish()]
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    for mine, other in zip(one.metrics(), two.metrics(), strict=True):
        for name in ("loss", "grad_norm", "entropy", "kl", "reward", "reward_std", "completion_tokens", "truncated"):
            assert mine.get(name) == pytest.approx(other.get(name), rel=1e-3, abs=1e-5), name
        assert mine["rewards"] == pytest.approx(other["rewards"])
    assert any(line["zero_variance"] for line in one.metrics())
    weights = [load_file(job.run.checkpoint(3) / "model.safetensors") for job in (one, two)]
    start = load_file(TINY_SUMS / "model.safetensors")
    for name, value in weights[0].items():
        moved = float((value - start[name]).abs().max())
        assert moved > 0 and float((value - weights[1][name]).abs().max()) < 0.02 * moved, name


def test_two_ranks_stop_together_and_go_on_bitwise(job_of: Callable[..., Job]) -> None:
    experiment = tiny(*STEP, "training.steps=6", "checkpoint.every_steps=100", "resources.cpu_ranks=2")
    whole, cut = job_of(experiment, "whole"), job_of(experiment, "cut")
    assert whole.finish().returncode == 0
    assert cut.stop_after(2, cut.start()) == 75
    stopped = checkpoint.steps_in(cut.run.checkpoints)
    assert stopped == [len(cut.metrics())] and 2 <= stopped[0] < 6
    assert cut.finish().returncode == 0
    assert whole.metrics() == cut.metrics()
    first, second = (load_file(job.run.checkpoint(6) / "model.safetensors") for job in (whole, cut))
    assert all(first[name].equal(second[name]) for name in first)


def test_no_rank_touches_the_disk_while_the_ranks_take_a_snapshot(job_of: Callable[..., Job]) -> None:
    """What only one of them meets there, such as a full disk, would leave the others in a barrier of DeepSpeed."""
    job = job_of(tiny(*STEP, "checkpoint.every_steps=1", "resources.cpu_ranks=2", "recovery.stall_minutes=2"))
    result = job.finish(PYTHONPATH=str(Path(__file__).with_name("full")))
    assert result.returncode == 0 and "no room" not in result.stderr, result.stderr
    for step in checkpoint.steps_in(job.run.checkpoints):
        checkpoint.verify(job.run.checkpoint(step))


def test_a_stop_while_a_checkpoint_is_verified_is_told_to_all_ranks(job_of: Callable[..., Job]) -> None:
    """Rank 0 is held there: the manifest is a pipe. A rank that left by itself would keep it waiting in their group."""
    job = job_of(tiny(*STEP, "resources.cpu_ranks=2"))
    manifest = job.run.checkpoint(1) / checkpoint.MANIFEST
    manifest.parent.mkdir(parents=True)
    os.mkfifo(manifest)
    first = job.start()
    pipe: list[int] = []

    def is_read() -> bool:
        try:
            pipe.append(os.open(manifest, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads
            return first.poll() is not None
        return True

    wait_for(is_read)
    job.stop_flag.touch()
    os.close(pipe[0])
    assert job.codes() == [75, 75]


def test_a_stop_before_the_ranks_look_is_decided_by_the_first(
    job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tiny(*STEP, "resources.cpu_ranks=2"))
    looked = []

    def requested(self: Rank) -> bool:
        looked.append(self.rank)
        return True

    monkeypatch.setattr(Rank, "stop_requested", requested)
    for rank in range(2):
        for name, value in job.environment(rank).items():
            monkeypatch.setenv(name, value)
        assert main([str(job.stage_path)]) == 75
    assert looked == [0]


def test_a_first_rank_that_has_lost_its_lease_does_not_leave_the_others_waiting(job_of: Callable[..., Job]) -> None:
    job = job_of(tiny(*STEP, "resources.cpu_ranks=2"))
    job.lease.release()
    job.start()
    assert job.codes() == [75, 75]
