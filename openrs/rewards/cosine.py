r"""Cosine: accuracy scaled by length along a half cosine, so that short right answers gain most.

    f(t) = end + ½ · (start − end) · (1 + cos(π · min(t, max_len) / max_len))

with t the completion's length in tokens; a right answer falls from `max_value_correct` to `min_value_correct`, a wrong
one rises from `min_value_wrong` to `max_value_wrong`, so that giving up early costs most. Of two bounds the smaller is
taken for the minimum, whichever way round they are written. None where the gold answer cannot be parsed. Range: between
the smallest and the largest of the four values. Source: arXiv 2502.03373, without its penalty for exceeding the length
(here a longer completion gets the end value); names and defaults are Open-R1's.

As shipped by Open-RS (github.com/knoveleng/open-rs at 2889c47): t in characters and not clamped, so that the reward is
periodic; default bounds for wrong answers the wrong way round (a short one gets 0, a long one −0.5) and taken as they
are; verdicts as in `accuracy`'s as-shipped form; 1 where the gold answer cannot be parsed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from openrs.errors import BadInput
from openrs.rewards.base import Completion, CountTokens, RewardFunction, text_of, token_lengths
from openrs.rewards.verify import JudgedSpec
from openrs.spec.base import Number

_SHIPPED_BOUNDS = {"min_value_wrong": 0.0, "max_value_wrong": -0.5}


class CosineReward(JudgedSpec):
    """Accuracy scaled by length along a half cosine (arXiv 2502.03373): short right answers gain most."""

    type: Literal["cosine"]
    max_len: Annotated[int, Field(ge=1, le=10**9)] = 1000
    """Length at which the scale ends, in tokens (as shipped: in characters); longer completions get the end value."""
    min_value_wrong: Number = -0.5
    """Reward of a wrong answer of length 0; 0 by default as shipped."""
    max_value_wrong: Number = 0.0
    """Reward of a wrong answer of length `max_len`; -0.5 by default as shipped."""
    min_value_correct: Number = 0.5
    """Reward of a right answer of length `max_len`."""
    max_value_correct: Number = 1.0
    """Reward of a right answer of length 0."""

    @model_validator(mode="before")
    @classmethod
    def _shipped_defaults(cls, raw: Any) -> Any:
        as_shipped = isinstance(raw, dict) and raw.get("form") == "as-shipped"
        return {**_SHIPPED_BOUNDS, **raw} if as_shipped else raw

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""
        wrong = (self.min_value_wrong, self.max_value_wrong)
        right = (self.max_value_correct, self.min_value_correct)
        clamped = self.form != "as-shipped"
        if clamped:
            wrong, right = (min(wrong), max(wrong)), (max(right), min(right))

        def cosine(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            lengths = self._lengths(completions, columns, count_tokens)
            verdicts = self.verdicts(completions, columns)
            rewards: list[float | None] = []
            for verdict, length in zip(verdicts, lengths, strict=True):
                if verdict is None:
                    rewards.append(None if clamped else 1.0)
                else:
                    start, end = right if verdict else wrong
                    rewards.append(scaled(min(length, self.max_len) if clamped else length, self.max_len, start, end))
            return rewards

        return cosine

    def _lengths(
        self, completions: Sequence[Completion], columns: dict[str, Any], count_tokens: CountTokens | None
    ) -> list[int]:
        if self.form == "as-shipped":
            return [len(text_of(completion)) for completion in completions]
        lengths = token_lengths(completions, columns, count_tokens)
        if lengths is None:
            raise BadInput(
                "cosine measures length in tokens: call it with a column completion_ids, or get it with count_tokens=, "
                "e.g. count_tokens=lambda text: len(tokenizer(text)['input_ids'])"
            )
        return lengths


def scaled(length: int, max_len: int, start: float, end: float) -> float:
    """`start` at length 0, `end` at `max_len`, half a cosine between them, and the same back again beyond."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * length / max_len))
