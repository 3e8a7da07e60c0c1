"""Checkpoint directories: whole or not there, checked, and kept as long as asked for."""

from __future__ import annotations

import errno
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from openrs.errors import BadInput
from openrs.runs.files import write_atomic
from openrs.runs.lease import LeaseLost
from openrs.training import checkpoint
from openrs.training.checkpoint import (
    Foreign,
    Found,
    Identity,
    Invalid,
    clean,
    complete_in,
    newest_valid,
    place,
    prune,
    set_aside,
    steps_in,
    temporary,
    verify,
)
from tests.training.harness import OURS, seal_and_place


def save(checkpoints: Path, step: int, ours: Identity = OURS) -> Path:
    directory = temporary(checkpoints, step)
    (directory / "inner").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights of step %d" % step)
    (directory / "inner" / "shard.pt").write_bytes(b"x" * 100)
    return seal_and_place(directory, step, ours)


def test_a_committed_checkpoint_is_whole(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert path.name == "step-000007" and [entry.name for entry in tmp_path.iterdir()] == ["step-000007"]
    manifest = verify(path)
    assert (
        manifest["step"] == 7
        and manifest["world"] == 1
        and set(manifest["files"]) == {"inner/shard.pt", "model.safetensors"}
    )


def test_every_kind_of_damage_is_seen_and_the_one_before_is_taken(tmp_path: Path) -> None:
    damages = {
        "has 3 bytes instead of 17": lambda path: (path / "model.safetensors").write_bytes(b"cut"),
        "another content": lambda path: (path / "model.safetensors").write_bytes(b"Weights of step 9"),
        "cannot be read": lambda path: (path / "inner" / "shard.pt").unlink(),
        "no manifest": lambda path: (path / "COMPLETE").unlink(),
        "manifest COMPLETE cannot be read": lambda path: (path / "COMPLETE").write_text('{"files": 3'),
    }
    for reason, damage in damages.items():
        for step in (8, 9):
            save(tmp_path, step)
        damage(tmp_path / "step-000009")
        found, rejected = newest_valid(tmp_path, OURS)
        assert found is not None and found.step == 8
        assert [entry.checkpoint for entry in rejected] == ["step-000009"] and reason in rejected[0].reason
        # Written anew, it takes the place of the damaged one.
        save(tmp_path, 9)
        assert newest_valid(tmp_path, OURS) == (Found(tmp_path / "step-000009", 9), [])
        assert not list(tmp_path.glob(".*"))


def test_what_the_storage_does_not_give_out_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 8)
    save(tmp_path, 9)

    def stale(path: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(checkpoint, "_digest", stale)
    with pytest.raises(OSError, match=r"Stale file handle.*step-000009"):
        newest_valid(tmp_path, OURS)


def test_nothing_there(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "none", OURS) == (None, [])
    assert steps_in(tmp_path / "none") == [] and clean(tmp_path / "none") == []
    with pytest.raises(Invalid, match="not there"):
        verify(tmp_path / "step-000001")


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (replace(OURS, trains="sha256:b"), "written by another experiment (sha256:b…, this is sha256:a…)"),
        (replace(OURS, run="other"), "written by another run (other, this is test)"),
        (None, "manifest of schema version 99, this openrs writes and reads 2"),
    ],
)
def test_what_is_somebody_elses_is_passed_over_and_kept(tmp_path: Path, theirs: Identity | None, reason: str) -> None:
    def foreign(step: int) -> Path:
        path = save(tmp_path, step, theirs or OURS)
        if theirs is None:
            (path / "COMPLETE").write_text('{"schema_version": 99, "files": 3}')
        return path

    foreign(9)
    with pytest.raises(BadInput) as refused:
        newest_valid(tmp_path, OURS)
    assert reason in str(refused.value) and "step-000009" in str(refused.value)
    save(tmp_path, 8)
    found, rejected = newest_valid(tmp_path, OURS)
    assert found == Found(tmp_path / "step-000008", 8) and rejected == [("step-000009", reason, True)]
    # Kept under another name, so that this run's step 9 does not take its place.
    (name,) = set_aside(tmp_path, rejected)
    assert steps_in(tmp_path) == [8] and (tmp_path / name / "model.safetensors").exists()
    with pytest.raises(Foreign) if theirs is None else nullcontext():
        verify(tmp_path / name)


def test_what_is_damaged_does_not_count_as_kept(tmp_path: Path) -> None:
    """Or the one that a run went on from would be removed in its place, and a second damage would cost everything."""
    save(tmp_path, 10)
    (save(tmp_path, 20) / "model.safetensors").write_bytes(b"broken")
    found, rejected = newest_valid(tmp_path, OURS)
    assert found is not None and found.step == 10
    assert set_aside(tmp_path, rejected) == [] and complete_in(tmp_path) == [10]
    for step, removed in ((17, []), (23, [10, 20])):
        save(tmp_path, step)
        assert prune(tmp_path, step, keep=2, always=[]) == removed
    assert complete_in(tmp_path) == [17, 23]


def test_of_another_world_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(BadInput, match="1 training ranks, this job has 3"):
        newest_valid(tmp_path, replace(OURS, world=3))


def test_checksums_may_be_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "inner" / "shard.pt").write_bytes(b"y" * 100)
    verify(path, checksums=lambda name: name.endswith(".safetensors"))
    with pytest.raises(Invalid, match="shard.pt"):
        verify(path)


def test_a_lost_lease_leaves_no_checkpoint(tmp_path: Path) -> None:
    directory = temporary(tmp_path, 1)
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"w")

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        place(directory, 1, lost)
    assert steps_in(tmp_path) == []
    assert clean(tmp_path) == [directory.name] and not list(tmp_path.iterdir())


def test_retention(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step)
    (tmp_path / "step-000006" / "COMPLETE").unlink()
    (tmp_path / "notes").mkdir()
    # The damaged 6 does not count as kept; 7 was left by a run that got further, and is not ours to judge.
    assert prune(tmp_path, 6, keep=2, always=[2]) == [1, 3]
    assert steps_in(tmp_path) == [2, 4, 5, 6, 7]
    save(tmp_path, 6)
    assert prune(tmp_path, 7, keep=1, always=[2]) == [4, 5, 6]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["notes", "step-000002", "step-000007"]


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    manifest = json.loads((save(tmp_path, 1) / "COMPLETE").read_text())
    write_atomic(tmp_path / "copy", json.dumps(manifest))
    assert set(manifest) == {"schema_version", "step", "run", "trains", "world", "files"}
