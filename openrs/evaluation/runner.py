"""What evaluates cells, whatever it is built on. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from openrs.stage import Cell

Outcome = dict[str, Any] | Exception
"""A cell's result, or why there is none."""


@dataclass(frozen=True)
class Subject:
    """The model under evaluation."""

    name: str
    """Directory, or repository of the Hub."""
    revision: str | None
    """Revision in the repository; none for a directory."""
    identity: dict[str, Any]
    """What the result says about it."""


class CellRunner(Protocol):
    """Evaluates the cells of one checkpoint; loads the checkpoint once."""

    def evaluate(self, subject: Subject, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        """The outcome of each cell, as soon as it is there; one cell's failure does not end the others.

        A result has at least `score` (share of right answers), `correct`, `n`, `interval` and `seconds`.
        Raises StopRequested between and inside cells.
        """
        ...
