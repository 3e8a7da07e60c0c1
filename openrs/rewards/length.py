r"""Length: among the completions of one problem, short is better; a wrong answer gains nothing by it.

    λ = ½ − (t − t_min) / (t_max − t_min);   right answer: λ;   wrong answer: min(0, λ)

with t the completion's length and t_min, t_max those of its group (the completions of the same prompt in the call); 0
for all where they are equally long. Only ratios of lengths matter: t is in tokens where the call tells them, else in
characters. None where the gold answer cannot be parsed. Range [−½, ½]. Source: Kimi k1.5, arXiv 2501.12599, section
2.3.3. A rank that holds only a part of a group compares within that part.

As shipped by Open-RS (github.com/knoveleng/open-rs at 2889c47): t in characters; t_min and t_max of all completions of
the call, whatever their problems; verdicts as in `accuracy`'s as-shipped form; a gold answer that cannot be parsed makes
every answer right.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

from openrs.errors import BadInput
from openrs.rewards.base import Completion, CountTokens, RewardFunction, golds_of, text_of, token_lengths
from openrs.rewards.verify import JudgedSpec
from openrs.spec.canonical import canonical


class LengthReward(JudgedSpec):
    """From ½ for the shortest right answer of a group to −½ for the longest; at most 0 for a wrong one (Kimi k1.5)."""

    type: Literal["length"]

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""
        shipped = self.form == "as-shipped"

        def length(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            lengths = None if shipped else token_lengths(completions, columns, count_tokens)
            if lengths is None:
                lengths = [len(text_of(completion)) for completion in completions]
            verdicts = self.verdicts(completions, columns)
            groups = [None] * len(lengths) if shipped else _groups(columns, len(lengths))
            spans: dict[Hashable, tuple[int, int]] = {}
            for group, t in zip(groups, lengths, strict=True):
                low, high = spans.get(group, (t, t))
                spans[group] = (min(low, t), max(high, t))
            rewards: list[float | None] = []
            for group, t, verdict in zip(groups, lengths, verdicts, strict=True):
                low, high = spans[group]
                if verdict is None and not shipped:
                    rewards.append(None)
                elif low == high:
                    rewards.append(0.0)
                else:
                    share = 0.5 - (t - low) / (high - low)
                    rewards.append(share if verdict is None or verdict else min(0.0, share))
            return rewards

        return length


def _groups(columns: dict[str, Any], count: int) -> Sequence[Hashable]:
    """One key a completion: its prompt, or its gold answer where the call names no prompts."""
    prompts = columns.get("prompts")
    if prompts is None:
        return golds_of(columns, count)
    if len(prompts) != count:
        raise BadInput(f"{count} completions but {len(prompts)} prompts")
    return [prompt if isinstance(prompt, str) else canonical(prompt) for prompt in prompts]
