"""Checkpoint directories: whole or not there, checked, and kept as long as asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openrs.errors import BadInput
from openrs.runs.files import write_atomic
from openrs.runs.lease import LeaseLost
from openrs.training import checkpoint
from openrs.training.checkpoint import Invalid, clean, commit, newest_valid, prune, steps_in, temporary, verify


def save(checkpoints: Path, step: int, experiment_hash: str = "sha256:a", world: int = 1) -> Path:
    directory = temporary(checkpoints, step)
    (directory / "inner").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights of step %d" % step)
    (directory / "inner" / "shard.pt").write_bytes(b"x" * 100)
    return commit(directory, step, experiment_hash=experiment_hash, world=world)


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
        "schema version 2": lambda path: (path / "COMPLETE").write_text('{"schema_version": 2, "files": {}}'),
    }
    for reason, damage in damages.items():
        for step in (8, 9):
            save(tmp_path, step)
        damage(tmp_path / "step-000009")
        found, rejected = newest_valid(tmp_path, "sha256:a", 1)
        assert found is not None and found.step == 8
        assert [entry.checkpoint for entry in rejected] == ["step-000009"] and reason in rejected[0].reason
        # Written anew, it takes the place of the damaged one.
        save(tmp_path, 9)
        assert newest_valid(tmp_path, "sha256:a", 1) == (checkpoint.Found(tmp_path / "step-000009", 9), [])
        assert not list(tmp_path.glob(".*"))


def test_nothing_there(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "none", "sha256:a", 1) == (None, [])
    assert steps_in(tmp_path / "none") == [] and clean(tmp_path / "none") == []
    with pytest.raises(Invalid, match="not there"):
        verify(tmp_path / "step-000001")


def test_of_another_experiment_or_world(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(BadInput, match="another experiment"):
        newest_valid(tmp_path, "sha256:b", 1)
    with pytest.raises(BadInput, match="1 training ranks, this job has 3"):
        newest_valid(tmp_path, "sha256:a", 3)


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
        commit(directory, 1, experiment_hash="sha256:a", world=1, before_rename=lost)
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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 704 vs 598"), True),
        (OSError(13, "Permission denied"), False),
        (ValueError("x"), False),
    ],
)
def test_a_full_disk_is_known(error: Exception, expected: bool) -> None:
    assert checkpoint.is_disk_full(error) is expected
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert checkpoint.is_disk_full(wrapped) is expected


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    manifest = json.loads((save(tmp_path, 1) / "COMPLETE").read_text())
    write_atomic(tmp_path / "copy", json.dumps(manifest))
    assert set(manifest) == {"schema_version", "step", "experiment_hash", "world", "files"}
