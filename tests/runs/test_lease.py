"""The lease by its own rules, on made-up clocks: no test here waits."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from openrs.runs.lease import Lease, LeaseLost, Watch, is_dead, process_identity


class Clock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def lease(path: Path, clock: Clock, ttl: float = 10) -> Lease:
    return Lease(path, ttl, {"stage": "train"}, clock)


def foreign(path: Path) -> None:
    """Makes the holder look as if it ran on another machine, so that only time can tell."""
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "elsewhere"}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease" / "train.json"


def test_a_free_lease_is_taken_and_given_back(path: Path) -> None:
    clock = Clock()
    first = lease(path, clock)
    assert first.acquire(wait=clock.wait)
    first.release()
    assert not path.exists()


def test_a_living_holder_keeps_it_however_long(path: Path) -> None:
    clock = Clock()
    holder, other = lease(path, clock), lease(path, clock)
    assert holder.acquire(wait=clock.wait)
    turns = 0

    def wait(seconds: float) -> None:
        nonlocal turns
        turns += 1
        clock.now += seconds
        holder.renew()
        foreign(path)

    assert not other.acquire(give_up=lambda: turns > 500, wait=wait)
    assert clock.now > 1000 + 2 * 10


def test_a_full_disk_takes_it_from_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    holder, other = lease(path, clock), lease(path, clock)
    assert holder.acquire(wait=clock.wait)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("openrs.runs.lease.write_atomic", full)
    size, watch = path.stat().st_size, Watch(path, holder.nonce, 10, clock)

    def wait(seconds: float) -> None:
        clock.now += seconds
        holder.renew()
        watch.check()
        foreign(path)  # so that the other one must watch it
        path.write_text(path.read_text().ljust(size))

    assert not other.acquire(give_up=lambda: clock.now > 1100, wait=wait)
    path.write_text(json.dumps({**json.loads(path.read_text()), "nonce": "another"}))
    with pytest.raises(LeaseLost):
        holder.renew()


def test_a_silent_holder_loses_it_after_one_time_to_live_and_not_before(path: Path) -> None:
    clock = Clock()
    holder, other = lease(path, clock), lease(path, clock)
    holder.acquire(wait=clock.wait)
    foreign(path)
    begin = clock.now
    assert other.acquire(wait=clock.wait)
    assert 10 < clock.now - begin < 12
    with pytest.raises(LeaseLost):
        holder.renew()
    holder.release()
    assert path.exists(), "who has lost it does not take it from its successor"


def test_a_dead_holder_of_this_machine_is_not_waited_for(path: Path) -> None:
    clock = Clock()
    holder = lease(path, clock)
    holder.acquire(wait=clock.wait)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "start": 1}))  # that pid is another process by now
    begin = clock.now
    assert lease(path, clock).acquire(wait=clock.wait)
    assert clock.now - begin < 1


def test_a_holder_that_is_late_must_stop_before_a_successor_may_start(path: Path) -> None:
    clock = Clock()
    holder = lease(path, clock)
    holder.acquire(wait=clock.wait)
    clock.now += 5.4  # acquiring took half a second
    assert not holder.late
    holder.renew()
    clock.now += 6.1
    assert holder.late
    with pytest.raises(LeaseLost):
        holder.renew()


def test_clocks_of_two_machines_are_never_compared(path: Path) -> None:
    slow, fast = Clock(), Clock()
    fast.now = 9_000_000.0
    holder, other = lease(path, slow), lease(path, fast)
    holder.acquire(wait=slow.wait)
    foreign(path)
    begin = fast.now
    assert other.acquire(wait=fast.wait)
    assert fast.now - begin > 10


def test_a_rank_notices_another_holder_a_missing_file_and_a_frozen_supervisor(path: Path) -> None:
    clock = Clock()
    holder = lease(path, clock)
    holder.acquire(wait=clock.wait)
    watch = Watch(path, holder.nonce, 10, clock)
    watch.check()
    clock.now += 5
    holder.renew()
    watch.check()
    clock.now += 5.9
    watch.check()
    clock.now += 0.2
    with pytest.raises(LeaseLost, match="not renewed"):
        watch.check()
    with pytest.raises(LeaseLost, match="another's"):
        Watch(path, "someone else", 10, clock).check()
    holder.release()
    with pytest.raises(LeaseLost):
        Watch(path, holder.nonce, 10, clock).check()


def test_this_process_is_alive_and_strangers_are_not_called_dead() -> None:
    here = process_identity()
    assert not is_dead(here)
    assert is_dead({**here, "pid": 2**22 + 1})
    assert not is_dead({**here, "pid": 2**22 + 1, "boot": "another machine"})
    assert not is_dead({**here, "pid": 2**22 + 1, "namespace": "pid:[1]"})
