r"""Format: 1 if the completion closes its reasoning once and then gives its answer in the form asked for, else 0.

Range {0, 1}. The form: an optional `<think>` at the start (R1's template puts it into the prompt), reasoning, exactly
one `</think>`, and then nothing but white space and
- `answer-tag`: one `<answer>…</answer>` that is not empty, as the prompt of Open-RS asks (arXiv 2503.16219);
- `boxed`: one `\boxed{…}` that is not empty, its braces balanced.

The reasoning itself may be empty: whether it is worth its tokens is for the accuracy to say.

The repository of Open-RS gives 1 for exactly one `\n</think>\n` and looks at nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from openrs.rewards.base import Completion, CountTokens, RewardFunction, text_of
from openrs.rewards.verify import last_box
from openrs.spec.experiment import FormatReward

_TAGGED = re.compile(r"<answer>(.*)</answer>", re.DOTALL)


def make(spec: FormatReward, count_tokens: CountTokens | None = None) -> RewardFunction:
    """The format reward for the form `spec.answer`."""
    is_answer = {"answer-tag": _is_tagged, "boxed": _is_boxed}[spec.answer]

    def format(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        return [float(_is_closed_once(text) and is_answer(_after(text))) for text in map(text_of, completions)]

    return format


def _is_closed_once(text: str) -> bool:
    opened = text.count("<think>")
    return text.count("</think>") == 1 and (opened == 0 or (opened == 1 and text.lstrip().startswith("<think>")))


def _after(text: str) -> str:
    return text.partition("</think>")[2].strip()


def _is_tagged(answer: str) -> bool:
    match = _TAGGED.fullmatch(answer)
    return match is not None and bool(match[1].strip()) and "<answer>" not in match[1] and "</answer>" not in match[1]


def _is_boxed(answer: str) -> bool:
    if answer.count("\\boxed") != 1 or last_box(answer) != answer:
        return False
    return bool(answer.partition("{")[2][:-1].strip())
