"""One step's completions and what they are worth: drawn once for the whole step, judged, kept as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from openrs import rewards
from openrs.rewards import verify
from openrs.spec.experiment import Experiment
from openrs.training.clock import Clock
from openrs.training.generation import Completion, Generator, Request, request_seed
from openrs.training.model import conversation
from openrs.worker.rank import Rank

STD_EPSILON = 1e-4
"""Added to a group's standard deviation before it divides (TRL's constant)."""


@dataclass(frozen=True)
class Group:
    """One problem's completions and their scores."""

    row: int
    """Index of the problem in the data."""
    prompt: list[int]
    """Token ids, as the model saw them."""
    completions: list[Completion]
    scores: dict[str, list[float | None]]
    """Name of a reward → one number a completion, unweighted; None where it does not apply."""


@dataclass(frozen=True)
class Rollout:
    """What one rank draws and judges in one step: plain data, which a journal may keep and give back instead."""

    step: int
    """Number of finished steps before this one."""
    groups: list[Group]
    shares: dict[str, float]
    """Of the completions that the verifier judged: `unscorable`, `over_limit` (see `openrs.rewards.verify`)."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads. Not asdict: that copies each token."""
        groups = [
            {**vars(group), "completions": [vars(completion) for completion in group.completions]}
            for group in self.groups
        ]
        return {**vars(self), "groups": groups}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The rollout of `to_json`. Raises KeyError and TypeError for anything else."""
        groups = [
            Group(**{**group, "completions": [Completion(**one) for one in group["completions"]]})
            for group in content["groups"]
        ]
        return cls(step=content["step"], groups=groups, shares=content["shares"])

    @property
    def completions(self) -> list[Completion]:
        """All completions, group after group."""
        return [completion for group in self.groups for completion in group.completions]


class Roller:
    """Makes the rollouts of one rank."""

    def __init__(
        self,
        experiment: Experiment,
        problems: Sequence[dict[str, str]],
        tokenizer: Any,
        generator: Generator,
        rank: Rank,
        clock: Clock,
    ) -> None:
        self._experiment, self._problems, self._tokenizer = experiment, problems, tokenizer
        self._generator, self._rank, self._clock = generator, rank, clock
        self._rewards = named_rewards(experiment)

    def roll(self, model: Any, step: int, rows: Sequence[int]) -> Rollout | None:
        """Draws and judges the completions of `rows` (indices of problems) with the weights of `model`.

        The one place of a step where anything is drawn; it depends on weights, step and rows only. None where a stop
        was requested meanwhile: then the ranks have yet to agree on it.
        """
        with self._clock.phase("sync"):
            self._generator.sync(model, step)
        prompts = [self._prompt(row) for row in rows]
        each = range(self._experiment.training.completions_per_prompt)
        seed = self._experiment.training.seed
        requests = [
            Request(prompt, request_seed(seed, step, row, number))
            for row, prompt in zip(rows, prompts, strict=True)
            for number in each
        ]
        with self._clock.phase("generation"):
            drawn = self._generator.generate(requests, self._rank.stop_requested)
        if drawn is None:
            return None
        with self._clock.phase("rewards"):
            scores, shares = self._judge(rows, drawn)
        size = len(each)
        groups = [
            Group(
                row=row,
                prompt=prompt,
                completions=drawn[first : first + size],
                scores={name: values[first : first + size] for name, values in scores.items()},
            )
            for row, prompt, first in zip(rows, prompts, range(0, len(drawn), size), strict=True)
        ]
        return Rollout(step, groups, shares)

    def problem(self, row: int) -> dict[str, str]:
        """What a person knows a problem by: its text as prompt, and its answer."""
        return {"prompt": self._problems[row]["problem"], "answer": self._problems[row]["answer"]}

    def texts(self, completions: Sequence[Completion]) -> list[str]:
        """What the completions say, without special tokens."""
        texts: list[str] = self._tokenizer.batch_decode([one.ids for one in completions], skip_special_tokens=True)
        return texts

    def _messages(self, row: int) -> list[dict[str, str]]:
        return conversation(self._experiment.prompt.system, self._problems[row]["problem"])

    def _prompt(self, row: int) -> list[int]:
        ids: list[int] = self._tokenizer.apply_chat_template(self._messages(row), add_generation_prompt=True)
        return ids[-self._experiment.sampling.max_prompt_tokens :]

    def _judge(
        self, rows: Sequence[int], drawn: Sequence[Completion]
    ) -> tuple[dict[str, list[float | None]], dict[str, float]]:
        each = [row for row in rows for _ in range(self._experiment.training.completions_per_prompt)]
        columns = {
            "prompts": [self._messages(row) for row in each],
            "answer": [self._problems[row]["answer"] for row in each],
            "completion_ids": [one.ids for one in drawn],
        }
        said = [[{"role": "assistant", "content": text}] for text in self.texts(drawn)]
        verify.take_tally()  # what somebody else in this process had judged is not this step's
        scores = {name: list(reward(said, **columns)) for name, reward in self._rewards.items()}
        return scores, verify.take_tally()


def named_rewards(experiment: Experiment) -> dict[str, rewards.RewardFunction]:
    """The rewards in the spec's order, each under its type; the second of a type is called `type#2`."""
    functions: dict[str, rewards.RewardFunction] = {}
    for spec in experiment.rewards:
        same = sum(name.split("#")[0] == spec.type for name in functions)
        functions[spec.type + (f"#{same + 1}" if same else "")] = rewards.build(spec)
    return functions


def rewards_of(rollout: Rollout, experiment: Experiment) -> torch.Tensor:
    """The weighted sums of the scores, groups × completions; a score of None counts as nothing."""
    weights = [reward.weight for reward in experiment.rewards]
    return torch.tensor(
        [
            [
                sum(weight * value for weight, value in zip(weights, scores, strict=True) if value is not None)
                for scores in zip(*group.scores.values(), strict=True)
            ]
            for group in rollout.groups
        ]
    )


def equal_rewards(rewards: torch.Tensor) -> torch.Tensor:
    """Whether all completions of a group have the same reward, so that there is nothing to learn; groups."""
    return (rewards == rewards[:, :1]).all(dim=1)


def advantages_of(rewards: torch.Tensor, scale: bool) -> torch.Tensor:
    """Each reward less its group's mean, and divided by its group's standard deviation if `scale`; same shape.

    The standard deviation is the sample's (n − 1), as in TRL. Equal rewards have no advantage, not even the rounding of
    their mean.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    centred = centred.masked_fill(equal_rewards(rewards).unsqueeze(1), 0.0)
    return centred / (rewards.std(dim=1, keepdim=True) + STD_EPSILON) if scale else centred
