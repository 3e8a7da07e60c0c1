"""What all rewards share: the spec that makes one, their signature, and the texts, lengths and gold answers of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from openrs.errors import BadInput
from openrs.spec.base import Number, Strict

Completion = str | Sequence[dict[str, Any]]
"""A completion as text, or as chat messages of which the last one is the model's."""

CountTokens = Callable[[str], int]
"""Length of a text in tokens."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class RewardFunction(Protocol):
    """TRL's signature of a reward; `__name__` is the name under which its mean is logged."""

    __name__: str

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """One number a completion; None where the reward does not apply."""
        ...


class RewardSpec(Strict):
    """One reward of an experiment: its name (`type`), its weight, its parameters, and how it is computed."""

    type: str
    weight: Number = 1.0
    """Factor in the sum of rewards."""
    form: Literal["corrected", "as-shipped"] = "corrected"
    """`as-shipped` computes what the code of Open-RS computes, bug for bug; the same where that has no known defect."""

    def function(self, count_tokens: CountTokens | None = None) -> RewardFunction:
        """The reward, unweighted. `count_tokens` serves calls without a column `completion_ids`."""
        raise NotImplementedError


def text_of(completion: Completion) -> str:
    """The text that the model wrote; an empty one where there is no message or no content."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    return "" if content is None else str(content)


def golds_of(columns: dict[str, Any], count: int, names: Sequence[str] = ("answer", "solution")) -> list[str]:
    """The gold answers of a call, from the first of its columns `names` that is there. What is no text is written out.

    Raises BadInput where there is none, or where their number is not that of the completions.
    """
    golds = next((columns[name] for name in names if columns.get(name) is not None), None)
    if golds is None:
        given = ", ".join(sorted(columns)) or "none"
        raise BadInput(
            f"this reward compares with gold answers: give it a column `answer` or `solution` (given: {given})"
        )
    if isinstance(golds, str) or len(golds) != count:
        number = "one text" if isinstance(golds, str) else f"{len(golds)} gold answers"
        raise BadInput(f"{count} completions but {number}")
    return ["" if gold is None else str(gold) for gold in golds]


def token_lengths(
    completions: Sequence[Completion], columns: dict[str, Any], count_tokens: CountTokens | None
) -> list[int] | None:
    """Lengths in tokens, from the column `completion_ids` or by `count_tokens`; None where there is neither.

    Raises BadInput where the column does not fit the completions.
    """
    ids: Sequence[Sequence[int]] | None = columns.get("completion_ids")
    if ids is not None:
        if len(ids) != len(completions):
            raise BadInput(f"{len(completions)} completions but {len(ids)} rows of completion_ids")
        return [len(row) for row in ids]
    if count_tokens is None:
        return None
    return [count_tokens(text_of(completion)) for completion in completions]
