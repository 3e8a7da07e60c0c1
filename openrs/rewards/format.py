r"""Format: 1 if the completion closes its reasoning once and then gives its answer in the form asked for, else 0.

Range {0, 1}. The form: an optional `<think>` at the start (R1's template puts it into the prompt), reasoning, exactly
one `</think>`, and then, white space aside,
- `answer-tag`: one `<answer>…</answer>` that is not empty, as the prompt of Open-RS asks (arXiv 2503.16219);
- `boxed`: one `\boxed{…}` that is not empty, its braces balanced;
- `any`: anything but white space, for prompts that ask for the reasoning's tags alone.

The reasoning itself may be empty: whether it is worth its tokens is for the accuracy to say.

As shipped by Open-RS (github.com/knoveleng/open-rs at 2889c47): 1 for exactly one `\n</think>\n`; nothing else is
looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from openrs.rewards.base import Completion, CountTokens, RewardFunction, RewardSpec, text_of
from openrs.rewards.verifier.answers import boxes


class FormatReward(RewardSpec):
    """1 if the completion closes its reasoning once and then gives its answer in the form asked for, else 0."""

    type: Literal["format"]
    answer: Literal["answer-tag", "boxed", "any"] = "answer-tag"
    """What must follow the reasoning: `<answer>…</answer>`, or one `\\boxed{…}` and nothing else, or anything. As shipped,
    this is not looked at."""

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """See the module."""
        forms: dict[str, Callable[[str], bool]] = {"answer-tag": _is_tagged, "boxed": _is_boxed, "any": bool}
        is_answer = forms[self.answer]

        def has_form(text: str) -> bool:
            if self.form == "as-shipped":
                return text.count("\n</think>\n") == 1
            return _is_closed_once(text) and is_answer(_after(text))

        def format(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
            return [float(has_form(text_of(completion))) for completion in completions]

        return format


def _is_closed_once(text: str) -> bool:
    opened = text.count("<think>")
    return text.count("</think>") == 1 and (opened == 0 or (opened == 1 and text.lstrip().startswith("<think>")))


def _after(text: str) -> str:
    return text.partition("</think>")[2].strip()


def _is_tagged(answer: str) -> bool:
    if not (answer.startswith("<answer>") and answer.endswith("</answer>")):
        return False
    inner = answer[len("<answer>") : -len("</answer>")]
    return bool(inner.strip()) and "<answer>" not in inner and "</answer>" not in inner


def _is_boxed(answer: str) -> bool:
    if answer.count("\\boxed") != 1 or boxes(answer) != [(0, len(answer))]:
        return False
    return bool(answer.partition("{")[2][:-1].strip())
