"""The journal: what is read is what was written, or the reason why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from openrs.runs.files import clean
from openrs.runs.lease import Lease, LeaseLost, Watch
from openrs.training.journal import Journal, Unusable, prune
from openrs.worker.rank import Rank
from tests.training.harness import OURS, TTL

CONTENT = {"groups": [{"ids": [1, 2, 3], "scores": [0.1, None, 1e-300]}], "shares": {"unscorable": 0.0}}


def journal(tmp_path: Path, rank: int = 0) -> Journal:
    lease = Lease(tmp_path / "lease.json", TTL, {})
    assert lease.acquire(wait=lambda seconds: None)
    me = Rank(rank, 2, 1, tmp_path / "stop", Watch(lease.path, lease.nonce, TTL))
    return Journal(tmp_path / "journal", replace(OURS, world=2), "sha256:d", me)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    ours = journal(tmp_path)
    assert ours.steps() == []
    with pytest.raises(Unusable, match="not there"):
        ours.read(3)
    ours.write(3, CONTENT)
    assert ours.read(3) == CONTENT and ours.steps() == [3]
    ours.write(3, {"groups": []})
    assert ours.read(3) == {"groups": []}


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bytes instead of": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "another content": lambda path: path.write_bytes(path.read_bytes().replace(b"0.1", b"0.2")),
    "its head cannot be read": lambda path: path.write_bytes(b"{" + path.read_bytes()),
    "0 bytes instead of": lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[0]),
    "schema version 2, this openrs": lambda path: path.write_bytes(
        path.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 2')
    ),
    "cannot be read (Is a directory)": _replace_by_directory,
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_every_kind_of_damage_is_seen(tmp_path: Path, reason: str) -> None:
    ours = journal(tmp_path)
    ours.write(3, CONTENT)
    (path,) = ours.directory.iterdir()
    DAMAGES[reason](path)
    with pytest.raises(Unusable) as seen:
        ours.read(3)
    assert reason in str(seen.value)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"ours": replace(OURS, run="other", world=2)}, "run is 'test', this is 'other'"),
        ({"ours": replace(OURS, trains="sha256:b", world=2)}, "trains is 'sha256:a'"),
        ({"ours": replace(OURS, world=3)}, "world is 2, this is 3"),
        ({"data": "sha256:other"}, "data is 'sha256:d'"),
    ],
)
def test_an_entry_of_another_run_is_not_used(tmp_path: Path, other: dict[str, object], field: str) -> None:
    ours = journal(tmp_path)
    ours.write(3, CONTENT)
    with pytest.raises(Unusable, match=field):
        replace(ours, **other).read(3)  # type: ignore[arg-type]


def test_each_rank_has_its_own_and_all_are_pruned(tmp_path: Path) -> None:
    first = journal(tmp_path)
    ranks = [first, replace(first, rank=replace(first.rank, rank=1))]
    for step in (1, 2, 3):
        for each in ranks[: 1 if step == 3 else 2]:
            each.write(step, {"rank": each.rank.rank})
    assert ranks[1].read(2) == {"rank": 1} and ranks[1].steps() == [1, 2, 3]
    (ranks[0].directory / ".step-000004.rank-0.json.deadbeef").write_bytes(b"half")
    (ranks[0].directory / "notes").write_bytes(b"")
    clean(ranks[0].directory)
    prune(ranks[0].directory, 2)
    assert sorted(path.name for path in ranks[0].directory.iterdir()) == ["notes", "step-000003.rank-0.json"]
    prune(tmp_path / "nowhere", 2)


def test_a_lost_lease_writes_nothing(tmp_path: Path) -> None:
    ours = journal(tmp_path)
    content = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**content, "nonce": "another's"}))
    with pytest.raises(LeaseLost):
        ours.write(1, CONTENT)
    assert not ours.directory.exists()
