"""Weights from training rank 0 to the generation server: a process group of these two, beside all other groups."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import BroadcastOptions, PrefixStore, TCPStore

TIMEOUT = timedelta(minutes=10)

Shape = tuple[str, str, list[int]]
"""Name, data type, sizes of a parameter."""


class Channel:
    """One end of the channel: rank 0 sends, rank 1 receives. Both open it at the same time. Raises on a time-out."""

    def __init__(self, rank: int, port: int, device: torch.device) -> None:
        self._device = device
        store = PrefixStore("weights", TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=TIMEOUT))
        if device.type == "cuda":
            self._group: Any = torch.distributed.ProcessGroupNCCL(store, rank, 2, TIMEOUT)
        else:
            self._group = torch.distributed.ProcessGroupGloo(store, rank, 2, TIMEOUT)

    def send(self, parameters: Iterable[torch.Tensor]) -> None:
        """Sends the values, in their order."""
        for parameter in parameters:
            self._broadcast(parameter.data.contiguous())

    def receive(self, shapes: Sequence[Shape]) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of each parameter, one after the other."""
        for name, dtype, sizes in shapes:
            tensor = torch.empty(sizes, dtype=getattr(torch, dtype), device=self._device)
            self._broadcast(tensor)
            yield name, tensor

    def _broadcast(self, tensor: torch.Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor], options).wait()


def shapes(model: Any) -> list[Shape]:
    """What a model is going to send."""
    return [
        (name, str(parameter.dtype).removeprefix("torch."), list(parameter.shape))
        for name, parameter in model.named_parameters()
    ]
