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
    """Micro-batches that had a gradient."""
    tokens: int
    """Of this rank's completions that are learned from."""
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
        weights = token_weights(training, lengths, counted, self._step_size(lengths, counted))
        # The rest has no gradient, and is left out.
        moving = [i for i, weight in enumerate(weights) if weight and (training.beta or advantages[i])]
        passes, idle = self._passes(model, moving, prompts, lengths)
        temperature = training.logprob_temperature or sampling.temperature
        loss, finite = torch.zeros((), device=model.device), True
        entropy = kl = torch.zeros((), device=model.device)
        clipped = 0
        for number, indices in enumerate([*passes, *idle], start=1):
            chosen = [prompts[i] for i in indices], [completions[i].ids for i in indices]
            held = [lengths[i] for i in indices]
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
                spread([world * weights[i] for i in indices]),
                training,
            )
            finite = finite and math.isfinite(part.loss.item())
            backward(part.loss, number == len(passes) + len(idle))
            if number <= len(passes):
                loss, entropy, kl = loss + part.loss.detach(), entropy + stats.entropy.sum(), kl + part.kl
                clipped += int(part.clipped)
        return Learned(
            loss=loss,
            finite=not any_rank(self._rank, not finite),
            passes=len(passes),
            tokens=sum(lengths[i] for i in moving),
            entropy=entropy.item(),
            clipped=clipped,
            kl=None if self._reference is None else kl.item(),
        )

    def _passes(
        self, model: Any, moving: list[int], prompts: list[list[int]], lengths: list[int]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The micro-batches of this rank's completions that have a gradient, and those that only keep step.

        All ranks make as many backward passes, one at least: a rank that has too few completions with a gradient takes
        its shortest others.
        """
        training = self._experiment.training
        whole = [len(prompt) + length for prompt, length in zip(prompts, lengths, strict=True)]
        padded = model.config._attn_implementation != "flash_attention_2"
        passes = batches.by_length(moving, whole, training.micro_batch, training.micro_batch_tokens, padded)
        count = max(1, *every_rank(self._rank, len(passes)))
        rest = sorted(set(range(len(whole))) - set(moving), key=lambda i: whole[i])
        idle = [[i] for i in rest[: max(0, count - len(moving))]]
        return batches.in_passes(passes, count - len(idle)), idle

    def _step_size(self, lengths: list[int], counted: list[bool]) -> StepSize:
        tokens = sum(length for length, counts in zip(lengths, counted, strict=True) if counts)
        facts = every_rank(self._rank, (len(lengths), tokens))
        return StepSize(
            completions=sum(completions for completions, _ in facts),
            tokens=max(1, sum(tokens for _, tokens in facts)),
            longest=self._experiment.sampling.max_new_tokens,
        )
