"""Random: 0 or 1 by a fair coin seeded with prompt and completion; a control that nothing can be learned from.

Range {0, 1}. The same texts and seed give the same coin on every machine, so a resumed run sees the same rewards. The
prompt belongs to the seed: short completions recur, and a coin of theirs alone would be a fixed taste to be learned. A
gain under it comes from the algorithm's own bias, not from the reward (arXiv 2506.10947). Nobody shipped it: its two
forms are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from openrs.rewards.base import Completion, CountTokens, RewardFunction, RewardSpec, Seed, text_of
from openrs.spec.canonical import canonical


class RandomReward(RewardSpec):
    """0 or 1 by a coin seeded with prompt and completion: a control that nothing can be learned from."""

    type: Literal["random"]
    seed: Seed = 0
    """Seed of the coin."""

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""

        def random(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            prompts = columns.get("prompts", [""] * len(completions))
            return [
                float(_coin(canonical([self.seed, prompt, text_of(completion)])))
                for prompt, completion in zip(prompts, completions, strict=True)
            ]

        return random


def _coin(text: str) -> int:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] & 1
