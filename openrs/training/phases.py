"""The phases of a training step by name, for whoever wants to know when a rank enters and leaves one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["generation", "journal", "step", "save", "rename"]

GENERATION: Phase = "generation"
"""Completions are drawn and rewarded."""
JOURNAL: Phase = "journal"
"""They are made durable."""
STEP: Phase = "step"
"""Gradients, the optimizer's step, and what is recorded of it."""
SAVE: Phase = "save"
"""A checkpoint is copied, written, made durable and sealed; mostly beside the other phases."""
RENAME: Phase = "rename"
"""It gets its name."""

PHASES: tuple[Phase, ...] = (GENERATION, JOURNAL, STEP, SAVE, RENAME)

Listener = Callable[[Phase, bool], None]
"""Called with a phase and whether it begins, in the thread that does it."""

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Tells `listener` of every phase from now on, until the process ends."""
    _listeners.append(listener)


def begin(name: Phase) -> None:
    """This thread enters the phase."""
    for listener in _listeners:
        listener(name, True)


def end(name: Phase) -> None:
    """It leaves the phase."""
    for listener in _listeners:
        listener(name, False)


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """What is done inside belongs to the phase `name`."""
    begin(name)
    try:
        yield
    finally:
        end(name)
