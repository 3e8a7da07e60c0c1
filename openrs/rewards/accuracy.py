"""Accuracy: 1 if the completion's answer equals the gold answer, else 0; None where the gold answer cannot be parsed.

Range {0, 1}. Equality is math-verify's (https://github.com/huggingface/Math-Verify) or, with `strict`, the stricter one
of `verifier/strict.py`; where in a completion its answer stands is said in `verifier/answers.py`.

As shipped by Open-RS (github.com/knoveleng/open-rs at 2889c47): answers count only in LaTeX (boxed, or announced as the
answer), anywhere in the completion; the gold answer is given to math-verify second, so that `1` passes for the gold
`2x + z = 1`; a gold answer that cannot be parsed pays 1 to every completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from openrs.rewards.base import Completion, CountTokens, RewardFunction
from openrs.rewards.verify import JudgedSpec


class AccuracyReward(JudgedSpec):
    """1 if math-verify finds the completion's answer equal to the gold answer, else 0."""

    type: Literal["accuracy"]

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""

        def accuracy(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            right = self.verdicts(completions, columns, "as-shipped")
            if self.form == "as-shipped":
                return [1.0 if verdict is None else float(verdict) for verdict in right]
            return [None if verdict is None else float(verdict) for verdict in right]

        return accuracy
