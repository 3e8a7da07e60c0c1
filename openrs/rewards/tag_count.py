"""Tag count: a quarter for each of `<think>`, `</think>`, `<answer>` and `</answer>` that stands there exactly once.

Range {0, ¼, ½, ¾, 1}. A step towards `format` for a model that meets none of it. Where the chat template puts `<think>`
into the prompt, as R1's does, ¾ is the most. Source: tag_count of Open-R1 (github.com/huggingface/open-r1), which also
asks for line ends around the tags.

As shipped by Open-RS (github.com/knoveleng/open-rs at 2889c47): a half each for exactly one `<think>` followed by a line
end and exactly one `</think>` between line ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from openrs.rewards.base import Completion, CountTokens, RewardFunction, RewardSpec, text_of

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_SHIPPED = ("<think>\n", "\n</think>\n")


class TagCountReward(RewardSpec):
    """The share of the four tags of reasoning and answer that stand in the completion exactly once."""

    type: Literal["tag_count"]

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""
        tags = _SHIPPED if self.form == "as-shipped" else _TAGS

        def tag_count(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            return [sum(text.count(tag) == 1 for tag in tags) / len(tags) for text in map(text_of, completions)]

        return tag_count
