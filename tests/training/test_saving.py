"""Checkpoints that are written beside training: threads, ranks, failures. What they write is made up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openrs.runs.directory import RunDirectory
from openrs.runs.lease import Lease, LeaseLost, Watch
from openrs.spec.experiment import Experiment
from openrs.training import checkpoint
from openrs.training.saver import Write
from openrs.training.saving import Saving
from openrs.worker.rank import Rank
from openrs.worker.stop import hurry_flag
from tests.training.harness import OURS, TTL, tiny, wait_for

FULL = OSError(28, "No space left on device")


class Meeting:
    """What all-gather does, for ranks that are threads: each waits for the others, at the same place."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world, timeout=30)
        self._items: dict[int, Any] = {}

    def every_rank(self, rank: Rank, item: Any) -> list[Any]:
        self._items[rank.rank] = item
        self._barrier.wait()
        items = [self._items[number] for number in sorted(self._items)]
        assert len({len(each) for each in items}) == 1, "ranks meet in different places"
        self._barrier.wait()
        return items


class Fleet:
    """All ranks of a run, and what their snapshots do. It stands for the trainer, of which only the step matters."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, world: int, *overrides: str) -> None:
        self.run = RunDirectory(root)
        self.lease = Lease(root / "lease.json", TTL, {})
        assert self.lease.acquire(wait=lambda seconds: None)
        self.experiment: Experiment = tiny("training.steps=9", "checkpoint.every_steps=2", *overrides)
        self.gate = threading.Event()
        self.gate.set()
        self.failing: dict[tuple[int, int], Exception] = {}
        """(rank, step) → what its write raises."""
        self.errors: list[BaseException] = []
        self.step = 0
        self.recorded = True
        """Whether the metrics of all steps are on disk."""
        self.numbers = threading.local()
        monkeypatch.setattr("openrs.training.saving.every_rank", Meeting(world).every_rank)
        monkeypatch.setattr("openrs.training.saving.snapshot", self._snapshot)
        ours = checkpoint.Identity(OURS.run, OURS.trains, world)
        watch = Watch(self.lease.path, self.lease.nonce, TTL)
        self.ranks = [
            Saving(
                self.experiment, self.run, Rank(number, world, 1, root / "stop", watch), ours, 0, lambda: self.recorded
            )
            for number in range(world)
        ]

    def _snapshot(self, trainer: object, directory: Path, host: object) -> Write:
        number, step = self.numbers.mine, self.step

        def write() -> list[Path]:
            assert self.gate.wait(30)
            if (number, step) in self.failing:
                raise self.failing[number, step]
            path = directory / f"shard-{number}"
            path.write_text(f"step {step}")
            if number > 0:
                return [path]
            time.sleep(0.05)  # after the others
            # As a model's files are found: whatever lies there and is not another rank's.
            return [one for one in directory.iterdir() if one == path or not one.name.startswith("shard-")]

        return write

    def all(self, method: str) -> None:
        """Calls a method of every rank at the same time. Raises what one of them raises."""
        self.errors = []

        arguments = () if method == "look" else (SimpleNamespace(state=SimpleNamespace(global_step=self.step)),)

        def call(number: int) -> None:
            self.numbers.mine = number
            try:
                getattr(self.ranks[number], method)(*arguments)
            except BaseException as error:
                self.errors.append(error)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(len(self.ranks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a rank waits for another for ever"
        if self.errors:
            raise self.errors[0]

    def steps(self, last: int) -> None:
        while self.step < last:
            self.step += 1
            self.all("look")
            self.all("after_step")

    @property
    def saved(self) -> list[int]:
        return checkpoint.steps_in(self.run.checkpoints)


@pytest.fixture(params=[1, 2, 3])
def world(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, world)
    fleet.gate.clear()
    fleet.steps(3)  # 2 is due, and is still not written after 3
    assert fleet.saved == [] and {rank.written for rank in fleet.ranks} == {0}, "nor is it said to be there"
    fleet.gate.set()
    fleet.all("finish")
    assert fleet.saved == [2, 3], "what is under way and the last finished step"
    assert {rank.written for rank in fleet.ranks} == {3}
    manifest = checkpoint.verify(fleet.run.checkpoint(2))
    assert set(manifest["files"]) == {f"shard-{number}" for number in range(world)}
    assert sorted(path.name for path in fleet.run.checkpoint(2).iterdir()) == ["COMPLETE", *sorted(manifest["files"])]
    fleet.steps(9)
    fleet.all("finish")
    assert fleet.saved == [8, 9] and not list(fleet.run.checkpoints.glob(".*"))


def test_the_next_save_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, monkeypatch, 1)
    fleet.gate.clear()
    fleet.steps(3)
    threading.Timer(0.2, fleet.gate.set).start()
    began = time.monotonic()
    fleet.steps(4)
    assert time.monotonic() - began > 0.1 and fleet.saved[:1] == [2]
    fleet.all("finish")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_any_rank_costs_a_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, 2)
    fleet.steps(2)
    fleet.failing[rank, 4] = FULL
    fleet.steps(5)
    wait_for(lambda: not any(saving._save and saving._save.busy for saving in fleet.ranks if saving._rank.rank == rank))
    fleet.steps(6)
    fleet.all("finish")
    assert fleet.saved == [2, 6] and not list(fleet.run.checkpoints.glob(".*"))
    assert capsys.readouterr().err.count("warning: no room for the checkpoint of step 4") == 1


def test_no_checkpoint_is_newer_than_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    fleet = Fleet(tmp_path, monkeypatch, world, "evaluation.at_steps=[6]")
    fleet.recorded = False
    fleet.steps(3)
    fleet.all("finish")
    assert fleet.saved == []
    fleet.recorded = True
    fleet.steps(4)
    fleet.all("finish")
    assert fleet.saved[-1] == 4
    fleet.recorded = False
    with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
        fleet.steps(6)
    assert len(fleet.errors) == world, "no rank goes on alone"


def test_without_a_checkpoint_that_is_evaluated_the_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, monkeypatch, 2, "evaluation.at_steps=[4]")
    fleet.failing[1, 4] = FULL
    with pytest.raises(OSError, match="No space left|another rank could not"):
        fleet.steps(6)
    assert len(fleet.errors) == 2, "no rank goes on alone"
    assert fleet.saved == [2]


def test_another_error_is_raised_on_all_ranks_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, monkeypatch, 2)
    fleet.failing[0, 3] = ValueError("a bug")
    fleet.steps(3)
    with pytest.raises((ValueError, OSError), match="bug|another rank"):
        fleet.all("finish")
    assert sorted(str(error) for error in fleet.errors) == [
        "a bug",
        "another rank could not write the checkpoint of step 3",
    ]
    assert fleet.saved == [2]


def test_a_second_request_to_stop_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, monkeypatch, 2)
    fleet.gate.clear()
    fleet.steps(3)
    hurry_flag(fleet.run.path / "stop").touch()
    fleet.all("finish")
    assert fleet.saved == []
    fleet.gate.set()


def test_a_lost_lease_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, monkeypatch, 1)
    fleet.steps(2)
    fleet.all("finish")
    fleet.lease.release()
    fleet.step = 3
    with pytest.raises(LeaseLost):
        fleet.all("finish")
    assert fleet.saved == [2]


def test_retention_and_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, monkeypatch, 1, "evaluation.at_steps=[3]", "checkpoint.keep=2")
    fleet.run.journal.mkdir()
    for step in range(1, 9):
        (fleet.run.journal / f"step-{step:06d}.rank-0.json").touch()
    fleet.steps(7)
    fleet.all("finish")
    assert fleet.saved == [3, 6, 7]
    left = sorted(path.name for path in fleet.run.journal.iterdir())
    assert left == ["step-000007.rank-0.json", "step-000008.rank-0.json"], "as far back as the older checkpoint"
