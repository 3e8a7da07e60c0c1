"""From a step's rollout to gradients: micro-batches, the loss of each, its backward pass."""

# mypy: disable-error-code="misc, no-untyped-call"

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from openrs.spec.experiment import Experiment
from openrs.training import batches
from openrs.training.logprobs import token_stats
from openrs.training.loss import StepSize, grpo_loss, token_weights
from openrs.training.rollout import Rollout, advantages_of, rewards_of
from openrs.training.together import any_rank, every_rank
from openrs.worker.rank import Rank


@dataclass(frozen=True)
class Learned:
    """What came of a step on this rank."""

    loss: torch.Tensor
    """This rank's share of the step's loss, times the number of ranks: the mean over ranks is the loss."""
    finite: bool
    """Whether the loss is finite on every rank."""
    passes: int
    """Micro-batches."""
    tokens: int
    """Of this rank's completions."""
    entropy: float
    """Sum over these tokens, in nats."""
    clipped: int
    """Tokens whose probability ratio was clipped."""
    kl: float | None
    """Sum over the tokens; None without a reference model."""


class Learner:
    """Computes the gradients of one rank. The reference model, where β asks for one, is a copy of the model now."""

    def __init__(self, experiment: Experiment, model: Any, rank: Rank) -> None:
        self._experiment, self._rank = experiment, rank
        self._reference = copy.deepcopy(model).eval().requires_grad_(False) if experiment.training.beta else None

    def learn(
        self,
        model: Any,
        rollout: Rollout,
        autocast: Callable[[], contextlib.AbstractContextManager[None]],
        backward: Callable[[torch.Tensor, bool], None],
    ) -> Learned:
        """Runs every micro-batch of the step. All ranks together.

        `backward(loss, last)` adds the gradients of a micro-batch to those of the step. They are averaged over ranks,
        so what is summed up here is multiplied by their number.
        """
        training, sampling, world = self._experiment.training, self._experiment.sampling, self._rank.world
        completions = rollout.completions
        prompts = [group.prompt for group in rollout.groups for _ in group.completions]
        lengths = [len(one.ids) for one in completions]
        counted = [one.finished or not training.mask_truncated for one in completions]
        advantages = advantages_of(rewards_of(rollout, self._experiment), training.scale_rewards).flatten().tolist()
        passes, size = self._passes(model, prompts, lengths, counted)
        temperature = training.logprob_temperature or sampling.temperature
        loss, finite = torch.zeros((), device=model.device), True
        entropy = kl = torch.zeros((), device=model.device)
        clipped = 0
        for number, indices in enumerate(passes):
            chosen = [prompts[i] for i in indices], [completions[i].ids for i in indices]
            held = [lengths[i] for i in indices]
            weights = token_weights(training.loss, held, [counted[i] for i in indices], size)
            with autocast():
                stats = token_stats(model, *chosen, temperature)
                reference = None
                if self._reference is not None:
                    with torch.no_grad():
                        reference = token_stats(self._reference.to(model.device), *chosen, temperature).logps
            repeats = torch.tensor(held)

            def spread(values: list[float], repeats: torch.Tensor = repeats) -> torch.Tensor:
                return torch.tensor(values).repeat_interleave(repeats).to(model.device)

            part = grpo_loss(
                stats.logps,
                reference,
                spread([advantages[i] for i in indices]),
                spread([world * weight for weight in weights]),
                training,
            )
            finite = finite and math.isfinite(part.loss.item())
            backward(part.loss, number == len(passes) - 1)
            loss, entropy, kl = loss + part.loss.detach(), entropy + stats.entropy.sum(), kl + part.kl
            clipped += int(part.clipped)
        return Learned(
            loss=loss,
            finite=not any_rank(self._rank, not finite),
            passes=len(passes),
            tokens=sum(lengths),
            entropy=entropy.item(),
            clipped=clipped,
            kl=None if self._reference is None else kl.item(),
        )

    def _passes(
        self, model: Any, prompts: list[list[int]], lengths: list[int], counted: list[bool]
    ) -> tuple[list[list[int]], StepSize]:
        """The micro-batches of this rank, as many as every other rank's, and the size of the whole step."""
        training = self._experiment.training
        if training.loss == "bnpo":  # its value depends on who shares a micro-batch: as they come
            mine = batches.in_order(len(lengths), training.micro_batch)
        else:
            whole = [len(prompt) + length for prompt, length in zip(prompts, lengths, strict=True)]
            padded = model.config._attn_implementation != "flash_attention_2"
            mine = batches.by_length(whole, training.micro_batch, training.micro_batch_tokens, padded)
        tokens = sum(length for length, counts in zip(lengths, counted, strict=True) if counts)
        facts = every_rank(self._rank, (len(lengths), tokens, len(mine)))
        mine = batches.in_passes(mine, max(passes for _, _, passes in facts))
        return mine, StepSize(
            completions=sum(completions for completions, _, _ in facts),
            tokens=max(1, sum(tokens for _, tokens, _ in facts)),
            passes=len(mine) * self._rank.world,
            longest=self._experiment.sampling.max_new_tokens,
        )
