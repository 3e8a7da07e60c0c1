"""A loss or gradient that is no number changes nothing, is counted, and ends the run when it does not go away."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.training.harness import Job, tiny

pytestmark = pytest.mark.train


def broken_at(monkeypatch: pytest.MonkeyPatch, steps: set[int], *, gradient: bool) -> None:
    """Makes the loss of these steps (1 is the first) infinite, or only its gradient."""
    import torch

    from openrs.training import learner
    from openrs.training.loss import Loss, grpo_loss
    from openrs.training.trainer import Trainer

    roll, now = Trainer.rollout, {"step": 0}

    def rollout(self: Trainer, step: int, rows: list[int]) -> Any:
        now["step"] = step + 1
        return roll(self, step, rows)

    def broken(*arguments: Any) -> Loss:
        found = grpo_loss(*arguments)
        if now["step"] not in steps:
            return found
        if gradient:  # finite as a value, infinite as a slope: d sqrt(x) at 0
            return found._replace(loss=found.loss + torch.sqrt((arguments[0] - arguments[0].detach()).abs().sum()))
        return found._replace(loss=found.loss * float("inf"))

    monkeypatch.setattr(Trainer, "rollout", rollout)
    monkeypatch.setattr(learner, "grpo_loss", broken)


@pytest.mark.parametrize("gradient", [False, True])
def test_such_a_step_changes_nothing(
    gradient: bool, job_of: Callable[..., Job], train_here: Callable[[Job], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    job = job_of(tiny("training.steps=4", "checkpoint.keep=9", "training.max_dropped_steps=2"))
    broken_at(monkeypatch, {2}, gradient=gradient)
    assert train_here(job) == 0
    lines = [json.loads(line) for line in job.run.metrics.read_text().splitlines()]
    assert [line["dropped"] for line in lines] == [False, True, False, False]
    assert lines[1]["grad_norm"] is None and (lines[1]["loss"] is None) != gradient
    assert all(line["loss"] is not None for line in (lines[0], *lines[2:])), "that step alone"
    weights = [load_file(job.run.checkpoint(step) / "model.safetensors") for step in range(1, 5)]
    same = [all(a[name].equal(b[name]) for name in a) for a, b in itertools.pairwise(weights)]
    assert same == [True, False, False]


def test_the_run_ends_when_it_does_not_go_away(
    job_of: Callable[..., Job],
    train_here: Callable[[Job], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = job_of(tiny("training.steps=9", "training.max_dropped_steps=2"))
    broken_at(monkeypatch, {2, 4, 5}, gradient=False)
    assert train_here(job) == 78
    assert [line["step"] for line in job.metrics()] == [1, 2, 3, 4, 5]
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("openrs: the loss or the gradient of 2 steps in a row, up to step 5")
