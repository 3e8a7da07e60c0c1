"""Leaving training and evaluation when the supervisor asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StopRequested(Exception):
    """The supervisor asks this attempt to end; what is finished is kept, what is in progress is dropped."""


class StopCriterion:
    """A transformers stopping criterion that ends all rows at the next token once a stop is requested."""

    def __init__(self, stop_requested: Callable[[], bool]) -> None:
        self._stop_requested = stop_requested

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """One flag a row of `input_ids` (rows × tokens)."""
        return input_ids.new_full((input_ids.shape[0],), self._stop_requested()).bool()
