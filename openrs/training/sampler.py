"""The order of the problems: a pure function of the seed and the step, so that a run can go on at any step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from openrs.errors import BadInput


class StepSampler(Sampler[int]):
    """Row indices of a whole run, each `completions_per_prompt` times in a row, from the step `start` on.

    The epochs are those of TRL 0.16.1's RepeatRandomSampler (μ = 1) with the same seed, where it runs uninterrupted:
    each is the next permutation of one generator. A last chunk that does not fill a step is left out of its epoch.
    """

    def __init__(
        self, rows: int, *, prompts_per_step: int, completions_per_prompt: int, steps: int, seed: int, start: int = 0
    ) -> None:
        """Raises BadInput where `rows` do not fill one step."""
        if rows < prompts_per_step:
            raise BadInput(
                f"data: {rows} problems are fewer than training.prompts_per_step = {prompts_per_step}; "
                f"give more problems or ask for fewer"
            )
        self._rows, self._prompts, self._repeats = rows, prompts_per_step, completions_per_prompt
        self._steps, self._seed, self._start = steps, seed, start
        self._per_epoch = rows // prompts_per_step

    def prompts(self, start: int) -> Iterator[list[int]]:
        """The row indices of each step from `start` (0 is the first) to the end of the run."""
        generator = torch.Generator().manual_seed(self._seed)
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(start, self._steps):
            while epoch < step // self._per_epoch:
                epoch, order = epoch + 1, torch.randperm(self._rows, generator=generator)
            first = step % self._per_epoch * self._prompts
            yield order[first : first + self._prompts].tolist()

    def __iter__(self) -> Iterator[int]:
        for indices in self.prompts(self._start):
            for index in indices:
                for _ in range(self._repeats):
                    yield index

    def __len__(self) -> int:
        # Of the whole run, wherever it starts: the Trainer takes it for one epoch and finds the step in it.
        return self._steps * self._prompts * self._repeats
