"""The GRPO loss and its four normalisations.

Token t of completion i costs l(i,t) = −min(ρ·A, clip(ρ, 1 − ε, 1 + ε_high)·A) + β·k3, with the advantage A of i, the
ratio ρ of the token's probability to that at which it was drawn (1 where μ = 1), and k3 = exp(r) − r − 1, an estimate of
the divergence from the reference model (Schulman, "Approximating KL Divergence"; r: log-probability there less here).
The loss is the sum of w(i)·l(i,t) over all tokens of the step:

- `dapo`: w = 1 / all tokens of the step. DAPO, arXiv 2503.14476, equation 8.
- `bnpo`: w = 1 / (tokens of the micro-batch · micro-batches of all ranks). What TRL 0.16.1 computes.
- `grpo`: w = 1 / (tokens of i · completions of the step). GRPO, arXiv 2402.03300, equation 3.
- `dr_grpo`: w = 1 / (longest completion allowed · completions of the step). Dr. GRPO, arXiv 2503.20783.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from openrs.spec.experiment import Training


@dataclass(frozen=True)
class StepSize:
    """The whole step, over all ranks."""

    completions: int
    tokens: int
    """Of the completions that count."""
    longest: int
    """Tokens that a completion may have."""


def token_weights(training: Training, lengths: Sequence[int], counted: Sequence[bool], size: StepSize) -> list[float]:
    """w(i) of the completions of one rank; 0 where they do not count. `lengths` in tokens.

    The micro-batches of `bnpo` are `training.micro_batch` completions in their order, however they are computed.
    """
    each = training.micro_batch
    kept = [length if counts else 0 for length, counts in zip(lengths, counted, strict=True)]
    weights = {
        "dapo": lambda i: 1.0 / size.tokens,
        "bnpo": lambda i: each / (sum(kept[i - i % each : i - i % each + each]) * size.completions),
        "grpo": lambda i: 1.0 / (lengths[i] * size.completions),
        "dr_grpo": lambda i: 1.0 / (size.longest * size.completions),
    }
    return [weights[training.loss](i) if counts else 0.0 for i, counts in enumerate(counted)]


class Loss(NamedTuple):
    """One micro-batch's part of the loss, and sums over its tokens."""

    loss: torch.Tensor
    """Scalar with gradient."""
    clipped: torch.Tensor
    """Tokens whose ratio was clipped."""
    kl: torch.Tensor
    """Sum of k3; 0 without a reference model."""


def grpo_loss(
    logps: torch.Tensor,
    reference: torch.Tensor | None,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    training: Training,
) -> Loss:
    """Σ w·l over the tokens of a micro-batch (all arguments: tokens). `reference` are the log-probabilities there."""
    ratio = torch.exp(logps - logps.detach())
    high = training.epsilon if training.epsilon_high is None else training.epsilon_high
    free, clipped = ratio * advantages, torch.clamp(ratio, 1 - training.epsilon, 1 + high) * advantages
    each = -torch.min(free, clipped)
    kl = torch.zeros_like(each)
    if reference is not None:
        kl = torch.exp(reference - logps) - (reference - logps) - 1
        each = each + training.beta * kl
    return Loss((each * weights).sum(), (clipped < free).sum(), kl.detach().sum())
