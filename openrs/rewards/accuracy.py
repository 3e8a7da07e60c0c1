"""Accuracy: 1 if the completion's answer equals the gold answer, else 0; None where the gold answer cannot be parsed.

Range {0, 1}. Equality is math-verify's (https://github.com/huggingface/Math-Verify), gold first; the repository of
Open-RS gave the gold answer second, and gave 1 to every completion of a gold answer that cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openrs.rewards import verify
from openrs.rewards.base import Completion, CountTokens, RewardFunction, golds_of, text_of
from openrs.spec.experiment import AccuracyReward


def make(spec: AccuracyReward, count_tokens: CountTokens | None = None) -> RewardFunction:
    """The accuracy reward; it has no parameters."""

    def accuracy(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        golds = golds_of(columns, len(completions))
        verdicts = [verify.is_correct(gold, text_of(text)) for gold, text in zip(golds, completions, strict=True)]
        return [None if verdict is None else float(verdict) for verdict in verdicts]

    return accuracy
