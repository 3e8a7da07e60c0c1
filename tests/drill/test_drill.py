"""The drill itself: it finds nothing wrong with our saver, and something wrong with every one that is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrs import engines
from openrs.drill.instants import Kill, largest_gap, spread
from openrs.drill.run import Drill, Outcome
from openrs.spec.load import load_cluster
from openrs.training import checkpoint, rollout
from openrs.training.phases import PHASES, SAVE, phase
from openrs.training.saver import Save
from tests.drill import forked


def test_instants_are_spread_evenly() -> None:
    for count in (50, 100):
        kills = spread(count)
        assert len(kills) == count
        for name in PHASES:
            mine = [kill for kill in kills if kill.phase == name]
            assert len(mine) == count // 5 >= 10
            assert largest_gap([kill.share for kill in mine]) <= 5 / count + 1e-9
            assert {kill.power_cut for kill in mine} == {kill.supervisor for kill in mine} == {True, False}
            kinds = [(kill.power_cut, kill.supervisor) for kill in mine]
            assert all(len(set(kinds[turn : turn + 4])) == 4 for turn in range(len(kinds) - 3))
    assert len(spread(7)) == 7 and spread(0) == []
    assert not any(kill.power_cut for kill in spread(50, ranks=2))


@pytest.mark.parametrize("count", range(2, 12))
def test_about_half_of_a_few_kills_are_power_cuts_and_about_half_take_the_supervisor(count: int) -> None:
    kills = spread(count)
    for hit in (sum(kill.power_cut for kill in kills), sum(kill.supervisor for kill in kills)):
        assert abs(hit - count / 2) <= 1
    assert any(kill.power_cut for kill in kills)


@pytest.fixture
def drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drill]:
    monkeypatch.setitem(engines._ENGINES, "local", ("tests.drill.forked", "ForkEngine"))
    monkeypatch.setattr("openrs.worker.ranks.Ranks._spawn", forked.spawn)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    yield Drill(load_cluster("local"), tmp_path / "runs", period=0.05)
    shutil.rmtree(tmp_path / "runs")


def kill(name: str, share: float, occurrence: int = 3, *, power_cut: bool = False, by_operation: bool = True) -> Kill:
    return Kill.model_validate(
        {
            "phase": name,
            "share": share,
            "occurrence": occurrence,
            "by_operation": by_operation,
            "power_cut": power_cut,
            "supervisor": False,
        }
    )


def said(outcome: Outcome) -> str:
    return "; ".join(text for trial in outcome.trials for text in trial.differences)


@pytest.mark.train
@pytest.mark.timeout(300)
def test_ours_passes(drill: Drill) -> None:
    outcome = drill.run(spread(10))
    found = outcome.to_json()
    assert outcome.passed, said(outcome)
    assert found["kills"] == {"asked": 10, "done": 10, "recovered": 10}
    assert [of["kills"] for of in found["phases"].values()] == [2] * 5
    assert found["equal"] == {"weights": True, "metrics": True, "completions": True}
    assert found["lost"]["most_steps"] <= 2 and found["lost"]["generations"] == 0
    json.dumps(found)


@pytest.mark.train
@pytest.mark.timeout(300)
def test_a_saver_that_does_not_fsync_fails(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names reach the disk, and what they name does not."""

    def seal(directory: Path, files: list[Path]) -> dict[str, checkpoint.Entry]:
        return {
            str(path.relative_to(directory)): checkpoint.Entry(path.stat().st_size, checkpoint._digest(path))
            for path in files
        }

    monkeypatch.setattr(checkpoint, "seal", seal)
    outcome = drill.run([kill("rename", 0.9, power_cut=True)])
    assert not outcome.passed and outcome.trials[0].lost.gone
    assert "checkpoints: step-" in said(outcome) and "has 0 bytes instead of" in said(outcome)


@pytest.mark.train
@pytest.mark.timeout(300)
def test_seeds_that_are_the_state_of_a_generator_that_nobody_saves_fail(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two undisturbed runs would be equal; one that is resumed draws other completions."""
    drawn = iter(range(10**6))
    monkeypatch.setattr(rollout, "request_seed", lambda *_: next(drawn))
    outcome = drill.run([kill("generation", 0.5, by_operation=False)])
    assert not outcome.passed
    assert "weights: the checkpoint of step" in said(outcome) and "metrics: " in said(outcome)


@pytest.mark.train
@pytest.mark.timeout(300)
def test_a_manifest_that_is_there_before_its_data_fails(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: Save) -> None:
        """Writes to memory, as it were, then name and manifest, then the data."""
        hidden = self._directory.parent.parent / f"memory-{self.step}"
        hidden.mkdir()
        final = self._directory.with_name(f"step-{self.step:06d}")
        with phase(SAVE):
            self._directory.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in self._write()]
            entries = checkpoint.seal(self._directory, [self._directory / name for name in names])
            for name in names:
                (self._directory / name).rename(hidden / name)
            checkpoint.write_manifest(self._directory, self.step, entries, self._ours)
            checkpoint.place(self._directory, self.step)
            for name in names:
                (hidden / name).rename(final / name)
        self._on_sealed(self.step, entries)
        with phase("rename"):
            self._tidy()

    monkeypatch.setattr(Save, "_save", save)
    outcome = drill.run([kill("save", 0.8)])
    assert not outcome.passed
    assert "checkpoints: step-" in said(outcome) and "cannot be read (No such file" in said(outcome)
