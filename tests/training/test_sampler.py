"""The order of problems: TRL's own in the first epoch, and the same wherever one starts."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from openrs.errors import BadInput  # noqa: E402
from openrs.training.sampler import StepSampler  # noqa: E402


def sampler(rows: int, prompts: int, repeats: int, steps: int, seed: int, start: int = 0) -> StepSampler:
    return StepSampler(
        rows, prompts_per_step=prompts, completions_per_prompt=repeats, steps=steps, seed=seed, start=start
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(2, 4), st.integers(1, 30), st.integers(0, 99), st.data())
def test_starting_anywhere_gives_the_rest_of_the_same_order(
    rows: int, prompts: int, repeats: int, steps: int, seed: int, data: st.DataObject
) -> None:
    if rows < prompts:
        with pytest.raises(BadInput, match="fewer than"):
            sampler(rows, prompts, repeats, steps, seed)
        return
    whole = list(sampler(rows, prompts, repeats, steps, seed))
    assert len(whole) == len(sampler(rows, prompts, repeats, steps, seed)) == steps * prompts * repeats
    start = data.draw(st.integers(0, steps))
    assert list(sampler(rows, prompts, repeats, steps, seed, start)) == whole[start * prompts * repeats :]
    per_step = [whole[index : index + prompts * repeats] for index in range(0, len(whole), prompts * repeats)]
    assert all(len(set(step)) == prompts for step in per_step)
    epoch = rows // prompts
    for first in range(0, steps - epoch + 1, epoch):
        seen = [index for step in per_step[first : first + epoch] for index in set(step)]
        assert len(seen) == len(set(seen))


@pytest.mark.train
@pytest.mark.parametrize(("rows", "prompts"), [(12, 3), (13, 3), (7, 7)])
def test_every_epoch_is_trls(rows: int, prompts: int) -> None:
    from trl.trainer.grpo_trainer import RepeatRandomSampler

    theirs = RepeatRandomSampler(range(rows), mini_repeat_count=2, batch_size=prompts, seed=5)
    expected = [index for _ in range(3) for index in theirs]
    assert list(sampler(rows, prompts, 2, 3 * (rows // prompts), 5)) == expected
