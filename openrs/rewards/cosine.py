r"""Cosine: accuracy scaled by length along a half cosine, so that short right answers gain most.

    f(t) = end + ½ · (start − end) · (1 + cos(π · min(t, max_len) / max_len))

with t the completion's length in tokens; start and end are `max_value_correct` and `min_value_correct` for a right
answer (it falls), `min_value_wrong` and `max_value_wrong` for a wrong one (it rises, so that giving up early costs
most). None where the gold answer cannot be parsed. Range: between the smallest and the largest of the four values.
Source: arXiv 2502.03373, without its penalty for exceeding the length (here a longer completion gets the end value).
The repository of Open-RS measured t in characters and did not clamp it, which makes the reward periodic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from openrs.rewards import accuracy
from openrs.rewards.base import Completion, CountTokens, RewardFunction, text_of
from openrs.spec.experiment import AccuracyReward, CosineReward


def scaled(length: int, max_len: int, start: float, end: float) -> float:
    """`start` at length 0, `end` from `max_len` on, half a cosine between them."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(length, max_len) / max_len))


def make(spec: CosineReward, count_tokens: CountTokens | None = None) -> RewardFunction:
    """The cosine reward with the values of `spec`; `count_tokens` serves calls without `completion_ids`."""
    is_right = accuracy.make(AccuracyReward(type="accuracy"))

    def cosine(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        lengths = _lengths(completions, columns.get("completion_ids"), count_tokens)
        rewards: list[float | None] = []
        for right, length in zip(is_right(completions, **columns), lengths, strict=True):
            if right is None:
                rewards.append(None)
            elif right:
                rewards.append(scaled(length, spec.max_len, spec.max_value_correct, spec.min_value_correct))
            else:
                rewards.append(scaled(length, spec.max_len, spec.min_value_wrong, spec.max_value_wrong))
        return rewards

    return cosine


def _lengths(
    completions: Sequence[Completion], ids: Sequence[Sequence[int]] | None, count_tokens: CountTokens | None
) -> list[int]:
    if ids is not None:
        return [len(row) for row in ids]
    if count_tokens is None:
        raise ValueError(
            "cosine measures length in tokens: call it with a column completion_ids, or get it with count_tokens=, "
            "e.g. count_tokens=lambda text: len(tokenizer(text)['input_ids'])"
        )
    return [count_tokens(text_of(completion)) for completion in completions]
