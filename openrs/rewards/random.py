"""Random: 0 or 1 by a fair coin seeded with the completion's text; a control that nothing can be learned from.

Range {0, 1}. The same text and seed give the same coin on every machine, so a resumed run sees the same rewards. A gain
under it comes from the algorithm's own bias, not from the reward (arXiv 2506.10947).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from openrs.rewards.base import Completion, CountTokens, RewardFunction, text_of
from openrs.spec.experiment import RandomReward


def make(spec: RandomReward, count_tokens: CountTokens | None = None) -> RewardFunction:
    """The coin with the seed of `spec`."""

    def random(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        return [float(_coin(spec.seed, text_of(completion))) for completion in completions]

    return random


def _coin(seed: int, text: str) -> int:
    return hashlib.sha256(f"{seed}:".encode() + text.encode("utf-8", "surrogatepass")).digest()[0] & 1
