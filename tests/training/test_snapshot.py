"""Copies of a trainer's state: of their own memory, shared where the original is, and the same memory each time."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")

from openrs.training.snapshot import Host  # noqa: E402


class Pair(NamedTuple):
    first: Any
    second: Any


def test_a_copy_does_not_change_with_the_original() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    state = {
        "w": weight,
        "tied": weight,
        "turned": weight.t(),
        "rest": [Pair(1, (weight[0], None))],
        "empty": weight[:0],
    }
    copy = Host().copy(state)
    weight += 1
    assert copy["w"].tolist() == [[0, 1, 2], [3, 4, 5]] and copy["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert copy["tied"] is copy["w"] and copy["w"].data_ptr() != weight.data_ptr()
    assert copy["rest"][0].second[0].tolist() == [0, 1, 2] and copy["rest"][0].second[1] is None
    assert copy["empty"].shape == (0, 3) and not copy["w"].requires_grad


def test_the_next_snapshot_takes_the_same_memory() -> None:
    host = Host()
    first = host.copy({"a": torch.ones(3), "b": torch.ones(2)})
    places = [first[name].data_ptr() for name in "ab"]
    host.begin()
    second = host.copy({"a": torch.zeros(3), "b": torch.zeros(2)})
    assert [second[name].data_ptr() for name in "ab"] == places and second["a"].tolist() == [0, 0, 0]
    host.begin()
    other = host.copy({"a": torch.full((3,), 2.0, dtype=torch.float64), "b": torch.full((2,), 3.0)})
    assert other["a"].dtype == torch.float64 and other["a"].tolist() == [2, 2, 2] and other["b"].tolist() == [3, 3]
