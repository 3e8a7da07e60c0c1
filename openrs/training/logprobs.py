"""Log-probabilities of completions, without ever holding the logits of a whole batch.

Only positions that predict a completion's token are given to the output layer, and only so many of them at once that
their logits fill one block of memory; the backward pass computes each block again. Logits are divided by the
temperature and their softmax is taken in float32.
"""

# mypy: disable-error-code="misc, no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from openrs.training.sizes import LOGITS_BLOCK


class TokenStats(NamedTuple):
    """Of the tokens of several completions, one after the other (tokens)."""

    logps: torch.Tensor
    """Log-probability of each token, float32; carries the gradient."""
    entropy: torch.Tensor
    """Entropy of the distribution that each token was drawn from, in nats; carries none."""


def token_stats(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    block_elements: int = LOGITS_BLOCK,
) -> TokenStats:
    """Statistics of the tokens of `completions`, each after its prompt, under a causal language model.

    With flash-attention the sequences lie in one row without padding and are told apart by their positions; with other
    attentions they are padded on the right, where a causal model never looks.
    """
    packed = model.config._attn_implementation == "flash_attention_2"
    layout = _packed if packed else _padded
    inputs, places = layout(prompts, completions, model.device)
    hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    hidden = hidden.reshape(-1, hidden.shape[-1])[places]
    weight = model.get_output_embeddings().weight
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    targets = torch.tensor([token for completion in completions for token in completion], device=hidden.device)
    size = max(1, block_elements // weight.shape[0])
    return TokenStats(*_TokenStats.apply(hidden.to(dtype), weight.to(dtype), targets, temperature, size))


def _padded(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Model inputs (rows × longest), and the places in their flattened form that predict the completions' tokens."""
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    starts = [number * longest + len(prompt) - 1 for number, prompt in enumerate(prompts)]
    return {"input_ids": ids}, _places(starts, completions, device)


def _packed(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """As `_padded`, in one row (1 × all tokens), with positions that begin anew at each sequence."""
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    ids = torch.tensor([[token for row in rows for token in row]], device=device)
    positions = torch.cat([torch.arange(len(row), device=device) for row in rows]).unsqueeze(0)
    starts, first = [], 0
    for row, prompt in zip(rows, prompts, strict=True):
        starts.append(first + len(prompt) - 1)
        first += len(row)
    return {"input_ids": ids, "position_ids": positions}, _places(starts, completions, device)


def _places(starts: Sequence[int], completions: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """The last token of each prompt and all but the last token of its completion."""
    return torch.cat(
        [torch.arange(start, start + len(one), device=device) for start, one in zip(starts, completions, strict=True)]
    )


class _TokenStats(torch.autograd.Function):
    """(hidden states, weight of the output layer) → (log-probabilities, entropies) of the target tokens."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`hidden` tokens × width, `weight` vocabulary × width, `targets` tokens; `size` tokens make one block."""
        normalizers, logps, entropies = [], [], []
        for states, wanted in zip(hidden.split(size), targets.split(size), strict=True):
            logits = _logits(states, weight, temperature)
            normalizer = torch.logsumexp(logits, dim=-1)
            normalizers.append(normalizer)
            logps.append(logits.gather(-1, wanted.unsqueeze(-1)).squeeze(-1) - normalizer)
            probabilities = (logits - normalizer.unsqueeze(-1)).exp_()
            entropies.append(normalizer - probabilities.mul_(logits).sum(dim=-1))
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalizers))
        ctx.temperature, ctx.size = temperature, size
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logps), entropy

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """D logp / d logits = (one-hot − softmax) / temperature."""
        hidden, weight, targets, normalizers = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        scaled = grads[0] / ctx.temperature
        for first in range(0, len(hidden), ctx.size):
            block = slice(first, first + ctx.size)
            states, share = hidden[block], scaled[block].unsqueeze(-1)
            of_logits = _logits(states, weight, ctx.temperature).sub_(normalizers[block].unsqueeze(-1)).exp_()
            of_logits.mul_(-share).scatter_add_(-1, targets[block].unsqueeze(-1), share)
            of_logits = of_logits.to(hidden.dtype)
            torch.mm(of_logits, weight, out=of_hidden[block])
            if of_weight is not None:
                of_weight += of_logits.T @ states
        return of_hidden, None if of_weight is None else of_weight.to(weight.dtype), None, None, None


def _logits(states: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    return (states @ weight.T).float().div_(temperature)
