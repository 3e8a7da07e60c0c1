"""Completions from the training model itself, by a loop over tokens that lets go of rows as they finish."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from openrs.spec.parts import Sampling
from openrs.training.generation import Completion, Request


class LocalGenerator:
    """Samples with the model that is being trained, in batches bounded by the tokens that they can grow to."""

    def __init__(self, sampling: Sampling, batch_tokens: int, ends: Sequence[int], pad: int) -> None:
        self._sampling, self._batch_tokens, self._ends, self._pad = sampling, batch_tokens, ends, pad
        self._model: Any = None

    def sync(self, model: Any, step: int) -> None:
        """The weights are the same object: nothing to move."""
        self._model = model

    def generate(self, requests: Sequence[Request], stop: Callable[[], bool]) -> list[Completion] | None:
        """See `Generator`."""
        was_training = self._model.training
        # In training mode dropout would act on what is sampled, and gradient checkpointing would turn the KV cache off.
        self._model.eval()
        try:
            found: list[Completion] = []
            for batch in self._batches(requests):
                drawn = sample(self._model, batch, self._sampling, self._ends, self._pad, stop)
                if drawn is None:
                    return None
                found += drawn
            return found
        finally:
            self._model.train(was_training)

    def _batches(self, requests: Sequence[Request]) -> list[Sequence[Request]]:
        longest = max(len(request.prompt) for request in requests) + self._sampling.max_new_tokens
        size = max(1, self._batch_tokens // longest)
        return [requests[first : first + size] for first in range(0, len(requests), size)]


@torch.inference_mode()
def sample(
    model: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    ends: Sequence[int],
    pad: int,
    stop: Callable[[], bool],
) -> list[Completion] | None:
    """One completion a request, drawn together; None as soon as `stop` says so, which is asked at every token.

    Each row draws its tokens by inversion from one uniform number a token, of its own generator on the CPU: the same
    noise on every device, and whatever becomes of the other rows.
    """
    device, limit = model.device, sampling.max_new_tokens
    width = max(len(request.prompt) for request in requests)
    ids = torch.tensor([[pad] * (width - len(r.prompt)) + r.prompt for r in requests], device=device)
    lengths = torch.tensor([len(request.prompt) for request in requests], device=device)
    columns = torch.arange(width + limit, device=device)
    mask = (columns >= (width - lengths).unsqueeze(1)).long()  # the completion's places too, cut to what there is
    positions = (mask[:, :width].cumsum(1) - 1).clamp(min=0)
    noise = torch.stack([torch.rand(limit, generator=torch.Generator().manual_seed(r.seed)) for r in requests]).to(
        device
    )
    end_ids = torch.tensor(ends, device=device)
    rows = torch.arange(len(requests), device=device)
    drawn = torch.full((len(requests), limit), pad, device=device)
    counts = torch.full((len(requests),), limit, device=device)
    finished = torch.zeros(len(requests), dtype=torch.bool, device=device)
    cache = DynamicCache()
    for number in range(limit):
        if stop():
            return None
        logits = model(
            input_ids=ids,
            attention_mask=mask[:, : width + number],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = draw(logits, noise[rows, number], sampling.temperature, sampling.top_p)
        drawn[rows, number] = tokens
        ended = torch.isin(tokens, end_ids)
        positions = positions[:, -1:] + 1
        if ended.any():
            finished[rows[ended]] = True
            counts[rows[ended]] = number + 1
            going_on = (~ended).nonzero().squeeze(1)
            if not len(going_on):
                break
            rows, tokens, mask, positions = rows[going_on], tokens[going_on], mask[going_on], positions[going_on]
            cache.batch_select_indices(going_on)
        ids = tokens.unsqueeze(1)
    return [
        Completion(ids=row[:count], finished=done)
        for row, count, done in zip(drawn.tolist(), counts.tolist(), finished.tolist(), strict=True)
    ]


def draw(logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """One token a row (rows × vocabulary → rows): the first whose cumulative probability is above `uniform`."""
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1]
    # Below the total even where the product is rounded up: a token of probability 0 is never taken.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)
