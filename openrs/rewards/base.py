"""What all rewards share: their signature, and the text and the gold answers of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from openrs.errors import BadInput

Completion = str | Sequence[dict[str, Any]]
"""A completion as text, or as chat messages of which the last one is the model's."""

CountTokens = Callable[[str], int]
"""Length of a text in tokens."""


class RewardFunction(Protocol):
    """TRL's signature of a reward; `__name__` is the name under which its mean is logged."""

    __name__: str

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """One number a completion; None where the reward does not apply."""
        ...


def text_of(completion: Completion) -> str:
    """The text that the model wrote."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def golds_of(columns: dict[str, Any], count: int) -> Sequence[str]:
    """The gold answers of a call, from its column `answer` or else `solution`.

    Raises BadInput where there is neither, or where their number is not that of the completions.
    """
    golds: Sequence[str] | None = columns.get("answer", columns.get("solution"))
    if golds is None:
        given = ", ".join(sorted(columns)) or "none"
        raise BadInput(
            f"this reward compares with gold answers: give it a column `answer` or `solution` (given: {given})"
        )
    if len(golds) != count:
        raise BadInput(f"{count} completions but {len(golds)} gold answers")
    return golds
