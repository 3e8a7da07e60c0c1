"""What draws completions: token ids in, token ids out, each completion from a generator of its own.

A back end samples from nothing but the requests' seeds, so that a completion depends on the weights, its prompt and its
seed, and never on what was drawn before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One completion that is wanted."""

    prompt: list[int]
    """Token ids, as the model is to see them: template applied, cut to the longest prompt."""
    seed: int
    """Of this completion's own generator; 63 bits."""


@dataclass(frozen=True)
class Completion:
    """One completion that was drawn."""

    ids: list[int]
    """Token ids; the last one is the end token, unless it was cut."""
    finished: bool
    """Whether it ended by itself; else it was cut at `sampling.max_new_tokens`."""


class Generator(Protocol):
    """Draws completions for one training rank."""

    def sync(self, model: Any, step: int) -> None:
        """Takes over the weights of `model` before step `step` draws. All ranks together."""
        ...

    def generate(self, requests: Sequence[Request], stop: Callable[[], bool]) -> list[Completion] | None:
        """One completion a request, in their order; None as soon as `stop` says so.

        Ranks call it each for itself, and nothing in it waits for another rank.
        """
        ...


def request_seed(run_seed: int, step: int, row: int, number: int) -> int:
    """Seed of the completion `number` of the problem `row` in a step: a hash, so that neighbours share no noise."""
    digest = hashlib.sha256(repr((run_seed, step, row, number)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
