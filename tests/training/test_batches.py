"""Which completions share a pass: every one once, within the bounds, as many passes as the other ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrs.training.batches import by_length, in_passes

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40)


@given(st.data(), LENGTHS, st.integers(1, 12), st.one_of(st.none(), st.integers(1, 2000)), st.booleans())
def test_every_chosen_completion_once_and_within_bounds(
    data: st.DataObject, lengths: list[int], size: int, tokens: int | None, padded: bool
) -> None:
    chosen = data.draw(st.sets(st.integers(0, len(lengths) - 1)))
    passes = by_length(chosen, lengths, size, tokens, padded)
    count = data.draw(st.integers(len(passes), len(chosen)))
    for found in (passes, in_passes(passes, count)):
        assert sorted(index for one in found for index in one) == sorted(chosen)
        for one in found:
            held = [lengths[index] for index in one]
            assert held == sorted(held, reverse=True) and 1 <= len(one) <= size
            assert tokens is None or len(one) == 1 or (max(held) * len(held) if padded else sum(held)) <= tokens
    assert len(in_passes(passes, count)) == count


def test_packed_sequences_need_fewer_passes_than_padded_ones() -> None:
    assert by_length(range(5), [8, 2, 2, 2, 2], 9, 16, padded=False) == [[0, 1, 2, 3, 4]]
    assert by_length(range(5), [8, 2, 2, 2, 2], 9, 16, padded=True) == [[0, 1], [2, 3, 4]]


def test_there_must_be_something_for_every_pass() -> None:
    with pytest.raises(ValueError, match="cannot fill 3"):
        in_passes([[0], [1]], 3)
