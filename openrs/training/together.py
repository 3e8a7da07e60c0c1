"""What the training ranks say to each other besides gradients."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, TypeVar

import torch

from openrs.worker.rank import Rank

T = TypeVar("T")


def any_rank(rank: Rank, flag: bool) -> bool:
    """Whether the flag is up on any rank. All ranks together."""
    return any(every_rank(rank, flag))


def every_rank(rank: Rank, item: T) -> list[T]:
    """The (small, picklable) item of each rank, in their order. All ranks together."""
    if rank.world == 1:
        return [item]
    items: list[Any] = [None] * rank.world
    torch.distributed.all_gather_object(items, item)
    return items


def shared(rank: Rank, item: T) -> T:
    """The item of rank 0. All ranks together."""
    return every_rank(rank, item)[0]
