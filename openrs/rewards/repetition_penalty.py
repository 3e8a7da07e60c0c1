"""Repetition penalty: `max_penalty` times the share of n-grams of words that have stood in the completion before.

    max_penalty · (1 − different n-grams / n-grams)

over words in lower case, split at white space; 0 for a text of fewer than n words. Range [max_penalty, 0]. Source: arXiv
2502.03373, appendix C.2; names and defaults are Open-R1's. The shipped code of Open-RS computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field

from openrs.rewards.base import Completion, CountTokens, RewardFunction, RewardSpec, text_of
from openrs.spec.base import Number


class RepetitionPenaltyReward(RewardSpec):
    """From 0 for a text that repeats no n-gram of words towards `max_penalty` for one that repeats them all."""

    type: Literal["repetition_penalty"]
    ngram_size: Annotated[int, Field(ge=1, le=1000)] = 3
    """Words in an n-gram."""
    max_penalty: Annotated[Number, Field(le=0.0)] = -1.0
    """What a text that is all repetition gets; not positive."""

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""

        def repetition_penalty(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            return [
                self.max_penalty * repeated(text_of(completion), self.ngram_size) + 0.0 for completion in completions
            ]

        return repetition_penalty


def repeated(text: str, n: int) -> float:
    """The share of a text's n-grams of words that have stood there before."""
    words = text.lower().split()
    total = len(words) - n + 1
    if total <= 0:
        return 0.0
    return 1.0 - len(set(zip(*(islice(words, start, None) for start in range(n)), strict=False))) / total
