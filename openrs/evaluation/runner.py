"""What evaluates cells, whatever it is built on. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from openrs.stage import Cell
from openrs.training.stop import StopRequested

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


Engine = TypeVar("Engine")


def each_cell(
    cells: Sequence[Cell], start: Callable[[], Engine], evaluate: Callable[[Engine, Cell], dict[str, Any]]
) -> Iterator[tuple[Cell, Outcome]]:
    """Starts an engine once and evaluates every cell on it; what the start took is told by the first result.

    An engine that does not start is every cell's failure. Raises StopRequested.
    """
    began = time.monotonic()
    try:
        engine = start()
    except Exception as error:
        for cell in cells:
            yield cell, error
        return
    starting = time.monotonic() - began
    for cell in cells:
        outcome: Outcome
        try:
            outcome = evaluate(engine, cell)
            outcome["engine_start_seconds"], starting = round(starting, 3), 0.0
        except StopRequested:
            raise
        except Exception as error:
            outcome = error
        yield cell, outcome
